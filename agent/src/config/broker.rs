//! Which broker, and with which key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::broker::key::{AgentKey, FleetKeys};
use agent::broker::{Access, AccessError, BrokerConfig, Credentials, TlsFiles};
use agent::identity::read_given_secret;
use anyhow::{Context, bail};
use async_nats::ServerAddr;

use super::fleet_key::{agent_key, fleet_keys, key_file};
use crate::cli::{BrokerArgs, FromArgs, Target};

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerChoice {
    /// Its servers; any of them will do.
    pub(crate) servers: Vec<ServerAddr>,
    /// Its stream.
    pub(crate) stream: String,
    /// How long one that is made keeps what nobody has consumed.
    pub(crate) max_age: Duration,
    /// Most bytes in one that is made.
    pub(crate) max_bytes: Option<u64>,
    /// How many copies of one that is made.
    pub(crate) replicas: usize,
    /// What proves who we are.
    credentials: Option<CredentialsFile>,
    /// For TLS.
    tls: TlsFiles,
    /// Where the key is.
    pub(crate) key: PathBuf,
    /// Bytes that wait in an agent's memory.
    pub(crate) window_bytes: u64,
    /// How long an agent's end may take.
    pub(crate) linger: Duration,
}

/// Where it is what proves who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CredentialsFile {
    Credentials(PathBuf),
    Seed(PathBuf),
    Token(PathBuf),
    Password(String, PathBuf),
}

impl fmt::Display for BrokerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |server: &ServerAddr| format!("{}:{}", server.host(), server.port());
        let names: Vec<_> = self.servers.iter().map(name).collect();
        write!(f, "the broker at {}", names.join(", "))
    }
}

/// The broker that these targets name, if they do.
///
/// # Errors
/// They name collectors, too.
pub(super) fn broker(
    targets: &[Target],
    (args, state): (BrokerArgs, &Path),
    (window_bytes, linger): (u64, Duration),
) -> anyhow::Result<Option<BrokerChoice>> {
    let Some(Target::Broker(first)) = targets.first() else {
        if targets
            .iter()
            .any(|target| matches!(target, Target::Broker(_)))
        {
            bail!(
                "a broker doesn't stand beside collectors: give its servers alone, the first one with nats://"
            );
        }
        return Ok(None);
    };
    let secret = |target: &Target| match target {
        Target::Broker(server) => server.username().is_some() || server.password().is_some(),
        Target::Collector(_) => false,
    };
    if targets.iter().any(secret) {
        bail!(
            "whoever may list this machine's processes sees a password or token in a broker's address: give nats://HOST, \
             and --nats-user with --nats-password-file, or --nats-token-file"
        );
    }
    let server = |target: &Target| match target {
        Target::Broker(server) => Ok(server.clone()),
        // The next server of the same broker.
        Target::Collector(address) => {
            let scheme = first.scheme();
            let host = match address.host.contains(':') {
                true => format!("[{}]", address.host),
                false => address.host.clone(),
            };
            let port = match address.port {
                agent::identity::DEFAULT_PORT => first.port(),
                port => port,
            };
            let text = format!("{scheme}://{host}:{port}");
            text.parse::<ServerAddr>()
                .with_context(|| format!("{address} is no server of a broker"))
        }
    };
    let servers: anyhow::Result<Vec<_>> = targets.iter().map(server).collect();
    Ok(Some(BrokerChoice {
        servers: servers?,
        credentials: credentials(&args),
        tls: TlsFiles {
            ca: args.nats_ca,
            own: args.nats_cert.zip(args.nats_key),
        },
        stream: args.nats_stream,
        max_age: args.nats_max_age,
        max_bytes: args.nats_max_bytes,
        replicas: args.nats_replicas.get(),
        key: key_file(args.fleet_key, state),
        window_bytes,
        linger,
    }))
}

/// A broker from which is collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceChoice {
    /// Which one, and the fleet's key.
    pub(crate) broker: BrokerChoice,
    /// Agents that aren't let in.
    pub(crate) denied: Vec<String>,
}

/// The broker of `--from`, if there is one.
///
/// # Errors
/// It is none.
pub(super) fn source(
    from: FromArgs,
    args: BrokerArgs,
    state: &Path,
) -> anyhow::Result<Option<SourceChoice>> {
    let none = (0, Duration::ZERO);
    match (
        broker(&from.from, (args, state), none)?,
        from.from.as_slice(),
    ) {
        (Some(broker), _) => Ok(Some(SourceChoice {
            broker,
            denied: from.fleet_deny,
        })),
        (None, []) => Ok(None),
        (None, _) => {
            bail!("--from is for a broker: `sslcollector -C --from nats://HOST -o mirror0`")
        }
    }
}

fn credentials(args: &BrokerArgs) -> Option<CredentialsFile> {
    let password = args.nats_user.clone().zip(args.nats_password_file.clone());
    let password = password.map(|(user, path)| CredentialsFile::Password(user, path));
    let file = args.nats_creds.clone().map(CredentialsFile::Credentials);
    file.or_else(|| args.nats_nkey_file.clone().map(CredentialsFile::Seed))
        .or_else(|| args.nats_token_file.clone().map(CredentialsFile::Token))
        .or(password)
}

