#![no_main]
//! See `agent::identity::hostile_request`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::identity::hostile_request(bytes));
