#![no_main]
//! See `network::handshakes`.

mod network;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| network::handshakes(bytes));
