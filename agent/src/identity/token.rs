//! Tokens: what a person carries from the collector to the host.
//!
//! ```text
//! sslc1_ base64url( body, postcard │ crc32 u32 of the body, little-endian )
//! ```
//!
//! The checksum tells a slip of copying from a token that the collector doesn't know.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::DEFAULT_PORT;
use super::certificate::KeyId;

const PREFIX: &str = "sslc";
const VERSION: &str = "1";
/// Most characters of a token.
const MAX_CHARS: usize = 4096;
/// Most addresses in one.
pub(super) const MAX_ADDRESSES: usize = 16;

/// A token for one enrolment. Who has it may enrol: `Debug` and logs don't show the secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Where the collector may be found: 1 to 16, the best one first.
    pub addresses: Vec<Address>,
    /// The collector's key.
    pub pin: KeyId,
    /// By which the collector finds it.
    pub id: [u8; 8],
    /// What makes it good.
    pub secret: [u8; 16],
    /// When it runs out, seconds since 1970.
    pub expires: u64,
}

/// A host name or address, with a port: `sensor`, `sensor:7833`, `10.0.0.1`, `[2001:db8::1]:7833`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// A name in lower case, or an IP address without brackets.
    pub host: String,
    /// TCP.
    pub port: u16,
}

/// What is wrong with a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else was given.
    #[error("that is no token: tokens begin with sslc1_, as `sslcollector enroll` prints them")]
    NotAToken,
    /// Another version made it.
    #[error(
        "the token is of version {0}, and this program knows 1: use the same version at both ends"
    )]
    Version(String),
    /// Characters are missing or changed.
    #[error("the token isn't whole: characters are missing or were changed. Copy all of it again")]
    Damaged,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("addresses", &self.addresses)
            .field("pin", &self.pin)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// As it is printed.
    ///
    /// # Panics
    /// Never: its fields can be written.
    pub fn encode(&self) -> String {
        let mut bytes = postcard::to_stdvec(self).expect("tokens can be written");
        let sum = crc32fast::hash(&bytes);
        bytes.extend(sum.to_le_bytes());
        format!("{PREFIX}{VERSION}_{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        // Terminals and mails break long lines.
        let text: String = text.split_whitespace().collect();
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        let (version, body) = rest.split_once('_').ok_or(TokenError::NotAToken)?;
        if version.is_empty() || version.len() > 4 || !version.bytes().all(|b| b.is_ascii_digit()) {
            return Err(TokenError::NotAToken);
        }
        if version != VERSION {
            return Err(TokenError::Version(version.into()));
        }
        if body.len() > MAX_CHARS {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenError::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(TokenError::Damaged);
        }
        let (token, rest) =
            postcard::take_from_bytes::<Self>(body).map_err(|_| TokenError::Damaged)?;
        let good = |address: &Address| address.to_string().parse() == Ok(address.clone());
        let number = (1..=MAX_ADDRESSES).contains(&token.addresses.len());
        if !rest.is_empty() || !number || !token.addresses.iter().all(good) {
            return Err(TokenError::Damaged);
        }
        Ok(token)
    }
}

impl Address {
    /// With the default port where `port` is none.
    pub fn new(host: &str, port: Option<u16>) -> Self {
        Self {
            host: host.to_ascii_lowercase(),
            port: port.unwrap_or(DEFAULT_PORT),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no address like sensor, sensor:{DEFAULT_PORT}, 10.0.0.1 or [2001:db8::1]:{DEFAULT_PORT}"
            )
        };
        // An IPv6 address has colons of its own.
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::new(&address.to_string(), None));
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                let host: IpAddr = host.parse().map_err(|_| wrong())?;
                (host.to_string(), port.strip_prefix(':'))
            }
            None => {
                let (host, port) = text
                    .split_once(':')
                    .map_or((text, None), |(host, port)| (host, Some(port)));
                let letters = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
                let host_is_name = (1..=253).contains(&host.len())
                    && host.bytes().all(letters)
                    && host.as_bytes()[0].is_ascii_alphanumeric();
                if !host_is_name {
                    return Err(wrong());
                }
                (host.to_owned(), port)
            }
        };
        let port = match port {
            None => None,
            Some(port) => Some(
                port.parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(wrong)?,
            ),
        };
        Ok(Self::new(&host, port))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token {
            addresses: vec![Address::new("Sensor", None), Address::new("::1", Some(9))],
            pin: KeyId([7; 32]),
            id: [1; 8],
            secret: *b"a secret of ours",
            expires: 1_800_000_000,
        }
    }

    #[test]
    fn a_token_survives_copying() {
        let text = token().encode();
        assert_eq!(text.parse(), Ok(token()));
        let broken = format!(" {}\n  {}\n", &text[..40], &text[40..]);
        assert_eq!(broken.parse(), Ok(token()));
    }

    #[test]
    fn a_slip_is_told_from_an_unknown_token() {
        let text = token().encode();
        for at in 6..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let slip = String::from_utf8(bytes).unwrap();
            assert_eq!(slip.parse::<Token>(), Err(TokenError::Damaged), "{at}");
            assert_eq!(
                text[..at].parse::<Token>(),
                Err(TokenError::Damaged),
                "{at}"
            );
        }
        assert_eq!("".parse::<Token>(), Err(TokenError::NotAToken));
        assert_eq!("hello".parse::<Token>(), Err(TokenError::NotAToken));
        let other = text.replacen("sslc1_", "sslc2_", 1);
        assert_eq!(other.parse::<Token>(), Err(TokenError::Version("2".into())));
    }

    #[test]
    fn the_secret_stays_out_of_logs() {
        let shown = format!("{:?}", token());
        assert!(!shown.contains("secret"), "{shown}");
        assert!(!shown.contains(&format!("{:?}", token().secret)), "{shown}");
    }

    #[test]
    fn addresses() {
        for (text, host, port) in [
            ("sensor", "sensor", DEFAULT_PORT),
            ("Sensor.Example.com:1", "sensor.example.com", 1),
            ("10.0.0.1", "10.0.0.1", DEFAULT_PORT),
            ("10.0.0.1:65535", "10.0.0.1", 65535),
            ("2001:DB8::1", "2001:db8::1", DEFAULT_PORT),
            ("[2001:db8::1]", "2001:db8::1", DEFAULT_PORT),
            ("[2001:db8::1]:77", "2001:db8::1", 77),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(
                (address.host.as_str(), address.port),
                (host, port),
                "{text}"
            );
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        for bad in [
            "", ":1", "a:0", "a:65536", "a:b", "[x]:1", "[::1", "a b", "-a", "a:1:2",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_an_error(text in "(sslc1_)?[A-Za-z0-9_-]{0,200}", bytes: Vec<u8>) {
            let _ = text.parse::<Token>();
            let mut bytes = bytes;
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            let _ = format!("sslc1_{}", URL_SAFE_NO_PAD.encode(bytes)).parse::<Token>();
        }
    }
}
