//! What a helper was told to do, before there was anything foreign to be read.

use std::fs::File;
use std::io;
use std::path::PathBuf;

/// What may be asked for one output.
pub enum Duty {
    /// Nothing.
    Nothing,
    /// Its next file.
    Files(Box<dyn FnMut() -> io::Result<File> + Send>),
    /// Its interface, if that isn't there; says what was made, or why it can't be.
    Interface(Box<dyn FnMut() -> Result<Option<String>, String> + Send>),
}

/// All that may be asked.
#[derive(Debug, Default)]
pub struct Duties {
    /// The path of the agent's socket, at which programs connect that may be looked at. The abstract name is the
    /// same.
    pub socket: Option<PathBuf>,
    /// For each output.
    pub outputs: Vec<Duty>,
}

impl std::fmt::Debug for Duty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Files(_) => "Files",
            Self::Interface(_) => "Interface",
        })
    }
}
