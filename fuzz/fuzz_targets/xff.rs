#![no_main]
//! See `behind::xff`.

mod behind;
mod example;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| behind::xff(bytes, &example::flow()));
