#![no_main]
//! See `behind::proxy_protocol`.

mod behind;
mod example;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| behind::proxy_protocol(bytes, &example::flow()));
