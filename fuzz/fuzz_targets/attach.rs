#![no_main]
//! See `oracle::attach`.

mod oracle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracle::attach(bytes));
