#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! `Stream` and `StreamOwned` over sockets: they read and write as rustls' do, and the recorder has each
//! byte once, at its place.

mod common;

use std::io::{BufRead, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use common::{recorder, tls};
use mirror_hook::event::{CloseReason, EarlyData, Role};
use rustls_mirror::{ClientConnection, ServerConnection, Stream, StreamOwned};

type Client = StreamOwned<ClientConnection, TcpStream>;
type Server = StreamOwned<ServerConnection, TcpStream>;

/// Two connected sockets.
fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

/// Both ends of a connection to `name`, before its handshake.
fn ends(name: &str) -> (Client, Server) {
    let (client_config, server_config) = tls::configs();
    let (client_socket, server_socket) = sockets();
    let client = ClientConnection::new(client_config, tls::name(name)).unwrap();
    let server = ServerConnection::new(server_config).unwrap();
    (
        StreamOwned::new(client, client_socket),
        StreamOwned::new(server, server_socket),
    )
}

fn text(length: usize, seed: u8) -> Vec<u8> {
    (0..length)
        .map(|at| (at % 251).to_le_bytes()[0] ^ seed)
        .collect()
}

fn addresses(socket: &TcpStream) -> Option<(SocketAddr, SocketAddr)> {
    Some((socket.local_addr().unwrap(), socket.peer_addr().unwrap()))
}

#[test]
fn a_conversation_is_mirrored_at_both_ends() {
    let recorder = recorder::start();
    let (mut client, mut server) = ends("conversation");
    let (asked, answered) = (text(100_000, 1), text(300_000, 2));
    let wanted = (addresses(&client.sock), addresses(&server.sock));
    let (question, answer) = (asked.clone(), answered.clone());
    let serving = thread::spawn(move || {
        let mut got = vec![0; question.len()];
        server.read_exact(&mut got).unwrap();
        assert!(got == question);
        server.write_all(&answer).unwrap();
        server.conn.send_close_notify();
        server.flush().unwrap();
        // The client's close_notify.
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    });
    client.write_all(&asked).unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert!(got == answered);
    client.conn.send_close_notify();
    client.flush().unwrap();
    serving.join().unwrap();
    drop(client);

    for (role, addresses) in [(Role::Client, wanted.0), (Role::Server, wanted.1)] {
        let recorded = recorder.session("conversation", role);
        let (sent, received) = match role {
            Role::Client => (&asked, &answered),
            Role::Server => (&answered, &asked),
        };
        assert!(recorded.sent() == sent && recorded.received() == received);
        let meta = recorded.meta();
        assert!(meta.handshake_done && !meta.resumed);
        assert_eq!(meta.addresses, addresses);
        assert_eq!(meta.tls_version, Some(0x0304));
        assert!(meta.cipher.is_some() && meta.cookies.is_some());
        assert_eq!(
            (meta.early, meta.clear_prefix_sent),
            (EarlyData::None, Some(0))
        );
        for reason in [
            CloseReason::SentEnd,
            CloseReason::ReceivedEnd,
            CloseReason::Free,
        ] {
            assert!(recorded.ended_by(reason), "{role:?}: {:?}", recorded.closes);
        }
    }
    let client = recorder.session("conversation", Role::Client);
    let server = recorder.session("conversation", Role::Server);
    assert!(client.meta().client_random.is_some() && client.meta().server_random.is_some());
    assert_eq!(client.meta().client_random, server.meta().client_random);
    assert_eq!(client.meta().server_random, server.meta().server_random);
}

/// Runs `serve` on the server's end while `ask` runs on the client's.
fn talk(
    name: &str,
    ask: impl FnOnce(&mut Client),
    serve: impl FnOnce(&mut Server) + Send + 'static,
) {
    let (mut client, mut server) = ends(name);
    let serving = thread::spawn(move || serve(&mut server));
    ask(&mut client);
    serving.join().unwrap();
}

fn recorded(name: &str, role: Role) -> recorder::Recorded {
    recorder::start().session(name, role)
}

#[test]
fn parts_and_lines_are_mirrored() {
    recorder::start();
    talk(
        "lines",
        |client| {
            let parts = [IoSlice::new(b"first "), IoSlice::new(b"line\n")];
            let Client { conn, sock } = client;
            assert_eq!(Stream::new(conn, sock).write_vectored(&parts).unwrap(), 11);
            // One that owns its parts takes the first only, as rustls' does.
            assert_eq!(client.write_vectored(&parts).unwrap(), 6);
            client.write_all(b"\nrest").unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
        },
        |server| {
            let mut lines = Vec::new();
            let Server { conn, sock } = server;
            let mut line = String::new();
            Stream::new(conn, sock).read_line(&mut line).unwrap();
            lines.push(line);
            lines.extend(server.lines().map(Result::unwrap));
            assert_eq!(lines, ["first line\n", "first ", "rest"]);
        },
    );
    let said = b"first line\nfirst \nrest";
    assert_eq!(recorded("lines", Role::Client).sent(), said);
    assert_eq!(recorded("lines", Role::Server).received(), said);
}

#[test]
fn a_half_that_is_closed_leaves_the_other() {
    recorder::start();
    talk(
        "half",
        |client| {
            client.write_all(b"all I have").unwrap();
            client.conn.send_close_notify();
            client.flush().unwrap();
            client.sock.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "thank you");
        },
        |server| {
            let mut question = String::new();
            server.read_to_string(&mut question).unwrap();
            server.write_all(b"thank you").unwrap();
            server.conn.send_close_notify();
            server.flush().unwrap();
        },
    );
    let (client, server) = (
        recorded("half", Role::Client),
        recorded("half", Role::Server),
    );
    assert_eq!(
        (client.sent(), client.received()),
        (&b"all I have"[..], &b"thank you"[..])
    );
    assert_eq!(
        (server.sent(), server.received()),
        (&b"thank you"[..], &b"all I have"[..])
    );
    let reasons: Vec<_> = client.closes.iter().map(|close| close.0).collect();
    assert_eq!(
        reasons[..2],
        [CloseReason::SentEnd, CloseReason::ReceivedEnd]
    );
    let reasons: Vec<_> = server.closes.iter().map(|close| close.0).collect();
    assert_eq!(
        reasons[..2],
        [CloseReason::ReceivedEnd, CloseReason::SentEnd]
    );
}

