//! What passes between a connection and its transport: counted always, and looked at until both hellos
//! are known.
//!
//! ```text
//!   transport ── TeeIo ── rustls       read, write, write_vectored, flush go through unchanged
//!                  │
//!                 Tee: records ── handshake messages ──> hello::Hellos     one for each direction
//! ```
//!
//! Nothing else is read: the hellos are in the clear, and no record that is encrypted is looked into.

use std::io::{ErrorKind, IoSlice, Read, Result, Write};

use mirror_hook::event::Role;

use crate::hello::{Hellos, Known};
use crate::watch::Watch;

/// Content type of handshake records (RFC 8446 5.1).
const HANDSHAKE: u8 = 22;
const HEADER_BYTES: usize = 5;

/// Looks for the hellos of one connection.
#[derive(Debug)]
pub(crate) struct Tee {
    role: Role,
    read: Records,
    written: Records,
}

/// The records of one direction, cut anywhere.
#[derive(Debug, Default)]
struct Records {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that are there.
    have: usize,
    /// Bytes of the record that are still to come.
    left: usize,
    hellos: Hellos,
}

impl Tee {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            read: Records::default(),
            written: Records::default(),
        }
    }

    pub(crate) fn read(&mut self, bytes: &[u8]) {
        self.read.feed(bytes);
    }

    pub(crate) fn written(&mut self, bytes: &[u8]) {
        self.written.feed(bytes);
    }

    pub(crate) fn is_client(&self) -> bool {
        self.role == Role::Client
    }

    /// Whether there is nothing more to look for.
    pub(crate) fn is_done(&self) -> bool {
        let (client, server) = self.hellos();
        client.client_random.is_some() && server.server_random.is_some()
    }

    /// What both hellos said so far.
    pub(crate) fn known(&self) -> Known {
        let (client, server) = self.hellos();
        server.clone().answering(client)
    }

    fn hellos(&self) -> (&Known, &Known) {
        match self.role {
            Role::Client => (&self.written.hellos.known, &self.read.hellos.known),
            Role::Server => (&self.read.hellos.known, &self.written.hellos.known),
        }
    }
}

impl Records {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let missing = HEADER_BYTES - self.have;
                let (now, later) = bytes.split_at(missing.min(bytes.len()));
                for (to, from) in self.header[self.have..].iter_mut().zip(now) {
                    *to = *from;
                }
                self.have += now.len();
                bytes = later;
                if self.have < HEADER_BYTES {
                    return;
                }
                self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
                self.have = 0;
            }
            let (now, later) = bytes.split_at(self.left.min(bytes.len()));
            if self.header[0] == HANDSHAKE {
                self.hellos.feed(now);
            }
            self.left -= now.len();
            bytes = later;
        }
    }
}

/// A transport, and who watches what passes.
pub(crate) struct TeeIo<'a, T: ?Sized> {
    pub(crate) io: &'a mut T,
    pub(crate) watch: &'a mut Watch,
}

impl<T: ?Sized> TeeIo<'_, T> {
    fn seen<R>(&mut self, result: Result<R>) -> Result<R> {
        if let Err(error) = &result
            && matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
            )
        {
            self.watch.transport_failed();
        }
        result
    }
}

impl TeeIo<'_, dyn Read + '_> {
    /// Lets `read_tls` read, behind which nobody processes what came.
    pub(crate) fn read_only(
        mut self,
        read_tls: impl FnOnce(&mut Self) -> Result<usize>,
    ) -> Result<usize> {
        let before = self.watch.unprocessed();
        let result = read_tls(&mut self);
        let more = result.as_ref().is_ok_and(|count| *count > 0);
        self.watch.set_unprocessed(before || more);
        result
    }
}

impl<T: Read + ?Sized> Read for TeeIo<'_, T> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let result = self.io.read(buf);
        let count = self.seen(result)?;
        // Whoever reads for rustls lets it process what came; who doesn't sets this right.
        self.watch.set_unprocessed(false);
        // A transport that claims more than there is room for is rustls' to judge.
        self.watch.wire_read(buf.get(..count).unwrap_or_default());
        Ok(count)
    }
}

impl<T: Write + ?Sized> Write for TeeIo<'_, T> {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        let result = self.io.write(buf);
        let count = self.seen(result)?;
        self.watch
            .wire_written(buf.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        let result = self.io.write_vectored(bufs);
        let count = self.seen(result)?;
        for part in first_bytes(bufs, count) {
            self.watch.wire_written(part);
        }
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        let result = self.io.flush();
        self.seen(result)
    }
}

/// The first `count` bytes of `bufs`, in parts; all of them, if there are fewer.
pub(crate) fn first_bytes<'b>(
    bufs: &'b [IoSlice<'_>],
    mut count: usize,
) -> impl Iterator<Item = &'b [u8]> {
    bufs.iter().map_while(move |buf| {
        let part = buf.get(..count).unwrap_or(buf);
        count -= part.len();
        (!part.is_empty() || count > 0).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_of_parts() {
        let bufs = [b"ab".as_slice(), b"", b"cde", b"f"].map(IoSlice::new);
        for (count, expected) in [(0, ""), (1, "a"), (2, "ab"), (3, "abc"), (6, "abcdef")] {
            let found: Vec<u8> = first_bytes(&bufs, count).flatten().copied().collect();
            assert_eq!(found, expected.as_bytes());
        }
        assert_eq!(first_bytes(&bufs, 9).flatten().count(), 6);
    }

    #[test]
    fn records_are_read_however_they_are_cut() {
        // An alert, a ClientHello in two records, and what never is one.
        let mut hello = vec![1, 0, 0, 41, 3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
        assert_eq!(hello.len(), 45);
        let mut bytes = vec![21, 3, 1, 0, 2, 1, 0];
        for part in [&hello[..20], &hello[20..]] {
            bytes.extend([22, 3, 1, 0]);
            bytes.push(u8::try_from(part.len()).unwrap());
            bytes.extend(part);
        }
        bytes.extend([23, 3, 3, 0, 1, 1]);
        for step in [1, 2, 5, 7, bytes.len()] {
            let mut tee = Tee::new(Role::Server);
            bytes.chunks(step).for_each(|part| tee.read(part));
            assert_eq!(tee.known().client_random, Some([7; 32]), "cut by {step}");
            // The other direction is the server's.
            let mut tee = Tee::new(Role::Client);
            bytes.chunks(step).for_each(|part| tee.read(part));
            assert_eq!(tee.known(), Known::default());
        }
    }
}
