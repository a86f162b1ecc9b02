//! What the process's own connections have carried at a moment: the body of LOOK, drawn in the module above.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{EventError, array};
use crate::layout::kind;

/// Bytes in front of the connections.
const FIXED_BYTES: usize = 16;
/// Of a connection without its addresses.
const CONNECTION_BYTES: usize = 32;
/// With those of IPv6.
const MAX_CONNECTION_BYTES: usize = CONNECTION_BYTES + 32;
/// Most connections in one record: it is made on a stack that isn't ours.
pub const MAX_LOOK_CONNECTIONS: usize = 8;

/// Lengths that the body of a LOOK can have.
pub(crate) const LOOK_BYTES: std::ops::RangeInclusive<usize> =
    FIXED_BYTES..=FIXED_BYTES + MAX_LOOK_CONNECTIONS * MAX_CONNECTION_BYTES;

const LAST: u8 = 1;

/// A part of a look at all TCP connections of the process. Its parts follow one another, counted from 0; one is missing where
/// the ring had no room, or one connection couldn't be asked: then the look says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookPart<'a> {
    /// CLOCK_MONOTONIC in nanoseconds before the first connection was looked at. (The record's own time is behind the
    /// last one in it.)
    pub began_ns: u64,
    /// Its number, counted from 0.
    pub number: u8,
    /// The look is whole.
    pub last: bool,
    count: u8,
    connections: &'a [u8],
}

/// A TCP connection, and what it has carried at some time between the look's beginning and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarriedBy {
    /// SO_COOKIE.
    pub cookie: u64,
    /// Bytes that the program has put in.
    pub sent: u64,
    /// Bytes that the program has taken out.
    pub received: u64,
    /// Local and peer address, where they are told: of connections that stand where the session does.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

impl<'a> LookPart<'a> {
    /// The connections in it.
    pub fn connections(&self) -> impl Iterator<Item = CarriedBy> + use<'a> {
        let mut rest = self.connections;
        (0..self.count).map_while(move |_| {
            let (connection, behind) = CarriedBy::parse(rest)?;
            rest = behind;
            Some(connection)
        })
    }

    /// Reads the body of a LOOK.
    ///
    /// # Errors
    /// Bytes that [`LookWriter`] can't have written.
    pub fn parse(body: &'a [u8]) -> Result<Self, EventError> {
        let too_short = EventError::TooShort {
            kind: kind::LOOK,
            length: body.len(),
        };
        let (fixed, connections) = body.split_first_chunk::<FIXED_BYTES>().ok_or(too_short)?;
        let bad = |field, value: u8| EventError::BadField {
            field,
            value: value.into(),
        };
        let [number, flags, count, ..] = array::<8>(fixed, 8);
        if flags & !LAST != 0 {
            return Err(bad("look's flags", flags));
        }
        if usize::from(count) > MAX_LOOK_CONNECTIONS {
            return Err(bad("look's count", count));
        }
        let part = Self {
            began_ns: u64::from_ne_bytes(array(fixed, 0)),
            number,
            last: flags & LAST != 0,
            count,
            connections,
        };
        match part.connections().count() == usize::from(count) {
            true => Ok(part),
            false => Err(too_short),
        }
    }
}

impl CarriedBy {
    /// The first one, and what is behind it.
    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, rest) = bytes.split_first_chunk::<CONNECTION_BYTES>()?;
        let word = |at| u64::from_ne_bytes(array(fixed, at));
        let port = |at| u16::from_ne_bytes(array(fixed, at));
        let both = |local: IpAddr, peer: IpAddr| {
            Some((
                SocketAddr::new(local, port(26)),
                SocketAddr::new(peer, port(28)),
            ))
        };
        let (addresses, rest) = match fixed[24] {
            4 => {
                let (ips, rest) = rest.split_first_chunk::<8>()?;
                let ip = |at| Ipv4Addr::from(array::<4>(ips, at)).into();
                (both(ip(0), ip(4)), rest)
            }
            6 => {
                let (ips, rest) = rest.split_first_chunk::<32>()?;
                let ip = |at| Ipv6Addr::from(array::<16>(ips, at)).into();
                (both(ip(0), ip(16)), rest)
            }
            0 => (None, rest),
            _ => return None,
        };
        let connection = Self {
            cookie: word(0),
            sent: word(8),
            received: word(16),
            addresses,
        };
        Some((connection, rest))
    }
}

/// Makes the parts of a look, one at a time.
#[derive(Debug)]
pub struct LookWriter {
    bytes: [u8; *LOOK_BYTES.end()],
    length: usize,
}

