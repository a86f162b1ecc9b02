//! How a ring gets to the agent: one message over a Unix socket, with the memfd, and no reply.

use crate::layout::{ABI_VERSION, BOOTSTRAP_BYTES, CONTROL_BYTES, MAGIC, MAX_DATA_BYTES};

/// What the hook sends along with its memfd, in one SOCK_SEQPACKET message with one descriptor.
///
/// ```text
///   0 u64 magic    8 u32 abi_version    12 u32 control_bytes    16 u64 data_bytes
///   24 u64 instance    32 u64 parent_instance or 0    40 [u64; 3] 0
/// ```
///
/// The byte order is the machine's. The control page says the same, but may change at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachMessage {
    /// Size of the ring's region in the memfd.
    pub data_bytes: u64,
    /// Of this ring; never 0.
    pub instance: u64,
    /// Of the ring of the process that forked this one.
    pub parent_instance: Option<u64>,
}

/// A message that no hook of this version sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Too short, too long, or another magic number.
    #[error("{0} bytes that are no attach message")]
    NotAMessage(usize),
    /// A hook of another version.
    #[error("the hook speaks version {0}, this agent speaks version {ABI_VERSION}")]
    OtherVersion(u32),
    /// A field has a value that no hook sends.
    #[error("{field} can't be {value}")]
    BadField {
        /// Its name in the drawing.
        field: &'static str,
        /// What stood there.
        value: u64,
    },
}

impl AttachMessage {
    /// Length of the message.
    pub const BYTES: usize = 64;

    /// The message as it is sent.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "CONTROL_BYTES is 64 KiB, a constant"
    )]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        out[8..12].copy_from_slice(&ABI_VERSION.to_ne_bytes());
        out[12..16].copy_from_slice(&(CONTROL_BYTES as u32).to_ne_bytes());
        out[16..24].copy_from_slice(&self.data_bytes.to_ne_bytes());
        out[24..32].copy_from_slice(&self.instance.to_ne_bytes());
        out[32..40].copy_from_slice(&self.parent_instance.unwrap_or(0).to_ne_bytes());
        out
    }

    /// Reads a message; `bytes` is the whole of it.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AttachError> {
        let not_one = AttachError::NotAMessage(bytes.len());
        let message: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| not_one)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&message[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        let half = |at: usize| {
            let mut half = [0; 4];
            half.copy_from_slice(&message[at..at + 4]);
            u32::from_ne_bytes(half)
        };
        if word(0) != MAGIC {
            return Err(not_one);
        }
        if half(8) != ABI_VERSION {
            return Err(AttachError::OtherVersion(half(8)));
        }
        let bad = |field, value| AttachError::BadField { field, value };
        if u64::from(half(12)) != CONTROL_BYTES as u64 {
            return Err(bad("control_bytes", half(12).into()));
        }
        let data_bytes = word(16);
        let valid = data_bytes.is_power_of_two()
            && (BOOTSTRAP_BYTES..=MAX_DATA_BYTES).contains(&data_bytes);
        if !valid {
            return Err(bad("data_bytes", data_bytes));
        }
        if word(24) == 0 {
            return Err(bad("instance", 0));
        }
        Ok(Self {
            data_bytes,
            instance: word(24),
            parent_instance: Some(word(32)).filter(|parent| *parent != 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_round_trip() {
        let message = AttachMessage {
            data_bytes: BOOTSTRAP_BYTES,
            instance: 7,
            parent_instance: Some(6),
        };
        let bytes = message.encode();
        assert_eq!(AttachMessage::parse(&bytes), Ok(message));
        assert!(AttachMessage::parse(&bytes[..63]).is_err());
        for (at, field) in [(0, "magic"), (8, "version"), (12, "control"), (16, "data")] {
            let mut broken = bytes;
            broken[at] ^= 1;
            assert!(AttachMessage::parse(&broken).is_err(), "{field}");
        }
    }
}
