//! A connection and its transport as one stream. What is done when is rustls' own stream's business: it
//! runs on the inner connection, with the transport behind a tee.

use std::io::{BufRead, IoSlice, Read, Result, Write};
use std::ops::{Deref, DerefMut};

use crate::connection::ConnectionCommon;
use crate::rustls_version::SideData;
use crate::tee::first_bytes;

/// A connection `C` and its transport `T` as one stream, both borrowed: [`rustls::Stream`], mirrored.
#[derive(Debug)]
pub struct Stream<'a, C: 'a + ?Sized, T: 'a + Read + Write + ?Sized> {
    /// The TLS connection.
    pub conn: &'a mut C,

    /// The transport, such as a socket.
    pub sock: &'a mut T,
}

impl<'a, C, T, S> Stream<'a, C, T>
where
    C: 'a + DerefMut + Deref<Target = ConnectionCommon<S>>,
    T: 'a + Read + Write,
    S: SideData,
{
    /// A stream of both; does no I/O.
    pub fn new(conn: &'a mut C, sock: &'a mut T) -> Self {
        Self { conn, sock }
    }

    /// [`BufRead::fill_buf`], lent for as long as both parts are.
    fn into_filled(self) -> Result<&'a [u8]>
    where
        S: 'a,
    {
        let common: &'a mut ConnectionCommon<S> = self.conn;
        let filled = common.through(self.sock, |stream| stream.fill_buf().map(<[u8]>::len));
        common.look_for_end();
        filled?;
        common.reader().into_first_chunk()
    }
}

impl<'a, C, T, S> Read for Stream<'a, C, T>
where
    C: 'a + DerefMut + Deref<Target = ConnectionCommon<S>>,
    T: 'a + Read + Write,
    S: SideData,
{
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let common: &mut ConnectionCommon<S> = self.conn;
        let result = common.through(self.sock, |stream| stream.read(buf));
        if let Ok(count) = result {
            common.watch.received(buf.get(..count).unwrap_or_default());
        }
        common.look_for_end();
        result
    }
}

impl<'a, C, T, S> BufRead for Stream<'a, C, T>
where
    C: 'a + DerefMut + Deref<Target = ConnectionCommon<S>>,
    T: 'a + Read + Write,
    S: 'a + SideData,
{
    fn fill_buf(&mut self) -> Result<&[u8]> {
        let (conn, sock) = (&mut *self.conn, &mut *self.sock);
        Stream { conn, sock }.into_filled()
    }

    fn consume(&mut self, amt: usize) {
        self.conn.reader().consume(amt);
    }
}

impl<'a, C, T, S> Write for Stream<'a, C, T>
where
    C: 'a + DerefMut + Deref<Target = ConnectionCommon<S>>,
    T: 'a + Read + Write,
    S: SideData,
{
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        let common: &mut ConnectionCommon<S> = self.conn;
        let result = common.through(self.sock, |stream| stream.write(buf));
        if let Ok(count) = result {
            common.watch.sent(buf.get(..count).unwrap_or_default());
        }
        common.look_for_end();
        result
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        let common: &mut ConnectionCommon<S> = self.conn;
        let result = common.through(self.sock, |stream| stream.write_vectored(bufs));
        if let Ok(count) = result {
            first_bytes(bufs, count).for_each(|part| common.watch.sent(part));
        }
        common.look_for_end();
        result
    }

    fn flush(&mut self) -> Result<()> {
        let common: &mut ConnectionCommon<S> = self.conn;
        let result = common.through(self.sock, |stream| stream.flush());
        common.look_for_end();
        result
    }
}

/// A connection `C` and its transport `T` as one stream that owns both: [`rustls::StreamOwned`],
/// mirrored.
#[derive(Debug)]
pub struct StreamOwned<C: Sized, T: Read + Write + Sized> {
    /// The TLS connection.
    pub conn: C,

    /// The transport, such as a socket.
    pub sock: T,
}

impl<C, T, S> StreamOwned<C, T>
where
    C: DerefMut + Deref<Target = ConnectionCommon<S>>,
    T: Read + Write,
    S: SideData,
{
    /// A stream of both; does no I/O.
    pub fn new(conn: C, sock: T) -> Self {
        Self { conn, sock }
    }

    /// The transport.
    pub fn get_ref(&self) -> &T {
        &self.sock
    }

    /// The transport.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.sock
    }

    /// Both parts.
    pub fn into_parts(self) -> (C, T) {
        (self.conn, self.sock)
    }

    fn as_stream(&mut self) -> Stream<'_, C, T> {
        Stream {
            conn: &mut self.conn,
            sock: &mut self.sock,
        }
    }
}

impl<C, T, S> Read for StreamOwned<C, T>
where
    C: DerefMut + Deref<Target = ConnectionCommon<S>>,
    T: Read + Write,
    S: SideData,
{
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.as_stream().read(buf)
    }
}

impl<C, T, S> BufRead for StreamOwned<C, T>
where
    C: DerefMut + Deref<Target = ConnectionCommon<S>>,
    T: Read + Write,
    S: 'static + SideData,
{
    fn fill_buf(&mut self) -> Result<&[u8]> {
        self.as_stream().into_filled()
    }

    fn consume(&mut self, amt: usize) {
        self.as_stream().consume(amt);
    }
}

impl<C, T, S> Write for StreamOwned<C, T>
where
    C: DerefMut + Deref<Target = ConnectionCommon<S>>,
    T: Read + Write,
    S: SideData,
{
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.as_stream().write(buf)
    }

    fn flush(&mut self) -> Result<()> {
        self.as_stream().flush()
    }
}
