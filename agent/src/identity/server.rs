//! What a collector shows to agents: a certificate that it makes itself, of its authority.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;

use super::certificate::{self, KeyId};
use super::error::IdentityError;
use super::files;
use super::token::Address;
use super::verify::provider;

pub(super) const AUTHORITY: &str = "authority.pem";
pub(super) const AUTHORITY_KEY: &str = "authority.key";
pub(super) const SERVER_KEY: &str = "server.key";
pub(super) const NAMES: &str = "names";

/// Makes its certificate itself, and a new one before that runs out.
pub(super) struct Server {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) authority: CertificateDer<'static>,
    pub(super) pin: KeyId,
    pub(super) clock: Arc<dyn TimeProvider>,
    state: RwLock<ServerState>,
}

struct ServerState {
    key: Arc<KeyPair>,
    names: Vec<Address>,
    shown: Arc<CertifiedKey>,
    /// Seconds since 1970.
    renewed_at: u64,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn load(dir: &Path, clock: Arc<dyn TimeProvider>) -> Result<Self, IdentityError> {
        let authority = authority(dir)?;
        let authority_key = key(dir.join(AUTHORITY_KEY))?;
        let pin = KeyId::of_key(&authority_key);
        if KeyId::of_certificate(&authority) != Some(pin) {
            return Err(IdentityError::Damaged {
                path: dir.join(AUTHORITY_KEY),
                what: format!("it isn't the key of {AUTHORITY}"),
            });
        }
        let issuer = Issuer::from_ca_cert_der(&authority, authority_key)?;
        let now = time_of(&*clock);
        let state = ServerState::make(
            &issuer,
            &authority,
            key(dir.join(SERVER_KEY))?.into(),
            names(dir)?,
            now,
        )?;
        Ok(Self {
            issuer,
            authority,
            pin,
            clock,
            state: RwLock::new(state),
        })
    }

    pub(super) fn now(&self) -> UnixTime {
        time_of(&*self.clock)
    }

    pub(super) fn reload(&self, dir: &Path) -> Result<(), IdentityError> {
        self.replace(key(dir.join(SERVER_KEY))?.into(), names(dir)?)
    }

    fn replace(&self, key: Arc<KeyPair>, names: Vec<Address>) -> Result<(), IdentityError> {
        let state = ServerState::make(&self.issuer, &self.authority, key, names, self.now())?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        Ok(())
    }
}

impl ServerState {
    fn make(
        issuer: &Issuer<'_, KeyPair>,
        authority: &CertificateDer<'static>,
        key: Arc<KeyPair>,
        names: Vec<Address>,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let certificate = certificate::for_server(issuer, &key, &names, now)?;
        let private = certificate::private_key(&key);
        let signer = provider().key_provider.load_private_key(private)?;
        let validity = certificate::validity(&certificate).unwrap_or_default();
        Ok(Self {
            key,
            names,
            // The authority goes along: by it the pin is checked.
            shown: Arc::new(CertifiedKey::new(
                vec![certificate, authority.clone()],
                signer,
            )),
            renewed_at: certificate::renewal(validity),
        })
    }
}

impl ResolvesServerCert for Server {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let due = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (self.now().as_secs() >= state.renewed_at)
                .then(|| (Arc::clone(&state.key), state.names.clone()))
        };
        // What can't be renewed is shown as long as it lasts.
        if let Some((key, names)) = due {
            let _ = self.replace(key, names);
        }
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&state.shown))
    }
}

/// The authority's certificate.
pub(super) fn authority(dir: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    let path = dir.join(AUTHORITY);
    let text = files::read(&path)?.unwrap_or_default();
    CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| IdentityError::Damaged {
        path,
        what: error.to_string(),
    })
}

/// As agents call it: what `init` was told.
pub(super) fn names(dir: &Path) -> Result<Vec<Address>, IdentityError> {
    let text = files::read(&dir.join(NAMES))?.unwrap_or_default();
    let names = text.lines().filter(|line| !line.is_empty());
    let names = names.map(str::parse).collect::<Result<_, String>>();
    names.map_err(|what| IdentityError::Damaged {
        path: dir.join(NAMES),
        what,
    })
}

pub(super) fn key(path: PathBuf) -> Result<KeyPair, IdentityError> {
    let damaged = |what: String| IdentityError::Damaged {
        path: path.clone(),
        what,
    };
    let text = files::read_secret(&path)?.ok_or_else(|| damaged("it isn't there".into()))?;
    KeyPair::from_pem(&text).map_err(|error| damaged(error.to_string()))
}

/// The time; where the clock is before 1970, then.
pub(super) fn time_of(clock: &dyn TimeProvider) -> UnixTime {
    clock
        .current_time()
        .unwrap_or(UnixTime::since_unix_epoch(std::time::Duration::ZERO))
}