impl LookWriter {
    /// A look that begins now, CLOCK_MONOTONIC in nanoseconds.
    pub fn new(began_ns: u64) -> Self {
        let mut writer = Self {
            bytes: [0; *LOOK_BYTES.end()],
            length: FIXED_BYTES,
        };
        writer.bytes[..8].copy_from_slice(&began_ns.to_ne_bytes());
        writer
    }

    /// Whether the part has to be written and [`LookWriter::next`] called before another connection fits.
    pub fn is_full(&self) -> bool {
        usize::from(self.bytes[10]) == MAX_LOOK_CONNECTIONS
    }

    /// Adds a connection, if the part isn't full.
    pub fn push(&mut self, connection: &CarriedBy) {
        if self.is_full() {
            return;
        }
        self.put(&connection.cookie.to_ne_bytes());
        self.put(&connection.sent.to_ne_bytes());
        self.put(&connection.received.to_ne_bytes());
        match connection.addresses {
            None => self.put(&[0; 8]),
            Some((local, peer)) => {
                let family = match (local.ip(), peer.ip()) {
                    (IpAddr::V4(_), IpAddr::V4(_)) => 4,
                    _ => 6,
                };
                self.put(&[family, 0]);
                self.put(&local.port().to_ne_bytes());
                self.put(&peer.port().to_ne_bytes());
                self.put(&[0; 2]);
                for ip in [local.ip(), peer.ip()] {
                    match ip {
                        IpAddr::V4(ip) if family == 4 => self.put(&ip.octets()),
                        IpAddr::V4(ip) => self.put(&ip.to_ipv6_mapped().octets()),
                        IpAddr::V6(ip) => self.put(&ip.octets()),
                    }
                }
            }
        }
        self.bytes[10] += 1;
    }

    /// The body of the record. `last`: no part follows.
    pub fn part(&mut self, last: bool) -> &[u8] {
        self.bytes[9] = if last { LAST } else { 0 };
        &self.bytes[..self.length]
    }

    /// The next part, empty.
    pub fn next(&mut self) {
        self.bytes[8] = self.bytes[8].saturating_add(1);
        self.bytes[10] = 0;
        self.length = FIXED_BYTES;
    }

    fn put(&mut self, bytes: &[u8]) {
        let to = self.length + bytes.len();
        self.bytes[self.length..to].copy_from_slice(bytes);
        self.length = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(number: u64, addresses: Option<(&str, &str)>) -> CarriedBy {
        CarriedBy {
            cookie: number,
            sent: number + 1,
            received: u64::MAX - number,
            addresses: addresses
                .map(|(local, peer)| (local.parse().unwrap(), peer.parse().unwrap())),
        }
    }

    #[test]
    fn parts_are_read_as_they_were_written() {
        let all = [
            connection(1, None),
            connection(2, Some(("192.0.2.1:1", "192.0.2.2:65535"))),
            connection(3, Some(("[2001:db8::1]:1", "[2001:db8::2]:2"))),
        ];
        let mut writer = LookWriter::new(77);
        for connection in &all {
            writer.push(connection);
        }
        let part = LookPart::parse(writer.part(false)).unwrap();
        assert_eq!((part.began_ns, part.number, part.last), (77, 0, false));
        assert_eq!(part.connections().collect::<Vec<_>>(), all);
        writer.next();
        let part = LookPart::parse(writer.part(true)).unwrap();
        assert_eq!((part.began_ns, part.number, part.last), (77, 1, true));
        assert_eq!(part.connections().count(), 0);
    }

    #[test]
    fn the_largest_part_has_room_for_the_longest_addresses() {
        let long = connection(9, Some(("[2001:db8::1]:1", "[2001:db8::2]:2")));
        let mut writer = LookWriter::new(1);
        while !writer.is_full() {
            writer.push(&long);
        }
        writer.push(&long);
        let part = LookPart::parse(writer.part(true)).unwrap();
        assert_eq!(part.connections().count(), MAX_LOOK_CONNECTIONS);
        assert!(part.connections().all(|one| one == long));
    }

    #[test]
    fn what_is_cut_or_strange_is_no_part() {
        let mut writer = LookWriter::new(1);
        writer.push(&connection(2, Some(("192.0.2.1:1", "192.0.2.2:2"))));
        let whole = writer.part(true).to_vec();
        for length in 0..whole.len() {
            assert!(LookPart::parse(&whole[..length]).is_err(), "{length}");
        }
        for (at, value) in [(9, 2), (10, 2), (10, 9), (FIXED_BYTES + 24, 5)] {
            let mut strange = whole.clone();
            strange[at] = value;
            assert!(LookPart::parse(&strange).is_err(), "{at}");
        }
    }
}
