//! An agent's identities: one for each collector that its host has joined.
//!
//! ```text
//! joined/<first half of the pin>.toml    pin, name, addresses, key, certificate; replaced as a whole
//! ```

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use serde::{Deserialize, Serialize};

use super::TUNNEL_ALPN;
use super::certificate::{self, KeyId, hex};
use super::error::IdentityError;
use super::files;
use super::token::Address;
use super::verify::{OfCollector, provider};

const DIRECTORY: &str = "joined";

/// All collectors that this host has joined.
#[derive(Debug)]
pub struct AgentIdentity {
    memberships: Vec<Membership>,
}

/// One collector that this host has joined. Clones are the same one.
#[derive(Clone)]
pub struct Membership {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    pin: KeyId,
    name: String,
    addresses: Vec<Address>,
    key: KeyPair,
    clock: Arc<dyn TimeProvider>,
    current: RwLock<Current>,
}

struct Current {
    config: Arc<ClientConfig>,
    /// Seconds since 1970.
    validity: (u64, u64),
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("name", &self.inner.name)
            .field("pin", &self.inner.pin)
            .field("addresses", &self.inner.addresses)
            .finish_non_exhaustive()
    }
}

/// As it is on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    pub(super) pin: String,
    pub(super) name: String,
    pub(super) addresses: Vec<String>,
    /// PEM.
    pub(super) key: String,
    /// Base64 of the DER, as in PEM.
    pub(super) certificate: String,
}

pub(super) fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join(DIRECTORY)
}

/// Where what belongs to a collector is.
pub(super) fn path(state_dir: &Path, pin: &KeyId) -> PathBuf {
    directory(state_dir).join(hex(&pin.0[..16]) + ".toml")
}

impl Stored {
    pub(super) fn write(&self, path: &Path) -> Result<(), IdentityError> {
        let text = toml::to_string(self).map_err(|error| IdentityError::Damaged {
            path: path.to_owned(),
            what: error.to_string(),
        })?;
        files::write(path, text.as_bytes())
    }
}

impl AgentIdentity {
    /// Reads them; there may be none.
    ///
    /// # Errors
    /// One is damaged, or others can read its key.
    pub fn load(state_dir: &Path) -> Result<Self, IdentityError> {
        Self::load_at(state_dir, Arc::new(DefaultTimeProvider))
    }

    /// The same with another clock.
    ///
    /// # Errors
    /// See [`load`](Self::load).
    pub fn load_at(state_dir: &Path, clock: Arc<dyn TimeProvider>) -> Result<Self, IdentityError> {
        let dir = directory(state_dir);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self {
                    memberships: Vec::new(),
                });
            }
            Err(source) => {
                return Err(IdentityError::File {
                    action: "read",
                    path: dir,
                    source,
                });
            }
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "toml"))
            .collect();
        paths.sort();
        let memberships = paths
            .into_iter()
            .filter_map(|path| Membership::load(path, &clock).transpose());
        Ok(Self {
            memberships: memberships.collect::<Result<_, _>>()?,
        })
    }

    /// All of them.
    pub fn memberships(&self) -> &[Membership] {
        &self.memberships
    }

    /// The one for a collector that the operator calls so: by the addresses that were in its token; or, if this
    /// host has joined only one, that, whatever it is called now, since it is known by its key.
    ///
    /// # Errors
    /// None fits: the error names the two commands that are missing.
    pub fn membership(&self, host: &str, port: u16) -> Result<Membership, IdentityError> {
        let wanted = Address::new(host, Some(port));
        let has = |fits: &dyn Fn(&Address) -> bool| {
            let mut all = self.memberships.iter();
            all.find(|one| one.inner.addresses.iter().any(fits))
        };
        let found = has(&|address| *address == wanted)
            .or_else(|| has(&|address| address.host == wanted.host))
            .or(match &self.memberships[..] {
                [only] => Some(only),
                _ => None,
            });
        found.cloned().ok_or_else(|| {
            let firsts = self.memberships.iter().map(Membership::first_address);
            let known: Vec<String> = firsts.collect();
            IdentityError::NotJoined {
                collector: host.to_owned(),
                known: match known.is_empty() {
                    true => String::new(),
                    false => format!(" (it has joined {})", known.join(", ")),
                },
            }
        })
    }
}

