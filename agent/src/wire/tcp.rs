//! TCP headers (RFC 9293).

use super::checksum::Checksum;

/// Bytes of a header without options.
pub const TCP_HEADER_BYTES: usize = 20;
/// Bytes of a SYN's header: MSS, NOP and window scale take two words.
pub const TCP_SYN_HEADER_BYTES: usize = 28;

/// Constant in every segment: a window that never shrinks is never reported.
const WINDOW: u16 = 65_535;
/// The largest there is (RFC 7323 section 2.3): 1 GiB may be on its way.
const WINDOW_SCALE: u8 = 14;

const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 3;

/// A sequence number: counts bytes modulo 2^32 (RFC 9293 section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqNumber(pub u32);

impl SeqNumber {
    /// The number `bytes` later in the stream. Running over 2^32 is ordinary.
    #[must_use]
    pub fn advance(self, bytes: u64) -> Self {
        let [.., a, b, c, d] = bytes.to_be_bytes();
        Self(self.0.wrapping_add(u32::from_be_bytes([a, b, c, d])))
    }
}

/// The flags of a segment; only combinations that a forged conversation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpFlags {
    /// The client's first segment. Has no acknowledgment number.
    Syn,
    /// The server's first.
    SynAck,
    /// Any later one.
    Ack,
    /// The last one of a record.
    PshAck,
    /// A side says no more.
    FinAck,
    /// The conversation ends here.
    RstAck,
}

impl TcpFlags {
    /// True for the first segment of either side: it carries the options.
    pub fn is_syn(self) -> bool {
        matches!(self, Self::Syn | Self::SynAck)
    }

    /// What the segment adds to the sequence number besides its payload (RFC 9293 section 3.4).
    pub fn sequence_bytes(self) -> u64 {
        match self {
            Self::Syn | Self::SynAck | Self::FinAck => 1,
            Self::Ack | Self::PshAck | Self::RstAck => 0,
        }
    }

    fn bits(self) -> u8 {
        const FIN: u8 = 1;
        const SYN: u8 = 1 << 1;
        const RST: u8 = 1 << 2;
        const PSH: u8 = 1 << 3;
        const ACK: u8 = 1 << 4;
        match self {
            Self::Syn => SYN,
            Self::SynAck => SYN | ACK,
            Self::Ack => ACK,
            Self::PshAck => PSH | ACK,
            Self::FinAck => FIN | ACK,
            Self::RstAck => RST | ACK,
        }
    }
}

/// A TCP header. Window 65,535, no urgent data, no timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpRepr {
    /// Port of who sends.
    pub source_port: u16,
    /// Port of who receives.
    pub destination_port: u16,
    /// Number of the first byte (or of the SYN, FIN).
    pub sequence: SeqNumber,
    /// The next number expected from the other side; written as 0 in a SYN, which acknowledges nothing.
    pub acknowledgment: SeqNumber,
    /// What the segment is.
    pub flags: TcpFlags,
    /// Largest payload that this side takes; written in SYN and SYN-ACK.
    pub mss: u16,
}

impl TcpRepr {
    /// Bytes of the header that [`emit`](Self::emit) writes.
    pub fn header_bytes(&self) -> usize {
        if self.flags.is_syn() {
            TCP_SYN_HEADER_BYTES
        } else {
            TCP_HEADER_BYTES
        }
    }

    /// Writes the header in front of the payload that `segment` holds already, with the checksum
    /// over both.
    ///
    /// `pseudo_header` is the IP layer's part of the sum.
    ///
    /// # Panics
    /// If `segment` is shorter than the header.
    pub fn emit(&self, segment: &mut [u8], pseudo_header: Checksum) {
        let acknowledgment = if self.flags == TcpFlags::Syn {
            0
        } else {
            self.acknowledgment.0
        };
        // The offset counts words of 4 bytes in the upper half of its byte.
        let data_offset = if self.flags.is_syn() { 7 << 4 } else { 5 << 4 };
        segment[0..2].copy_from_slice(&self.source_port.to_be_bytes());
        segment[2..4].copy_from_slice(&self.destination_port.to_be_bytes());
        segment[4..8].copy_from_slice(&self.sequence.0.to_be_bytes());
        segment[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
        segment[12] = data_offset;
        segment[13] = self.flags.bits();
        segment[14..16].copy_from_slice(&WINDOW.to_be_bytes());
        segment[16..20].fill(0);
        if self.flags.is_syn() {
            let [high, low] = self.mss.to_be_bytes();
            segment[20..28].copy_from_slice(&[
                OPTION_MSS,
                4,
                high,
                low,
                OPTION_NOP,
                OPTION_WINDOW_SCALE,
                3,
                WINDOW_SCALE,
            ]);
        }
        let mut sum = pseudo_header;
        sum.add(segment);
        segment[16..18].copy_from_slice(&sum.finish().to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        assert_eq!(SeqNumber(u32::MAX).advance(1), SeqNumber(0));
        assert_eq!(SeqNumber(5).advance(1 << 32), SeqNumber(5));
        assert_eq!(
            SeqNumber(u32::MAX - 9).advance((1 << 33) + 12),
            SeqNumber(2)
        );
    }
}
