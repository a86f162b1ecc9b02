//! What must hold of what hosts and collectors say to one another while a host joins. The fuzz targets call it with
//! inputs that they make up, and a test in `agent/src/identity/corpus_tests.rs` with those of the corpus.
#![allow(dead_code, reason = "each target uses one of the functions")]

use agent::identity::{Address, EnrolAnswer, EnrolRequest, MAX_ENROL_BYTES, Token};

/// Most characters of an address: a name, a colon and a port.
const MAX_ADDRESS_CHARS: usize = 253 + 6;

/// A token as text; the first byte says whether what follows is the text, or what the text is made of.
pub(crate) fn token(bytes: &[u8]) {
    let Some((mode, rest)) = bytes.split_first() else {
        return;
    };
    let text = match mode % 2 {
        0 => String::from_utf8_lossy(rest).into_owned(),
        _ => {
            let sum = crc32fast::hash(rest).to_le_bytes();
            format!("sslc1_{}", base64url(&[rest, &sum].concat()))
        }
    };
    if let Ok(address) = text.parse::<Address>() {
        let shown = address.to_string();
        assert!(
            shown.len() <= MAX_ADDRESS_CHARS && address.port > 0,
            "{shown}"
        );
        assert_eq!(shown.parse(), Ok(address));
    }
    match text.parse::<Token>() {
        Ok(token) => {
            assert!((1..=16).contains(&token.addresses.len()));
            // Numbers have longer forms than the one that is written.
            let again = token.encode();
            assert!(again.len() <= text.len());
            assert_eq!(again.parse(), Ok(token));
        }
        // People are told so, in a line.
        Err(error) => assert!(error.to_string().len() < 300),
    }
}

/// What a host asks, or what it is answered: the first byte says which.
pub(crate) fn enrol(bytes: &[u8]) {
    let Some((mode, body)) = bytes.split_first() else {
        return;
    };
    match mode % 2 {
        0 => {
            let Ok(request) = EnrolRequest::decode(body) else {
                return;
            };
            assert!(request.addresses.len() <= 256);
            let again = request.encode();
            assert!(again.len() <= 4 + body.len());
            assert_eq!(EnrolRequest::decode(&again[4..]), Ok(request));
        }
        _ => {
            let Some(answer) = EnrolAnswer::decode(body) else {
                return;
            };
            let again = answer.encode();
            // Whoever reads it takes no more than that.
            assert!(again.len() <= 4 + body.len().max(MAX_ENROL_BYTES));
            assert_eq!(EnrolAnswer::decode(&again[4..]), Some(answer.clone()));
            // Nothing may hide behind it.
            let longer = [body, &[0]].concat();
            assert_eq!(EnrolAnswer::decode(&longer), None);
        }
    }
}

/// RFC 4648 section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |three: &[u8]| {
        let word = three
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - three.len()));
        let letter = move |at: usize| LETTERS[(word >> (18 - 6 * at) & 63) as usize];
        (0..=three.len())
            .map(letter)
            .map(char::from)
            .collect::<Vec<_>>()
    };
    bytes.chunks(3).flat_map(group).collect()
}
