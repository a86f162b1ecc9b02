//! Items for use in a server: those of [`rustls::server`], with its connection and its acceptor
//! mirrored.

use std::fmt;
use std::io::{self, Read};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rustls::{Error, ExtractedSecrets};

use crate::connection::ConnectionCommon;
use crate::either::Connection;
use crate::watch::Watch;

pub use crate::acceptor::{Accepted, Acceptor};
pub use rustls::server::*;

/// A single TLS server connection: [`rustls::ServerConnection`], mirrored.
pub struct ServerConnection {
    common: ConnectionCommon<ServerConnectionData>,
}

impl ServerConnection {
    /// As [`rustls::ServerConnection::new`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let watch = Watch::of_server(&config);
        let inner = rustls::ServerConnection::new(config)?;
        Ok(Self::from_inner(inner, watch))
    }

    pub(crate) fn from_inner(inner: rustls::ServerConnection, watch: Watch) -> Self {
        Self {
            common: ConnectionCommon::new(inner, watch),
        }
    }

    /// As [`rustls::ServerConnection::server_name`].
    pub fn server_name(&self) -> Option<&str> {
        self.common.inner.server_name()
    }

    /// As [`rustls::ServerConnection::received_resumption_data`].
    pub fn received_resumption_data(&self) -> Option<&[u8]> {
        self.common.inner.received_resumption_data()
    }

    /// As [`rustls::ServerConnection::set_resumption_data`].
    ///
    /// # Panics
    /// As rustls', if `data` is too long.
    pub fn set_resumption_data(&mut self, data: &[u8]) {
        self.common.inner.set_resumption_data(data);
    }

    /// As [`rustls::ServerConnection::reject_early_data`].
    ///
    /// # Panics
    /// As rustls', if the handshake has ended.
    pub fn reject_early_data(&mut self) {
        self.common.inner.reject_early_data();
    }

    /// As [`rustls::ServerConnection::early_data`]. When the handshake ends, what of it wasn't read is
    /// mirrored all the same: it is the beginning of what the client has sent.
    pub fn early_data(&mut self) -> Option<ReadEarlyData<'_>> {
        let ConnectionCommon { inner, watch } = &mut self.common;
        let inner = inner.early_data()?;
        Some(ReadEarlyData::new(inner, watch))
    }

    /// As [`rustls::ServerConnection::fips`].
    pub fn fips(&self) -> bool {
        self.common.inner.fips()
    }

    /// As [`ConnectionCommon::dangerous_extract_secrets`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn dangerous_extract_secrets(self) -> Result<ExtractedSecrets, Error> {
        self.common.dangerous_extract_secrets()
    }
}

impl Deref for ServerConnection {
    type Target = ConnectionCommon<ServerConnectionData>;

    fn deref(&self) -> &Self::Target {
        &self.common
    }
}

impl DerefMut for ServerConnection {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.common
    }
}

impl fmt::Debug for ServerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConnection").finish_non_exhaustive()
    }
}

impl From<ServerConnection> for Connection {
    fn from(conn: ServerConnection) -> Self {
        Self::Server(conn)
    }
}

/// Reads 0-RTT data that the client has sent: [`rustls::server::ReadEarlyData`], mirrored.
pub struct ReadEarlyData<'a> {
    inner: rustls::server::ReadEarlyData<'a>,
    watch: &'a mut Watch,
}

impl<'a> ReadEarlyData<'a> {
    pub(crate) fn new(inner: rustls::server::ReadEarlyData<'a>, watch: &'a mut Watch) -> Self {
        Self { inner, watch }
    }
}

impl Read for ReadEarlyData<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let taken = self.watch.take_early_text(buf);
        if taken > 0 {
            return Ok(taken);
        }
        let count = self.inner.read(buf)?;
        self.watch
            .early_received(buf.get(..count).unwrap_or_default());
        Ok(count)
    }
}

impl fmt::Debug for ReadEarlyData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadEarlyData").finish_non_exhaustive()
    }
}
