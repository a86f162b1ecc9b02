#![no_main]
//! See `identity::token`.

mod identity;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| identity::token(bytes));
