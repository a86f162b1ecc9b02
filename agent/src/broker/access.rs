//! Who we are to a broker, and how we know that it is the one. All of it is in memory before the first connection: a
//! process that has given up its privileges can't read keys any more.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::notices::{causes, foreign};
use crate::identity::read_given_secret;

/// Who we are, and whom we believe.
#[derive(Clone, Debug, Default)]
pub struct Access {
    credentials: Option<Credentials>,
    tls: Option<Arc<ClientConfig>>,
}

/// What proves to a broker who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user's JWT and the seed of its key: the text of a file as NATS' own tools write it (`.creds`).
    File(String),
    /// The seed of a user's NKey.
    Seed(String),
    /// A name and its password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
}

/// Files for TLS with a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that are believed (PEM), in place of the system's.
    pub ca: Option<PathBuf>,
    /// The certificate that we show, and its key (PEM).
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Something can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file.
    #[error("can't use {0} for TLS with the broker: {1}")]
    Tls(PathBuf, String),
    /// The system's own authorities.
    #[error("the system's CA certificates can't be read: {0}; --nats-ca gives others")]
    System(String),
    /// They are no such credentials.
    #[error("{0}")]
    Credentials(&'static str),
}

impl Access {
    /// From what was read, and files that are read now.
    ///
    /// # Errors
    /// Something can't be used.
    pub fn new(credentials: Option<Credentials>, files: &TlsFiles) -> Result<Self, AccessError> {
        match &credentials {
            Some(Credentials::File(text)) if ConnectOptions::with_credentials(text).is_err() => {
                return Err(AccessError::Credentials(
                    "these are no credentials of a user: a JWT and a seed, as `nsc generate creds` writes them",
                ));
            }
            Some(Credentials::Seed(seed)) if !is_seed(seed) => {
                return Err(AccessError::Credentials(
                    "this is no seed of a user's NKey: a line that begins with SU, as `nk -gen user` writes it",
                ));
            }
            _ => {}
        }
        let tls = match files {
            TlsFiles {
                ca: None,
                own: None,
            } => None,
            files => Some(Arc::new(client(files)?)),
        };
        Ok(Self { credentials, tls })
    }

    /// Whether a broker without TLS is refused, whatever its address says.
    pub(super) fn requires_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether whoever listens on the way would learn what proves who we are.
    pub(super) fn tells_secrets(&self) -> bool {
        matches!(
            self.credentials,
            Some(Credentials::Password { .. } | Credentials::Token(_))
        )
    }

    /// Puts it into the options of a connection.
    pub(super) fn apply(&self, mut options: ConnectOptions) -> io::Result<ConnectOptions> {
        if let Some(tls) = &self.tls {
            options = options.tls_client_config(ClientConfig::clone(tls));
        }
        Ok(match &self.credentials {
            None => options,
            Some(Credentials::File(text)) => options.credentials(text)?,
            Some(Credentials::Seed(seed)) => options.nkey(seed.clone()),
            Some(Credentials::Token(token)) => options.token(token.clone()),
            Some(Credentials::Password { user, password }) => {
                options.user_and_password(user.clone(), password.clone())
            }
        })
    }

    /// What to say when the broker at `place` can't be reached.
    pub(super) fn explain(&self, place: &str, error: &ConnectError) -> String {
        match (error.kind(), tls_error(error)) {
            (ConnectErrorKind::AuthorizationViolation, _) => match &self.credentials {
                None => format!(
                    "the broker at {place} asks who comes: give --nats-creds, --nats-nkey-file, --nats-token-file, or \
                     --nats-user with --nats-password-file"
                ),
                Some(credentials) => format!(
                    "the broker at {place} doesn't let us in (authorization violation): {} is wrong there",
                    credentials.named()
                ),
            },
            (_, Some(rustls::Error::InvalidCertificate(why))) => format!(
                "the certificate of the broker at {place} isn't good ({}): --nats-ca says which authority to believe",
                foreign(&why.to_string())
            ),
            (_, Some(rustls::Error::AlertReceived(alert))) => format!(
                "the broker at {place} refuses our certificate ({alert:?}): --nats-cert and --nats-key give one"
            ),
            _ => format!("can't reach the broker at {place}: {}", causes(error)),
        }
    }
}

impl Credentials {
    fn named(&self) -> String {
        match self {
            Self::File(_) => "what --nats-creds has".into(),
            Self::Seed(_) => "the key of --nats-nkey-file".into(),
            Self::Token(_) => "the token of --nats-token-file".into(),
            Self::Password { user, .. } => format!("user {user}, or the password"),
        }
    }
}

/// Without what is secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// 32 bytes with their prefix and checksum, in base 32.
fn is_seed(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
    text.len() == 58 && text.starts_with("SU") && text.bytes().all(is_digit)
}

/// What rustls says, where it is behind an error.
fn tls_error(error: &ConnectError) -> Option<&rustls::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // What an I/O error carries is not its source.
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn client(files: &TlsFiles) -> Result<ClientConfig, AccessError> {
    let wrong = |path: &Path, what: String| AccessError::Tls(path.to_owned(), what);
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            for certificate in certificates(path)? {
                let added = roots.add(certificate);
                added.map_err(|error| wrong(path, error.to_string()))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
                return Err(AccessError::System(errors.join(", ")));
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| AccessError::System(error.to_string()))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &files.own else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let own = read_given_secret(key).map_err(|error| wrong(key, error.to_string()))?;
    let own = PrivateKeyDer::from_pem_slice(own.as_bytes())
        .map_err(|error| wrong(key, error.to_string()))?;
    builder
        .with_client_auth_cert(chain, own)
        .map_err(|error| wrong(certificate, error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let found =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(AccessError::Tls(
            path.to_owned(),
            "no certificate in it".into(),
        )),
        Ok(found) => Ok(found),
        Err(error) => Err(AccessError::Tls(path.to_owned(), error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_credential_is_said_before_anybody_is_asked() {
        let new = |credentials| Access::new(Some(credentials), &TlsFiles::default());
        assert!(new(Credentials::File("anything".into())).is_err());
        let seed = format!("SUA{}", "A".repeat(55));
        assert!(new(Credentials::Seed(seed[..57].into())).is_err());
        assert!(new(Credentials::Seed(seed.to_lowercase())).is_err());
        assert!(new(Credentials::Seed(seed)).is_ok());
    }

    #[test]
    fn secrets_are_not_printed_by_accident() {
        let credentials = Credentials::Password {
            user: "u".into(),
            password: "secret".into(),
        };
        let access = Access::new(Some(credentials), &TlsFiles::default()).unwrap();
        let printed = format!("{access:?}");
        assert!(!printed.contains("secret"), "{printed}");
    }

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let files = TlsFiles {
            ca: Some(path.clone()),
            own: None,
        };
        for text in [None, Some("")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = Access::new(None, &files).unwrap_err().to_string();
            assert!(error.contains("ca.pem"), "{error}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_not_shown_to_anybody() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] = ["own.pem", "own.key"].map(|name| directory.path().join(name));
        let made = rcgen::generate_simple_self_signed(vec!["host".into()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let files = TlsFiles {
            ca: Some(certificate.clone()),
            own: Some((certificate, key.clone())),
        };
        let set = |mode| {
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(0o640);
        let error = Access::new(None, &files).unwrap_err().to_string();
        assert!(
            error.contains("(mode 640)") && error.contains("chmod 600"),
            "{error}"
        );
        set(0o600);
        assert!(Access::new(None, &files).is_ok());
    }
}
