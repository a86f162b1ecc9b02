//! Batches: the flow events of one partition, one after the other.
//!
//! ```text
//! event   kind u8 │ side u8 │ flow u64 │ at u64 │ …
//! BEGIN             client 0             length u16 │ postcard of FlowInfo and the base offsets
//! DATA                                   offset u64 │ length u16 (1 to 16,384) │ bytes
//! HOLE                                   offset u64 │ bytes u64 (1 or more)
//! FINISH                                 offset u64: what this side said in all
//! RESET             by whom              offset u64 of the client │ offset u64 of the server
//! ```
//!
//! A `RESET` has a kind for each cause.
//!
//! All numbers are little-endian. Offsets count from the flow's first `BEGIN`, in what the side says; they make
//! each loss on the way exact: what comes next has an offset behind it, and an end has the final one. `BEGIN` of
//! a flow that a collector has never heard of, or no longer knows, may come late: its base says from where on.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::event::{FlowId, FlowInfo, ResetCause, Side, WallTime};

/// A flow belongs to one of these, by its id: the same at both ends of a connection. What isn't in one
/// partition has no order.
pub const PARTITIONS: u16 = 64;
/// Most bytes of events in one batch.
pub const MAX_BATCH_BYTES: usize = 256 * 1024;
/// Most bytes of clear text in one event.
pub const MAX_DATA_BYTES: usize = 16 * 1024;

const BEGIN: u8 = 1;
const DATA: u8 = 2;
const HOLE: u8 = 3;
const FINISH: u8 = 4;
const RESET_ABORT: u8 = 5;
const RESET_DIED: u8 = 6;
const RESET_UNTOLD: u8 = 7;

/// The partition of a flow.
pub fn partition(id: &FlowId) -> u16 {
    u16::from_le_bytes([id.0[0], id.0[1]]) % PARTITIONS
}

/// An event on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelEvent<'a> {
    /// Numbered by the agent's instance; never used again there.
    pub flow: u64,
    /// By the host's clock.
    pub at: WallTime,
    /// What happened.
    pub change: TunnelChange<'a>,
}

/// What happened. Offsets: see the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelChange<'a> {
    /// The flow begins, or is told of again.
    Begin(Box<Begin>),
    /// Clear text.
    Data {
        /// Who speaks.
        from: Side,
        /// Offset of the first byte.
        offset: u64,
        /// 1 to 16,384 bytes.
        bytes: &'a [u8],
    },
    /// Nobody knows what was said here.
    Hole {
        /// Who spoke.
        from: Side,
        /// Offset of the first byte that is missing.
        offset: u64,
        /// How many are missing; at least 1.
        bytes: u64,
    },
    /// A side says no more.
    Finish {
        /// Who.
        from: Side,
        /// What it said in all, in bytes.
        offset: u64,
    },
    /// The flow ends abruptly.
    Reset {
        /// Who ended it.
        by: Side,
        /// Why.
        cause: ResetCause,
        /// What client and server said in all, in bytes.
        offsets: (u64, u64),
    },
}

/// How a flow is told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// What it is.
    pub info: FlowInfo,
    /// Offsets of client and server from which on it is told; 0 for a flow that begins.
    pub base: (u64, u64),
    /// Sides that have finished before: client, server.
    pub finished: (bool, bool),
}

/// A batch that is being filled.
///
/// One batch after the other goes into the same buffer, where it stays until it is dropped: nothing is copied. A
/// batch is full where its buffer ends.
#[derive(Debug, Default)]
pub struct BatchWriter {
    bytes: BytesMut,
    events: u32,
}

/// What one buffer of a [`BatchWriter`] has.
const BUFFER_BYTES: usize = 128 * 1024;
const _: () = assert!(BUFFER_BYTES <= MAX_BATCH_BYTES);
const _: () = assert!(BatchWriter::event_bytes(u16::MAX as usize) <= BUFFER_BYTES);

impl BatchWriter {
    /// Bytes of events so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Events so far.
    pub fn events(&self) -> u32 {
        self.events
    }

    /// Whether an event of so many bytes still fits.
    pub fn has_room(&self, bytes: usize) -> bool {
        match self.is_empty() {
            true => bytes <= BUFFER_BYTES,
            false => self.bytes.len() + bytes <= self.bytes.capacity(),
        }
    }

    /// Bytes that an event takes at most, where `data` is the length of its clear text. (`BEGIN` is measured by
    /// being written.)
    pub const fn event_bytes(data: usize) -> usize {
        18 + 16 + data
    }

