//! A connection of tokio-rustls as the application may change it.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::Deref;

use rustls::client::ClientConnectionData;
use rustls::server::ServerConnectionData;
use rustls::{Error, IoState};

use super::tapped::Mirror;
use crate::client::WriteEarlyData;
use crate::rustls_version::SideData;
use crate::server::ReadEarlyData;
use crate::tee::TeeIo;
use crate::text::look_for_end;
use crate::{Reader, Writer};

/// A connection below a stream, to be changed: in the place of the `&mut ClientConnection` or
/// `&mut ServerConnection` which tokio-rustls gives, because text that is read or written by those isn't
/// mirrored. What may be asked of a connection it dereferences to; what changes one is here, and mirrored.
///
/// It is a value: to change the connection more than once, `let (_, mut connection) = stream.get_mut();`.
pub struct ConnectionMut<'a, S: SideData> {
    inner: &'a mut S::Inner,
    mirror: &'a mut Mirror,
}

impl<'a, S: SideData> ConnectionMut<'a, S> {
    pub(super) fn new(inner: &'a mut S::Inner, mirror: &'a mut Mirror) -> Self {
        Self { inner, mirror }
    }

    /// As [`rustls::ConnectionCommon::reader`].
    pub fn reader(&mut self) -> Reader<'_> {
        Reader::new(self.inner.reader(), &mut self.mirror.watch)
    }

    /// As [`rustls::ConnectionCommon::writer`].
    pub fn writer(&mut self) -> Writer<'_> {
        Writer::new(self.inner.writer(), &mut self.mirror.watch)
    }

    /// As [`rustls::ConnectionCommon::read_tls`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn read_tls(&mut self, rd: &mut dyn Read) -> io::Result<usize> {
        let watch = &mut self.mirror.watch;
        TeeIo { io: rd, watch }.read_only(|tee| self.inner.read_tls(tee))
    }

    /// As [`rustls::ConnectionCommon::write_tls`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn write_tls(&mut self, wr: &mut dyn Write) -> io::Result<usize> {
        let watch = &mut self.mirror.watch;
        self.inner.write_tls(&mut TeeIo { io: wr, watch })
    }

    /// As [`rustls::ConnectionCommon::process_new_packets`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn process_new_packets(&mut self) -> Result<IoState, Error> {
        let result = self.inner.process_new_packets();
        self.mirror.watch.set_unprocessed(false);
        self.look_for_end();
        result
    }

    /// As [`rustls::ConnectionCommon::complete_io`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn complete_io<T: Read + Write>(&mut self, io: &mut T) -> io::Result<(usize, usize)> {
        let watch = &mut self.mirror.watch;
        let result = self.inner.complete_io(&mut TeeIo { io, watch });
        self.look_for_end();
        result
    }

    /// As [`rustls::ConnectionCommon::set_buffer_limit`].
    pub fn set_buffer_limit(&mut self, limit: Option<usize>) {
        self.mirror.takes_at_once = limit.unwrap_or(usize::MAX);
        self.inner.set_buffer_limit(limit);
    }

    /// As [`rustls::ConnectionCommon::refresh_traffic_keys`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn refresh_traffic_keys(&mut self) -> Result<(), Error> {
        self.inner.refresh_traffic_keys()
    }

    /// As [`rustls::CommonState::send_close_notify`].
    pub fn send_close_notify(&mut self) {
        self.inner.send_close_notify();
        self.mirror.watch.sending_ended();
    }

    /// Tells the watch of an end, if all text before it has been read.
    pub(super) fn look_for_end(&mut self) {
        let watch = &mut self.mirror.watch;
        if !watch.awaits_end() {
            return;
        }
        // No I/O: the error that the connection has met, if any.
        if !watch.has_failed() && self.inner.writer().flush().is_err() {
            watch.rustls_failed();
        }
        look_for_end(&self.inner.reader().into_first_chunk(), watch);
    }
}

impl ConnectionMut<'_, ClientConnectionData> {
    /// As [`rustls::ClientConnection::early_data`]. tokio-rustls doesn't send what is written here a second
    /// time should the server reject it.
    pub fn early_data(&mut self) -> Option<WriteEarlyData<'_>> {
        let inner = self.inner.early_data()?;
        Some(WriteEarlyData::new(inner, &mut self.mirror.watch))
    }
}

impl ConnectionMut<'_, ServerConnectionData> {
    /// As [`rustls::ServerConnection::early_data`].
    pub fn early_data(&mut self) -> Option<ReadEarlyData<'_>> {
        let inner = self.inner.early_data()?;
        Some(ReadEarlyData::new(inner, &mut self.mirror.watch))
    }

    /// As [`rustls::ServerConnection::set_resumption_data`].
    ///
    /// # Panics
    /// As rustls', if `data` is too long.
    pub fn set_resumption_data(&mut self, data: &[u8]) {
        self.inner.set_resumption_data(data);
    }

    /// As [`rustls::ServerConnection::reject_early_data`].
    ///
    /// # Panics
    /// As rustls', if the handshake has ended.
    pub fn reject_early_data(&mut self) {
        self.inner.reject_early_data();
    }
}

impl<S: SideData> Deref for ConnectionMut<'_, S> {
    type Target = S::Inner;

    fn deref(&self) -> &S::Inner {
        self.inner
    }
}

impl<S: SideData> fmt::Debug for ConnectionMut<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionMut").finish_non_exhaustive()
    }
}
