#![no_main]
//! See `collector::inlet`.

mod collector;
mod example;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| collector::inlet(bytes, &example::flow()));
