#![no_main]
//! See `peer::requests`.

mod example;
mod peer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| peer::requests(bytes, &example::flow()));
