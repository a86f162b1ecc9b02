//! The fuzz targets' properties hold for all of their corpus, and for bytes close to it.

use bytes::BytesMut;

use super::batch::BatchWriter;
use super::batch::tests::events;
use super::frame::tests::frames;
use super::hostile_spool;
use crate::corpus::run;

#[path = "../../../fuzz/fuzz_targets/tunnel.rs"]
mod tunnel;

#[test]
fn frames_of_every_kind() {
    for (number, frame) in frames().iter().enumerate() {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        run("frame", &format!("frame-{number}"), &bytes, tunnel::frame);
    }
}

#[test]
fn a_batch_with_every_event() {
    let events = events(b"GET / HTTP/1.1\r\n\r\n");
    let mut writer = BatchWriter::default();
    assert!(events.iter().all(|event| writer.push(event)));
    run("batch", "every-event", &writer.take(), tunnel::batch);
}

#[test]
fn answers_of_a_collector() {
    let mut steps = vec![0, 0, 2];
    steps.extend([1; 70]);
    let mut say = |what: u8, number: u64| {
        steps.push(what);
        steps.extend(number.to_le_bytes());
    };
    say(4, 1);
    say(3, 2);
    say(4, u64::MAX);
    say(5, 2);
    say(4, 2);
    say(3, u64::MAX);
    say(4, 0);
    run("answers", "acks-and-resumes", &steps, tunnel::answers);

    // Two are acknowledged, and not the one before them; then the connection is cut.
    let mut steps = vec![0, 0, 0, 2, 1, 1, 1, 1];
    let mut say = |what: u8, number: u64| {
        steps.push(what);
        steps.extend(number.to_le_bytes());
    };
    say(5, 2);
    say(5, 3);
    say(3, 1);
    steps.push(1);
    steps.push(5);
    steps.extend(1_u64.to_le_bytes());
    steps.extend([0, 1, 1]);
    run(
        "answers",
        "acknowledged-before-a-cut",
        &steps,
        tunnel::answers,
    );
}

#[test]
fn a_disk_that_changes_what_it_has() {
    let steps = [
        0, 100, 0, 200, 0, 50, 2, 0, 0, 250, 4, 0, 0, 90, 6, 80, 2, 0, 14, 5, 2, 0, 5, 0, 0, 9, 2,
        0,
    ];
    run("spool", "stored-and-changed", &steps, hostile_spool);
}
