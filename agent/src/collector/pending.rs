//! Connections of which nobody knows yet who they are. They are bounded, in all and for each address; where there
//! are too many, one of the address that has most of them goes first, the one that has been so for longest: real
//! agents need milliseconds, and have few.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::identity::network_of;

/// How many there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingLimits {
    pub(super) all: usize,
    /// An IPv6 address is its /64.
    pub(super) of_address: usize,
}

/// All that are pending.
#[derive(Debug)]
pub(super) struct Pending {
    limits: PendingLimits,
    /// Places for all, and for some that have been dropped and aren't gone yet.
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

/// Room for one more connection, and for its descriptor.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    entries: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
    addresses: HashMap<IpAddr, BTreeSet<u64>>,
    /// How many each address has.
    crowds: BTreeSet<(usize, IpAddr)>,
}

/// One that is pending, as long as this lives.
#[derive(Debug)]
pub(super) struct Entry {
    pending: Arc<Pending>,
    number: u64,
    dropped: Arc<Notify>,
    _place: Place,
}

impl Pending {
    pub(super) fn new(limits: PendingLimits) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(limits.all + limits.of_address)),
            limits,
            state: Mutex::default(),
        })
    }

    /// Until there is room for one more, which is at once, or when some that were dropped have closed.
    pub(super) async fn place(&self) -> Place {
        let permit = Arc::clone(&self.places).acquire_owned().await;
        Place {
            _permit: permit.expect("the semaphore is never closed"),
        }
    }

    /// Another one. Where there are too many, another one is dropped for it.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, place: Place) -> Entry {
        let address = network_of(address);
        let mut state = self.lock();
        let of_address = state.addresses.get(&address).map_or(0, BTreeSet::len);
        if of_address >= self.limits.of_address {
            state.drop_oldest_of(address);
        } else if state.entries.len() >= self.limits.all {
            state.drop_one();
        }
        let number = state.next;
        state.next += 1;
        let notify = Arc::new(Notify::new());
        state.entries.insert(number, (address, Arc::clone(&notify)));
        state.count(address, |numbers| numbers.insert(number));
        drop(state);
        Entry {
            pending: Arc::clone(self),
            number,
            dropped: notify,
            _place: place,
        }
    }

    /// Drops one, to have its descriptor.
    pub(super) fn drop_one(&self) {
        self.lock().drop_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn drop_one(&mut self) {
        if let Some((_, address)) = self.crowds.last().copied() {
            self.drop_oldest_of(address);
        }
    }

    fn drop_oldest_of(&mut self, address: IpAddr) {
        let numbers = self.addresses.get(&address);
        let oldest = numbers.and_then(BTreeSet::first).copied();
        if let Some(dropped) = oldest.and_then(|oldest| self.remove(oldest)) {
            dropped.notify_one();
        }
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Notify>> {
        let (address, dropped) = self.entries.remove(&number)?;
        self.count(address, |numbers| numbers.remove(&number));
        Some(dropped)
    }

    /// Changes which connections an address has.
    fn count(&mut self, address: IpAddr, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let numbers = self.addresses.entry(address).or_default();
        let before = numbers.len();
        change(numbers);
        let after = numbers.len();
        if after == 0 {
            self.addresses.remove(&address);
        }
        self.crowds.remove(&(before, address));
        if after > 0 {
            self.crowds.insert((after, address));
        }
    }
}

impl Entry {
    /// Until it has to go.
    pub(super) fn dropped(&self) -> Arc<Notify> {
        Arc::clone(&self.dropped)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.pending.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    fn enter(pending: &Arc<Pending>, address: IpAddr) -> Entry {
        let permit = Arc::clone(&pending.places).try_acquire_owned();
        let _permit = permit.expect("a place");
        pending.enter(address, Place { _permit })
    }

    /// What is left, by number.
    fn left(pending: &Pending) -> Vec<u64> {
        pending.lock().entries.keys().copied().collect()
    }

    #[test]
    fn the_oldest_goes_and_one_address_does_not_push_out_others() {
        let limits = PendingLimits {
            all: 5,
            of_address: 3,
        };
        let pending = Pending::new(limits);
        let other = enter(&pending, address(2));
        let mut many = std::collections::VecDeque::new();
        for _ in 0..100 {
            many.push_back(enter(&pending, address(1)));
            // Those that were dropped notice it.
            let gone = many.len().saturating_sub(3);
            many.drain(..gone);
        }
        assert_eq!(left(&pending), [other.number, 98, 99, 100]);
        // From many addresses: those that have more than one make way.
        let others: Vec<_> = (3..6).map(|last| enter(&pending, address(last))).collect();
        assert_eq!(left(&pending), [other.number, 100, 101, 102, 103]);
        drop((many, other, others));
        let state = pending.lock();
        assert!(state.entries.is_empty() && state.addresses.is_empty() && state.crowds.is_empty());
    }

    #[test]
    fn those_that_were_dropped_have_places_until_they_are_gone() {
        let limits = PendingLimits {
            all: 5,
            of_address: 3,
        };
        let pending = Pending::new(limits);
        let mut entries: Vec<_> = (0..8)
            .map(|last| enter(&pending, address(last % 4)))
            .collect();
        assert_eq!(left(&pending).len(), 5);
        assert_eq!(pending.places.available_permits(), 0);
        entries.remove(0);
        assert_eq!(pending.places.available_permits(), 1);
    }

    #[test]
    fn who_has_an_ipv6_address_has_its_network() {
        let limits = PendingLimits {
            all: 50,
            of_address: 2,
        };
        let pending = Pending::new(limits);
        let entry = |text: &str| enter(&pending, text.parse().unwrap());
        let _entries = ["fd00::1", "fd00::2", "fd00:0:0:1::1", "fd00::ffff:3"].map(entry);
        assert_eq!(left(&pending), [1, 2, 3]);
    }
}