impl CredentialsFile {
    fn load(&self) -> anyhow::Result<Credentials> {
        let text = read_given_secret(self.place().0)?;
        let line = text.trim_end().to_owned();
        if line.is_empty() {
            bail!("it is empty");
        }
        Ok(match self {
            Self::Credentials(_) => Credentials::File(text),
            Self::Seed(_) => Credentials::Seed(line),
            Self::Token(_) => Credentials::Token(line),
            Self::Password(user, _) => Credentials::Password {
                user: user.clone(),
                password: line,
            },
        })
    }

    /// Its path, and the option that says so.
    fn place(&self) -> (&Path, &'static str) {
        match self {
            Self::Credentials(path) => (path, "--nats-creds"),
            Self::Seed(path) => (path, "--nats-nkey-file"),
            Self::Token(path) => (path, "--nats-token-file"),
            Self::Password(_, path) => (path, "--nats-password-file"),
        }
    }

    /// What was wrong with what.
    fn blame(&self, error: impl Into<anyhow::Error>) -> anyhow::Error {
        let (path, option) = self.place();
        error
            .into()
            .context(format!("can't use {} ({option})", path.display()))
    }
}

impl BrokerChoice {
    /// The broker, with what proves who we are.
    ///
    /// # Errors
    /// It can't be read.
    pub(crate) fn load(&self) -> anyhow::Result<BrokerConfig> {
        let file = self.credentials.as_ref();
        let load = |file: &CredentialsFile| file.load().map_err(|error| file.blame(error));
        let credentials = file.map(load).transpose()?;
        let access = Access::new(credentials, &self.tls).map_err(|error| match (&error, file) {
            (AccessError::Credentials(_), Some(file)) => file.blame(error),
            _ => error.into(),
        })?;
        Ok(BrokerConfig {
            servers: self.servers.clone(),
            access,
            stream: self.stream.clone(),
            max_age: self.max_age,
            max_bytes: self.max_bytes,
            replicas: self.replicas,
        })
    }

    /// The key of this agent.
    ///
    /// # Errors
    /// There is none; says how to get one.
    pub(crate) fn agent_key(&self) -> anyhow::Result<AgentKey> {
        agent_key(&self.key)
    }
}

impl SourceChoice {
    /// The keys of the fleet.
    ///
    /// # Errors
    /// There are none; says how to get them.
    pub(crate) fn fleet_keys(&self) -> anyhow::Result<FleetKeys> {
        fleet_keys(&self.broker.key)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;
    use mirror_tests::place::write_secret;

    use crate::cli::Cli;
    use crate::config::{OutputChoice, Task, resolve};

    #[test]
    fn a_secret_in_an_address_is_refused_and_not_repeated() {
        for to in [
            "nats://user:geheim@a",
            "tls://geheim@a",
            "nats://a,nats://user:geheim@b",
        ] {
            let words = ["sslcollector", "-I", "none", "--socket", "/s", "-t", to];
            let cli = Cli::try_parse_from(words).unwrap();
            let told = format!("{:#}", resolve(cli).err().unwrap());
            assert!(told.contains("--nats-password-file"), "{told}");
            assert!(!told.contains("geheim"), "{told}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_with_its_file_and_option() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let told = |option: &str| {
            let path = path.display().to_string();
            let words = ["sslcollector", "-I", "none", "--socket", "/s", "-t"];
            let words = words.into_iter().chain(["nats://a", option, &path]);
            let user = ["--nats-user", "u"].into_iter();
            let user = user.filter(|_| option == "--nats-password-file");
            let cli = Cli::try_parse_from(words.chain(user)).unwrap();
            let Task::Mirror(settings) = resolve(cli).unwrap() else {
                panic!("it serves");
            };
            let [OutputChoice::Broker(choice)] = &settings.outputs[..] else {
                panic!("one output, by a broker");
            };
            let error = choice.load().map(|_| ()).unwrap_err();
            let told = format!("{error:#}");
            let place = format!("can't use {path} ({option}): ");
            assert!(told.starts_with(&place), "{told}");
            told
        };
        let options = [
            "--nats-creds",
            "--nats-nkey-file",
            "--nats-token-file",
            "--nats-password-file",
        ];
        for option in options {
            let _ = std::fs::remove_file(&path);
            assert!(told(option).contains("can't read"));
            write_secret(&path, "\n");
            assert!(told(option).contains("it is empty"));
            let everybody = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(&path, everybody).unwrap();
            assert!(told(option).contains("(mode 644)"));
        }
        write_secret(&path, "anything");
        assert!(told("--nats-creds").contains("no credentials"));
        assert!(told("--nats-nkey-file").contains("no seed"));
        assert!(!told("--nats-creds").contains("anything"));
    }
}
