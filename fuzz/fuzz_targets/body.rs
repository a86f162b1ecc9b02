#![no_main]
//! See `oracle::body`.

mod oracle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracle::body(bytes));
