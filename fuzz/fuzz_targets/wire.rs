#![no_main]
//! See `network::wire`.

mod network;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| network::wire(bytes));
