#![no_main]
//! See `peer::responses`.

mod example;
mod peer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| peer::responses(bytes, &example::flow()));
