//! Where text crosses the API of a connection: [`Reader`] and [`Writer`].

use std::fmt;
use std::io::{BufRead, ErrorKind, IoSlice, Read, Result, Write};

use crate::tee::first_bytes;
use crate::watch::Watch;

/// Reads text that the peer has sent: [`rustls::Reader`], mirrored.
///
/// What is mirrored is what was read: [`BufRead::fill_buf`] only shows text, [`BufRead::consume`] reads
/// it.
pub struct Reader<'a> {
    inner: rustls::Reader<'a>,
    watch: &'a mut Watch,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(inner: rustls::Reader<'a>, watch: &'a mut Watch) -> Self {
        Self { inner, watch }
    }

    /// As [`rustls::Reader::into_first_chunk`].
    ///
    /// # Errors
    /// As rustls'.
    pub fn into_first_chunk(self) -> Result<&'a [u8]> {
        let shown = self.inner.into_first_chunk();
        look_for_end(&shown, self.watch);
        shown
    }

    fn look_for_end(&mut self) {
        if self.watch.awaits_end() {
            look_for_end(&self.inner.fill_buf(), self.watch);
        }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let result = self.inner.read(buf);
        if let Ok(count) = result {
            self.watch.received(buf.get(..count).unwrap_or_default());
        }
        self.look_for_end();
        result
    }
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        let shown = self.inner.fill_buf();
        look_for_end(&shown, self.watch);
        shown
    }

    fn consume(&mut self, amt: usize) {
        // More than was shown is the caller's defect, which rustls answers with a panic.
        if let Ok(shown) = self.inner.fill_buf()
            && let Some(consumed) = shown.get(..amt)
        {
            self.watch.received(consumed);
        }
        self.inner.consume(amt);
        self.look_for_end();
    }
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// Tells `watch` of an end, if rustls says by what it `shows` that all text before it has been read.
pub(crate) fn look_for_end(shows: &Result<&[u8]>, watch: &mut Watch) {
    match shows {
        Ok([_, ..]) => {}
        // A close_notify.
        Ok([]) => watch.drained(true),
        // There is none yet, or the transport ended without.
        Err(error) => {
            let over = error.kind() != ErrorKind::WouldBlock && !watch.unprocessed();
            watch.drained(over);
        }
    }
}

/// Takes text for the peer: [`rustls::Writer`], mirrored.
pub struct Writer<'a> {
    inner: rustls::Writer<'a>,
    watch: &'a mut Watch,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(inner: rustls::Writer<'a>, watch: &'a mut Watch) -> Self {
        Self { inner, watch }
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        let count = self.inner.write(buf)?;
        self.watch.sent(buf.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        let count = self.inner.write_vectored(bufs)?;
        first_bytes(bufs, count).for_each(|part| self.watch.sent(part));
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }
}

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}
