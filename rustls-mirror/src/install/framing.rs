//! Where handshake messages begin and end in a stream of them.

/// Finished (RFC 8446 4).
pub(super) const FINISHED: u8 = 20;
/// EndOfEarlyData.
pub(super) const END_OF_EARLY_DATA: u8 = 5;
/// KeyUpdate.
pub(super) const KEY_UPDATE: u8 = 24;
/// EncryptedExtensions.
pub(super) const ENCRYPTED_EXTENSIONS: u8 = 8;
/// ServerHello.
pub(super) const SERVER_HELLO: u8 = 2;
/// CertificateVerify.
pub(super) const CERTIFICATE_VERIFY: u8 = 15;
/// ClientKeyExchange (RFC 5246 7.4).
pub(super) const CLIENT_KEY_EXCHANGE: u8 = 16;

/// Reads the headers of handshake messages that come in pieces, and keeps nothing else of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Framing {
    header: [u8; 4],
    have: usize,
    body_left: usize,
    last: Option<u8>,
}

impl Framing {
    /// The type of the last message, if the stream stands at its end.
    pub(super) fn last(&self) -> Option<u8> {
        self.last.filter(|_| self.have == 0)
    }

    /// The next bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *first;
                self.have += 1;
                bytes = rest;
                if self.have < self.header.len() {
                    continue;
                }
                let [_, a, b, c] = self.header;
                self.body_left = usize::from(a) * 65536 + usize::from(b) * 256 + usize::from(c);
            }
            let passed = self.body_left.min(bytes.len());
            self.body_left -= passed;
            bytes = bytes.get(passed..).unwrap_or_default();
            if self.body_left == 0 {
                self.last = Some(self.header[0]);
                self.have = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_message_is_known_however_it_is_cut() {
        let mut bytes = vec![14, 0, 0, 0, 16, 0, 1, 2];
        bytes.extend([7; 258]);
        bytes.extend([24, 0, 0, 1, 0]);
        for step in [1, 2, 3, 5, 100, bytes.len()] {
            let mut framing = Framing::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(step) {
                framing.feed(part);
                if framing.last() != seen.last().copied() {
                    seen.extend(framing.last());
                }
            }
            assert_eq!(framing.last(), Some(KEY_UPDATE), "cut by {step}");
            if step == 1 {
                assert_eq!(seen, [14, CLIENT_KEY_EXCHANGE, KEY_UPDATE]);
            }
        }
        let mut framing = Framing::default();
        framing.feed(&bytes[..6]);
        assert_eq!(framing.last(), None, "in the middle of a message");
    }
}
