//! Commands about identities: of the file they take where the identities are, and nothing else.

use std::ffi::OsString;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::parse::parse;
use super::{Misuse, text};

const COMMANDS: [&str; 3] = ["enroll", "join", "agents"];
const KEY: &str = "state";

/// The words with `--state` of the file, if they are about identities and have none.
///
/// # Errors
/// The file's faults.
pub(super) fn add(mut words: Vec<OsString>, first: &ArgMatches) -> Result<Vec<OsString>, Misuse> {
    let Some((name, matches)) = first.subcommand() else {
        return Ok(words);
    };
    if !COMMANDS.contains(&name) || is_set(matches, KEY) || is_set(matches, "no_config") {
        return Ok(words);
    }
    let Some((path, text)) = text(matches)? else {
        return Ok(words);
    };
    let settings = parse(&text).map_err(|faults| {
        let lines = faults
            .iter()
            .map(|fault| format!("{}:{fault}", path.display()));
        Misuse::File(lines.collect())
    })?;
    let state = settings.into_iter().find(|setting| setting.key == KEY);
    // Options come before whatever a `--` is in front of.
    let at = words
        .iter()
        .position(|word| word.as_os_str() == name)
        .map(|at| at + 1);
    if let (Some(state), Some(at)) = (state, at) {
        words.splice(at..at, state.words.into_iter().map(OsString::from));
    }
    Ok(words)
}

/// Whether the command line has it, in front of a subcommand's own subcommand or behind that.
fn is_set(matches: &ArgMatches, id: &str) -> bool {
    let here = matches.value_source(id) == Some(ValueSource::CommandLine);
    let inner = matches.subcommand();
    here || inner.is_some_and(|(_, inner)| is_set(inner, id))
}
