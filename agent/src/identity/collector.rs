//! A collector's identity: its authority, its server certificate, and who it lets in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{CertificateError, Error, RootCertStore, ServerConfig};

use super::certificate::{self, AGENT_LIFE, KeyId};
use super::error::IdentityError;
use super::files::{self, Lock};
use super::limits::Limits;
use super::refusals::RefusalCounts;
use super::registry::{AgentRecord, Applicant, Known, Registry};
use super::server::{AUTHORITY, AUTHORITY_KEY, NAMES, SERVER_KEY, Server, time_of};
use super::token::Address;
use super::verify::{JudgedLater, provider};
use super::{ENROL_ALPN, TUNNEL_ALPN, addresses};
use crate::tunnel::frame::Reason;

const DIRECTORY: &str = "collector";
/// Held shared, with its process id, by a collector that runs.
pub(super) const RUNNING: &str = "running";

/// Somebody isn't let in, or doesn't get what it asks for.
#[derive(Debug, thiserror::Error)]
#[error("{}{}", super::enrol::refusal_text(*reason), cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default())]
pub struct Refusal {
    /// Why; also what the other side is told.
    pub reason: Reason,
    /// What is wrong here, where it is the collector's fault: for its log.
    pub cause: Option<IdentityError>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            cause: None,
        }
    }
}

impl From<IdentityError> for Refusal {
    fn from(error: IdentityError) -> Self {
        Self {
            reason: Reason::CollectorFault,
            cause: Some(error),
        }
    }
}

/// A collector's identity. Clones are the same one.
#[derive(Clone)]
pub struct CollectorIdentity {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    dir: PathBuf,
    server: Arc<Server>,
    /// Chains to our authority, with the usage of an agent.
    agents: Arc<dyn ClientCertVerifier>,
    known: RwLock<Arc<Known>>,
    refusals: RefusalCounts,
    pub(super) limits: Limits,
    _running: Running,
}

impl fmt::Debug for CollectorIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorIdentity")
            .field("dir", &self.inner.dir)
            .field("pin", &self.inner.server.pin)
            .finish_non_exhaustive()
    }
}

/// The collector's part of the state directory.
pub(super) fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join(DIRECTORY)
}

impl CollectorIdentity {
    /// Makes the identity of a collector that agents call by these names and addresses; none: this host's own.
    /// Returns its pin. Writes to disk.
    ///
    /// # Errors
    /// There is one already; the directory can't be written.
    pub fn init(state_dir: &Path, names: &[Address]) -> Result<KeyId, IdentityError> {
        let dir = directory(state_dir);
        files::private_dir(&dir)?;
        let _lock = Lock::take(&dir)?;
        if dir.join(AUTHORITY).exists() {
            return Err(IdentityError::Exists(dir));
        }
        let now = time_of(&DefaultTimeProvider);
        let key = certificate::new_key()?;
        let first = names.first().map(|name| name.host.clone());
        let called = first.unwrap_or_else(addresses::host_name);
        let authority = certificate::authority(&format!("sslcollector {called}"), &key, now)?;
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        files::write(&dir.join(NAMES), lines.as_bytes())?;
        let server_key = certificate::new_key()?.serialize_pem();
        files::write(&dir.join(SERVER_KEY), server_key.as_bytes())?;
        files::write(&dir.join(AUTHORITY_KEY), key.serialize_pem().as_bytes())?;
        // Last: it says that all the others are there.
        files::write(&dir.join(AUTHORITY), authority.pem().as_bytes())?;
        Ok(KeyId::of_key(&key))
    }

    /// Makes a new server key; the authority, and so the pin, stays. A collector that runs takes it at its next
    /// [`reload`](Self::reload). Writes to disk.
    ///
    /// # Errors
    /// There is no identity; the directory can't be written.
    pub fn rotate(state_dir: &Path) -> Result<(), IdentityError> {
        let dir = existing(state_dir)?;
        let _lock = Lock::take(&dir)?;
        let key = certificate::new_key()?.serialize_pem();
        files::write(&dir.join(SERVER_KEY), key.as_bytes())
    }

