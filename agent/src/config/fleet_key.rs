//! The keys of a fleet, and its agents', in files.

use std::path::{Path, PathBuf};

use agent::broker::key::{AgentKey, FleetKey, FleetKeys, KeyError, Terms};
use agent::identity::DEFAULT_STATE_DIR;
use anyhow::Context;

use crate::cli::{FleetKeyArgs, FleetKeyCommand};

/// What is to be done with a fleet's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FleetKeyTask {
    /// Where it is.
    pub(crate) key: PathBuf,
    /// What.
    pub(crate) what: FleetKeyCommand,
}

pub(super) fn fleet_key(args: FleetKeyArgs) -> FleetKeyTask {
    FleetKeyTask {
        key: key_file(args.fleet_key, Path::new(DEFAULT_STATE_DIR)),
        what: args.what,
    }
}

pub(super) fn key_file(given: Option<PathBuf>, state: &Path) -> PathBuf {
    given.unwrap_or_else(|| state.join("fleet.key"))
}

/// The key of an agent.
///
/// # Errors
/// There is none; says how to get one.
pub(super) fn agent_key(path: &Path) -> anyhow::Result<AgentKey> {
    let make =
        "on a collector: `sslcollector fleet-key agent NAME`, whose output belongs into this file";
    read(path, make, AgentKey::from_text)
}

/// The keys of the fleet.
///
/// # Errors
/// There are none; says how to get them.
pub(super) fn fleet_keys(path: &Path) -> anyhow::Result<FleetKeys> {
    read(path, FLEET_HINT, FleetKeys::from_text)
}

impl FleetKeyTask {
    /// Does it. What is returned is to be printed.
    ///
    /// # Errors
    /// The file can't be read or written.
    pub(crate) fn run(&self) -> anyhow::Result<String> {
        match &self.what {
            FleetKeyCommand::Init => {
                write_secret(&self.key, &FleetKey::generate().to_text())?;
                Ok(format!(
                    "made {}: all collectors of this fleet need a copy, and nobody else may have one; \
                     `sslcollector fleet-key agent NAME` prints an agent's key",
                    self.key.display()
                ))
            }
            FleetKeyCommand::Agent { name, net } => {
                let networks = (!net.is_empty()).then_some(&net[..]);
                let terms = Terms::of(networks)?;
                let keys = fleet_keys(&self.key)?;
                Ok(keys.newest().agent(name, &terms)?.to_text())
            }
            FleetKeyCommand::Rotate => {
                replace_secret(&self.key, &fleet_keys(&self.key)?.rotated()?.to_text())?;
                Ok(format!(
                    "{} has a new key, and the older ones: copy it to all collectors and start them again, one after the \
                     other; then give each host its new key (`sslcollector fleet-key agent NAME`); then `sslcollector \
                     fleet-key retire`",
                    self.key.display()
                ))
            }
            FleetKeyCommand::Retire => {
                replace_secret(&self.key, &fleet_keys(&self.key)?.retired().to_text())?;
                Ok(format!(
                    "{} has the newest key alone: copy it to all collectors and start them again, one after the other; what \
                     comes by older ones is refused from then on",
                    self.key.display()
                ))
            }
        }
    }
}

const FLEET_HINT: &str =
    "make one by `sslcollector fleet-key init`, or copy the one of the fleet's other collectors";

fn read<K>(
    path: &Path,
    hint: &str,
    parse: impl Fn(&str) -> Result<K, KeyError>,
) -> anyhow::Result<K> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("no key for the broker in {}: {hint}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

/// Another content for a file, for its owner alone: all of it, or none.
fn replace_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    // What an attempt that failed has left.
    let _ = std::fs::remove_file(&new);
    write_secret(&new, text)?;
    std::fs::rename(&new, path).with_context(|| format!("can't write {}", path.display()))
}

/// A file for its owner alone; never in place of another.
fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(parent);
        made.with_context(|| format!("can't make {}", parent.display()))?;
    }
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| {
        format!(
            "can't make {}: a key that is there isn't overwritten",
            path.display()
        )
    })?;
    writeln!(file, "{text}")
        .and_then(|()| file.sync_all())
        .with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_fleets_key_is_made_once_and_for_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let task = |what| FleetKeyTask {
            key: directory.path().join("new/fleet.key"),
            what,
        };
        let agent = || {
            task(FleetKeyCommand::Agent {
                name: "web-1".into(),
                net: vec![agent::filter::network("10.0.0.0/8").unwrap()],
            })
        };
        let error = agent().run().unwrap_err().to_string();
        assert!(error.contains("fleet-key init"), "{error}");
        task(FleetKeyCommand::Init).run().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let key = task(FleetKeyCommand::Init).key;
        assert_eq!((mode(&key), mode(key.parent().unwrap())), (0o600, 0o700));
        assert!(task(FleetKeyCommand::Init).run().is_err());
        let key = AgentKey::from_text(&agent().run().unwrap()).unwrap();
        assert_eq!(key.name(), "web-1");
        assert_eq!(key.terms().networks().unwrap().len(), 1);
        let before = agent().run().unwrap();
        let lines = || {
            let path = task(FleetKeyCommand::Init).key;
            assert_eq!(mode(&path), 0o600);
            std::fs::read_to_string(&path).unwrap().lines().count()
        };
        task(FleetKeyCommand::Rotate).run().unwrap();
        assert_eq!(lines(), 2);
        assert_ne!(agent().run().unwrap(), before);
        task(FleetKeyCommand::Retire).run().unwrap();
        assert_eq!(lines(), 1);
        assert_ne!(agent().run().unwrap(), before);
    }
}
