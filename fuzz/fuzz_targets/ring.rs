#![no_main]
//! See `oracle::ring`.

mod oracle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracle::ring(bytes));
