//! One direction of a connection between two changes of its keys: what passes through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mirror_hook::event::{Direction, Role};

use super::desk::{self, Leaving, Place, Seat};
use super::framing::{ENCRYPTED_EXTENSIONS, END_OF_EARLY_DATA, FINISHED, Framing, KEY_UPDATE};
use super::handshake::Phase;

/// Beside an encrypter or decrypter of rustls.
#[derive(Debug)]
pub(super) struct Half {
    direction: Direction,
    seat: Arc<Seat>,
    /// From the first use on.
    place: Place,
    used: bool,
    /// As unpaired.
    counted: bool,
    messages: Framing,
    /// The last record was of the handshake.
    last_was_handshake: bool,
}

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    ApplicationData,
    Alert,
    Handshake,
    Other,
}

/// Halves with application data of which it wasn't known whose they were.
static UNPAIRED: AtomicU64 = AtomicU64::new(0);

/// How many there were. Their text isn't mirrored.
pub(super) fn unpaired() -> u64 {
    UNPAIRED.load(Ordering::Relaxed)
}

impl Half {
    /// rustls makes it now, on this thread.
    pub(super) fn new(direction: Direction, tls13: bool) -> Self {
        Self {
            direction,
            seat: desk::created(direction, tls13),
            place: Place::default(),
            used: false,
            counted: false,
            messages: Framing::default(),
            last_was_handshake: false,
        }
    }

    /// The clear text of a record that was encrypted or decrypted, in pieces.
    pub(super) fn passed<'a>(
        &mut self,
        content: Content,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        if !self.used {
            self.used = true;
            self.place = self.seat.take();
        }
        self.last_was_handshake = content == Content::Handshake;
        match content {
            Content::ApplicationData => {
                let connection = self.place.connection.as_ref();
                let mirrored = connection.is_some_and(|own| own.text(self.direction, pieces));
                if !mirrored && !self.counted {
                    self.counted = true;
                    UNPAIRED.fetch_add(1, Ordering::Relaxed);
                }
            }
            Content::Handshake => {
                for piece in pieces {
                    self.messages.feed(piece);
                }
                self.handshake_passed();
            }
            Content::Alert => self.alert(pieces),
            Content::Other => {}
        }
    }

    fn handshake_passed(&mut self) {
        let Some(connection) = &self.place.connection else {
            return;
        };
        match (self.place.phase, self.messages.last()) {
            (Some(Phase::Whole), Some(FINISHED)) => connection.finished(self.direction),
            (Some(Phase::Handshake), Some(ENCRYPTED_EXTENSIONS)) => {
                connection.is(match self.direction {
                    Direction::Sent => Role::Server,
                    Direction::Received => Role::Client,
                });
            }
            _ => {}
        }
    }

    /// RFC 8446 6: level and description.
    fn alert<'a>(&self, pieces: impl Iterator<Item = &'a [u8]>) {
        const FATAL: u8 = 2;
        const CLOSE_NOTIFY: u8 = 0;
        let mut bytes = pieces.flatten();
        let (Some(level), Some(description)) = (bytes.next(), bytes.next()) else {
            return;
        };
        let Some(connection) = &self.place.connection else {
            return;
        };
        match (*level, *description) {
            (_, CLOSE_NOTIFY) => connection.end(self.direction),
            (FATAL, _) => connection.abort(),
            _ => {}
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        let place = if self.used {
            std::mem::take(&mut self.place)
        } else {
            self.seat.look()
        };
        let last = self.messages.last().filter(|_| self.last_was_handshake);
        desk::dropped(Leaving {
            direction: self.direction,
            ripe: match place.phase {
                Some(Phase::Handshake) => last == Some(FINISHED),
                Some(Phase::Traffic) => last == Some(KEY_UPDATE),
                Some(Phase::Early) => last == Some(END_OF_EARLY_DATA),
                _ => false,
            },
            unused: !self.used,
            place,
        });
    }
}
