//! The command `sslcollector`.

mod cli;
mod column;
mod config;
mod diagnosis;
mod launch;
mod library;
mod pair;
mod place;
mod program;
mod report;
mod rotation;
mod run;
mod signals;

use std::io::{self, Write};
use std::process::ExitCode;

use agent::keep::inherited;
use anyhow::Context;
use clap::Parser;

use crate::config::Task;

/// Something failed; clap itself ends with 2 on wrong usage.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    // First: it goes by the numbers of the descriptors that were open before anything of ours.
    let kept = inherited::take();
    let result = config::resolve(cli::Cli::parse()).and_then(|task| match task {
        Task::Mirror(settings) => run::run(&settings, kept),
        Task::TellLibraryDir(dir) => writeln!(io::stdout(), "{}", dir.display())
            .map(|()| 0)
            .context("can't print it"),
    });
    let status = result.unwrap_or_else(|error| {
        run::say(&format!("{error:#}"));
        FAILURE
    });
    ExitCode::from(status)
}