#[test]
fn a_socket_that_ends_without_close_notify_is_a_truncation() {
    recorder::start();
    talk(
        "cut",
        |client| {
            client.write_all(b"half a sente").unwrap();
            client.sock.shutdown(Shutdown::Write).unwrap();
        },
        |server| {
            let mut got = Vec::new();
            let error = server.read_to_end(&mut got).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
            assert_eq!(got, b"half a sente");
        },
    );
    let recorded = recorded("cut", Role::Server);
    assert_eq!(recorded.received(), b"half a sente");
    assert!(recorded.ended_by(CloseReason::ReceivedEnd));
    assert!(!recorded.ended_by(CloseReason::Abort));
}

#[test]
fn a_peer_that_isnt_trusted_gets_nothing() {
    recorder::start();
    let (client_socket, mut server_socket) = sockets();
    let (_, server_config) = tls::configs();
    let strangers = rustls::RootCertStore::empty();
    let config = rustls::ClientConfig::builder_with_provider(tls::ring())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(strangers)
        .with_no_client_auth();
    let serving = thread::spawn(move || {
        let mut server = ServerConnection::new(server_config).unwrap();
        Stream::new(&mut server, &mut server_socket)
            .read(&mut [0; 10])
            .unwrap_err()
    });
    let client = ClientConnection::new(Arc::new(config), tls::name("stranger")).unwrap();
    let mut client = StreamOwned::new(client, client_socket);
    let error = client.write(b"secret").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert_eq!(serving.join().unwrap().kind(), ErrorKind::InvalidData);
    drop(client);
    let recorder = recorder::start();
    for role in [Role::Client, Role::Server] {
        assert!(recorder.sessions("stranger", role).is_empty());
    }
}

