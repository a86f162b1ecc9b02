#![no_main]
//! See `tunnel::frame`.

mod tunnel;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunnel::frame(bytes));
