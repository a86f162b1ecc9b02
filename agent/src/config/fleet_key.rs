//! The keys of a fleet, and its agents', in files.

use std::io;
use std::path::{Path, PathBuf};

use agent::broker::key::{AgentKey, FleetKey, FleetKeys, KeyError, Terms};
use agent::identity::{
    DEFAULT_STATE_DIR, IdentityError, read_given_secret, write_new_secret, write_secret,
};
use anyhow::{Context, bail};

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
    let make = "on a collector `(umask 077; sslcollector fleet-key agent NAME > FILE)` makes one, which is to be copied here";
    read(path, make, AgentKey::from_text)
}

/// The keys of the fleet.
///
/// # Errors
/// There are none; says how to get them.
pub(super) fn fleet_keys(path: &Path) -> anyhow::Result<FleetKeys> {
    let make = format!(
        "make one by `{} init`, or copy the one of the fleet's other collectors",
        command(path)
    );
    read(path, &make, FleetKeys::from_text)
}

impl FleetKeyTask {
    /// Does it. What is returned is to be printed.
    ///
    /// # Errors
    /// The file can't be read or written.
    pub(crate) fn run(&self) -> anyhow::Result<String> {
        let command = command(&self.key);
        match &self.what {
            FleetKeyCommand::Init => {
                if self.key.symlink_metadata().is_ok() {
                    bail!(
                        "{} is there already: a key that is there isn't overwritten",
                        self.key.display()
                    );
                }
                write_new_secret(&self.key, &line(&FleetKey::generate().to_text()))?;
                Ok(format!(
                    "made {}: all collectors of this fleet need a copy, and nobody else may have one; \
                     `(umask 077; {command} agent NAME > FILE)` makes an agent's key",
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
                let keys = fleet_keys(&self.key)?.rotated()?;
                write_secret(&self.key, &line(&keys.to_text()))?;
                Ok(format!(
                    "{} has a new key, and the older ones: copy it to all collectors and start them again, one after the \
                     other; then give each host its new key (`{command} agent NAME`); then `{command} retire`",
                    self.key.display()
                ))
            }
            FleetKeyCommand::Retire => {
                let keys = fleet_keys(&self.key)?.retired();
                write_secret(&self.key, &line(&keys.to_text()))?;
                Ok(format!(
                    "{} has the newest key alone: copy it to all collectors and start them again, one after the other; what \
                     older ones have sealed is refused from then on, and lost, also what waits in the broker's stream",
                    self.key.display()
                ))
            }
        }
    }
}

/// The command for a fleet's key that is kept there, as a shell takes it.
fn command(path: &Path) -> String {
    if path == key_file(None, Path::new(DEFAULT_STATE_DIR)) {
        return "sslcollector fleet-key".into();
    }
    let path = path.display().to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let word = match path.bytes().all(is_plain) {
        true => path,
        false => format!("'{}'", path.replace('\'', r"'\''")),
    };
    format!("sslcollector fleet-key --fleet-key {word}")
}

fn line(text: &str) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}

fn read<K>(
    path: &Path,
    hint: &str,
    parse: impl Fn(&str) -> Result<K, KeyError>,
) -> anyhow::Result<K> {
    let text = match read_given_secret(path) {
        Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            bail!("no key for the broker in {}: {hint}", path.display())
        }
        read => read?,
    };
    parse(&text).with_context(|| path.display().to_string())
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
        assert!(error.contains(" init`"), "{error}");
        task(FleetKeyCommand::Init).run().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let key = task(FleetKeyCommand::Init).key;
        assert_eq!((mode(&key), mode(key.parent().unwrap())), (0o600, 0o700));
        let error = task(FleetKeyCommand::Init).run().unwrap_err().to_string();
        assert!(error.contains("isn't overwritten"), "{error}");
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

    #[test]
    fn a_key_is_replaced_as_a_whole_and_refused_where_others_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("fleet.key");
        let run = |what| {
            let key = key.clone();
            FleetKeyTask { key, what }.run()
        };
        run(FleetKeyCommand::Init).unwrap();
        // Who has opened the old one reads all of it: it isn't written over.
        let mut old = std::fs::File::open(&key).unwrap();
        let before = std::fs::read_to_string(&key).unwrap();
        run(FleetKeyCommand::Rotate).unwrap();
        assert_eq!(io::read_to_string(&mut old).unwrap(), before);
        let names = std::fs::read_dir(directory.path()).unwrap();
        assert_eq!(names.count(), 1);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        for what in [FleetKeyCommand::Rotate, FleetKeyCommand::Retire] {
            let error = run(what).unwrap_err().to_string();
            let chmod = format!("`chmod 600 {}`", key.display());
            assert!(
                error.contains("(mode 644)") && error.contains(&chmod),
                "{error}"
            );
        }
    }
}
