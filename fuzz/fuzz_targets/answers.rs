#![no_main]
//! See `tunnel::answers`.

mod tunnel;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunnel::answers(bytes));
