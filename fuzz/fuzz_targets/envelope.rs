#![no_main]
//! What a broker may make of an envelope: bytes of its own, or another's with changes. None is opened.
//!
//! The first byte says which; changes are three bytes each: the place, and what is changed there.

use std::sync::OnceLock;

use agent::broker::envelope::{Kind, Opener, Sealer};
use agent::broker::key::{FleetKey, Terms};
use agent::tunnel::frame::Instance;

const SUBJECT: &str = "sslcollector.events.05";

/// The fleet's key, and an envelope that it opens.
fn sealed() -> &'static (FleetKey, Vec<u8>) {
    static SEALED: OnceLock<(FleetKey, Vec<u8>)> = OnceLock::new();
    SEALED.get_or_init(|| {
        let fleet = FleetKey::generate();
        let agent = fleet.agent("web-1", &Terms::default()).expect("a name");
        let mut sealer = Sealer::new(&agent, Instance([7; 16]));
        let text: &[u8] = &[b'x'; 100];
        let sealed = sealer.seal((5, SUBJECT), 1000, Kind::Events, &[text]);
        (fleet, sealed.bytes.to_vec())
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (fleet, envelope) = sealed();
    let mut opener = Opener::new(fleet.clone());
    let Some((mode, rest)) = bytes.split_first() else {
        return;
    };
    let tried = match mode % 2 {
        0 => rest.to_vec(),
        _ => {
            let mut changed = envelope.clone();
            for change in rest.chunks_exact(3) {
                let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
                let place = place % changed.len();
                changed[place] ^= change[2];
            }
            changed
        }
    };
    let unchanged = tried == *envelope;
    let opened = opener.open(SUBJECT, tried.into());
    assert_eq!(opened.is_ok(), unchanged, "{opened:?}");
});
