//! The command `sslcollector`.

mod cli;
mod column;
mod config;
mod diagnosis;
mod launch;
mod place;
mod report;
mod run;
mod signals;

use std::process::ExitCode;

use agent::keep::inherited;

use clap::Parser;

/// Something failed; clap itself ends with 2 on wrong usage.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    // First: it goes by the numbers of the descriptors that were open before anything of ours.
    let kept = inherited::take();
    let result = config::resolve(cli::Cli::parse()).and_then(|settings| run::run(&settings, kept));
    let status = result.unwrap_or_else(|error| {
        run::say(&format!("{error:#}"));
        FAILURE
    });
    ExitCode::from(status)
}
