//! How many may try to enrol, and how often.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::tunnel::frame::Reason;

/// Enrolments at once.
const AT_ONCE: usize = 32;
/// Enrolments at once from one address.
const AT_ONCE_EACH: usize = 8;
/// Wrong tokens from one address in [`PERIOD`]: a person's slips have room, guessing hasn't.
const WRONG: u32 = 10;
const PERIOD: Duration = Duration::from_secs(60);
/// Addresses that are remembered.
const MOST_PEERS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Limits {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    peers: HashMap<IpAddr, Peer>,
}

#[derive(Debug)]
struct Peer {
    running: usize,
    wrong: u32,
    since: Instant,
}

/// One enrolment that goes on.
#[derive(Debug)]
pub(super) struct Entered<'l> {
    limits: &'l Limits,
    peer: IpAddr,
}

impl Limits {
    pub(super) fn enter(&self, peer: IpAddr, now: Instant) -> Result<Entered<'_>, Reason> {
        let peer = network_of(peer);
        let mut state = self.state();
        let all = state.running;
        let entry = state.peer(peer, now);
        if all >= AT_ONCE || entry.running >= AT_ONCE_EACH || entry.wrong >= WRONG {
            return Err(Reason::TooMany);
        }
        entry.running += 1;
        state.running += 1;
        Ok(Entered { limits: self, peer })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entered<'_> {
    /// It came with a token that isn't one of ours.
    pub(super) fn was_wrong(&self, now: Instant) {
        self.limits.state().peer(self.peer, now).wrong += 1;
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut state = self.limits.state();
        state.running -= 1;
        if let Some(peer) = state.peers.get_mut(&self.peer) {
            peer.running = peer.running.saturating_sub(1);
        }
    }
}

impl State {
    fn peer(&mut self, peer: IpAddr, now: Instant) -> &mut Peer {
        let old = |entry: &Peer| now.saturating_duration_since(entry.since) >= PERIOD;
        if self.peers.len() >= MOST_PEERS && !self.peers.contains_key(&peer) {
            self.peers
                .retain(|_, entry| entry.running > 0 || !old(entry));
            // So many at once are no person's slips: forgetting them costs nothing that a token's length
            // wouldn't make up for.
            if self.peers.len() >= MOST_PEERS {
                self.peers.retain(|_, entry| entry.running > 0);
            }
        }
        let entry = self.peers.entry(peer).or_insert(Peer {
            running: 0,
            wrong: 0,
            since: now,
        });
        if old(entry) {
            (entry.wrong, entry.since) = (0, now);
        }
        entry
    }
}

/// Whoever has one IPv6 address has its /64.
pub(crate) fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn guessing_is_slow_and_ends_with_its_time() {
        let (limits, now) = (Limits::default(), Instant::now());
        for _ in 0..WRONG {
            limits.enter(peer(1), now).unwrap().was_wrong(now);
        }
        assert_eq!(limits.enter(peer(1), now).unwrap_err(), Reason::TooMany);
        assert!(limits.enter(peer(2), now).is_ok());
        assert!(limits.enter(peer(1), now + PERIOD).is_ok());
    }

    #[test]
    fn so_many_at_once_and_no_more() {
        let (limits, now) = (Limits::default(), Instant::now());
        let mut entered: Vec<_> = (0..AT_ONCE_EACH)
            .map(|_| limits.enter(peer(1), now).unwrap())
            .collect();
        assert!(limits.enter(peer(1), now).is_err());
        for at in AT_ONCE_EACH..AT_ONCE {
            entered.push(
                limits
                    .enter(peer(100 + u8::try_from(at).unwrap()), now)
                    .unwrap(),
            );
        }
        assert!(limits.enter(peer(2), now).is_err());
        entered.pop();
        assert!(limits.enter(peer(2), now).is_ok());
        entered.clear();
        assert!(limits.enter(peer(1), now).is_ok());
        assert_eq!(limits.state().running, 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (limits, now) = (Limits::default(), Instant::now());
        for number in 0..20_000_u32 {
            let _ = limits.enter(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(limits.state().peers.len() <= MOST_PEERS);
        let v6 = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff:1"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
    }
}
