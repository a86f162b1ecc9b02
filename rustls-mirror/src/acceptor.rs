//! A server's connection before its configuration is chosen.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use mirror_hook::event::Role;
use rustls::server::{AcceptedAlert, ClientHello};
use rustls::{Error, ServerConfig};

use crate::server::ServerConnection;
use crate::tee::TeeIo;
use crate::watch::Watch;

/// Reads a ClientHello, by which the application chooses a configuration: [`rustls::server::Acceptor`],
/// mirrored.
pub struct Acceptor {
    inner: rustls::server::Acceptor,
    watch: Watch,
}

impl Default for Acceptor {
    fn default() -> Self {
        Self {
            inner: rustls::server::Acceptor::default(),
            watch: Watch::new(Role::Server),
        }
    }
}

impl Acceptor {
    /// As [`rustls::server::Acceptor::read_tls`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn read_tls(&mut self, rd: &mut dyn Read) -> Result<usize, io::Error> {
        let Self { inner, watch } = self;
        TeeIo { io: rd, watch }.read_only(|tee| inner.read_tls(tee))
    }

    /// As [`rustls::server::Acceptor::accept`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn accept(&mut self) -> Result<Option<Accepted>, (Error, AcceptedAlert)> {
        let accepted = self.inner.accept()?;
        Ok(accepted.map(|inner| Accepted {
            inner,
            watch: std::mem::replace(&mut self.watch, Watch::new(Role::Server)),
        }))
    }
}

#[cfg(feature = "tokio")]
impl Acceptor {
    pub(crate) fn into_parts(self) -> (rustls::server::Acceptor, Watch) {
        (self.inner, self.watch)
    }
}

/// An acceptor that hasn't read anything yet.
impl From<rustls::server::Acceptor> for Acceptor {
    fn from(inner: rustls::server::Acceptor) -> Self {
        Self {
            inner,
            ..Self::default()
        }
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// A ClientHello that an [`Acceptor`] has read: [`rustls::server::Accepted`], mirrored.
pub struct Accepted {
    inner: rustls::server::Accepted,
    watch: Watch,
}

impl Accepted {
    /// As [`rustls::server::Accepted::client_hello`].
    pub fn client_hello(&self) -> ClientHello<'_> {
        self.inner.client_hello()
    }

    /// As [`rustls::server::Accepted::into_connection`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn into_connection(
        mut self,
        config: Arc<ServerConfig>,
    ) -> Result<ServerConnection, (Error, AcceptedAlert)> {
        self.watch.begin_server(&config);
        let inner = self.inner.into_connection(config)?;
        Ok(ServerConnection::from_inner(inner, self.watch))
    }
}

#[cfg(feature = "tokio")]
impl Accepted {
    pub(crate) fn from_parts(inner: rustls::server::Accepted, watch: Watch) -> Self {
        Self { inner, watch }
    }

    pub(crate) fn into_parts(self) -> (rustls::server::Accepted, Watch) {
        (self.inner, self.watch)
    }
}

/// What rustls' own acceptor has read. The mirror doesn't know the hello then, and the agent has to find
/// the connection by its socket.
impl From<rustls::server::Accepted> for Accepted {
    fn from(inner: rustls::server::Accepted) -> Self {
        Self {
            inner,
            watch: Watch::new(Role::Server),
        }
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted").finish_non_exhaustive()
    }
}
