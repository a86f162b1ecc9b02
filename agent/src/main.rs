//! The command `sslcollector`.

fn main() {}
