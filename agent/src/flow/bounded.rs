//! A map that forgets its oldest entries.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// At most `capacity` entries; one more pushes out the one that was put in first.
#[derive(Debug)]
pub(crate) struct BoundedMap<K, V> {
    capacity: usize,
    entries: HashMap<K, (u64, V)>,
    /// Keys in the order in which they came, each with the number of its entry: a removed and
    /// re-entered key leaves an old number behind, which is skipped.
    order: VecDeque<(u64, K)>,
    next: u64,
}

impl<K: Copy + Eq + Hash, V> BoundedMap<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            entries: HashMap::new(),
            order: VecDeque::new(),
            next: 0,
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Puts an entry in, in place of the one with the same key if there is one. True: an old entry
    /// was pushed out for it.
    pub(crate) fn insert(&mut self, key: K, value: V) -> bool {
        let number = self.next;
        self.next += 1;
        self.entries.insert(key, (number, value));
        self.order.push_back((number, key));
        let mut pushed_out = false;
        while self.entries.len() > self.capacity || self.order.len() > 2 * self.capacity {
            pushed_out |= self.drop_front();
        }
        pushed_out
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key).map(|(_, value)| value)
    }

    /// Drops entries from the oldest on, for as long as `is_old` says so.
    pub(crate) fn drop_while(&mut self, mut is_old: impl FnMut(&V) -> bool) {
        while let Some((number, key)) = self.order.front() {
            match self.entries.get(key) {
                Some((current, value)) if current == number => {
                    if !is_old(value) {
                        return;
                    }
                    self.drop_front();
                }
                _ => {
                    self.order.pop_front();
                }
            }
        }
    }

    /// Forgets the front of the order; true: with a live entry.
    fn drop_front(&mut self) -> bool {
        let Some((number, key)) = self.order.pop_front() else {
            return false;
        };
        let live = self
            .entries
            .get(&key)
            .is_some_and(|(current, _)| *current == number);
        if live {
            self.entries.remove(&key);
        }
        live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes() {
        let mut map = BoundedMap::new(2);
        assert!(!map.insert(1, 'a'));
        assert!(!map.insert(2, 'b'));
        assert!(!map.insert(1, 'c')); // now younger than 2
        assert!(map.insert(3, 'd'));
        assert_eq!(map.get(&1), Some(&'c'));
        assert_eq!(map.get(&2), None);
        assert_eq!(map.get(&3), Some(&'d'));
    }

    #[test]
    fn entries_put_in_again_and_again_take_no_room() {
        let mut map = BoundedMap::new(4);
        for round in 0..1000 {
            map.insert(round % 2, round);
            assert!(map.order.len() <= 8);
        }
        assert_eq!(map.get(&0), Some(&998));
        assert_eq!(map.get(&1), Some(&999));
    }

    #[test]
    fn old_ones_are_dropped_in_order() {
        let mut map = BoundedMap::new(10);
        for key in 0..5 {
            map.insert(key, key);
        }
        map.remove(&0);
        map.drop_while(|value| *value < 3);
        assert_eq!(map.get(&2), None);
        assert_eq!(map.get(&3), Some(&3));
    }
}
