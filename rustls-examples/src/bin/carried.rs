//! TLS over a transport of the program's own: what rustls reads and writes passes through pipes, and others carry it
//! to and from a TCP connection. A client and a server, which says back what it hears.
//!
//! Since rustls has no socket here, the mirror doesn't know the connection's addresses: sslcollector finds it on the
//! wire by its hellos (`bound=wire`). The provider is Graviola, whose first key share is X25519MLKEM768: with that a
//! ClientHello is longer than one packet.
//!
//! ```text
//! carried WAY client ROOTS ADDRESS STEP…          a connection for each step; the same one again resumes its session:
//!                                                  1.3, 1.2-id, 1.2-ticket, 1.3-grease, 1.3-ech=FILE (RFC 9849: with
//!                                                  what looks like an Encrypted Client Hello, with one by that file),
//!                                                  1.3-early=FILE (that, and with 0-RTT data)
//! carried WAY server CERT KEY ADDRESS GROUP COUNT  so many connections, of this group (any: those of the provider)
//!
//! WAY  stream   rustls_mirror::StreamOwned over two pipes
//!      tokio    rustls_mirror::tokio over tokio's duplex
//!      install  rustls::StreamOwned, mirrored by its provider
//! ```
//!
//! Of each connection both print the client's port, and how they shook hands.

use std::collections::HashMap;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow, bail, ensure};
use rustls::client::{EchConfig, EchGreaseConfig, Resumption, Tls12Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{EchConfigListBytes, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use rustls_examples::hpke::MANDATORY;
use rustls_examples::{announce, arguments, ended, identity, roots};
use rustls_mirror::tokio as tokio_rustls;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy_bidirectional, duplex};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle as Task;

const TEXT: &[u8] = b"carried by somebody else\n";
const NAME: &str = "mirror.test";
const REFUSED: &str = "0-RTT data was refused";
/// What is carried at a time: so little that hellos come in pieces.
const PIPE_BYTES: usize = 512;

fn main() -> ExitCode {
    ended(run())
}

fn run() -> anyhow::Result<()> {
    let words = arguments(
        5,
        "carried WAY client ROOTS ADDRESS STEP… | WAY server CERT KEY ADDRESS GROUP COUNT",
    )?;
    let way = &words[0];
    let mut provider = rustls_graviola::default_provider();
    if let ("server", Some(group)) = (words[1].as_str(), words.get(5))
        && group != "any"
    {
        let is_chosen = |name: &str| name.eq_ignore_ascii_case(group);
        provider
            .kx_groups
            .retain(|group| is_chosen(&format!("{:?}", group.name())));
        ensure!(!provider.kx_groups.is_empty(), "no group {group}");
    }
    match way.as_str() {
        "install" => rustls_mirror::install(provider)?,
        "stream" | "tokio" => {
            let already = |_| anyhow!("there is a provider already");
            CryptoProvider::install_default(provider).map_err(already)?;
        }
        _ => bail!("no way {way}"),
    }
    let runtime = Runtime::new()?;
    let carrier = Carrier { way, runtime };
    match words[1].as_str() {
        "client" => client(&carrier, &words[2..]),
        "server" if words.len() == 7 => server(&carrier, &words[2..]),
        role => bail!("{role} with {} words", words.len()),
    }
}

fn client(carrier: &Carrier<'_>, words: &[String]) -> anyhow::Result<()> {
    let mut configs = HashMap::new();
    for step in &words[2..] {
        if !configs.contains_key(step) {
            configs.insert(step, Arc::new(client_config(&words[0], step)?));
        }
        let socket = TcpStream::connect(&words[1]).with_context(|| words[1].clone())?;
        let port = socket.local_addr()?.port();
        let config = Arc::clone(&configs[step]);
        say(port, carrier.asks(socket, config)?)?;
    }
    Ok(())
}

fn client_config(trusted: &str, step: &str) -> anyhow::Result<ClientConfig> {
    let provider = CryptoProvider::get_default().context("no provider")?;
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider));
    let (builder, resumption) = match step.split_once('=').unwrap_or((step, "")) {
        ("1.3", _) => (
            builder.with_protocol_versions(&[&TLS13]),
            Tls12Resumption::Disabled,
        ),
        ("1.2-id", _) => (
            builder.with_protocol_versions(&[&TLS12]),
            Tls12Resumption::SessionIdOnly,
        ),
        ("1.2-ticket", _) => (
            builder.with_protocol_versions(&[&TLS12]),
            Tls12Resumption::SessionIdOrTickets,
        ),
        ("1.3-grease", _) => {
            let (key, _) = MANDATORY.generate_key_pair()?;
            let grease = EchGreaseConfig::new(MANDATORY, key);
            (builder.with_ech(grease.into()), Tls12Resumption::Disabled)
        }
        ("1.3-ech" | "1.3-early", file) => {
            let configs = EchConfigListBytes::from_pem_file(file);
            let configs = configs.map_err(|error| anyhow!("{file}: {error}"))?;
            let config = EchConfig::new(configs, &[MANDATORY])?;
            (builder.with_ech(config.into()), Tls12Resumption::Disabled)
        }
        _ => bail!("no step {step}"),
    };
    let mut config = builder?
        .with_root_certificates(roots(trusted)?)
        .with_no_client_auth();
    config.enable_early_data = step.starts_with("1.3-early");
    config.resumption = Resumption::in_memory_sessions(8).tls12_resumption(resumption);
    Ok(config)
}