impl Membership {
    /// `None`: the file has just gone.
    fn load(path: PathBuf, clock: &Arc<dyn TimeProvider>) -> Result<Option<Self>, IdentityError> {
        let Some(text) = files::read_secret(&path)? else {
            return Ok(None);
        };
        let damaged = |what: String| IdentityError::Damaged {
            path: path.clone(),
            what,
        };
        // The parser's message would quote the line, which may be the key's.
        let stored: Stored = toml::from_str(&text).map_err(|_| {
            damaged("it can't be read; join again with `sslcollector join --again TOKEN`".into())
        })?;
        let pin = stored.pin.parse().map_err(damaged)?;
        let addresses = stored.addresses.iter().map(|address| address.parse());
        let addresses = addresses.collect::<Result<_, _>>().map_err(damaged)?;
        let key = KeyPair::from_pem(&stored.key).map_err(|error| damaged(error.to_string()))?;
        let certificate = CertificateDer::from_pem_slice(stored.certificate.as_bytes())
            .map_err(|error| damaged(error.to_string()))?;
        let current = Current::make(&pin, &key, certificate, clock)?;
        Ok(Some(Self {
            inner: Arc::new(Inner {
                pin,
                name: stored.name,
                addresses,
                key,
                clock: Arc::clone(clock),
                current: RwLock::new(current),
                path,
            }),
        }))
    }

    /// What the collector calls this agent.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Which collector it is.
    pub fn pin(&self) -> KeyId {
        self.inner.pin
    }

    /// Where the collector was when this host joined it; the best one first.
    pub fn addresses(&self) -> &[Address] {
        &self.inner.addresses
    }

    pub(super) fn first_address(&self) -> String {
        let first = self.inner.addresses.first();
        first.map(ToString::to_string).unwrap_or_default()
    }

    /// For a connection: TLS 1.3, this agent's certificate, and nobody believed but this collector. To be asked for
    /// each time, since certificates are renewed.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let current = self.inner.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner).config)
    }

    /// The name that rustls wants of each server. It isn't sent, and isn't compared: the collector is known by its key.
    pub fn server_name(&self) -> ServerName<'static> {
        server_name()
    }

    /// Until when the certificate is good, seconds since 1970.
    pub fn certificate_until(&self) -> u64 {
        let current = self.inner.current.read();
        current.unwrap_or_else(PoisonError::into_inner).validity.1
    }

    /// Whether a third of the certificate's life has passed.
    pub fn renewal_due(&self, now: SystemTime) -> bool {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let current = self.inner.current.read();
        let validity = current.unwrap_or_else(PoisonError::into_inner).validity;
        seconds >= certificate::renewal(validity)
    }

    /// What to send in [`Renew`](crate::tunnel::frame::Message::Renew): PKCS #10, DER, for the same key.
    ///
    /// # Errors
    /// The request can't be signed.
    pub fn renewal_request(&self) -> Result<Vec<u8>, IdentityError> {
        certificate::request(&self.inner.key)
    }

    /// Takes and keeps what came in [`Renewed`](crate::tunnel::frame::Message::Renewed), through a connection
    /// with this collector. Connections from now on use it. Writes to disk; where that fails it is used all the same.
    ///
    /// # Errors
    /// It isn't for this agent's key or doesn't last longer, and isn't taken; or it can't be written.
    pub fn store_renewed(&self, certificate: &[u8]) -> Result<(), IdentityError> {
        let certificate = CertificateDer::from(certificate.to_vec());
        let inner = &self.inner;
        if KeyId::of_certificate(&certificate) != Some(KeyId::of_key(&inner.key)) {
            return Err(IdentityError::BadCertificate("it is for another key"));
        }
        let next = Current::make(&inner.pin, &inner.key, certificate.clone(), &inner.clock)?;
        {
            let mut current = inner
                .current
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if next.validity.1 <= current.validity.1 {
                return Err(IdentityError::BadCertificate(
                    "it doesn't last longer than the one there is",
                ));
            }
            *current = next;
        }
        let stored = Stored {
            pin: inner.pin.to_string(),
            name: inner.name.clone(),
            addresses: inner.addresses.iter().map(ToString::to_string).collect(),
            key: inner.key.serialize_pem(),
            certificate: pem(&certificate),
        };
        stored.write(&inner.path)
    }
}

/// As it is kept.
pub(super) fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

pub(super) fn server_name() -> ServerName<'static> {
    ServerName::try_from("collector").expect("a name")
}

impl Current {
    fn make(
        pin: &KeyId,
        key: &KeyPair,
        certificate: CertificateDer<'static>,
        clock: &Arc<dyn TimeProvider>,
    ) -> Result<Self, IdentityError> {
        let validity = certificate::validity(&certificate)
            .ok_or(IdentityError::BadCertificate("it can't be read"))?;
        let mut config = ClientConfig::builder_with_details(provider(), Arc::clone(clock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(OfCollector::new(*pin))
            .with_client_auth_cert(vec![certificate], certificate::private_key(key))?;
        config.alpn_protocols = vec![TUNNEL_ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            validity,
        })
    }
}
