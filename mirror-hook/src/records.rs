//! What a connection tells, as records of the ring.

use crate::event::{Direction, Meta};
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
            let mut written = write(self.ring, record, &parts);
            if written == Err(Refused::Full) {
                written = write_late(self.ring, record, &parts, &mut wait);
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
        let _ = write(self.ring, self.record(kind::LOST), &parts);
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

/// Writes an OPEN or UPDATE; `false`: there is no room, try again later.
pub(crate) fn write_meta(ring: &Ring, kind: u8, connection: u64, meta: &Meta<'_>) -> bool {
    let record = Record {
        kind,
        flags: 0,
        connection,
        at_ns: process::now_ns(),
    };
    let parts = [&meta.encode_fixed()[..], meta.sni, meta.alpn];
    match write(ring, record, &parts) {
        Err(Refused::Full) => write_late(ring, record, &parts, &mut Wait::default()),
        result => result,
    }
    .is_ok()
}

pub(crate) fn write_close(ring: &Ring, closed: &ClosedConnection) -> Result<(), Refused> {
    let record = Record {
        kind: kind::CLOSE,
        flags: 0,
        connection: closed.connection,
        at_ns: closed.at_ns,
    };
    let reason = closed.reason as u64;
    let parts = [
        &closed.sent.to_ne_bytes()[..],
        &closed.received.to_ne_bytes(),
        &reason.to_ne_bytes(),
    ];
    write(ring, record, &parts)
}

/// For a record that found no room: writes it once there is some, if this process is to wait for that.
#[cold]
fn write_late(
    ring: &Ring,
    record: Record,
    parts: &[&[u8]],
    wait: &mut Wait,
) -> Result<(), Refused> {
    let body = parts.iter().map(|part| part.len()).sum();
    while ring.patience.wait(&ring.producer, body, wait) {
        match write(ring, record, parts) {
            // Others were faster.
            Err(Refused::Full) => {}
            result => return result,
        }
    }
    Err(Refused::Full)
}

fn write(ring: &Ring, record: Record, parts: &[&[u8]]) -> Result<(), Refused> {
    let result = ring.producer.write(record, parts);
    if matches!(result, Err(Refused::Hostile)) {
        process::turn_off();
    }
    result
}
