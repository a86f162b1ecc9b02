//! The Huffman code of strings (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length follow one another in the order of their symbols, and are above those of the
//! length before. So the lengths are the whole code, and the tables are computed from them.

use super::HpackError;

/// Symbol behind the bytes: end of string, which is never written whole.
const EOS: usize = 256;
const MIN_BITS: u32 = 5;
const MAX_BITS: usize = 30;
/// Codes of at most so many bits are found by one look: all that is printable but a few.
const FAST_BITS: u32 = 10;

/// Bits of each symbol's code, RFC 7541 appendix B.
#[rustfmt::skip]
const LENGTHS: [u8; EOS + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Codes of one length.
#[derive(Clone, Copy)]
struct Group {
    /// The lowest.
    first: u32,
    /// How many.
    count: u32,
    /// Where their symbols begin in [`Code::symbols`].
    index: u32,
}

struct Code {
    groups: [Group; MAX_BITS + 1],
    /// In the order of their codes.
    symbols: [u16; EOS + 1],
    /// What begins with these bits: symbol, and bits of its code; 0: a longer one.
    fast: [(u8, u8); 1 << FAST_BITS],
}

static CODE: Code = Code::new();

impl Code {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "symbols are below 257, and try_from isn't const"
    )]
    const fn new() -> Self {
        let nothing = Group {
            first: 0,
            count: 0,
            index: 0,
        };
        let mut code = Self {
            groups: [nothing; MAX_BITS + 1],
            symbols: [0; EOS + 1],
            fast: [(0, 0); 1 << FAST_BITS],
        };
        let (mut next, mut index, mut bits) = (0_u32, 0_u32, 1);
        while bits <= MAX_BITS {
            next <<= 1;
            code.groups[bits].first = next;
            code.groups[bits].index = index;
            let mut symbol = 0;
            while symbol <= EOS {
                if LENGTHS[symbol] as usize == bits {
                    code.symbols[index as usize] = symbol as u16;
                    if bits <= FAST_BITS as usize {
                        let spare = FAST_BITS - bits as u32;
                        let mut tail = 0;
                        while tail < 1 << spare {
                            code.fast[((next << spare) | tail) as usize] =
                                (symbol as u8, bits as u8);
                            tail += 1;
                        }
                    }
                    next += 1;
                    index += 1;
                }
                symbol += 1;
            }
            code.groups[bits].count = next - code.groups[bits].first;
            bits += 1;
        }
        code
    }

    /// The symbol whose code begins `window`, of which the upper `available` bits are text, and its bits.
    fn long(&self, window: u32, available: u32) -> Option<(u16, u32)> {
        let longest = available.min(30);
        (FAST_BITS + 1..=longest).find_map(|bits| {
            let group = self.groups[bits as usize];
            let place = (window >> (32 - bits)).checked_sub(group.first)?;
            let is_one = place < group.count;
            is_one.then(|| (self.symbols[(group.index + place) as usize], bits))
        })
    }
}

/// Appends what `text` stands for.
///
/// # Errors
/// It has EOS in it, or its end is no padding (RFC 7541 section 5.2), or it stands for more than `most` bytes.
pub(super) fn decode(text: &[u8], most: usize, out: &mut Vec<u8>) -> Result<(), HpackError> {
    let begin = out.len();
    let mut text = text.iter();
    let (mut held, mut available) = (0_u64, 0_u32);
    loop {
        while available <= 56
            && let Some(&byte) = text.next()
        {
            held = (held << 8) | u64::from(byte);
            available += 8;
        }
        if available < MIN_BITS {
            break;
        }
        // The upper bits are the text's, and ones are behind them, which begin no code.
        let window = window(held, available);
        let (symbol, bits) = CODE.fast[(window >> (32 - FAST_BITS)) as usize];
        let (symbol, bits) = match u32::from(bits) {
            0 => match CODE.long(window, available) {
                Some((symbol, bits)) => {
                    (u8::try_from(symbol).map_err(|_| HpackError::Huffman)?, bits)
                }
                None => break,
            },
            bits => (symbol, bits),
        };
        if bits > available {
            break;
        }
        available -= bits;
        if out.len() - begin == most {
            return Err(HpackError::TooLarge);
        }
        out.push(symbol);
    }
    let padding = (1_u64 << available) - 1;
    if available < 8 && held & padding == padding {
        Ok(())
    } else {
        Err(HpackError::Huffman)
    }
}

/// The next 32 bits of `held`, whose low `available` bits (5 to 64) are text; ones behind it.
#[inline]
fn window(held: u64, available: u32) -> u32 {
    let bits = (held << (64 - available)) | u64::MAX.checked_shr(available).unwrap_or(0);
    u32::from_be_bytes(*bits.to_be_bytes().first_chunk().unwrap_or(&[0xff; 4]))
}

#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let code = |symbol: usize| {
        let bits = LENGTHS[symbol];
        let group = CODE.groups[usize::from(bits)];
        let symbols = &CODE.symbols[group.index as usize..];
        let place = symbols
            .iter()
            .position(|known| usize::from(*known) == symbol);
        (
            u64::from(group.first) + place.expect("a symbol") as u64,
            bits,
        )
    };
    let mut bits: Vec<bool> = Vec::new();
    for byte in text {
        let (value, length) = code(usize::from(*byte));
        bits.extend((0..length).rev().map(|bit| value >> bit & 1 == 1));
    }
    let bytes = bits.chunks(8).map(|eight| {
        (0..8).fold(0, |byte, at| {
            byte << 1 | u8::from(*eight.get(at).unwrap_or(&true))
        })
    });
    bytes.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(text: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = Vec::new();
        decode(text, 1000, &mut out).map(|()| out)
    }

    /// RFC 7541 appendix C.4.1, C.4.2 and C.6.1.
    #[test]
    fn examples_of_the_rfc() {
        let www = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decoded(&www).unwrap(), b"www.example.com");
        let cache = [0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
        assert_eq!(decoded(&cache).unwrap(), b"no-cache");
        assert_eq!(decoded(&[0x64, 0x02]).unwrap(), b"302");
        assert_eq!(encode(b"www.example.com"), www);
    }

    #[test]
    fn what_is_no_string() {
        assert_eq!(decoded(&[]).unwrap(), b"");
        // EOS, whole.
        assert_eq!(decoded(&[0xff; 4]), Err(HpackError::Huffman));
        // Padding of a whole byte, and padding that isn't of ones.
        assert_eq!(decoded(&[0x64, 0x02, 0xff]), Err(HpackError::Huffman));
        assert_eq!(decoded(&[0b0000_0111]).unwrap(), b"0");
        assert_eq!(decoded(&[0b0000_0110]), Err(HpackError::Huffman));
        let mut out = b"before".to_vec();
        assert_eq!(
            decode(&encode(b"abcd"), 3, &mut out),
            Err(HpackError::TooLarge)
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text: Vec<u8>) {
            let mut out = b"before".to_vec();
            decode(&encode(&text), text.len(), &mut out).unwrap();
            prop_assert_eq!(&out[6..], &text[..]);
        }
    }
}
