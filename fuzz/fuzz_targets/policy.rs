#![no_main]
//! See `oracle::policy`.

mod oracle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracle::policy(bytes));
