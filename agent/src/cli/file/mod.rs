//! The configuration file: the same options as on the command line, which wins.
//!
//! ```text
//! sslcollector.toml ──parse──> settings (option, line, words) ─┐ but for options that the command line has
//! command line ────────────────────────────────────────────────┴──> one list of words ──clap──> Cli
//! ```
//!
//! Keys are the options' long names, in whatever tables; clap's own definition says which there are, what values
//! they take, and which contradict one another. So each option is a key by being one.

mod parse;
mod state;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Id};

use self::parse::{Setting, parse};
use super::Cli;

/// Read where it is there.
pub(crate) const DEFAULT_FILE: &str = "/etc/sslcollector/sslcollector.toml";
/// What is done once and on command isn't configured.
const ACTIONS: [&str; 8] = [
    "check",
    "config",
    "help",
    "init",
    "name",
    "no-config",
    "rotate",
    "version",
];

const FILE: &str = "Configuration file";

/// Where options stand besides the command line.
#[derive(Args, Debug)]
pub(crate) struct FileArgs {
    /// Take options from this file, too (TOML; their long names are the keys); those of the command line win:
    /// `--vlan 7` there instead of another, `--no-vlan` instead of any, `--no-create` for `create = true`. Without
    /// it, /etc/sslcollector/sslcollector.toml is read if it is there
    #[arg(help_heading = FILE, long, value_name = "FILE", conflicts_with = "no_config")]
    pub(crate) config: Option<PathBuf>,

    /// Read no configuration file
    #[arg(help_heading = FILE, long)]
    pub(crate) no_config: bool,

    /// Say whether file and command line are good, and all options as they would be; do nothing else
    #[arg(help_heading = FILE, long)]
    pub(crate) check: bool,
}

/// What the words of a command line and of the file amount to.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// All options.
    pub(crate) cli: Cli,
    /// `--check`: the options as they are, for people, as a file would have them.
    pub(crate) check: Option<String>,
    /// The file that was read, and where each key is in it.
    pub(crate) origin: Origin,
}

/// Where settings of a file are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    path: PathBuf,
    /// Keys with their lines.
    keys: Vec<(String, usize)>,
}

/// Why there is no invocation.
#[derive(Debug)]
pub(crate) enum Misuse {
    /// What clap says, which may be its help.
    CommandLine(Box<clap::Error>),
    /// Faults of the file, a line each.
    File(Vec<String>),
}

impl From<clap::Error> for Misuse {
    fn from(error: clap::Error) -> Self {
        Self::CommandLine(Box::new(error))
    }
}

impl Origin {
    /// A message, with the places of the keys that it names.
    pub(crate) fn locate(&self, message: &str) -> String {
        message.to_owned() + &self.places(message)
    }

    /// Where the keys are that a text names.
    fn places(&self, text: &str) -> String {
        let named = |key: &str| {
            let option = format!("--{key}");
            text.match_indices(&option).any(|(at, _)| {
                let next = text[at + option.len()..].chars().next();
                !next.is_some_and(|next| next.is_ascii_alphanumeric() || next == '-')
            })
        };
        let path = self.path.display();
        let keys = self.keys.iter().filter(|(key, _)| named(key));
        let places = keys.map(|(key, line)| format!("{key} is in {path}:{line}"));
        let places: Vec<String> = places.collect();
        match (places.is_empty(), self.keys.is_empty()) {
            (false, _) => format!(" ({})", places.join(", ")),
            (true, false) => format!(" (options of {path} count, too)"),
            (true, true) => String::new(),
        }
    }

    /// What clap says against all options together, on one line.
    fn explain(&self, error: &clap::Error) -> String {
        let text = error.to_string();
        let told = text.split("Usage:").next().unwrap_or_default();
        let words: Vec<&str> = told.split_whitespace().collect();
        let told = words.join(" ");
        let told = told.strip_prefix("error: ").unwrap_or(&told);
        // Which of the options wants what is missing stands in the usage only.
        told.to_owned() + &self.places(&text)
    }
}