    /// Adds an event. False: it can't be written (a `BEGIN` of more than 64 KiB, text of a wrong length), or
    /// there is no room.
    #[must_use]
    pub fn push(&mut self, event: &TunnelEvent<'_>) -> bool {
        let (kind, side) = match &event.change {
            TunnelChange::Begin(_) => (BEGIN, Side::Client),
            TunnelChange::Data { from, .. } => (DATA, *from),
            TunnelChange::Hole { from, .. } => (HOLE, *from),
            TunnelChange::Finish { from, .. } => (FINISH, *from),
            TunnelChange::Reset { by, cause, .. } => (reset(*cause), *by),
        };
        let begin = match &event.change {
            TunnelChange::Begin(begin) => match postcard::to_stdvec(begin) {
                Ok(bytes) => bytes,
                Err(_) => return false,
            },
            _ => Vec::new(),
        };
        let data = match &event.change {
            TunnelChange::Data { bytes, .. } => *bytes,
            _ => &begin,
        };
        let Ok(length) = u16::try_from(data.len()) else {
            return false;
        };
        if !self.has_room(Self::event_bytes(data.len())) {
            return false;
        }
        if kind == DATA && !(1..=MAX_DATA_BYTES).contains(&data.len()) {
            return false;
        }
        let needed = Self::event_bytes(data.len());
        // The same buffer anew, if all that was in it has been dropped.
        if self.bytes.capacity() < needed && !self.bytes.try_reclaim(BUFFER_BYTES) {
            self.bytes = BytesMut::with_capacity(BUFFER_BYTES);
        }
        let bytes = &mut self.bytes;
        bytes.put_u8(kind);
        bytes.put_u8(match side {
            Side::Client => 0,
            Side::Server => 1,
        });
        bytes.put_u64_le(event.flow);
        bytes.put_u64_le(event.at.0);
        match &event.change {
            TunnelChange::Begin(_) => bytes.put_u16_le(length),
            TunnelChange::Data { offset, .. } => {
                bytes.put_u64_le(*offset);
                bytes.put_u16_le(length);
            }
            TunnelChange::Hole {
                offset,
                bytes: hole,
                ..
            } => {
                bytes.put_u64_le(*offset);
                bytes.put_u64_le(*hole);
            }
            TunnelChange::Finish { offset, .. } => bytes.put_u64_le(*offset),
            TunnelChange::Reset { offsets, .. } => {
                bytes.put_u64_le(offsets.0);
                bytes.put_u64_le(offsets.1);
            }
        }
        bytes.put_slice(data);
        self.events += 1;
        true
    }

    /// Takes what is in it, and begins another.
    pub fn take(&mut self) -> Bytes {
        self.events = 0;
        self.bytes.split().freeze()
    }
}

fn reset(cause: ResetCause) -> u8 {
    match cause {
        // What is shown decoded is so behind the tunnel only.
        ResetCause::Abort | ResetCause::Undecoded => RESET_ABORT,
        ResetCause::Died => RESET_DIED,
        ResetCause::Untold => RESET_UNTOLD,
    }
}

/// What is wrong with a batch. Nothing behind the fault can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It ends within an event.
    #[error("the batch ends within an event")]
    Truncated,
    /// No event is of this kind.
    #[error("there is no event of kind {0}")]
    Kind(u8),
    /// Neither client nor server.
    #[error("there is no side {0}")]
    Side(u8),
    /// A length or an offset that can't be.
    #[error("an event has a length or an offset that can't be")]
    Range,
    /// A `BEGIN` that can't be read, or whose addresses are of two families.
    #[error("the beginning of a flow can't be read")]
    Begin,
}

/// Reads the events of a batch, which may come from anybody.
#[derive(Debug)]
pub struct BatchReader<'a> {
    rest: &'a [u8],
}

impl<'a> BatchReader<'a> {
    /// At its first event.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(BatchError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, BatchError> {
        self.take().map(u64::from_le_bytes)
    }

    fn slice(&mut self, length: u16) -> Result<&'a [u8], BatchError> {
        let split = self.rest.split_at_checked(usize::from(length));
        let (slice, rest) = split.ok_or(BatchError::Truncated)?;
        self.rest = rest;
        Ok(slice)
    }

    fn read(&mut self) -> Result<TunnelEvent<'a>, BatchError> {
        let [kind, side] = self.take()?;
        let side = match side {
            0 => Side::Client,
            1 => Side::Server,
            other => return Err(BatchError::Side(other)),
        };
        let flow = self.u64()?;
        let at = WallTime(self.u64()?);
        let change = match kind {
            BEGIN => {
                let length = u16::from_le_bytes(self.take()?);
                let (begin, rest): (Begin, _) = postcard::take_from_bytes(self.slice(length)?)
                    .map_err(|_| BatchError::Begin)?;
                let tuple = begin.info.tuple;
                if !rest.is_empty() || tuple.client.is_ipv4() != tuple.server.is_ipv4() {
                    return Err(BatchError::Begin);
                }
                TunnelChange::Begin(Box::new(begin))
            }
            DATA => {
                let offset = self.u64()?;
                let length = u16::from_le_bytes(self.take()?);
                let bytes = self.slice(length)?;
                let in_range = (1..=MAX_DATA_BYTES).contains(&bytes.len());
                if !in_range || offset.checked_add(u64::from(length)).is_none() {
                    return Err(BatchError::Range);
                }
                TunnelChange::Data {
                    from: side,
                    offset,
                    bytes,
                }
            }
            HOLE => {
                let (offset, bytes) = (self.u64()?, self.u64()?);
                if bytes == 0 || offset.checked_add(bytes).is_none() {
                    return Err(BatchError::Range);
                }
                TunnelChange::Hole {
                    from: side,
                    offset,
                    bytes,
                }
            }
            FINISH => TunnelChange::Finish {
                from: side,
                offset: self.u64()?,
            },
            RESET_ABORT | RESET_DIED | RESET_UNTOLD => TunnelChange::Reset {
                by: side,
                cause: match kind {
                    RESET_ABORT => ResetCause::Abort,
                    RESET_DIED => ResetCause::Died,
                    _ => ResetCause::Untold,
                },
                offsets: (self.u64()?, self.u64()?),
            },
            other => return Err(BatchError::Kind(other)),
        };
        Ok(TunnelEvent { flow, at, change })
    }
}

