//! TOML into words of a command line, and all that is wrong with it.

use std::fmt;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, CommandFactory};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::Cli;
use super::ACTIONS;

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The option's long name.
    pub(super) key: String,
    /// What clap calls it.
    pub(super) id: String,
    /// Where it is, from 1.
    pub(super) line: usize,
    /// What would be on a command line.
    pub(super) words: Vec<String>,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    line: usize,
    key: Option<String>,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.line)?;
        match &self.key {
            Some(key) => write!(f, "{key}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Reads all settings of a file.
pub(super) fn parse(text: &str) -> Result<Vec<Setting>, Vec<Fault>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        text,
        command: Cli::command(),
        settings: Vec::new(),
        faults: Vec::new(),
    };
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.fault(at, None, error.message().to_owned());
    }
    if reader.faults.is_empty() {
        reader.table(table.get_ref(), true);
    }
    reader.settings.sort_by_key(|setting| setting.line);
    reader.faults.sort_by_key(|fault| fault.line);
    match reader.faults.is_empty() {
        true => Ok(reader.settings),
        false => Err(reader.faults),
    }
}

struct Reader<'t> {
    text: &'t str,
    command: clap::Command,
    settings: Vec<Setting>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().iter().take(at);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    fn fault(&mut self, at: usize, key: Option<&str>, what: String) {
        self.faults.push(Fault {
            line: self.line(at),
            key: key.map(str::to_owned),
            what,
        });
    }

    /// Tables are for people: `top` ones group keys, and mean nothing.
    fn table(&mut self, table: &DeTable<'_>, top: bool) {
        let mut keys: Vec<_> = table.iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in keys {
            let (at, key) = (key.span().start, key.get_ref().as_ref());
            match value.get_ref() {
                DeValue::Table(inner) if top => self.table(inner, false),
                _ => self.key(at, key, value),
            }
        }
    }

    fn key(&mut self, at: usize, key: &str, value: &Spanned<DeValue<'_>>) {
        let is_meant = |arg: &&Arg| arg.get_long() == Some(key);
        let known = self.command.get_arguments().find(is_meant).cloned();
        let Some(arg) = known else {
            let what = match nearest(&self.command, key) {
                Some(near) => format!("there is no such option; {near}?"),
                None => "there is no such option: `sslcollector --help` lists them".to_owned(),
            };
            return self.fault(at, Some(key), what);
        };
        if ACTIONS.contains(&key) {
            return self.fault(at, Some(key), "that belongs on the command line".into());
        }
        if let Some(other) = self.settings.iter().find(|other| other.key == key) {
            let what = format!("it is in line {} already", other.line);
            return self.fault(at, Some(key), what);
        }
        match self.words(key, &arg, value) {
            Err(what) => self.fault(value.span().start, Some(key), what),
            Ok(words) => {
                if let Some(what) = words.iter().find_map(|word| self.refusal(word)) {
                    return self.fault(value.span().start, Some(key), what);
                }
                // A switch that is off is one that isn't there.
                if !words.is_empty() {
                    self.settings.push(Setting {
                        key: key.to_owned(),
                        id: arg.get_id().to_string(),
                        line: self.line(at),
                        words,
                    });
                }
            }
        }
    }

    fn words(
        &self,
        key: &str,
        arg: &Arg,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Vec<String>, String> {
        let one = |value: &DeValue<'_>| -> Result<String, String> {
            match value {
                DeValue::String(text) => Ok(format!("--{key}={text}")),
                DeValue::Integer(number) if number.radix() == 10 => {
                    Ok(format!("--{key}={}", number.as_str()))
                }
                DeValue::Float(number) => Ok(format!("--{key}={}", number.as_str())),
                other => Err(format!("it takes a text or a number, not {}", kind(other))),
            }
        };
        let takes_values = arg.get_action().takes_values();
        // One whose value may be left out is a switch as well.
        let is_switch = !takes_values || arg.get_num_args().is_some_and(|n| n.min_values() == 0);
        let takes_many = matches!(arg.get_action(), ArgAction::Append);
        match value.get_ref() {
            DeValue::Boolean(false) if is_switch => Ok(Vec::new()),
            DeValue::Boolean(true) if is_switch => Ok(vec![format!("--{key}")]),
            other if !takes_values => Err(format!("it is true or false, and not {}", kind(other))),
            DeValue::Array(values) if takes_many => {
                values.iter().map(|value| one(value.get_ref())).collect()
            }
            DeValue::Array(_) => Err("it takes one value, not a list".into()),
            single => one(single).map(|word| vec![word]),
        }
    }

    /// What the option's own parser says against a value.
    fn refusal(&self, word: &str) -> Option<String> {
        let words = ["sslcollector", word];
        let error = self.command.clone().try_get_matches_from(words).err()?;
        match error.kind() {
            ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::InvalidUtf8 => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let text = error.to_string();
                let line = text.lines().next().unwrap_or_default();
                let line = line.strip_prefix("error: ").unwrap_or(line);
                Some(source.unwrap_or_else(|| line.to_owned()))
            }
            // What it lacks or contradicts is judged with all the others.
            _ => None,
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The option that was meant, perhaps.
fn nearest(command: &clap::Command, key: &str) -> Option<String> {
    let names = command.get_arguments().filter_map(Arg::get_long);
    let names = names.filter(|name| !ACTIONS.contains(name));
    let written = key.replace('_', "-");
    let measured = names.map(|name| (distance(name, &written), name));
    let (steps, name) = measured.min()?;
    (steps <= 1 + key.chars().count() / 4).then(|| name.to_owned())
}

/// How many letters have to be changed, added or left out (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
