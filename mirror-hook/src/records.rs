//! What a connection tells, as records of the ring.

use crate::event::{CloseReason, Direction, Meta};
use crate::layout::{FLAG_RECEIVED, MAX_PAYLOAD, control, kind};
use crate::patience::Wait;
use crate::process::{self, Ring};
use crate::ring::{ClosedConnection, Record, Refused};

/// Where the next clear text of a connection belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) ring: &'static Ring,
    pub(crate) connection: u64,
    pub(crate) direction: Direction,
    pub(crate) from: u64,
}

impl Place {
    /// Copies the clear text of one call, in records of at most [`MAX_PAYLOAD`] bytes. What finds no
    /// room is counted; the offset of what comes next shows the hole.
    pub(crate) fn copy(&self, bytes: &[u8]) {
        let record = self.record(kind::DATA);
        let mut offset = self.from;
        let mut wait = Wait::default();
        for chunk in bytes.chunks(MAX_PAYLOAD) {
            let parts = [&offset.to_ne_bytes()[..], chunk];
            let producer = &self.ring.producer;
            let mut written = checked(producer.write(record, &parts));
            if written == Err(Refused::Full) {
                let fits = || producer.fits(8 + chunk.len());
                let write = || producer.write(record, &parts);
                written = write_late(self.ring, &mut wait, fits, write);
            }
            match written {
                Ok(()) => {}
                Err(Refused::Full) => {
                    self.ring.count(control::DROPPED_RECORDS, 1);
                    self.ring.count(control::DROPPED_BYTES, chunk.len() as u64);
                }
                Err(Refused::Detached | Refused::Hostile) => return,
            }
            offset = offset.wrapping_add(chunk.len() as u64);
        }
    }

    /// Tells the agent of a hole. If that finds no room, the offset of what comes next does.
    pub(crate) fn declare_lost(&self, bytes: u64) {
        let to = self.from.saturating_add(bytes);
        let parts = [&self.from.to_ne_bytes()[..], &to.to_ne_bytes()];
        let _ = checked(self.ring.producer.write(self.record(kind::LOST), &parts));
    }

    fn record(&self, kind: u8) -> Record {
        Record {
            kind,
            flags: match self.direction {
                Direction::Sent => 0,
                Direction::Received => FLAG_RECEIVED,
            },
            connection: self.connection,
            at_ns: process::now_ns(),
        }
    }
}

/// Writes an OPEN; `false`: there is no room, try again later.
#[inline(never)]
pub(crate) fn write_open(ring: &Ring, connection: u64, meta: &Meta<'_>) -> bool {
    let record = record(kind::OPEN, connection, process::now_ns());
    let parts = [&meta.encode_fixed()[..], meta.sni, meta.alpn];
    let length = parts.iter().map(|part| part.len()).sum();
    let producer = &ring.producer;
    write_meta(
        ring,
        || producer.fits_open(length),
        || producer.open(record, &parts),
    )
}

/// Writes an UPDATE; `false`: there is no room, try again later.
#[inline(never)]
pub(crate) fn write_update(ring: &Ring, connection: u64, meta: &Meta<'_>) -> bool {
    let record = record(kind::UPDATE, connection, process::now_ns());
    let parts = [&meta.encode_fixed()[..], meta.sni, meta.alpn];
    let length = parts.iter().map(|part| part.len()).sum();
    let producer = &ring.producer;
    write_meta(
        ring,
        || producer.fits(length),
        || producer.write(record, &parts),
    )
}

/// Writes a part of a look; `false`: there is no room, or no agent.
pub(crate) fn write_look(ring: &Ring, connection: u64, part: &[u8]) -> bool {
    let record = record(kind::LOOK, connection, process::now_ns());
    checked(ring.producer.write(record, &[part])).is_ok()
}

fn write_meta(
    ring: &Ring,
    fits: impl Fn() -> bool,
    write: impl Fn() -> Result<(), Refused>,
) -> bool {
    match checked(write()) {
        Err(Refused::Full) => write_late(ring, &mut Wait::default(), fits, write),
        result => result,
    }
    .is_ok()
}

/// Writes a CLOSE. The one that ends the connection takes the room that its OPEN has kept, or, should
/// other threads keep it from that, an entry of the close table. False: the end of one direction found no
/// room; what ends the connection tells it.
pub(crate) fn write_close(ring: &Ring, closed: &ClosedConnection) -> bool {
    let record = record(kind::CLOSE, closed.connection, closed.at_ns);
    let reason = closed.reason as u32;
    let parts = [
        &closed.sent.to_ne_bytes()[..],
        &closed.received.to_ne_bytes(),
        &reason.to_ne_bytes(),
        &process::forks().to_ne_bytes(),
    ];
    let producer = &ring.producer;
    match closed.reason {
        CloseReason::SentEnd | CloseReason::ReceivedEnd => {
            !matches!(checked(producer.write(record, &parts)), Err(Refused::Full))
        }
        _ => match checked(producer.close(record, &parts)) {
            Err(Refused::Full) => producer.table_close(closed),
            _ => true,
        },
    }
}

/// For a record that found no room: writes it once it fits, if this process is to wait for that.
#[cold]
fn write_late(
    ring: &Ring,
    wait: &mut Wait,
    fits: impl Fn() -> bool,
    write: impl Fn() -> Result<(), Refused>,
) -> Result<(), Refused> {
    while ring.patience.wait(&ring.producer, &fits, wait) {
        match checked(write()) {
            // Others were faster.
            Err(Refused::Full) => {}
            result => return result,
        }
    }
    Err(Refused::Full)
}

fn record(kind: u8, connection: u64, at_ns: u64) -> Record {
    Record {
        kind,
        flags: 0,
        connection,
        at_ns,
    }
}

/// Corrupt shared memory turns the mirror off.
fn checked(result: Result<(), Refused>) -> Result<(), Refused> {
    if matches!(result, Err(Refused::Hostile)) {
        process::turn_off();
    }
    result
}
