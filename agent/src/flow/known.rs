//! What is known of a session, in the agent's own memory.

use std::net::SocketAddr;

use mirror_hook::event::{Announcement, EarlyData, Meta, Role, Transport};
use mirror_hook::filter::Facts;

use super::binder::Randoms;
use super::proof::{Claim, Ends, Verdict};
use crate::event::Tuple;

/// The latest of what OPEN and UPDATE told. What an UPDATE no longer tells stays known.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) role: Role,
    pub(super) transport: Transport,
    pub(super) early: EarlyData,
    pub(super) announcement: Announcement,
    pub(super) handshake_done: bool,
    pub(super) resumed: bool,
    pub(super) tls_version: Option<u16>,
    pub(super) cipher: Option<u16>,
    pub(super) clear_prefix_sent: Option<u64>,
    pub(super) sni: Option<String>,
    pub(super) alpn: Option<String>,
    addresses: Option<(SocketAddr, SocketAddr)>,
    cookies: Option<(u64, u64)>,
    /// What the kernel said of them; `None`: it hasn't been asked.
    verdict: Option<Verdict>,
    /// They are what the application says, not its socket's.
    pub(super) addresses_told: bool,
    client_random: Option<[u8; 32]>,
    server_random: Option<[u8; 32]>,
}

impl Known {
    pub(super) fn new(meta: &Meta<'_>) -> Self {
        let mut known = Self {
            role: meta.role,
            transport: meta.transport,
            early: meta.early,
            announcement: meta.announcement,
            handshake_done: false,
            resumed: false,
            tls_version: None,
            cipher: None,
            clear_prefix_sent: None,
            sni: None,
            alpn: None,
            addresses: None,
            cookies: None,
            verdict: None,
            addresses_told: false,
            client_random: None,
            server_random: None,
        };
        known.learn(meta);
        known
    }

    /// Takes an UPDATE. Role, transport and announcement are the OPEN's.
    pub(super) fn learn(&mut self, meta: &Meta<'_>) {
        let not_zero = |random: &[u8; 32]| *random != [0; 32];
        self.early = meta.early;
        self.handshake_done |= meta.handshake_done;
        self.resumed |= meta.resumed;
        self.tls_version = meta.tls_version.or(self.tls_version);
        self.cipher = meta.cipher.or(self.cipher);
        self.clear_prefix_sent = meta.clear_prefix_sent.or(self.clear_prefix_sent);
        self.sni = printable(meta.sni).or(self.sni.take());
        self.alpn = printable(meta.alpn).or(self.alpn.take());
        if meta.addresses.is_some() {
            let word = (meta.addresses, meta.cookies, meta.addresses_told);
            if word != (self.addresses, self.cookies, self.addresses_told) {
                self.verdict = None;
            }
            (self.addresses, self.cookies, self.addresses_told) = word;
        }
        // A renegotiation has other randoms; the wire showed the first ones.
        self.client_random = self.client_random.or(meta.client_random.filter(not_zero));
        self.server_random = self.server_random.or(meta.server_random.filter(not_zero));
    }

    pub(super) fn randoms(&self) -> Option<Randoms> {
        self.client_random.zip(self.server_random)
    }

    /// The handshake is over, and so is the question of early data.
    pub(super) fn is_complete(&self) -> bool {
        self.handshake_done && self.early != EarlyData::Pending
    }

    /// What the filters ask for, with the addresses `wire` where the process told none.
    pub(super) fn facts(&self, wire: Option<Tuple>) -> Facts<'_> {
        let name = self.sni.as_deref().unwrap_or("");
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        Facts {
            role: self.role,
            ends: self
                .tuple()
                .or(wire)
                .map(|tuple| (tuple.client, tuple.server)),
            name: (self.handshake_done || !name.is_empty()).then_some(name),
            uid: None,
        }
    }

    /// What the process says of its socket, if that can be a connection's.
    pub(super) fn claim(&self) -> Option<Claim> {
        let ends = self.ends().filter(|_| !self.addresses_told)?;
        let cookies = self.cookies;
        Some(Claim { ends, cookies })
    }

    /// What the kernel said of [`Known::claim`], once it has been asked.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// The kernel has been asked.
    pub(super) fn set_verdict(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }

    /// The socket's addresses, or those told in their place; none that are doubted.
    pub(super) fn tuple(&self) -> Option<Tuple> {
        let doubted = self.verdict == Some(Verdict::Doubtful);
        let ends = self.ends().filter(|_| !doubted)?;
        Some(ends.tuple(self.role))
    }

    /// The addresses, if they can be a connection's.
    fn ends(&self) -> Option<Ends> {
        let (local, peer) = self.addresses?;
        Ends::new(local, peer)
    }
}

/// Names are the peer's bytes: what isn't printable ASCII is escaped.
fn printable(name: &[u8]) -> Option<String> {
    (!name.is_empty()).then(|| name.escape_ascii().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_turned_by_role_and_unmapped() {
        let local: SocketAddr = "[::ffff:192.0.2.1]:5000".parse().unwrap();
        let peer: SocketAddr = "[::ffff:192.0.2.2]:443".parse().unwrap();
        let mut meta = Meta::new(Role::Client);
        meta.addresses = Some((local, peer));
        let tuple = Known::new(&meta).tuple().unwrap();
        assert_eq!(tuple.client, "192.0.2.1:5000".parse().unwrap());
        meta.role = Role::Server;
        let tuple = Known::new(&meta).tuple().unwrap();
        assert_eq!(tuple.server, "192.0.2.1:5000".parse().unwrap());
    }

    #[test]
    fn an_unconnected_socket_tells_nothing() {
        let mut meta = Meta::new(Role::Client);
        let local = "0.0.0.0:0".parse().unwrap();
        meta.addresses = Some((local, "192.0.2.2:443".parse().unwrap()));
        assert_eq!(Known::new(&meta).tuple(), None);
    }

    #[test]
    fn names_cannot_carry_control_characters() {
        let mut meta = Meta::new(Role::Client);
        meta.sni = b"a\x1b[31m\nb";
        assert_eq!(Known::new(&meta).sni.as_deref(), Some("a\\x1b[31m\\nb"));
    }
}