    /// Reads it, for a collector that will run: the commands can tell, as long as this lives.
    ///
    /// # Errors
    /// There is none, it is damaged, or others can read its keys.
    pub fn load(state_dir: &Path) -> Result<Self, IdentityError> {
        Self::load_at(state_dir, Arc::new(DefaultTimeProvider))
    }

    /// The same with another clock.
    ///
    /// # Errors
    /// See [`load`](Self::load).
    pub fn load_at(state_dir: &Path, clock: Arc<dyn TimeProvider>) -> Result<Self, IdentityError> {
        let dir = existing(state_dir)?;
        let server = Arc::new(Server::load(&dir, clock)?);
        let mut roots = RootCertStore::empty();
        roots.add(server.authority.clone())?;
        let agents = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| IdentityError::Crypto(error.to_string()))?;
        let known = Known::new(&Registry::load(&dir)?);
        let inner = Inner {
            server,
            agents,
            known: RwLock::new(Arc::new(known)),
            refusals: RefusalCounts::default(),
            limits: Limits::default(),
            _running: Running::note(&dir)?,
            dir,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// By which agents know it.
    pub fn pin(&self) -> KeyId {
        self.inner.server.pin
    }

    /// TLS 1.3 for tunnels and enrolments: the negotiated protocol ([`TUNNEL_ALPN`], [`ENROL_ALPN`]; a
    /// connection with neither is to be closed) says which. A client may show any certificate, or none: **whoever
    /// opens a tunnel has to be asked for by [`admit`](Self::admit).**
    ///
    /// # Errors
    /// Never with keys that could be loaded.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let server = &self.inner.server;
        let mut config = ServerConfig::builder_with_details(provider(), Arc::clone(&server.clock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(JudgedLater::new())
            .with_cert_resolver(Arc::clone(server) as _);
        config.alpn_protocols = vec![TUNNEL_ALPN.to_vec(), ENROL_ALPN.to_vec()];
        // Each connection shows its certificate anew.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Who comes: by the certificates of a handshake that has ended. A refusal is counted.
    ///
    /// # Errors
    /// Why it isn't let in: [`Reason::NoCertificate`], [`Reason::UnknownCertificate`] (another authority's, a
    /// collector's, a key that nobody enrolled), [`Reason::Revoked`], [`Reason::Expired`].
    pub fn admit(&self, peer: Option<&[CertificateDer<'_>]>) -> Result<AgentRecord, Reason> {
        let admitted = self.judge(peer);
        if let Err(reason) = &admitted {
            self.inner.refusals.add(*reason);
        }
        admitted
    }

    fn judge(&self, peer: Option<&[CertificateDer<'_>]>) -> Result<AgentRecord, Reason> {
        let certificate = peer.and_then(<[_]>::first).ok_or(Reason::NoCertificate)?;
        let now = self.inner.server.now();
        let verified = self.inner.agents.verify_client_cert(certificate, &[], now);
        let expired = match verified {
            Ok(_) => false,
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => true,
            Err(_) => return Err(Reason::UnknownCertificate),
        };
        let key = KeyId::of_certificate(certificate).ok_or(Reason::UnknownCertificate)?;
        match self.known().find(&key)? {
            _ if expired => Err(Reason::Expired),
            record => Ok(AgentRecord::clone(&record)),
        }
    }

    /// What the registry says of an agent that was admitted before: its name, networks and quota may have
    /// changed since. Asked for each live connection after a [`reload`](Self::reload).
    ///
    /// # Errors
    /// [`Reason::Revoked`], or [`Reason::UnknownCertificate`] if it was taken out of the registry.
    pub fn current(&self, agent: &AgentRecord) -> Result<AgentRecord, Reason> {
        let record = self.known().find(&agent.key);
        record.map(|record| AgentRecord::clone(&record))
    }

    /// Reads again what the commands change: agents, what they may, who was revoked, the server's key. Where
    /// that fails all stays as it was. Reads from disk.
    ///
    /// # Errors
    /// A file can't be read or understood.
    pub fn reload(&self) -> Result<(), IdentityError> {
        let registry = Registry::load(&self.inner.dir)?;
        self.inner.server.reload(&self.inner.dir)?;
        self.take(&registry);
        Ok(())
    }

    /// A new certificate (DER) for an agent that has been admitted, for the same key. Writes to disk.
    ///
    /// # Errors
    /// The request can't be read or is for another key ([`Reason::Malformed`]), the agent was revoked, the
    /// registry can't be written.
    pub fn sign_renewal(&self, request: &[u8], agent: &AgentRecord) -> Result<Vec<u8>, Refusal> {
        let key = certificate::requested_key(request).ok_or(Reason::Malformed)?;
        if KeyId::of_key(&key) != agent.key {
            return Err(Reason::Malformed.into());
        }
        let now = self.inner.server.now();
        Registry::update(&self.inner.dir, |registry| {
            let mut agents = registry.agents.iter_mut();
            let stored = agents.find(|stored| stored.key == agent.key);
            let stored = stored.ok_or(Reason::UnknownCertificate)?;
            if stored.revoked.is_some() {
                return Err(Refusal::from(Reason::Revoked));
            }
            stored.certificate_until = now.as_secs() + AGENT_LIFE.as_secs();
            Ok(())
        })?;
        let issuer = &self.inner.server.issuer;
        Ok(certificate::for_agent(issuer, &key, &agent.name, now)?.to_vec())
    }

    /// How often who was refused by [`admit`](Self::admit) and at enrolments, by reason.
    pub fn refusals(&self) -> &RefusalCounts {
        &self.inner.refusals
    }

    /// Enrols whoever has a good token: writes first that it was used, and by whom.
    pub(super) fn enrol(
        &self,
        applicant: &mut Applicant<'_>,
        key: &rcgen::PublicKey,
    ) -> Result<(AgentRecord, Vec<u8>), Refusal> {
        let now = self.inner.server.now();
        applicant.certificate_until = now.as_secs() + AGENT_LIFE.as_secs();
        let (record, known) = Registry::update(&self.inner.dir, |registry| {
            let record = registry.redeem(applicant, now.as_secs())?;
            Ok::<_, Refusal>((record, Known::new(registry)))
        })?;
        *self
            .inner
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        let issuer = &self.inner.server.issuer;
        let certificate = certificate::for_agent(issuer, key, &record.name, now)?;
        Ok((record, certificate.to_vec()))
    }

    fn known(&self) -> Arc<Known> {
        let known = self.inner.known.read();
        Arc::clone(&known.unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, registry: &Registry) {
        let known = Arc::new(Known::new(registry));
        *self
            .inner
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner) = known;
    }
}

/// The collector's directory, where there is an identity in it.
pub(super) fn existing(state_dir: &Path) -> Result<PathBuf, IdentityError> {
    let dir = directory(state_dir);
    match dir.join(AUTHORITY).exists() {
        true => Ok(dir),
        false => Err(IdentityError::NotInitialised(dir)),
    }
}

/// Says that a collector runs here.
#[derive(Debug)]
struct Running {
    _file: std::fs::File,
}

impl Running {
    fn note(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(RUNNING);
        files::write(&path, format!("{}\n", std::process::id()).as_bytes())?;
        let locked = || -> std::io::Result<std::fs::File> {
            let file = std::fs::File::open(&path)?;
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockShared)?;
            Ok(file)
        };
        let file = locked().map_err(|source| IdentityError::File {
            action: "lock",
            path,
            source,
        })?;
        Ok(Self { _file: file })
    }
}
