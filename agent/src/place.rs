//! Where programs find the agent: the socket, the directory that it lies in, and who may ask there.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agent::intake::{Admission, IntakeConfig};
use anyhow::Context;

use crate::config::{Mode, Settings};

/// The socket, and for `run` its private directory, which goes with this.
#[derive(Debug)]
pub(crate) struct Place {
    socket: PathBuf,
    is_root: bool,
    _private: Option<tempfile::TempDir>,
}

impl Place {
    /// Makes the directory where there is none.
    ///
    /// # Errors
    /// It can't be made; says what to do.
    pub(crate) fn make(mode: &Mode) -> anyhow::Result<Self> {
        let is_root = rustix::process::geteuid().is_root();
        match mode {
            Mode::Serve { socket } => {
                make_parent(socket, is_root)?;
                Ok(Self {
                    socket: socket.clone(),
                    is_root,
                    _private: None,
                })
            }
            Mode::Run(_) => {
                let directory = tempfile::Builder::new()
                    .prefix("sslcollector-")
                    .tempdir()
                    .context("can't make a directory for the socket: is TMPDIR writable?")?;
                if is_root {
                    // What root starts may drop to another user before it asks. Who may be mirrored
                    // is decided by descent, not by the path.
                    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o711))
                        .context("can't open the socket's directory to the program")?;
                }
                let socket = directory.path().join("agent.sock");
                Ok(Self {
                    socket,
                    is_root,
                    _private: Some(directory),
                })
            }
        }
    }

    /// The socket's path.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// How the intake listens here. An ordinary user's agent takes this user's processes only, root's
    /// takes everybody's, and that of `run` what it has started and no other.
    pub(crate) fn intake_config(&self, settings: &Settings) -> IntakeConfig {
        let mut config = IntakeConfig::private(self.socket.clone());
        config.ring_bytes = settings.ring_bytes;
        config.promised = matches!(settings.mode, Mode::Run(_));
        config.wait_ms = settings.wait_ms;
        config.filters = settings.filters.clone();
        if self.is_root {
            config.listen.mode = 0o666;
        }
        config.admission = match (&settings.mode, self.is_root) {
            (Mode::Run(_), _) => Admission::OwnAndDescendants,
            (Mode::Serve { .. }, true) => Admission::All,
            (Mode::Serve { .. }, false) => config.admission,
        };
        // For programs that have changed their root directory and find no path.
        config.listen.abstract_name = Some(self.socket.as_os_str().as_bytes().to_vec());
        config
    }
}

/// The socket's directory: everybody may pass through root's, nobody through another's.
fn make_parent(socket: &Path, is_root: bool) -> anyhow::Result<()> {
    let Some(parent) = socket
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    if parent.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .mode(if is_root { 0o755 } else { 0o700 })
        .create(parent)
        .with_context(|| {
            format!(
                "can't make {}: choose another place with --socket",
                parent.display()
            )
        })
}
