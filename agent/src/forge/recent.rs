//! A memory of bounded size for what was lately.

use std::collections::HashMap;
use std::hash::Hash;

/// How many entries a generation holds; of the values kept here, about 1 MiB.
const GENERATION: usize = 16_384;

/// Remembers the last value of each key. Two generations bound it: the older one is forgotten when
/// the younger is full.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash, V: Copy> Recent<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_the_last_value_counts() {
        let mut recent = Recent::default();
        for key in 0..5 * GENERATION {
            recent.insert(key, 0);
            recent.insert(key, key);
            assert_eq!(recent.get(&key), Some(key));
            assert!(recent.young.len() <= GENERATION && recent.old.len() <= GENERATION);
        }
        assert_eq!(recent.get(&(4 * GENERATION)), Some(4 * GENERATION));
        assert_eq!(recent.get(&0), None);
    }
}