fn server(carrier: &Carrier<'_>, words: &[String]) -> anyhow::Result<()> {
    let (chain, key) = identity(&words[0], &words[1])?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ticketer = rustls_graviola::Ticketer::new()?;
    let config = Arc::new(config);
    let listener = TcpListener::bind(&words[2]).with_context(|| words[2].clone())?;
    announce(listener.local_addr()?)?;
    for _ in 0..words[4].parse()? {
        let (socket, peer) = listener.accept()?;
        say(peer.port(), carrier.answers(socket, Arc::clone(&config))?)?;
    }
    Ok(())
}

fn say(port: u16, how: Option<HandshakeKind>) -> anyhow::Result<()> {
    let how = how.context("no handshake")?;
    let mut out = io::stdout();
    writeln!(out, "{port} {how:?}")?;
    out.flush().context("can't say it")
}

/// Talks over what somebody carries to a socket and from it.
struct Carrier<'a> {
    way: &'a str,
    runtime: Runtime,
}

impl Carrier<'_> {
    fn asks(
        &self,
        socket: TcpStream,
        config: Arc<ClientConfig>,
    ) -> anyhow::Result<Option<HandshakeKind>> {
        let name = ServerName::try_from(NAME)?;
        match self.way {
            "stream" => {
                let mut connection = rustls_mirror::ClientConnection::new(config, name)?;
                let early = ahead(connection.early_data())?;
                let mut stream = rustls_mirror::StreamOwned::new(connection, Pipes::new(socket)?);
                ask(&mut stream, early, |stream| {
                    stream.conn.send_close_notify();
                })?;
                ensure!(early == stream.conn.is_early_data_accepted(), REFUSED);
                stream.sock.end();
                Ok(stream.conn.handshake_kind())
            }
            "install" => {
                let mut connection = rustls::ClientConnection::new(config, name)?;
                let early = ahead(connection.early_data())?;
                let mut stream = rustls::StreamOwned::new(connection, Pipes::new(socket)?);
                ask(&mut stream, early, |stream| {
                    stream.conn.send_close_notify();
                })?;
                ensure!(early == stream.conn.is_early_data_accepted(), REFUSED);
                stream.sock.end();
                Ok(stream.conn.handshake_kind())
            }
            _ => self.runtime.block_on(async {
                let (transport, task) = carried(socket)?;
                let connector = tokio_rustls::TlsConnector::from(config);
                let mut stream = connector.connect(name, transport).await?;
                stream.write_all(TEXT).await?;
                let mut answer = vec![0; TEXT.len()];
                stream.read_exact(&mut answer).await?;
                ensure!(answer == TEXT, "another answer");
                stream.shutdown().await?;
                stream.read_to_end(&mut answer).await?;
                let how = stream.get_ref().1.handshake_kind();
                drop(stream);
                task.await??;
                Ok(how)
            }),
        }
    }

    fn answers(
        &self,
        socket: TcpStream,
        config: Arc<ServerConfig>,
    ) -> anyhow::Result<Option<HandshakeKind>> {
        match self.way {
            "stream" => {
                let connection = rustls_mirror::ServerConnection::new(config)?;
                let mut stream = rustls_mirror::StreamOwned::new(connection, Pipes::new(socket)?);
                answer(&mut stream, |stream| stream.conn.send_close_notify())?;
                stream.sock.end();
                Ok(stream.conn.handshake_kind())
            }
            "install" => {
                let connection = rustls::ServerConnection::new(config)?;
                let mut stream = rustls::StreamOwned::new(connection, Pipes::new(socket)?);
                answer(&mut stream, |stream| stream.conn.send_close_notify())?;
                stream.sock.end();
                Ok(stream.conn.handshake_kind())
            }
            _ => self.runtime.block_on(async {
                let (transport, task) = carried(socket)?;
                let acceptor = tokio_rustls::TlsAcceptor::from(config);
                let mut stream = acceptor.accept(transport).await?;
                let mut text = [0; TEXT.len()];
                stream.read_exact(&mut text).await?;
                stream.write_all(&text).await?;
                stream.flush().await?;
                stream.read_to_end(&mut Vec::new()).await?;
                stream.shutdown().await?;
                let how = stream.get_ref().1.handshake_kind();
                drop(stream);
                task.await??;
                Ok(how)
            }),
        }
    }
}

