#![no_main]
//! See `agent::broker::hostile_mark`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::broker::hostile_mark(bytes));
