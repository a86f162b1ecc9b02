//! The command `sslcollector`.

mod cli;
mod config;
mod diagnosis;
mod launch;

fn main() {}
