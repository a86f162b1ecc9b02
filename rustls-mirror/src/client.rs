//! Items for use in a client: those of [`rustls::client`], with its connection mirrored.

use std::fmt;
use std::io::{Result as IoResult, Write};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{Error, ExtractedSecrets};

use crate::connection::ConnectionCommon;
use crate::either::Connection;
use crate::rustls_version::sni;
use crate::watch::Watch;
use crate::{Role, session_for};

pub use rustls::client::*;

/// A single TLS client connection: [`rustls::ClientConnection`], mirrored.
pub struct ClientConnection {
    common: ConnectionCommon<ClientConnectionData>,
}

impl ClientConnection {
    /// As [`rustls::ClientConnection::new`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        let watch = watch(&config, &name);
        let inner = rustls::ClientConnection::new(config, name)?;
        Ok(Self::from_inner(inner, watch))
    }

    /// As [`rustls::ClientConnection::new_with_alpn`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn new_with_alpn(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        alpn_protocols: Vec<Vec<u8>>,
    ) -> Result<Self, Error> {
        let watch = watch(&config, &name);
        let inner = rustls::ClientConnection::new_with_alpn(config, name, alpn_protocols)?;
        Ok(Self::from_inner(inner, watch))
    }

    pub(crate) fn from_inner(inner: rustls::ClientConnection, watch: Watch) -> Self {
        Self {
            common: ConnectionCommon::new(inner, watch),
        }
    }

    /// As [`rustls::ClientConnection::early_data`]. What is written is mirrored; if the server turns
    /// out never to have read it, the agent is told so.
    pub fn early_data(&mut self) -> Option<WriteEarlyData<'_>> {
        let ConnectionCommon { inner, watch } = &mut self.common;
        let inner = inner.early_data()?;
        Some(WriteEarlyData::new(inner, watch))
    }

    /// As [`rustls::ClientConnection::is_early_data_accepted`].
    pub fn is_early_data_accepted(&self) -> bool {
        self.common.inner.is_early_data_accepted()
    }

    /// As [`ConnectionCommon::dangerous_extract_secrets`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn dangerous_extract_secrets(self) -> Result<ExtractedSecrets, Error> {
        self.common.dangerous_extract_secrets()
    }

    /// As [`rustls::ClientConnection::ech_status`].
    pub fn ech_status(&self) -> EchStatus {
        self.common.inner.ech_status()
    }

    /// As [`rustls::ClientConnection::tls13_tickets_received`].
    pub fn tls13_tickets_received(&self) -> u32 {
        self.common.inner.tls13_tickets_received()
    }

    /// As [`rustls::ClientConnection::fips`].
    pub fn fips(&self) -> bool {
        self.common.inner.fips()
    }
}

/// Who watches a connection that is made next.
pub(crate) fn watch(config: &ClientConfig, name: &ServerName<'_>) -> Watch {
    let mut session = session_for(config.crypto_provider(), Role::Client);
    if let Some(session) = &mut session {
        // Until the hello is seen.
        session.known_mut().sni = sni(config, name);
    }
    Watch::of_client(session)
}

impl Deref for ClientConnection {
    type Target = ConnectionCommon<ClientConnectionData>;

    fn deref(&self) -> &Self::Target {
        &self.common
    }
}

impl DerefMut for ClientConnection {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.common
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConnection").finish_non_exhaustive()
    }
}

impl From<ClientConnection> for Connection {
    fn from(conn: ClientConnection) -> Self {
        Self::Client(conn)
    }
}

#[doc(hidden)]
impl<'a> TryFrom<&'a mut Connection> for &'a mut ClientConnection {
    type Error = ();

    fn try_from(value: &'a mut Connection) -> Result<Self, Self::Error> {
        match value {
            Connection::Client(conn) => Ok(conn),
            Connection::Server(_) => Err(()),
        }
    }
}

/// Takes 0-RTT data for the server: [`rustls::client::WriteEarlyData`], mirrored.
pub struct WriteEarlyData<'a> {
    inner: rustls::client::WriteEarlyData<'a>,
    watch: &'a mut Watch,
}

impl<'a> WriteEarlyData<'a> {
    pub(crate) fn new(inner: rustls::client::WriteEarlyData<'a>, watch: &'a mut Watch) -> Self {
        Self { inner, watch }
    }

    /// How many bytes may still be sent.
    pub fn bytes_left(&self) -> usize {
        self.inner.bytes_left()
    }
}

impl Write for WriteEarlyData<'_> {
    fn write(&mut self, buf: &[u8]) -> IoResult<usize> {
        let count = self.inner.write(buf)?;
        self.watch.early_sent(buf.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> IoResult<()> {
        self.inner.flush()
    }
}

impl fmt::Debug for WriteEarlyData<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteEarlyData").finish_non_exhaustive()
    }
}