/// Says it as 0-RTT data, where that may be sent.
fn ahead(early: Option<impl Write>) -> io::Result<bool> {
    let Some(mut early) = early else {
        return Ok(false);
    };
    early.write_all(TEXT)?;
    Ok(true)
}

fn ask<S: Read + Write>(stream: &mut S, early: bool, close: impl Fn(&mut S)) -> anyhow::Result<()> {
    if !early {
        stream.write_all(TEXT)?;
    }
    let mut answer = vec![0; TEXT.len()];
    stream.read_exact(&mut answer)?;
    ensure!(answer == TEXT, "another answer");
    close(stream);
    stream.flush()?;
    stream.read_to_end(&mut answer)?;
    Ok(())
}

fn answer<S: Read + Write>(stream: &mut S, close: impl Fn(&mut S)) -> anyhow::Result<()> {
    let mut text = [0; TEXT.len()];
    stream.read_exact(&mut text)?;
    stream.write_all(&text)?;
    stream.flush()?;
    stream.read_to_end(&mut Vec::new())?;
    close(stream);
    stream.flush()?;
    Ok(())
}

/// A transport that is no socket.
struct Pipes {
    /// Until it has ended.
    ends: Option<(PipeReader, PipeWriter)>,
    carriers: Vec<JoinHandle<io::Result<()>>>,
}

impl Pipes {
    /// Threads carry what passes to and from this socket.
    fn new(socket: TcpStream) -> io::Result<Self> {
        let (reader, mut to_reader) = io::pipe()?;
        let (mut from_writer, writer) = io::pipe()?;
        let (mut from, mut to) = (socket.try_clone()?, socket);
        let carriers = vec![
            thread::spawn(move || carry(&mut from, &mut to_reader)),
            thread::spawn(move || {
                carry(&mut from_writer, &mut to)?;
                to.shutdown(Shutdown::Write)
            }),
        ];
        let ends = Some((reader, writer));
        Ok(Self { ends, carriers })
    }

    /// All that was written is on its way; the peer has ended as well.
    fn end(&mut self) {
        self.ends = None;
        for carrier in self.carriers.drain(..) {
            // What went wrong there has been seen by TLS.
            let _ = carrier.join();
        }
    }
}

impl Read for Pipes {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.ends {
            Some((reader, _)) => reader.read(buf),
            None => Ok(0),
        }
    }
}

impl Write for Pipes {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.ends {
            Some((_, writer)) => writer.write(buf),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Not by `io::copy`: its splice(2) was seen to take a socket for ended that wasn't.
fn carry(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut part = [0; PIPE_BYTES];
    loop {
        match from.read(&mut part)? {
            0 => return Ok(()),
            count => to.write_all(&part[..count])?,
        }
    }
}

/// The same of tokio's; a task is who carries.
fn carried(socket: TcpStream) -> io::Result<(DuplexStream, Task<io::Result<()>>)> {
    socket.set_nonblocking(true)?;
    let mut socket = tokio::net::TcpStream::from_std(socket)?;
    let (transport, mut other) = duplex(PIPE_BYTES);
    let carrier = async move { copy_bidirectional(&mut socket, &mut other).await.map(drop) };
    Ok((transport, tokio::spawn(carrier)))
}
