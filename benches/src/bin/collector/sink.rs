//! The other end of a tunnel that is measured: decrypts, acknowledges, and does nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::identity::CollectorIdentity;
use agent::tunnel::frame::{Frame, Instance, Message, Resume, VERSION, Welcome};
use anyhow::{Context, bail};
use bytes::BytesMut;
use rustls::{ServerConnection, StreamOwned};

/// Bytes that are read at a time.
const READ_BYTES: usize = 256 * 1024;
/// What comes within this time is acknowledged together, as by a collector, whose workers take more than a batch at
/// a time.
const ACK_PAUSE: Duration = Duration::from_millis(1);

/// One connection, with the identity of the collector in `state`. Says what is spoken.
pub(crate) fn run(state: &Path, address: &str) -> anyhow::Result<()> {
    let identity = CollectorIdentity::load(state)?;
    let listener = TcpListener::bind(address)?;
    println!("ready");
    let (socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(ACK_PAUSE))?;
    let connection = ServerConnection::new(identity.server_config()?)?;
    let mut stream = StreamOwned::new(connection, socket);
    let (mut bytes, mut piece) = (BytesMut::new(), vec![0; READ_BYTES]);
    let (mut through, mut acknowledged, mut last_ack) = (0, 0, Instant::now());
    loop {
        let read = match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("the tunnel"),
        };
        bytes.extend_from_slice(&piece[..read]);
        let mut answers = BytesMut::new();
        while let Some(frame) = Frame::decode(&mut bytes)? {
            match frame {
                Frame::Batch(batch) => through = batch.seq,
                Frame::Message(Message::Hello(_)) => {
                    let suite = stream.conn.negotiated_cipher_suite();
                    println!("{:?}", suite.context("a handshake")?.suite());
                    let welcome = Welcome {
                        version: VERSION,
                        epoch: Instance([7; 16]),
                        resume: Resume::Anew,
                        clock_ns: 0,
                    };
                    Message::Welcome(welcome).encode(&mut answers);
                }
                Frame::Message(Message::Ping { sent_ns }) => Message::Pong {
                    sent_ns,
                    answered_ns: sent_ns,
                }
                .encode(&mut answers),
                Frame::Message(Message::PreambleEnd) => {}
                Frame::Message(Message::Goodbye) => return Ok(()),
                Frame::Message(other) => bail!("an agent says {other:?}"),
            }
        }
        if through > acknowledged && last_ack.elapsed() >= ACK_PAUSE {
            (acknowledged, last_ack) = (through, Instant::now());
            Message::Ack { through }.encode(&mut answers);
        }
        if !answers.is_empty() {
            stream.write_all(&answers)?;
            stream.flush()?;
        }
    }
}
