#![no_main]
//! Requests to a privileged helper that was told nothing: whatever they are, it goes on.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    agent::helper::refused(bytes);
});
