//! Integers with a prefix (RFC 7541 section 5.1).

use super::HpackError;

/// Continuation bytes that are read: 2^28 and more is longer than all that has room.
const MAX_CONTINUATION: usize = 4;

/// Takes an integer from the front of `text`, whose first byte has it in its low `prefix_bits` (1 to 8).
///
/// # Errors
/// The text ends in it, or it is longer than anything that may be.
pub(super) fn take(text: &mut &[u8], prefix_bits: u32) -> Result<usize, HpackError> {
    let (&first, mut rest) = text.split_first().ok_or(HpackError::Truncated)?;
    let most = (1_usize << prefix_bits) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        for at in 0.. {
            if at == MAX_CONTINUATION {
                return Err(HpackError::Integer);
            }
            let (&byte, behind) = rest.split_first().ok_or(HpackError::Truncated)?;
            rest = behind;
            value += usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *text = rest;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(mut text: &[u8], prefix_bits: u32) -> Result<(usize, usize), HpackError> {
        let all = text.len();
        let value = take(&mut text, prefix_bits)?;
        Ok((value, all - text.len()))
    }

    /// RFC 7541 appendix C.1.
    #[test]
    fn examples_of_the_rfc() {
        assert_eq!(taken(&[0b1110_1010, 1], 5), Ok((10, 1)));
        assert_eq!(taken(&[0b0001_1111, 0b1001_1010, 10], 5), Ok((1337, 3)));
        assert_eq!(taken(&[42], 8), Ok((42, 1)));
    }

    #[test]
    fn neither_cut_nor_endless() {
        assert_eq!(taken(&[], 7), Err(HpackError::Truncated));
        assert_eq!(taken(&[0x7f, 0x80], 7), Err(HpackError::Truncated));
        assert_eq!(taken(&[0x7f, 0x80, 0x80, 0x80, 0], 7), Ok((127, 5)));
        assert_eq!(
            taken(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0], 7),
            Err(HpackError::Integer)
        );
    }
}
