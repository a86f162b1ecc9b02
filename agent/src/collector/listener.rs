//! Where agents call.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::connection;
use super::fleet::{Fleet, Phase};
use super::gulp::Gulp;
use super::pending::{Entry, Pending, PendingLimits};
use crate::identity::{DEFAULT_PORT, ENROL_ALPN, IdentityError, TUNNEL_ALPN};
use crate::tunnel::frame::{Reason, SILENCE_SECONDS};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections of which nobody knows yet who they are. 128 more may be about to close.
const PENDING: PendingLimits = PendingLimits {
    all: 1024,
    of_address: 128,
};

/// Listens at some addresses.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<TcpListener>,
    tls: Option<Arc<ServerConfig>>,
    fleet: Arc<Fleet>,
    pending: Arc<Pending>,
}

/// Nobody can call.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, or not ours.
    #[error("can't listen at {0}: {1}")]
    Bind(SocketAddr, io::Error),
    /// The identity's TLS settings.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Listener {
    /// Begins to listen; without addresses, at all that there are and the usual port. To be called within tokio's
    /// runtime.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub async fn bind(addresses: &[SocketAddr], fleet: Arc<Fleet>) -> Result<Self, ListenError> {
        let mut sockets = Vec::new();
        for address in addresses {
            let socket = TcpListener::bind(address).await;
            sockets.push(socket.map_err(|error| ListenError::Bind(*address, error))?);
        }
        if addresses.is_empty() {
            // Takes IPv4, too, where the system has both.
            let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT));
            let socket = match TcpListener::bind(all).await {
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)).await
                }
                other => other,
            };
            sockets.push(socket.map_err(|error| ListenError::Bind(all, error))?);
        }
        let identity = fleet.identity.as_ref();
        let tls = identity
            .map(|identity| identity.server_config())
            .transpose()?;
        Ok(Self {
            sockets,
            tls,
            fleet,
            pending: Pending::new(PENDING),
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.sockets.iter().map(TcpListener::local_addr);
        addresses.filter_map(Result::ok).collect()
    }

    /// Takes connections, each as a task of its own, until the collector ends.
    pub fn start(self) {
        let Self {
            sockets,
            tls,
            fleet,
            pending,
        } = self;
        for socket in sockets {
            let door = Door {
                tls: tls.clone(),
                fleet: Arc::clone(&fleet),
                pending: Arc::clone(&pending),
            };
            tokio::spawn(async move { door.accept(socket).await });
        }
    }
}

#[derive(Clone)]
struct Door {
    tls: Option<Arc<ServerConfig>>,
    fleet: Arc<Fleet>,
    pending: Arc<Pending>,
}

impl Door {
    async fn accept(self, socket: TcpListener) {
        let mut phase = self.fleet.phase();
        loop {
            let accepted = async {
                let place = self.pending.place().await;
                (socket.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                accepted = accepted => accepted,
                _ = phase.wait_for(|phase| *phase > Phase::Running) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let entry = self.pending.enter(peer.ip().to_canonical(), place);
                    let door = self.clone();
                    tokio::spawn(async move { door.receive(stream, peer, entry).await });
                }
                // No more descriptors, or a connection that was gone before it was taken.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    self.pending.drop_one();
                    sleep(Duration::from_millis(20)).await;
                }
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        }
    }

    async fn receive(self, stream: TcpStream, peer: SocketAddr, entry: Entry) {
        let Ok(stream) = prepare(stream) else {
            return self.failed(peer.ip(), Reason::Unfinished, "it was gone at once");
        };
        let Some(tls) = self.tls.clone() else {
            return connection::serve(Gulp::new(stream), peer, Ok(None), self.fleet, entry).await;
        };
        let dropped = entry.dropped();
        let handshake = timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(Gulp::new(stream)));
        let stream = tokio::select! {
            shaken = handshake => shaken,
            () = dropped.notified() => {
                return self.failed(peer.ip(), Reason::Unfinished, "its place was needed by others");
            }
        };
        let stream = match stream {
            Ok(Ok(stream)) => stream,
            // Nobody who listens: it isn't told.
            Ok(Err(error)) => {
                let (reason, what) = failure(&error);
                return self.failed(peer.ip(), reason, &what);
            }
            Err(_) => {
                return self.failed(
                    peer.ip(),
                    Reason::Unfinished,
                    "it didn't finish its handshake",
                );
            }
        };
        let (_, session) = stream.get_ref();
        let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
        let identity = self.fleet.identity.clone();
        match (protocol.as_deref(), identity) {
            (Some(TUNNEL_ALPN), Some(identity)) => {
                let record = identity.admit(session.peer_certificates()).map(Some);
                connection::serve(stream, peer, record, self.fleet, entry).await;
            }
            (Some(ENROL_ALPN), Some(identity)) => {
                let address = peer.ip().to_canonical();
                let served = tokio::select! {
                    served = identity.serve_enrolment(stream, address) => served,
                    () = dropped.notified() => {
                        let what = "its place was needed by others";
                        return self.failed(address, Reason::Unfinished, what);
                    }
                };
                match served {
                    Ok(record) => self
                        .fleet
                        .say(format!("{} has joined from {address}", record.name)),
                    Err(refusal) => {
                        let line = format!("{address} refused: {refusal}");
                        self.fleet.say_refused(refusal.reason, line);
                    }
                }
            }
            _ => self.failed(peer.ip(), Reason::Malformed, "it speaks another protocol"),
        }
    }

    fn failed(&self, address: IpAddr, reason: Reason, what: &str) {
        self.fleet.count(reason);
        let line = format!("{} refused: {what}", address.to_canonical());
        self.fleet.say_refused(reason, line);
    }
}

/// Why a handshake has failed.
fn failure(error: &io::Error) -> (Reason, String) {
    use rustls::AlertDescription::{
        BadCertificate, CertificateExpired, CertificateUnknown, UnknownCA, UnsupportedCertificate,
    };
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match (tls, error.kind()) {
        // What an agent says that has joined another collector.
        (
            Some(rustls::Error::AlertReceived(
                BadCertificate
                | CertificateExpired
                | CertificateUnknown
                | UnknownCA
                | UnsupportedCertificate,
            )),
            _,
        ) => {
            let what = "it doesn't take this for the collector that it has joined";
            (Reason::WrongCollector, what.into())
        }
        // It knows nothing of the keys that were agreed on.
        (Some(rustls::Error::DecryptError), _) => {
            let what = "its handshake was made for another connection: it is a copy, or was changed on the way";
            (Reason::Replayed, what.into())
        }
        (
            _,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe,
        ) => (Reason::Unfinished, "it left in its handshake".into()),
        _ => (Reason::Malformed, format!("no handshake: {error}")),
    }
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    // What isn't acknowledged by then never will be: the other end, or the way there, is gone.
    let silence_ms = u32::try_from(SILENCE_SECONDS * 1000).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream.as_fd(), silence_ms)?;
    Ok(stream)
}
