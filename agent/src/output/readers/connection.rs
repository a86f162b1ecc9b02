//! A reader's connection, in clear or by TLS. Writing waits for whoever reads: only this reader's thread does.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use rustls::{ServerConfig, ServerConnection};

/// Who hasn't finished the handshake by then is sent away.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Who takes nothing for so long is sent away.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

impl Connection {
    /// Prepares a connection; by TLS, its handshake is done.
    ///
    /// # Errors
    /// What the socket reports, or the handshake.
    pub(super) fn open(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // One that is gone without a word is noticed by these.
        rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
        rustix::net::sockopt::set_tcp_keepidle(&stream, PATIENCE)?;
        let tls = tls
            .map(|config| handshake(&stream, config).map(Box::new))
            .transpose()?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, tls })
    }

    /// Whether the other side has closed. What it says is taken and ignored: nobody asks it anything.
    pub(super) fn is_gone(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            let count = match recv(&self.stream, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return true,
                Ok((count, _)) => count,
                Err(error) => {
                    let error = io::Error::from(error);
                    let waits = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
                    return !waits.contains(&error.kind());
                }
            };
            if let Some(tls) = &mut self.tls {
                let mut rest = &bytes[..count];
                while !rest.is_empty() {
                    if tls.read_tls(&mut rest).is_err() {
                        return true;
                    }
                    match tls.process_new_packets() {
                        Ok(state) if state.peer_has_closed() => return true,
                        // Text that nobody asked for is dropped, so that it isn't kept.
                        Ok(_) => {
                            let _ = io::copy(&mut tls.reader(), &mut io::sink());
                        }
                        Err(_) => return true,
                    }
                }
            }
        }
    }

    /// Says that nothing more comes.
    pub(super) fn close(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush()?;
        self.stream.shutdown(std::net::Shutdown::Write)
    }
}

fn handshake(mut stream: &TcpStream, config: Arc<ServerConfig>) -> io::Result<ServerConnection> {
    let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let end = Instant::now() + HANDSHAKE;
    while tls.is_handshaking() || tls.wants_write() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if tls.wants_write() {
            stream.set_write_timeout(Some(left))?;
            tls.write_tls(&mut stream)?;
            continue;
        }
        stream.set_read_timeout(Some(left))?;
        if tls.read_tls(&mut stream)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Err(error) = tls.process_new_packets() {
            // The other side is told why, if it listens.
            let _ = tls.write_tls(&mut stream);
            return Err(io::Error::other(error));
        }
    }
    Ok(tls)
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.write(bytes);
        };
        // As much as it takes without growing.
        let count = tls.writer().write(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.stream)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.stream)?;
            }
        }
        self.stream.flush()
    }
}
