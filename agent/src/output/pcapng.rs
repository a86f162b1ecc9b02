//! Capture files in the format pcapng (draft-ietf-opsawg-pcapng), as Wireshark and Suricata read them.
//!
//! One section, one Ethernet interface with times in nanoseconds, then a packet block for each packet. The file
//! is complete after every flush: a reader may follow it while it is written.

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness};

use crate::event::{Packet, PacketSink, WallTime};

/// In all interface blocks of all files: libpcap refuses a file in which they differ. Larger than any frame.
const SNAPLEN: u32 = 262_144;

/// A packet's block (section 4.3 of the draft).
const ENHANCED_PACKET: u32 = 6;

/// Holds some 40 full frames; a pipe's reader waits for no more than this before a flush.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes packets to a capture file or a pipe, buffered.
///
/// A pipe whose reader has gone reports [`io::ErrorKind::BrokenPipe`], as any writer does.
pub struct PcapngWriter<W: Write> {
    writer: PcapNgWriter<BufWriter<W>>,
}

impl<W: Write> std::fmt::Debug for PcapngWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PcapngWriter").finish_non_exhaustive()
    }
}

impl<W: Write> PcapngWriter<W> {
    /// Writes the header blocks.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn new(writer: W) -> io::Result<Self> {
        let application = concat!("sslcollector ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::Big,
            options: vec![SectionHeaderOption::UserApplication(application.into())],
            ..Default::default()
        };
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: SNAPLEN,
            options: vec![
                InterfaceDescriptionOption::IfName("mirror".into()),
                InterfaceDescriptionOption::IfDescription("TLS clear text, forged packets".into()),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            ],
        };
        let buffer = BufWriter::with_capacity(BUFFER_BYTES, writer);
        let mut writer =
            PcapNgWriter::with_section_header(buffer, section).map_err(into_io_error)?;
        writer
            .write_pcapng_block(interface)
            .map_err(into_io_error)?;
        Ok(Self { writer })
    }

    /// The writer below.
    pub fn get_mut(&mut self) -> &mut W {
        self.writer.get_mut().get_mut()
    }

    /// Says in the capture that packets are missing from here on, and why; `missing` are so many in all.
    ///
    /// # Errors
    /// What the writer reports.
    pub(super) fn missing(&mut self, at: WallTime, missing: u64, words: &str) -> io::Result<()> {
        let comment = CommonOption::Comment(Cow::Borrowed(words));
        let block = InterfaceStatisticsBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(at.0),
            options: vec![
                InterfaceStatisticsOption::IsbIfDrop(missing),
                InterfaceStatisticsOption::Common(comment),
            ],
        };
        let written = self.writer.write_pcapng_block(block);
        written.map(drop).map_err(into_io_error)
    }

    /// Flushes, and gives the writer back.
    ///
    /// # Errors
    /// What the writer reports.
    pub fn into_inner(self) -> io::Result<W> {
        self.writer
            .into_inner()
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
    }
}

impl PcapngWriter<Vec<u8>> {
    /// Bytes that were written to memory, buffered ones included.
    pub(super) fn waiting_bytes(&self) -> usize {
        let buffer = self.writer.get_ref();
        buffer.get_ref().len() + buffer.buffer().len()
    }
}

/// The blocks in what a [`PcapngWriter`] has written, and where each begins.
pub(super) fn blocks(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let length: [u8; 4] = *bytes.get(at + 4..)?.first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        let block = bytes
            .get(at..at + length)
            .filter(|block| !block.is_empty())?;
        let start = at;
        at += length;
        Some((start, block))
    })
}

/// The frame in a block, if it is one of a packet: behind type, length, interface, time, and two lengths.
pub(super) fn frame(block: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_be_bytes(*block.get(at..)?.first_chunk()?));
    let captured = usize::try_from(word(20)?).ok()?;
    match word(0)? {
        ENHANCED_PACKET => block.get(28..28 + captured),
        _ => None,
    }
}

impl<W: Write> PacketSink for PcapngWriter<W> {
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        let comment =
            |text| EnhancedPacketOption::Common(CommonOption::Comment(Cow::Borrowed(text)));
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(packet.at.0),
            original_len: u32::try_from(packet.frame.len()).map_err(io::Error::other)?,
            data: Cow::Borrowed(packet.frame),
            options: packet.comment.map(comment).into_iter().collect(),
        };
        self.writer
            .write_pcapng_block(block)
            .map_err(into_io_error)?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }
}

/// The library's error type has no public name; what the writer reported is its source, whose kind is kept.
fn into_io_error(error: impl Error + Send + Sync + 'static) -> io::Error {
    let kind = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .map_or(io::ErrorKind::Other, io::Error::kind);
    io::Error::new(kind, error)
}