impl<'a> Iterator for BatchReader<'a> {
    type Item = Result<TunnelEvent<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let event = self.read();
        if event.is_err() {
            self.rest = &[];
        }
        Some(event)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use mirror_hook::event::{Announcement, EarlyData, Role, Transport};
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Binding, ProcessInfo, Proof, Tuple};

    /// A flow like others.
    pub(crate) fn info(number: u8) -> FlowInfo {
        let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        FlowInfo {
            id: FlowId([number; 16]),
            tuple: Tuple {
                client: address("10.0.0.1:40000"),
                server: address("10.0.0.2:443"),
            },
            binding: Binding::Socket,
            proof: Some(Proof::Proven),
            process: Arc::new(ProcessInfo {
                pid: 7,
                uid: 33,
                name: "nginx".into(),
                executable: Some("/usr/sbin/nginx".into()),
                cgroup: Some("/system.slice/nginx.service".into()),
                network_namespace: Some(4_026_531_840),
                network_name: Some("web".into()),
            }),
            role: Role::Server,
            announcement: Announcement::New,
            transport: Transport::Tcp,
            sni: Some("www.example.com".into()),
            alpn: None,
            tls_version: Some(0x0304),
            cipher: Some(0x1301),
            resumed: false,
            early: EarlyData::None,
            clear_prefix: None,
            continued: None,
            ja4: None,
            agent: None,
            real_client: None,
            left_out: None,
            http1: None,
        }
    }

    pub(crate) fn events(text: &[u8]) -> Vec<TunnelEvent<'_>> {
        let begin = Begin {
            info: info(3),
            base: (5, 0),
            finished: (false, true),
        };
        let changes = [
            TunnelChange::Begin(Box::new(begin)),
            TunnelChange::Data {
                from: Side::Client,
                offset: 5,
                bytes: text,
            },
            TunnelChange::Hole {
                from: Side::Server,
                offset: 0,
                bytes: 1 << 40,
            },
            TunnelChange::Finish {
                from: Side::Server,
                offset: 1 << 40,
            },
            TunnelChange::Reset {
                by: Side::Server,
                cause: ResetCause::Abort,
                offsets: (9, 1 << 40),
            },
            TunnelChange::Reset {
                by: Side::Client,
                cause: ResetCause::Died,
                offsets: (0, 0),
            },
            TunnelChange::Reset {
                by: Side::Client,
                cause: ResetCause::Untold,
                offsets: (0, 0),
            },
        ];
        let event = |(number, change)| TunnelEvent {
            flow: 77,
            at: WallTime(number),
            change,
        };
        (1..).zip(changes).map(event).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let text = vec![b'x'; MAX_DATA_BYTES];
        let events = events(&text);
        let mut writer = BatchWriter::default();
        assert!(events.iter().all(|event| writer.push(event)));
        assert_eq!(writer.events(), 7);
        let batch = writer.take();
        assert!(writer.is_empty());
        let read: Result<Vec<_>, _> = BatchReader::new(&batch).collect();
        assert_eq!(read.unwrap(), events);
        for end in 0..batch.len() {
            let read: Vec<_> = BatchReader::new(&batch[..end]).collect();
            let whole = read.iter().filter(|event| event.is_ok()).count();
            assert!(
                whole < events.len(),
                "{end} bytes of {} are enough",
                batch.len()
            );
            assert!(read[..whole].iter().all(Result::is_ok));
        }
    }

    #[test]
    fn a_full_batch_takes_no_more() {
        let text = vec![b'x'; MAX_DATA_BYTES];
        let event = &events(&text)[1];
        let mut writer = BatchWriter::default();
        let taken = (0..100).take_while(|_| writer.push(event)).count();
        assert_eq!(taken, 7);
        assert!(writer.len() <= MAX_BATCH_BYTES);
        // What is left of the buffer is the next batch's, as long as it has room for one event.
        assert!(!writer.take().is_empty());
        assert!(writer.push(event));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_events_or_an_error(bytes: Vec<u8>, kinds in prop::collection::vec(0_u8..9, 0..20)) {
            let mut bytes = bytes;
            for (at, kind) in kinds.into_iter().enumerate() {
                if let Some(byte) = bytes.get_mut(at * 20) {
                    *byte = kind;
                }
            }
            let read: Vec<_> = BatchReader::new(&bytes).collect();
            prop_assert!(read.len() <= bytes.len() / 18 + 1);
        }
    }
}
