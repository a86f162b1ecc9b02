//! A connection of which side it is shows at run time.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use rustls::{CommonState, Error, ExtractedSecrets, IoState};

use crate::client::ClientConnection;
use crate::server::ServerConnection;
use crate::text::{Reader, Writer};

/// A client or server connection: [`rustls::Connection`], mirrored.
#[derive(Debug)]
pub enum Connection {
    /// A client's.
    Client(ClientConnection),
    /// A server's.
    Server(ServerConnection),
}

/// The same for both sides.
macro_rules! either {
    ($connection:expr, $conn:ident => $call:expr) => {
        match $connection {
            Connection::Client($conn) => $call,
            Connection::Server($conn) => $call,
        }
    };
}

impl Connection {
    /// As [`crate::ConnectionCommon::mirror_addresses`].
    pub fn mirror_addresses(&mut self, local: SocketAddr, peer: SocketAddr) {
        either!(self, conn => conn.mirror_addresses(local, peer));
    }

    /// As [`rustls::Connection::read_tls`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn read_tls(&mut self, rd: &mut dyn Read) -> Result<usize, io::Error> {
        either!(self, conn => conn.read_tls(rd))
    }

    /// As [`rustls::Connection::write_tls`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn write_tls(&mut self, wr: &mut dyn Write) -> Result<usize, io::Error> {
        either!(self, conn => conn.write_tls(wr))
    }

    /// As [`rustls::Connection::reader`].
    pub fn reader(&mut self) -> Reader<'_> {
        either!(self, conn => conn.reader())
    }

    /// As [`rustls::Connection::writer`].
    pub fn writer(&mut self) -> Writer<'_> {
        either!(self, conn => conn.writer())
    }

    /// As [`rustls::Connection::process_new_packets`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn process_new_packets(&mut self) -> Result<IoState, Error> {
        either!(self, conn => conn.process_new_packets())
    }

    /// As [`rustls::Connection::export_keying_material`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn export_keying_material<T: AsMut<[u8]>>(
        &self,
        output: T,
        label: &[u8],
        context: Option<&[u8]>,
    ) -> Result<T, Error> {
        either!(self, conn => conn.export_keying_material(output, label, context))
    }

    /// As [`rustls::Connection::complete_io`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn complete_io<T>(&mut self, io: &mut T) -> Result<(usize, usize), io::Error>
    where
        Self: Sized,
        T: Read + Write,
    {
        either!(self, conn => conn.complete_io(io))
    }

    /// As [`crate::ConnectionCommon::dangerous_extract_secrets`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn dangerous_extract_secrets(self) -> Result<ExtractedSecrets, Error> {
        either!(self, conn => conn.dangerous_extract_secrets())
    }

    /// As [`rustls::Connection::set_buffer_limit`].
    pub fn set_buffer_limit(&mut self, limit: Option<usize>) {
        either!(self, conn => conn.set_buffer_limit(limit));
    }

    /// As [`rustls::Connection::refresh_traffic_keys`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn refresh_traffic_keys(&mut self) -> Result<(), Error> {
        either!(self, conn => conn.refresh_traffic_keys())
    }

    /// As [`crate::ConnectionCommon::send_close_notify`].
    pub fn send_close_notify(&mut self) {
        either!(self, conn => conn.send_close_notify());
    }
}

impl Deref for Connection {
    type Target = CommonState;

    fn deref(&self) -> &Self::Target {
        either!(self, conn => conn)
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Self::Target {
        either!(self, conn => conn)
    }
}
