//! The Internet checksum (RFC 1071).

/// A ones' complement sum in the making, of words as this machine has them: the sum of swapped words is the swapped sum
/// (RFC 1071 section 2 B).
///
/// Only its last part may have an odd length: a byte stands at the same place of its 16 bit word in
/// the sum as in the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Adds bytes as big-endian 16 bit words; a last odd byte is padded with a zero (RFC 1071 section 4.1).
    pub fn add(&mut self, bytes: &[u8]) {
        // Words of 32 bits sum to the same, modulo 2^16 - 1, as their halves (RFC 1071 section 2 C), and
        // 64 bits hold the sum of more than 2^32 of them.
        let (words, rest) = bytes.as_chunks::<4>();
        let sum: u64 = words
            .iter()
            .map(|word| u64::from(u32::from_ne_bytes(*word)))
            .sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.0 += sum + u64::from(u32::from_ne_bytes(last));
    }

    /// Adds one 16 bit word.
    pub fn add_word(&mut self, word: u16) {
        self.0 += u64::from(word.to_be());
    }

    /// What stands in the header: the complement of the sum.
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        let bytes = sum.to_be_bytes();
        !u16::from_be(u16::from_be_bytes([bytes[6], bytes[7]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&[u8]]) -> u16 {
        let mut sum = Checksum::default();
        parts.iter().for_each(|part| sum.add(part));
        sum.finish()
    }

    #[test]
    fn example_of_rfc_1071_section_3() {
        assert_eq!(
            of(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            !0xddf2
        );
    }

    #[test]
    fn even_parts_sum_as_the_whole() {
        let bytes: Vec<u8> = (0..=255).chain(0..77).collect();
        for cut in (0..bytes.len()).step_by(2) {
            assert_eq!(
                of(&[&bytes[..cut], &bytes[cut..]]),
                of(&[&bytes]),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn carries_come_around() {
        assert_eq!(of(&[&[0xff; 65_536]]), 0);
        assert_eq!(of(&[&[0xff; 3]]), !0xff00);
        assert_eq!(of(&[]), 0xffff);
    }
}
