//! A contender: this program once more, with connections that are made in one of the ways.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use mirror_benches::caller::{clean, run};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, ServerConnection};

use crate::How;

/// A directory with a certificate and its key.
#[derive(Debug)]
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let place = Self(tempfile::tempdir()?);
        run(Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(place.path("key.pem"))
            .arg("-out")
            .arg(place.path("cert.pem")))?;
        Ok(place)
    }

    /// A file of this run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// This program as a contender.
    pub(crate) fn contender(&self, part: &str, how: How) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([part, how.name()]);
        command.args([self.path("cert.pem"), self.path("key.pem")]);
        clean(&mut command);
        Ok(command)
    }
}

/// AES-256-GCM only, which is what a client and a server of today agree on.
pub(crate) fn provider(how: How) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    let wanted = CipherSuite::TLS13_AES_256_GCM_SHA384;
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == wanted);
    Arc::new(match how {
        How::Installed => rustls_mirror::mirrored(provider),
        How::Bare | How::Wrapped => provider,
    })
}

pub(crate) fn server_config(
    provider: Arc<CryptoProvider>,
    certificate: &str,
    key: &str,
) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    Ok(Arc::new(config))
}

/// Does what its standard input says, a line a round: `write BYTES CALLS` or `copy BYTES CALLS`; answers with the
/// nanoseconds of a call.
///
/// The transport is memory of this thread. What a call costs ends where a socket would be given the records: they are
/// copied out once, and nobody decrypts them.
pub(crate) fn calls(how: How, certificate: &str, key: &str) -> anyhow::Result<()> {
    // The other end is mirrored by nobody.
    let server = server_config(provider(How::Bare), certificate, key)?;
    let server = ServerConnection::new(server)?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(certificate)? {
        roots.add(root?)?;
    }
    let config = ClientConfig::builder_with_provider(provider(how))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (config, name) = (Arc::new(config), ServerName::try_from("localhost")?);
    match how {
        How::Wrapped => {
            let client = rustls_mirror::ClientConnection::new(config, name)?;
            answer(Wrapped(shaken_wrapped(client, server)?))
        }
        How::Bare | How::Installed => {
            let client = rustls::ClientConnection::new(config, name)?;
            answer(Bare(shaken_bare(client, server)?))
        }
    }
}

/// A client whose handshake is done.
trait Writes {
    /// Encrypts `text`, and hands its records to `transport`.
    fn write(&mut self, text: &[u8], transport: &mut Vec<u8>) -> std::io::Result<()>;
}

/// The same for both types, whose functions have the same names.
macro_rules! writes {
    ($name:ident, $shaken:ident, $connection:ty) => {
        struct $name($connection);

        impl Writes for $name {
            fn write(&mut self, text: &[u8], transport: &mut Vec<u8>) -> std::io::Result<()> {
                self.0.writer().write_all(text)?;
                transport.clear();
                while self.0.wants_write() {
                    self.0.write_tls(transport)?;
                }
                Ok(())
            }
        }

        fn $shaken(
            mut client: $connection,
            mut server: ServerConnection,
        ) -> anyhow::Result<$connection> {
            client.set_buffer_limit(None);
            while client.is_handshaking() || server.is_handshaking() {
                let mut records = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut records)?;
                }
                let mut there = &records[..];
                while !there.is_empty() {
                    server.read_tls(&mut there)?;
                    server.process_new_packets()?;
                }
                records.clear();
                while server.wants_write() {
                    server.write_tls(&mut records)?;
                }
                let mut there = &records[..];
                while !there.is_empty() {
                    client.read_tls(&mut there)?;
                    client.process_new_packets()?;
                }
            }
            Ok(client)
        }
    };
}

writes!(Bare, shaken_bare, rustls::ClientConnection);
writes!(Wrapped, shaken_wrapped, rustls_mirror::ClientConnection);

fn answer(mut client: impl Writes) -> anyhow::Result<()> {
    // Begun before the first round: an agent needs a moment to grant its ring.
    let mut transport = Vec::with_capacity(2 << 20);
    let mut copied = Vec::with_capacity(2 << 20);
    let text: Vec<u8> = (0..1 << 20).map(|at: usize| b"mirror\n"[at % 7]).collect();
    client.write(&text[..1], &mut transport)?;
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<_> = line.split(' ').collect();
        let [what, bytes, calls] = words[..] else {
            bail!("not understood: {line}");
        };
        let (bytes, calls): (usize, u32) = (bytes.parse()?, calls.parse()?);
        let text = text.get(..bytes).context("at most 1 MiB")?;
        let mut call = || match what {
            "write" => client
                .write(text, &mut transport)
                .map_err(anyhow::Error::from),
            "copy" => {
                copied.clear();
                copied.extend_from_slice(std::hint::black_box(text));
                std::hint::black_box(&mut copied);
                Ok(())
            }
            _ => Err(anyhow!("not understood: {line}")),
        };
        // Who has just been woken finds cold caches; that isn't what is compared.
        for _ in 0..calls / 8 + 1 {
            call()?;
        }
        let begin = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        let took = begin.elapsed().as_nanos() as f64 / f64::from(calls);
        writeln!(out, "{took}")?;
        out.flush()?;
    }
    Ok(())
}