/// Reads the command line (with the program's name first) and, where options are for serving or collecting, the
/// file.
///
/// # Errors
/// What is wrong, or the help that was asked for.
pub(crate) fn read(words: Vec<OsString>) -> Result<Invocation, Misuse> {
    // Alone it may lack what the file has.
    let first = command()
        .ignore_errors(true)
        .arg_required_else_help(false)
        .try_get_matches_from(&words)?;
    let set = |id: &str| first.value_source(id) == Some(ValueSource::CommandLine);
    let words = state::add(words, &first)?;
    let reads = first.subcommand_name().is_none() && !set("no_config");
    let mut origin = Origin::default();
    let mut settings = Vec::new();
    if let Some((path, text)) = reads.then(|| text(&first)).transpose()?.flatten() {
        settings = match parse(&text) {
            Ok(settings) => settings,
            Err(faults) => {
                let lines = faults
                    .iter()
                    .map(|fault| format!("{}:{fault}", path.display()));
                return Err(Misuse::File(lines.collect()));
            }
        };
        origin.path = path;
    }
    settings.retain(|setting| !set(&setting.id) && !set(&negation(&setting.key)));
    if set("init") || set("rotate") {
        settings.retain(|setting| setting.key == "state");
    }
    let place = |setting: &Setting| (setting.key.clone(), setting.line);
    origin.keys = settings.iter().map(place).collect();
    let mut words = words.into_iter();
    let mut all: Vec<OsString> = words.next().into_iter().collect();
    all.extend(
        settings
            .into_iter()
            .flat_map(|setting| setting.words)
            .map(OsString::from),
    );
    all.extend(words);
    let matches = match command().try_get_matches_from(all) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() && !origin.keys.is_empty() => {
            return Err(Misuse::File(vec![origin.explain(&error)]));
        }
        Err(error) => return Err(error.into()),
    };
    let cli = Cli::from_arg_matches(&matches)?;
    let check = cli.serve.file.check.then(|| effective(&matches, &origin));
    Ok(Invocation { cli, check, origin })
}

/// The definition of the command line, with `--no-KEY` for whatever may be a key of the file.
fn command() -> clap::Command {
    // clap keeps names that live as long as the process.
    static NEGATIONS: OnceLock<Vec<(String, Id)>> = OnceLock::new();
    let command = Cli::command();
    let negations = NEGATIONS.get_or_init(|| {
        let arguments = command.get_arguments();
        let keys = arguments.filter_map(|arg| Some((arg.get_long()?, arg.get_id().clone())));
        let keys = keys.filter(|(key, _)| !ACTIONS.contains(key));
        keys.map(|(key, id)| (negation(key), id)).collect()
    });
    let negations = negations.iter().map(|(negation, id)| {
        // One behind the other: the last one counts.
        let arg = Arg::new(negation.as_str()).long(negation.as_str());
        arg.overrides_with(id.clone())
            .action(ArgAction::SetTrue)
            .hide(true)
    });
    command.args(negations)
}

/// What says that an option isn't wanted.
fn negation(key: &str) -> String {
    format!("no-{key}")
}

/// The file, if there is one.
fn text(first: &ArgMatches) -> Result<Option<(PathBuf, String)>, Misuse> {
    let named = first.get_one::<PathBuf>("config");
    let path = named.map_or(Path::new(DEFAULT_FILE), PathBuf::as_path);
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.to_owned(), text))),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Misuse::File(vec![format!(
            "can't read {}: {error}",
            path.display()
        )])),
    }
}

/// All options as a file would have them, and where they come from.
fn effective(matches: &ArgMatches, origin: &Origin) -> String {
    let mut lines = String::new();
    for arg in Cli::command().get_arguments() {
        let Some(key) = arg.get_long().filter(|key| !ACTIONS.contains(key)) else {
            continue;
        };
        let id = arg.get_id().as_str();
        let from = match matches.value_source(id) {
            None => continue,
            Some(ValueSource::DefaultValue) => "default".to_owned(),
            Some(_) => match origin.keys.iter().find(|(known, _)| known == key) {
                Some((_, line)) => format!("{}:{line}", origin.path.display()),
                None => "command line".to_owned(),
            },
        };
        let value = match arg.get_action().takes_values() {
            // Switches that are off say nothing.
            false if !matches.get_flag(id) => continue,
            false => "true".to_owned(),
            true => {
                let raw = matches.get_raw(id).into_iter().flatten();
                let quoted =
                    raw.map(|value| toml::Value::from(&*value.to_string_lossy()).to_string());
                let values: Vec<String> = quoted.collect();
                match &values[..] {
                    [only] => only.clone(),
                    several => format!("[{}]", several.join(", ")),
                }
            }
        };
        // Writing to a text doesn't fail.
        let mark = if from == "default" { "#" } else { "" };
        let _ = writeln!(lines, "{mark}{key} = {value}  # {from}");
    }
    lines
}

#[cfg(test)]
mod tests;
