#![no_main]
//! See `retold::http2`.

mod retold;
mod example;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| retold::http2(bytes, &example::flow()));