#[test]
fn what_was_said_in_the_clear_before_is_counted() {
    recorder::start();
    talk(
        "upgraded",
        |client| {
            client.sock.write_all(b"STARTTLS\r\n").unwrap();
            client.sock.read_exact(&mut [0; 4]).unwrap();
            client.write_all(b"private").unwrap();
        },
        |server| {
            server.sock.read_exact(&mut [0; 10]).unwrap();
            server.sock.write_all(b"220\n").unwrap();
            server.read_exact(&mut [0; 7]).unwrap();
        },
    );
    for (role, bytes) in [(Role::Client, 10), (Role::Server, 4)] {
        let recorded = recorded("upgraded", role);
        assert_eq!(recorded.meta().clear_prefix_sent, Some(bytes));
        let (read, written) = recorded.meta().wire_counts.unwrap();
        assert!(read > 0 && written > 0);
    }
}

#[test]
fn transports_that_borrow_a_socket_have_it() {
    recorder::start();
    let (client_config, server_config) = tls::configs();
    let (client_socket, mut server_socket) = sockets();
    let wanted = (addresses(&client_socket), addresses(&server_socket));
    let serving = thread::spawn(move || {
        let mut server = ServerConnection::new(server_config).unwrap();
        let mut borrowed = &mut server_socket;
        Stream::new(&mut server, &mut borrowed)
            .read_exact(&mut [0; 2])
            .unwrap();
    });
    let client = ClientConnection::new(client_config, tls::name("borrowed")).unwrap();
    let mut client = StreamOwned::new(client, &client_socket);
    client.write_all(b"me").unwrap();
    serving.join().unwrap();
    assert_eq!(
        recorded("borrowed", Role::Client).meta().addresses,
        wanted.0
    );
    assert_eq!(
        recorded("borrowed", Role::Server).meta().addresses,
        wanted.1
    );
}

/// A program's own transport, of which this crate knows nothing.
struct Own(TcpStream);

impl Read for Own {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Own {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn other_transports_have_the_randoms_of_the_wire() {
    recorder::start();
    let (client_config, server_config) = tls::configs();
    let (here, there) = UnixStream::pair().unwrap();
    let serving = thread::spawn(move || {
        let mut server = StreamOwned::new(ServerConnection::new(server_config).unwrap(), there);
        server.read_exact(&mut [0; 2]).unwrap();
    });
    let client = ClientConnection::new(client_config, tls::name("unix")).unwrap();
    let mut client = StreamOwned::new(client, here);
    client.write_all(b"me").unwrap();
    serving.join().unwrap();

    let (client_config, server_config) = tls::configs();
    let (client_socket, server_socket) = sockets();
    let serving = thread::spawn(move || {
        let server = ServerConnection::new(server_config).unwrap();
        let mut server = StreamOwned::new(server, Own(server_socket));
        server.read_exact(&mut [0; 2]).unwrap();
    });
    let client = ClientConnection::new(client_config, tls::name("own")).unwrap();
    let mut client = StreamOwned::new(client, Own(client_socket));
    client.write_all(b"me").unwrap();
    serving.join().unwrap();

    for name in ["unix", "own"] {
        let (client, server) = (recorded(name, Role::Client), recorded(name, Role::Server));
        assert_eq!(client.sent(), b"me");
        assert_eq!(server.received(), b"me");
        assert_eq!(
            (client.meta().addresses, server.meta().addresses),
            (None, None)
        );
        assert!(client.meta().server_random.is_some());
        assert_eq!(client.meta().server_random, server.meta().server_random);
    }
}
