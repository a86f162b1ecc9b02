//! What is known of a connection when it is judged.

use std::net::SocketAddr;

use crate::event::{Meta, Role};

/// What is known of a connection when it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Which end the process is.
    pub role: Role,
    /// The TLS client's address and the TLS server's; `None`: not known. IPv4-mapped ones as IPv4.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The server name; empty: the client named none; `None`: not known yet.
    pub name: Option<&'a [u8]>,
    /// The process's user, where the policy may ask for it.
    pub uid: Option<u32>,
}

impl<'a> Facts<'a> {
    /// What an OPEN or UPDATE tells.
    pub fn of(meta: &Meta<'a>) -> Self {
        let name = meta.sni.strip_suffix(b".").unwrap_or(meta.sni);
        Self {
            role: meta.role,
            ends: meta
                .addresses
                .and_then(|(local, peer)| ends(meta.role, local, peer)),
            // Before the handshake's end, none may only mean not yet.
            name: (meta.handshake_done || !name.is_empty()).then_some(name),
            uid: None,
        }
    }
}

/// Client and server. An address without port, or of no machine, is none: the socket isn't connected.
fn ends(role: Role, local: SocketAddr, peer: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
    let usable = |address: SocketAddr| {
        let known = address.port() != 0 && !address.ip().is_unspecified();
        known.then(|| SocketAddr::new(address.ip().to_canonical(), address.port()))
    };
    let (local, peer) = (usable(local)?, usable(peer)?);
    Some(match role {
        Role::Client => (local, peer),
        Role::Server => (peer, local),
    })
}
