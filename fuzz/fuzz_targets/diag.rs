#![no_main]
//! See `network::diag`.

mod network;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| network::diag(bytes));
