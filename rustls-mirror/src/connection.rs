//! What client and server connections have in common: rustls' connection, and beside it who watches.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;

use rustls::{CommonState, Error, ExtractedSecrets, IoState};

use crate::rustls_version::{SideData, agreed};
use crate::tee::TeeIo;
use crate::text::{Reader, Writer};
use crate::watch::Watch;
use crate::{socket, text};

/// Interface shared by client and server connections: [`rustls::ConnectionCommon`], mirrored.
///
/// What isn't described here is as rustls describes it.
pub struct ConnectionCommon<S: SideData> {
    pub(crate) inner: S::Inner,
    pub(crate) watch: Watch,
}

impl<S: SideData> ConnectionCommon<S> {
    pub(crate) fn new(inner: S::Inner, watch: Watch) -> Self {
        Self { inner, watch }
    }

    /// Tells the agent which addresses this connection has, where this crate can't know: it finds the
    /// socket of a [`TcpStream`](std::net::TcpStream) and of what borrows or boxes one. A connection whose
    /// records take another way is found by the agent where it may capture the network, or not at all.
    ///
    /// To be called before the first text.
    pub fn mirror_addresses(&mut self, local: SocketAddr, peer: SocketAddr) {
        self.watch.addresses_told(local, peer);
    }

    /// As [`rustls::ConnectionCommon::process_new_packets`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn process_new_packets(&mut self) -> Result<IoState, Error> {
        self.process_new_packets_of(None)
    }

    /// The same, where the connection's socket is at hand. It is borrowed for the call.
    pub(crate) fn process_new_packets_of(
        &mut self,
        socket: Option<BorrowedFd<'_>>,
    ) -> Result<IoState, Error> {
        let result = self.inner.process_new_packets();
        self.watch.set_unprocessed(false);
        self.progressed(socket);
        self.look_for_end();
        result
    }

    /// As [`rustls::ConnectionCommon::export_keying_material`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn export_keying_material<T: AsMut<[u8]>>(
        &self,
        output: T,
        label: &[u8],
        context: Option<&[u8]>,
    ) -> Result<T, Error> {
        self.inner.export_keying_material(output, label, context)
    }

    /// As [`rustls::ConnectionCommon::dangerous_extract_secrets`]. What passes by these secrets isn't
    /// mirrored: for the agent the connection ends here.
    ///
    /// # Errors
    /// As rustls'.
    pub fn dangerous_extract_secrets(self) -> Result<ExtractedSecrets, Error> {
        S::extract_secrets(self.inner)
    }

    /// As [`rustls::ConnectionCommon::set_buffer_limit`].
    pub fn set_buffer_limit(&mut self, limit: Option<usize>) {
        self.inner.set_buffer_limit(limit);
    }

    /// As [`rustls::ConnectionCommon::refresh_traffic_keys`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn refresh_traffic_keys(&mut self) -> Result<(), Error> {
        self.inner.refresh_traffic_keys()
    }

    /// As [`CommonState::send_close_notify`]. The agent is told at once; called on the [`CommonState`]
    /// that this dereferences to, it is told when the connection is dropped.
    pub fn send_close_notify(&mut self) {
        self.inner.send_close_notify();
        self.watch.sending_ended();
    }

    /// As [`rustls::ConnectionCommon::reader`].
    pub fn reader(&mut self) -> Reader<'_> {
        Reader::new(self.inner.reader(), &mut self.watch)
    }

    /// As [`rustls::ConnectionCommon::writer`].
    pub fn writer(&mut self) -> Writer<'_> {
        Writer::new(self.inner.writer(), &mut self.watch)
    }

    /// As [`rustls::ConnectionCommon::complete_io`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn complete_io<T>(&mut self, io: &mut T) -> Result<(usize, usize), io::Error>
    where
        Self: Sized,
        T: Read + Write,
    {
        let watch = &mut self.watch;
        let result = self.inner.complete_io(&mut TeeIo { io, watch });
        self.progressed(socket::of(io));
        self.look_for_end();
        result
    }

    /// As [`rustls::ConnectionCommon::read_tls`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn read_tls(&mut self, rd: &mut dyn Read) -> Result<usize, io::Error> {
        let Self { inner, watch } = self;
        TeeIo { io: rd, watch }.read_only(|tee| inner.read_tls(tee))
    }

    /// As [`rustls::ConnectionCommon::write_tls`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn write_tls(&mut self, wr: &mut dyn Write) -> Result<usize, io::Error> {
        let watch = &mut self.watch;
        self.inner.write_tls(&mut TeeIo { io: wr, watch })
    }

    /// To be called between a call of rustls that may have brought the handshake on, and what that call
    /// has accepted or handed out.
    pub(crate) fn progressed(&mut self, socket: Option<BorrowedFd<'_>>) {
        if self.watch.awaits_handshake() {
            if !self.inner.is_handshaking() {
                self.handshake_ended(socket);
            }
        } else {
            self.watch.announce(socket);
        }
    }

    #[cold]
    fn handshake_ended(&mut self, socket: Option<BorrowedFd<'_>>) {
        if let Some(session) = self.watch.session_mut() {
            agreed(&self.inner, session.known_mut());
        }
        let accepted = S::early_data_accepted(&self.inner);
        let text = S::take_early_text(&mut self.inner);
        self.watch.handshake_ended(accepted, text, socket);
    }

    /// To be called behind all that a call of rustls has accepted or handed out.
    pub(crate) fn look_for_end(&mut self) {
        if !self.watch.awaits_end() {
            return;
        }
        // No I/O: the error that the connection has met, if any.
        if !self.watch.has_failed() && self.inner.writer().flush().is_err() {
            self.watch.rustls_failed();
        }
        text::look_for_end(&self.inner.reader().into_first_chunk(), &mut self.watch);
    }

    /// Lets rustls' own stream run on the inner connection.
    pub(crate) fn through<T, R>(
        &mut self,
        io: &mut T,
        run: impl FnOnce(&mut rustls::Stream<'_, S::Inner, TeeIo<'_, T>>) -> R,
    ) -> R
    where
        T: Read + Write,
    {
        let watch = &mut self.watch;
        let mut tee = TeeIo { io, watch };
        let result = run(&mut rustls::Stream::new(&mut self.inner, &mut tee));
        self.progressed(socket::of(io));
        result
    }
}

impl<S: SideData> Deref for ConnectionCommon<S> {
    type Target = CommonState;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl<S: SideData> DerefMut for ConnectionCommon<S> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

impl<S: SideData> fmt::Debug for ConnectionCommon<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionCommon").finish_non_exhaustive()
    }
}
