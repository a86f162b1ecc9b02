//! Addresses for sessions whose own can't be found out.

use std::net::Ipv4Addr;

use crate::event::Tuple;

const FIRST_PORT: u64 = 1024;
const PORTS: u64 = 65_536 - FIRST_PORT;
const HOSTS: u64 = 254;

/// The addresses of the `number`th such session, from the ranges for documentation of RFC 5737:
/// 192.0.2.x port p to 198.51.100.y port 443. They are all different until 4,162,056,192 of them
/// have been used.
pub fn placeholder(number: u64) -> Tuple {
    let small = |value: u64| u8::try_from(1 + value % HOSTS).unwrap_or(1);
    let port = u16::try_from(FIRST_PORT + number % PORTS).unwrap_or(u16::MAX);
    let client = Ipv4Addr::new(192, 0, 2, small(number / PORTS));
    let server = Ipv4Addr::new(198, 51, 100, small(number / PORTS / HOSTS));
    Tuple {
        client: (client, port).into(),
        server: (server, 443).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn all_different_and_in_their_ranges() {
        let mut seen = HashSet::new();
        let around = (0..1000).chain(PORTS * HOSTS - 500..PORTS * HOSTS + 500);
        for number in around {
            assert!(seen.insert(placeholder(number)));
        }
        let last = placeholder(PORTS * HOSTS * HOSTS - 1);
        assert!(seen.insert(last));
        assert_eq!(last.client, "192.0.2.254:65535".parse().unwrap());
        assert_eq!(last.server, "198.51.100.254:443".parse().unwrap());
    }
}
