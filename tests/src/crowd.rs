//! Connections whose TLS handshake never ends, from many addresses of this machine. One thread has all of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Nothing.
    Silent,
    /// It has sent the first part of a ClientHello.
    Begun,
    /// It sends a byte of it now and then.
    Dribbling(usize),
    /// It has sent all of it, and doesn't go on when it is answered.
    Unanswering,
}

/// The connections that are open, as far as is known.
#[derive(Debug)]
pub struct Crowd {
    to: SocketAddr,
    hello: Vec<u8>,
    members: Vec<(TcpStream, Manner)>,
    opened: usize,
    closed: usize,
    answered: usize,
}

/// Lets this process have so many descriptors.
///
/// # Panics
/// If the system doesn't.
pub fn allow_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < count) {
        let maximum = limit.maximum.map(|maximum| maximum.max(count));
        let wanted = Rlimit {
            current: Some(count),
            maximum,
        };
        setrlimit(Resource::Nofile, wanted).expect("more descriptors (needs root)");
    }
}

impl Crowd {
    /// Nobody yet. They will come to this address, an IPv4 one of this machine.
    pub fn new(to: SocketAddr) -> Self {
        Self {
            to,
            hello: client_hello(),
            members: Vec::new(),
            opened: 0,
            closed: 0,
            answered: 0,
        }
    }

    /// One more, from this address: half of all say nothing.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn open(&mut self, from: Ipv4Addr) {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
        let socket = socket.expect("a descriptor");
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE)).expect("a time limit");
        bind(&socket, &SocketAddr::V4(SocketAddrV4::new(from, 0))).expect("a port");
        connect(&socket, &self.to).expect("a connection");
        let mut stream = TcpStream::from(socket);
        stream.set_nonblocking(true).expect("non-blocking");
        let (manner, said) = match self.opened % 20 {
            0 => (Manner::Dribbling(1), 1),
            1 | 2 => (Manner::Unanswering, self.hello.len()),
            3..10 => (Manner::Begun, self.opened % (self.hello.len() - 1) + 1),
            _ => (Manner::Silent, 0),
        };
        self.opened += 1;
        // Whoever isn't wanted any more may have been closed already.
        let _ = stream.write(&self.hello[..said]);
        self.members.push((stream, manner));
    }

    /// Looks after all of them once: those that were closed are gone, those that dribble say another byte.
    ///
    /// # Panics
    /// If the other side says something that isn't TLS.
    pub fn look(&mut self) {
        let (hello, before) = (&self.hello, self.members.len());
        let mut answered = 0;
        self.members.retain_mut(|(stream, manner)| {
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(_) => {
                    assert!(matches!(bytes[0], 20..=23), "no TLS: {bytes:?}");
                    answered += usize::from(*manner == Manner::Unanswering);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
            if let Manner::Dribbling(said) = manner
                && *said + 1 < hello.len()
            {
                *said += stream.write(&hello[*said..=*said]).unwrap_or(0);
            }
            true
        });
        self.answered += answered;
        self.closed += before - self.members.len();
    }

    /// Those that aren't known to be closed.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Nobody is left.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many have come in all.
    pub fn opened(&self) -> usize {
        self.opened
    }

    /// How many of them the other side has closed.
    pub fn closed(&self) -> usize {
        self.closed
    }

    /// How many have heard the other side's part of a handshake.
    pub fn answered(&self) -> usize {
        self.answered
    }
}

/// A ClientHello of TLS 1.3 (RFC 8446, 4.1.2) with one suite, one group and one signature scheme, as a collector
/// takes it.
fn client_hello() -> Vec<u8> {
    let extension = |kind: u16, body: &[u8]| {
        let length = u16::try_from(body.len()).expect("short");
        [&kind.to_be_bytes()[..], &length.to_be_bytes(), body].concat()
    };
    let name = b"sslcollector/1";
    let mut protocols = vec![0, 15, 14];
    protocols.extend_from_slice(name);
    // X25519's base point is a key, too.
    let mut share = vec![0, 36, 0, 29, 0, 32, 9];
    share.resize(38, 0);
    let extensions = [
        extension(43, &[2, 3, 4]),
        extension(10, &[0, 2, 0, 29]),
        extension(13, &[0, 2, 4, 3]),
        extension(16, &protocols),
        extension(51, &share),
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend_from_slice(
        &u16::try_from(extensions.len())
            .expect("short")
            .to_be_bytes(),
    );
    body.extend_from_slice(&extensions);
    let length = u16::try_from(body.len()).expect("short");
    let mut hello = vec![22, 3, 1];
    hello.extend_from_slice(&(length + 4).to_be_bytes());
    hello.extend_from_slice(&[1, 0]);
    hello.extend_from_slice(&length.to_be_bytes());
    hello.extend_from_slice(&body);
    hello
}
