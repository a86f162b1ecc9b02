#![no_main]
//! See `identity::enrol`.

mod identity;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| identity::enrol(bytes));
