//! Reads capture files: pcapng as the agent writes it.
//!
//! Written from draft-ietf-opsawg-pcapng, not from the agent's writer, so that a mistake of one doesn't
//! hide in the other. It is strict: what it doesn't know how to read, or what Wireshark would only
//! tolerate, is an error.

use std::path::Path;

/// A whole capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// In the order of their blocks.
    pub interfaces: Vec<Interface>,
    /// In the order of the file.
    pub packets: Vec<Packet>,
}

/// An interface description block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// LINKTYPE_ number; Ethernet is 1.
    pub link_type: u16,
    /// 0: no limit.
    pub snap_length: u32,
    /// Time units a second.
    units_per_second: u64,
}

/// An enhanced packet block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// All comment options, joined by line feeds.
    pub comment: Option<String>,
    /// The captured bytes; never shorter than the original packet (that is refused).
    pub frame: Vec<u8>,
}

/// Why a file isn't a capture as we want it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file can't be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The file ends in the middle of a block, or is empty.
    #[error("the file ends inside the block at byte {0}")]
    Truncated(usize),
    /// A block that breaks the format.
    #[error("block at byte {at}: {what}")]
    Bad {
        /// Position of the block.
        at: usize,
        /// What is wrong with it.
        what: String,
    },
}

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const OPT_COMMENT: u16 = 1;
const OPT_TSRESOL: u16 = 9;

impl Capture {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        Self::parse(&std::fs::read(path)?)
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn parse(file: &[u8]) -> Result<Self, ReadError> {
        let mut capture = Self::default();
        let mut at = 0;
        let mut order = Order::Little;
        while at < file.len() || at == 0 {
            let head = file.get(at..at + 12).ok_or(ReadError::Truncated(at))?;
            let bad = |what: String| ReadError::Bad { at, what };
            if at == 0 {
                order = Order::of(head).ok_or(bad("no pcapng section".into()))?;
            }
            let (kind, length) = (order.word(head, 0), order.word(head, 4) as usize);
            if length < 12 || !length.is_multiple_of(4) {
                return Err(bad(format!("impossible length {length}")));
            }
            let block = file.get(at..at + length).ok_or(ReadError::Truncated(at))?;
            if order.word(block, length - 4) as usize != length {
                return Err(bad("its two lengths differ".into()));
            }
            let body = &block[8..length - 4];
            match kind {
                SECTION_HEADER if at > 0 => return Err(bad("a second section".into())),
                SECTION_HEADER | STATISTICS => {}
                INTERFACE => capture
                    .interfaces
                    .push(interface(body, order).map_err(bad)?),
                ENHANCED_PACKET => {
                    let packet = packet(body, order, &capture.interfaces).map_err(bad)?;
                    capture.packets.push(packet);
                }
                other => return Err(bad(format!("unexpected block type {other:#x}"))),
            }
            at += length;
        }
        Ok(capture)
    }
}

fn interface(body: &[u8], order: Order) -> Result<Interface, String> {
    let fixed = body.get(..8).ok_or("too short for an interface")?;
    let mut units_per_second = 1_000_000;
    for (code, value) in options(&body[8..], order)? {
        if code == OPT_TSRESOL {
            units_per_second = match value {
                [power] if power & 0x80 == 0 => 10u64.checked_pow(u32::from(*power)),
                [power] => 1u64.checked_shl(u32::from(power & 0x7f)),
                _ => None,
            }
            .ok_or("impossible if_tsresol")?;
        }
    }
    Ok(Interface {
        link_type: order.half(fixed, 0),
        snap_length: order.word(fixed, 4),
        units_per_second,
    })
}

fn packet(body: &[u8], order: Order, interfaces: &[Interface]) -> Result<Packet, String> {
    let fixed = body.get(..20).ok_or("too short for a packet")?;
    let interface = interfaces
        .get(order.word(fixed, 0) as usize)
        .ok_or("an interface that wasn't described")?;
    let units = u64::from(order.word(fixed, 4)) << 32 | u64::from(order.word(fixed, 8));
    let at_ns = u128::from(units) * 1_000_000_000 / u128::from(interface.units_per_second);
    let (captured, original) = (
        order.word(fixed, 12) as usize,
        order.word(fixed, 16) as usize,
    );
    if captured != original {
        return Err(format!("{captured} of {original} bytes captured"));
    }
    let frame = body.get(20..20 + captured).ok_or("packet is cut")?;
    let rest = body
        .get(20 + captured.next_multiple_of(4)..)
        .ok_or("padding is cut")?;
    let mut comments = Vec::new();
    for (code, value) in options(rest, order)? {
        if code == OPT_COMMENT {
            comments.push(std::str::from_utf8(value).map_err(|_| "comment isn't UTF-8")?);
        }
    }
    Ok(Packet {
        at_ns: u64::try_from(at_ns).map_err(|_| "time out of range")?,
        comment: (!comments.is_empty()).then(|| comments.join("\n")),
        frame: frame.to_vec(),
    })
}

fn options(mut rest: &[u8], order: Order) -> Result<Vec<(u16, &[u8])>, String> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let head = rest.get(..4).ok_or("option is cut")?;
        let code = order.half(head, 0);
        let length = usize::from(order.half(head, 2));
        if code == 0 {
            return if rest.len() == 4 && length == 0 {
                Ok(found)
            } else {
                Err("bytes behind the end of options".into())
            };
        }
        found.push((code, rest.get(4..4 + length).ok_or("option is cut")?));
        rest = rest
            .get(4 + length.next_multiple_of(4)..)
            .ok_or("option's padding is cut")?;
    }
    Ok(found)
}

/// The byte order of a section, which its writer chooses.
#[derive(Clone, Copy, Debug)]
enum Order {
    Little,
    Big,
}

impl Order {
    /// That of the section header block which begins with these 12 bytes.
    fn of(head: &[u8]) -> Option<Self> {
        let begins = [Self::Little, Self::Big].into_iter();
        let mut matching = begins.filter(|order| {
            order.word(head, 0) == SECTION_HEADER && order.word(head, 8) == BYTE_ORDER_MAGIC
        });
        matching.next()
    }

    /// The word at `at`, which the caller knows to be there.
    fn word(self, bytes: &[u8], at: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[at..at + 4]);
        match self {
            Self::Little => u32::from_le_bytes(word),
            Self::Big => u32::from_be_bytes(word),
        }
    }

    /// The half word at `at`, which the caller knows to be there.
    fn half(self, bytes: &[u8], at: usize) -> u16 {
        let half = [bytes[at], bytes[at + 1]];
        match self {
            Self::Little => u16::from_le_bytes(half),
            Self::Big => u16::from_be_bytes(half),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth;

    #[test]
    fn reads_what_it_was_given() {
        let capture = synth::capture(&synth::conversation());
        assert_eq!(Capture::parse(&synth::pcapng(&capture)).unwrap(), capture);
    }

    #[test]
    fn every_cut_and_a_wrong_length_are_errors() {
        let mut capture = synth::capture(&synth::conversation());
        capture.packets.truncate(1);
        let file = synth::pcapng(&capture);
        let (section, interface) = (28, 28 + 32);
        for cut in (0..file.len()).filter(|cut| ![section, interface].contains(cut)) {
            assert!(Capture::parse(&file[..cut]).is_err(), "cut at {cut}");
        }
        let mut file = file;
        let last = file.len() - 4;
        file[last] ^= 4;
        assert!(Capture::parse(&file).is_err());
    }
}
