#![no_main]
//! See `network::text`.

mod example;
mod network;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| network::text(bytes, &example::flow()));
