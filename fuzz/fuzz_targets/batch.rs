#![no_main]
//! See `tunnel::batch`.

mod tunnel;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tunnel::batch(bytes));
