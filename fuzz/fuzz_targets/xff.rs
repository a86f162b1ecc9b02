#![no_main]
//! See `retold::xff`.

mod retold;
mod example;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| retold::xff(bytes, &example::flow()));
