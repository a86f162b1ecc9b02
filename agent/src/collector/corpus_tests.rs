//! The fuzz target of what agents say.

use crate::corpus::run;
use crate::tunnel::batch::BatchWriter;
use crate::tunnel::batch::tests::{events, info};

#[path = "../../../fuzz/fuzz_targets/collector.rs"]
mod collector;

fn inlet(bytes: &[u8]) {
    collector::inlet(bytes, &info(3));
}

#[test]
fn whatever_agents_say() {
    let events = events(b"GET / HTTP/1.1");
    let mut writer = BatchWriter::default();
    let batch = |event| {
        assert!(writer.push(event));
        let batch = writer.take();
        let length = u8::try_from(batch.len()).unwrap();
        [&[0, length][..], &batch].concat()
    };
    let batches: Vec<_> = events.iter().flat_map(batch).collect();
    run("inlet", "batches", &batches, inlet);
    #[rustfmt::skip]
    let steps = [
        1, 0x00, 0, 0,   1, 0x03, 0, 10,  1, 0x83, 5, 20,  1, 0x03, 5, 40,  1, 0x10, 3, 3,  1, 0x93, 0, 9,
        129, 0x00, 0, 0, 129, 0x0b, 0, 0, 2, 1, 0x01, 9, 9, 3, 1, 0x03, 200, 200, 1, 0x8b, 25, 0, 1, 0x0a, 255, 9,
        1, 0x1e, 50, 60, 1, 0x09, 0, 0,   1, 0x20, 0, 0,   1, 0x30, 0, 0,   1, 0x40, 0, 0,  4, 1, 0x03, 0, 10,
    ];
    run("inlet", "steps", &steps, inlet);
}
