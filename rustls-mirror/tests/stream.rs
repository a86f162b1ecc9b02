#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! `Stream` and `StreamOwned` over sockets: they read and write as rustls' do, and the recorder has each
//! byte once, at its place.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use common::{recorder, tls};
use mirror_hook::event::{CloseReason, EarlyData, Role};
use rustls_mirror::{ClientConnection, ServerConnection, StreamOwned};

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
