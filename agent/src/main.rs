//! The command `sslcollector`.

mod cli;
mod collect;
mod column;
mod config;
mod diagnosis;
mod identities;
mod launch;
mod library;
mod pair;
mod place;
mod privileges;
mod program;
mod report;
mod rotation;
mod run;
mod signals;

use std::io::{self, Write};
use std::process::ExitCode;

use agent::keep::inherited;
use anyhow::Context;

use crate::cli::Misuse;
use crate::config::Task;

/// Something failed; clap itself ends with 2 on wrong usage.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    // First: it goes by the numbers of the descriptors that were open before anything of ours.
    let kept = inherited::take();
    if let Err(error) = signals::survive_size_limit() {
        run::say(&format!("can't catch signals: {error}"));
        return ExitCode::from(FAILURE);
    }
    let invocation = match cli::read(std::env::args_os().collect()) {
        Ok(invocation) => invocation,
        Err(Misuse::CommandLine(error)) => error.exit(),
        Err(Misuse::File(lines)) => {
            lines.iter().for_each(|line| run::say(line));
            return ExitCode::from(FAILURE);
        }
    };
    let origin = invocation.origin;
    let task = config::resolve(invocation.cli)
        .map_err(|error| anyhow::anyhow!(origin.locate(&format!("{error:#}"))));
    if let Some(effective) = invocation.check {
        return check(task.map(|_| effective));
    }
    let result = task.and_then(|task| match task {
        Task::Mirror(settings) => run::run(&settings, kept),
        Task::Collect(settings) => collect::collect(&settings),
        Task::Identity(task) => identities::perform(task).map(|()| 0),
        Task::FleetKey(task) => task.run().and_then(|text| print(&text)),
        Task::TellLibraryDir(dir) => print(&dir.display().to_string()),
    });
    let status = result.unwrap_or_else(|error| {
        run::say(&format!("{error:#}"));
        FAILURE
    });
    ExitCode::from(status)
}

fn print(line: &str) -> anyhow::Result<u8> {
    writeln!(io::stdout(), "{line}")
        .map(|()| 0)
        .context("can't print it")
}

/// `--check`: what would count, or why it doesn't.
fn check(effective: anyhow::Result<String>) -> ExitCode {
    let told = effective.and_then(|effective| {
        let written = io::stdout().write_all(effective.as_bytes());
        written.context("can't print it")
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say(&format!("{error:#}"));
            ExitCode::from(FAILURE)
        }
    }
}
