#![no_main]
//! See `retold::proxy_protocol`.

mod retold;
mod example;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| retold::proxy_protocol(bytes, &example::flow()));
