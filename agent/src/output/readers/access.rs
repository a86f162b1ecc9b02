//! Who may read. Clear text is for whom the operator names: who shows a certificate of the operator's, or, on this
//! machine, root and the user who has started the agent; everybody only where that was said.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::ReadersError;

/// Files for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain that is shown to readers (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// Readers must show a certificate by one of these (PEM).
    pub client_ca: Option<PathBuf>,
}

/// Who may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Readers speak TLS.
    pub tls: Option<TlsFiles>,
    /// Whoever can connect may read.
    pub anybody: bool,
}

impl Access {
    /// Whether readers prove who they are wherever they come from.
    fn asks_for_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }

    /// Nobody may be let in at an address that others than this machine reach.
    pub(super) fn check_address(&self, address: SocketAddr) -> Result<(), ReadersError> {
        let inside = address.ip().to_canonical().is_loopback();
        match inside || self.anybody || self.asks_for_certificates() {
            true => Ok(()),
            false => Err(ReadersError::Exposed(address)),
        }
    }

    /// Whether who connects from `peer` to `local` may read, as far as that is known before TLS.
    /// Besides root, `starter` may.
    pub(super) fn admits(&self, peer: SocketAddr, local: SocketAddr, starter: u32) -> bool {
        if self.anybody || self.asks_for_certificates() {
            return true;
        }
        owner(peer, local).is_some_and(|uid| uid == 0 || uid == starter)
    }

    /// The configuration for TLS, if it is spoken.
    pub(super) fn tls(&self) -> Result<Option<Arc<ServerConfig>>, ReadersError> {
        self.tls.as_ref().map(server_config).transpose()
    }
}

fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, ReadersError> {
    let wrong = |path: &Path, what: String| ReadersError::Tls(path.to_owned(), what);
    let certificates = |path: &Path| -> Result<Vec<_>, _> {
        let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        match found {
            Ok(found) if Vec::is_empty(&found) => Err(wrong(path, "no certificate in it".into())),
            found => found.map_err(|error| wrong(path, error.to_string())),
        }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| wrong(&files.key, error.to_string()))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&files.certificate, error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                let added = roots.add(certificate);
                added.map_err(|error| wrong(path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| wrong(path, error.to_string()))?,
            )
        }
    };
    let config = builder.with_single_cert(certificates(&files.certificate)?, key);
    config
        .map(Arc::new)
        .map_err(|error| wrong(&files.certificate, error.to_string()))
}

/// The user of this machine whose socket the other end of a connection is: only if both ends are here, and the
/// other one is open still.
fn owner(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    // A socket for both families has its IPv4 connections in the table of IPv6.
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    tables.iter().find_map(|table| {
        let text: io::Result<String> = fs::read_to_string(table);
        owner_in(&text.ok()?, canonical(peer), canonical(local))
    })
}

/// Reads a table of proc(5): number, local and remote address, state, queues, timer, retransmissions, user.
fn owner_in(table: &str, peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    const ESTABLISHED: &str = "01";
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (from, to) = (address(words.next()?)?, address(words.next()?)?);
        let state = words.next()?;
        if (from, to, state) != (peer, local, ESTABLISHED) {
            return None;
        }
        words.nth(3)?.parse().ok()
    })
}

/// `0100007F:1F90`: each 32 bits of the address as a number of this machine.
fn address(word: &str) -> Option<SocketAddr> {
    let (ip, port) = word.split_once(':')?;
    let part = |at: usize| {
        let digits = ip.get(at..at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(part(0)?).into(),
        32 => {
            let mut octets = [0; 16];
            for (to, at) in octets.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                to.copy_from_slice(&part(at)?);
            }
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(canonical(SocketAddr::new(ip, port)))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_other_end_of_a_connection_here_has_an_owner() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let local = listener.local_addr().unwrap();
            let client = TcpStream::connect(local).unwrap();
            let peer = client.local_addr().unwrap();
            let mine = rustix::process::geteuid().as_raw();
            assert_eq!(owner(peer, local), Some(mine));
            // The other way round it isn't the peer's, and from elsewhere it is nobody's.
            let elsewhere = "192.0.2.1:1".parse().unwrap();
            assert_eq!(owner(elsewhere, local), None);
        }
    }

    #[test]
    fn a_table_is_read_as_the_kernel_writes_it() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:C001 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 20 4 30 10 -1\n   \
            1: 0100007F:C002 0100007F:1F90 06 00000000:00000000 00:00000000 00000000     0        0 1 1 0 20 4 30 10 -1\n";
        if cfg!(target_endian = "big") {
            return;
        }
        let ends = |port| {
            let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
            owner_in(table, at(port), at(8080))
        };
        assert_eq!(ends(0xc001), Some(1000));
        // One that is closed already has root's number there.
        assert_eq!(ends(0xc002), None);
        assert_eq!(ends(0xc003), None);
    }

    #[test]
    fn nobody_is_let_in_by_accident() {
        let here = "127.0.0.1:57012".parse().unwrap();
        let everywhere = "0.0.0.0:57012".parse().unwrap();
        let mut access = Access::default();
        assert!(access.check_address(here).is_ok());
        assert!(access.check_address(everywhere).is_err());
        let mut tls = TlsFiles {
            certificate: "cert".into(),
            key: "key".into(),
            client_ca: None,
        };
        access.tls = Some(tls.clone());
        assert!(access.check_address(everywhere).is_err());
        tls.client_ca = Some("ca".into());
        access.tls = Some(tls);
        assert!(access.check_address(everywhere).is_ok());
        access = Access {
            anybody: true,
            ..Access::default()
        };
        assert!(access.check_address(everywhere).is_ok());
    }
}
