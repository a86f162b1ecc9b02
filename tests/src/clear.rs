//! What passes in clear text on this machine's own interface, as Suricata reads it: what it has to see of the same
//! exchange by TLS, too.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;

use crate::decode::{FIN, Segment};
use crate::judges::{Profile, Suricata, Verdict};
use crate::network::{Listener, enter_new_namespace, ip};
use crate::place::Place;

/// Moves this thread, and what it starts from now on, into a network with nothing but loopback: nobody else's packets
/// pass there.
///
/// # Panics
/// If this isn't root.
pub fn alone() {
    enter_new_namespace();
    ip("link set lo up");
}

/// Somebody who writes down what passes there.
#[derive(Debug)]
pub struct Clear {
    listener: Listener,
    file: PathBuf,
    judge: PathBuf,
}

impl Clear {
    /// From now on.
    ///
    /// # Panics
    /// If it can't be captured.
    pub fn listen(place: &Place) -> Self {
        let judge = place.path("clear");
        std::fs::create_dir(&judge).expect("make a directory");
        let file = place.path("clear.pcapng");
        Self {
            listener: Listener::start("lo", &file),
            file,
            judge,
        }
    }

    /// What Suricata saw of it. All connections have to be closed.
    ///
    /// # Panics
    /// If it can't be read.
    pub fn verdict(self) -> Verdict {
        // What passed before a connection's end was written before it.
        let last = last_connection();
        self.listener.end(|capture| {
            let frames = capture.packets.iter().map(|packet| &packet.frame);
            let ends = frames.filter_map(|frame| Segment::decode(frame).ok());
            let mut ends = ends.filter(|segment| segment.has(FIN));
            ends.any(|segment| segment.destination == last)
        });
        Suricata.read(&self.file, Profile::Original, &self.judge)
    }
}

/// Makes a connection whose client closes it; where it went.
fn last_connection() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    drop(TcpStream::connect(address).expect("a connection"));
    address
}
