//! `sslcollector join`: a host becomes an agent.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::KeyPair;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::certificate::{self, KeyId};
use super::enrol::{EnrolAnswer, EnrolRequest, Granted, MAX_ENROL_BYTES};
use super::error::{IdentityError, JoinError};
use super::files;
use super::membership::{self, AgentIdentity, Stored};
use super::token::{Address, Token};
use super::verify::{OfCollector, explain, provider};
use super::{ENROL_ALPN, addresses};
use crate::escape::Line;
use crate::tunnel::frame::VERSION;

const CONNECT: Duration = Duration::from_secs(5);
/// Longer than the collector's own patience.
const ANSWER: Duration = Duration::from_secs(20);

/// A host that has become an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// What the collector calls it.
    pub name: String,
    /// Where the collector is.
    pub address: Address,
    /// The collector's key.
    pub pin: KeyId,
    /// Where the mirrored ends of its flows may be, for people.
    pub networks: Vec<String>,
    /// Until when the certificate is good, seconds since 1970.
    pub certificate_until: u64,
}

/// Uses a token: makes a key, which never leaves this host, has the collector sign for it, and keeps both. With
/// `again`, what there is for this collector is replaced once that has worked. Blocks, within 30 s for each of
/// the token's addresses.
///
/// # Errors
/// Each reason has its own.
pub fn join(state_dir: &Path, token: &str, again: bool) -> Result<Joined, JoinError> {
    let token: Token = token.parse()?;
    let known = AgentIdentity::load(state_dir)?;
    let mut known = known.memberships().iter();
    if let Some(member) = known.find(|one| one.pin() == token.pin).filter(|_| !again) {
        return Err(JoinError::AlreadyJoined {
            name: member.name().to_owned(),
            address: member.first_address(),
        });
    }
    // A token is good once: first of all see that what it gives can be kept.
    let dir = membership::directory(state_dir);
    files::private_dir(&dir)?;
    let _lock = files::Lock::take(&dir)?;
    let key = certificate::new_key()?;
    let request = EnrolRequest {
        version: VERSION,
        id: token.id,
        secret: token.secret,
        certificate_request: certificate::request(&key)?,
        host: addresses::host_name(),
        addresses: addresses::own(),
    };
    let (address, granted) = ask_each(&token, &request)?;
    let joined = keep(state_dir, &token, &address, &key, granted)?;
    Ok(joined)
}

/// Asks at the first address where the collector is.
fn ask_each(token: &Token, request: &EnrolRequest) -> Result<(Address, Granted), JoinError> {
    let mut unreachable = Vec::new();
    let mut elsewhere = None;
    for address in &token.addresses {
        match Asked::at(address, token, request) {
            Ok(granted) => return Ok((address.clone(), granted)),
            Err(Asked::Unreachable(why)) => unreachable.push(format!("{address}: {why}")),
            // Somebody else may have its address: another one may be right.
            Err(Asked::Failed(error @ JoinError::WrongCollector { .. })) => {
                elsewhere.get_or_insert(error);
            }
            Err(Asked::Failed(error)) => return Err(error),
        }
    }
    Err(elsewhere.unwrap_or_else(|| JoinError::Unreachable(unreachable.join(", "))))
}

enum Asked {
    Unreachable(io::Error),
    Failed(JoinError),
}

impl From<JoinError> for Asked {
    fn from(error: JoinError) -> Self {
        Self::Failed(error)
    }
}

impl Asked {
    fn at(address: &Address, token: &Token, request: &EnrolRequest) -> Result<Granted, Self> {
        let tcp = connect(address).map_err(Self::Unreachable)?;
        let conversation = |what: String| JoinError::Conversation {
            address: address.to_string(),
            what,
        };
        let config = config(&token.pin).map_err(JoinError::from)?;
        let tls = ClientConnection::new(config, membership::server_name())
            .map_err(|error| JoinError::from(IdentityError::from(error)))?;
        let mut stream = StreamOwned::new(tls, tcp);
        while stream.conn.is_handshaking() {
            let done = stream.conn.complete_io(&mut stream.sock);
            done.map_err(|error| match refused(&error) {
                Some(why) => JoinError::WrongCollector {
                    address: address.to_string(),
                    why,
                },
                None => conversation(error.to_string()),
            })?;
        }
        if stream.conn.alpn_protocol() != Some(ENROL_ALPN) {
            return Err(conversation("it doesn't enrol".into()).into());
        }
        // The pin fits: from here on it may know the secret.
        let answer = ask(&mut stream, request).map_err(|error| conversation(error.to_string()))?;
        match EnrolAnswer::decode(&answer) {
            Some(EnrolAnswer::Granted(granted)) => Ok(granted),
            Some(EnrolAnswer::Refused(refused)) => Err(JoinError::Refused {
                reason: refused.reason,
                text: Line(refused.text.as_bytes()).to_string(),
            }
            .into()),
            None => Err(conversation("its answer can't be read".into()).into()),
        }
    }
}

fn connect(address: &Address) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for socket in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket, CONNECT) {
            Ok(tcp) => {
                tcp.set_read_timeout(Some(ANSWER))?;
                tcp.set_write_timeout(Some(ANSWER))?;
                return Ok(tcp);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Why the server isn't the collector; `None`: something else went wrong.
fn refused(error: &io::Error) -> Option<String> {
    explain(error.get_ref()?.downcast_ref()?)
}

fn config(pin: &KeyId) -> Result<Arc<ClientConfig>, IdentityError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(OfCollector::new(*pin))
        .with_no_client_auth();
    config.alpn_protocols = vec![ENROL_ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn ask(stream: &mut (impl Read + Write), request: &EnrolRequest) -> io::Result<Vec<u8>> {
    stream.write_all(&request.encode())?;
    stream.flush()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_ENROL_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its answer is too long",
        ));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn keep(
    state_dir: &Path,
    token: &Token,
    address: &Address,
    key: &KeyPair,
    granted: Granted,
) -> Result<Joined, IdentityError> {
    let certificate = CertificateDer::from(granted.certificate);
    if KeyId::of_certificate(&certificate) != Some(KeyId::of_key(key)) {
        return Err(IdentityError::BadCertificate("it is for another key"));
    }
    let (_, certificate_until) = certificate::validity(&certificate)
        .ok_or(IdentityError::BadCertificate("it can't be read"))?;
    let stored = Stored {
        pin: token.pin.to_string(),
        name: granted.name.clone(),
        addresses: token.addresses.iter().map(ToString::to_string).collect(),
        key: key.serialize_pem(),
        certificate: membership::pem(&certificate),
    };
    stored.write(&membership::path(state_dir, &token.pin))?;
    Ok(Joined {
        name: granted.name,
        address: address.clone(),
        pin: token.pin,
        networks: granted.networks,
        certificate_until,
    })
}
