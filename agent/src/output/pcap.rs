//! Captures in the old format (draft-ietf-opsawg-pcap), which every reader of streams takes. Times are in
//! microseconds, since not all know the other kind; comments have no place in it.
//!
//! ```text
//! 24 bytes: magic, version, reserved, largest packet, Ethernet;  then for each packet 16 bytes and the frame
//! ```

use std::io::{self, BufWriter, Write};

use super::PcapngWriter;
use crate::event::{Packet, PacketSink};

const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const LINKTYPE_ETHERNET: u32 = 1;
/// Larger than any frame.
const SNAPLEN: u32 = 262_144;
const BUFFER_BYTES: usize = 64 << 10;

/// Writes packets in the old format, buffered.
#[derive(Debug)]
pub struct PcapWriter<W: Write> {
    writer: BufWriter<W>,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn new(writer: W) -> io::Result<Self> {
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
        let mut header = [0; 24];
        header[0..4].copy_from_slice(&MAGIC_MICROSECONDS.to_le_bytes());
        header[4..6].copy_from_slice(&2_u16.to_le_bytes());
        header[6..8].copy_from_slice(&4_u16.to_le_bytes());
        header[16..20].copy_from_slice(&SNAPLEN.to_le_bytes());
        header[20..24].copy_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
        writer.write_all(&header)?;
        Ok(Self { writer })
    }

    /// The writer below.
    pub fn get_mut(&mut self) -> &mut W {
        self.writer.get_mut()
    }
}

impl<W: Write> PacketSink for PcapWriter<W> {
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        let bytes = u32::try_from(packet.frame.len()).map_err(io::Error::other)?;
        let microseconds = packet.at.0 / 1000;
        // The field ends in 2106.
        let seconds = u32::try_from(microseconds / 1_000_000).unwrap_or(u32::MAX);
        let rest = u32::try_from(microseconds % 1_000_000).unwrap_or(0);
        let mut header = [0; 16];
        for (to, value) in header
            .chunks_exact_mut(4)
            .zip([seconds, rest, bytes, bytes])
        {
            to.copy_from_slice(&value.to_le_bytes());
        }
        self.writer.write_all(&header)?;
        self.writer.write_all(packet.frame)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Which format a capture has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureFormat {
    /// The old one.
    #[default]
    Pcap,
    /// The newer one, with comments and nanoseconds.
    Pcapng,
}

/// Writes a capture in either format.
#[derive(Debug)]
pub enum CaptureWriter<W: Write> {
    /// The old one.
    Pcap(PcapWriter<W>),
    /// The newer one.
    Pcapng(PcapngWriter<W>),
}

impl<W: Write> CaptureWriter<W> {
    /// Writes what comes first in this format.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn new(format: CaptureFormat, writer: W) -> io::Result<Self> {
        Ok(match format {
            CaptureFormat::Pcap => Self::Pcap(PcapWriter::new(writer)?),
            CaptureFormat::Pcapng => Self::Pcapng(PcapngWriter::new(writer)?),
        })
    }

    /// The writer below.
    pub fn get_mut(&mut self) -> &mut W {
        match self {
            Self::Pcap(writer) => writer.get_mut(),
            Self::Pcapng(writer) => writer.get_mut(),
        }
    }
}

impl<W: Write> PacketSink for CaptureWriter<W> {
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        match self {
            Self::Pcap(writer) => writer.packet(packet),
            Self::Pcapng(writer) => writer.packet(packet),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Pcap(writer) => writer.flush(),
            Self::Pcapng(writer) => writer.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::WallTime;

    #[test]
    fn a_packet_with_its_headers() {
        let mut writer = CaptureWriter::new(CaptureFormat::Pcap, Vec::new()).unwrap();
        let packet = Packet {
            at: WallTime(5_000_007_999),
            frame: b"frame",
            comment: Some("has no place"),
        };
        writer.packet(packet).unwrap();
        writer.flush().unwrap();
        let bytes = writer.get_mut();
        assert_eq!(bytes[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
        assert_eq!(bytes[20..24], [1, 0, 0, 0]);
        assert_eq!(
            bytes[24..40],
            [5, 0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0]
        );
        assert_eq!(&bytes[40..], b"frame");
    }
}
