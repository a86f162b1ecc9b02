#![no_main]
//! See `agent::tunnel::hostile_spool`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::tunnel::hostile_spool(bytes));
