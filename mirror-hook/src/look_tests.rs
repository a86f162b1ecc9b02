use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::fcntl_dupfd_cloexec;

use super::*;

fn pair(listen: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(listen).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn found(socket: &TcpStream, own: (u64, u64)) -> CarriedBy {
    match find(socket.as_raw_fd(), own) {
        Found::Connection(found) => found,
        Found::Nothing => panic!("nothing"),
        Found::Unknown => panic!("unknown"),
    }
}

/// Received and sent.
fn counts(socket: &TcpStream) -> (u64, u64) {
    let found = found(socket, (u64::MAX, u64::MAX));
    assert_eq!(found.addresses, None);
    (found.received, found.sent)
}

#[test]
fn what_a_program_has_put_in_and_taken_out_is_known_to_the_byte() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let (mut client, mut server) = pair(listen);
        assert_eq!(counts(&client), (0, 0));
        // More than the other end takes: most of it waits in the sender's buffer.
        client.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(some) = client.write(&[7; 10_000]) {
            sent += some as u64;
        }
        assert!(sent > 100_000, "{sent}");
        assert_eq!(counts(&client), (0, sent));
        // Nothing is taken that only lies there.
        assert_eq!(counts(&server), (0, 0));
        server.read_exact(&mut vec![0; 33_333]).unwrap();
        assert_eq!(counts(&server), (33_333, 0));
        // Ends don't count, whether they were seen or not.
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(counts(&client), (0, sent));
        assert_eq!(counts(&server), (33_333, 0));
        server.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(counts(&server), (sent, 0));
        server.write_all(b"late").unwrap();
        assert_eq!(counts(&server), (sent, 4));
    }
}

#[test]
fn an_end_that_nobody_has_seen_does_not_count() {
    let (client, mut server) = pair("127.0.0.1:0");
    (&client).write_all(b"12345").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(counts(&server), (0, 0));
    server.read_exact(&mut [0; 5]).unwrap();
    assert_eq!(counts(&server), (5, 0));
    assert_eq!(server.read(&mut [0; 5]).unwrap(), 0);
    assert_eq!(counts(&server), (5, 0));
}

#[test]
fn addresses_are_told_of_those_that_stand_with_the_session() {
    let (client, server) = pair("127.0.0.1:0");
    (&client).write_all(b"12345").unwrap();
    let alike = found(&client, (0, 5));
    let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    assert_eq!(alike.addresses, Some(ends));
    assert_eq!(found(&client, (0, 4)).addresses, None);
    assert_eq!(found(&client, (5, 0)).addresses, None);
    assert_ne!(found(&server, (0, 0)).cookie, alike.cookie);
    assert_eq!(found(&client, (0, 4)).cookie, alike.cookie);
}

#[test]
fn what_is_no_connection_is_passed_over_and_what_cannot_be_known_says_nothing() {
    let nothing = |fd: OwnedFd| matches!(find(fd.as_raw_fd(), (0, 0)), Found::Nothing);
    assert!(nothing(TcpListener::bind("127.0.0.1:0").unwrap().into()));
    assert!(nothing(UdpSocket::bind("127.0.0.1:0").unwrap().into()));
    assert!(nothing(UnixStream::pair().unwrap().0.into()));
    assert!(nothing(
        std::fs::File::open("/proc/self/mounts").unwrap().into()
    ));
    // Never connected, or it has ended: whose it was isn't known any more.
    let unknown = |fd: OwnedFd| matches!(find(fd.as_raw_fd(), (0, 0)), Found::Unknown);
    let socket = |protocol| {
        use rustix::net::{AddressFamily, SocketType, socket};
        let protocol = std::num::NonZero::new(protocol).map(rustix::net::Protocol::from_raw);
        socket(AddressFamily::INET, SocketType::STREAM, protocol)
    };
    assert!(unknown(socket(TCP).unwrap()));
    // Where the kernel has them.
    for protocol in [MPTCP, PROTOCOL_SMC] {
        if let Ok(several) = socket(protocol) {
            assert!(unknown(several), "{protocol}");
        }
    }
}

/// The table only grows: other tests make that of this process larger, never smaller.
#[test]
fn the_end_of_the_descriptors_is_known() {
    let file = std::fs::File::open("/").unwrap();
    let high = fcntl_dupfd_cloexec(&file, 200).unwrap();
    assert!(high.as_raw_fd() >= 200);
    assert!(!ends_at(64));
    assert!(!ends_at(128));
    // Neither an open one nor a closed one below is an end.
    assert!(!ends_at(high.as_raw_fd()));
    let (_, size) = std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|line| {
            line.split_once("FDSize:")
                .map(|(name, size)| (name.len(), size.trim().to_owned()))
        })
        .unwrap();
    assert_eq!(ends_at(256), size == "256", "{size}");
}
