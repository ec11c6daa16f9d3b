//! Small maps and sets in the order of their keys.
//!
//! Most hold a few entries and become empty all the time, where a tree would allocate and free a node each time. Keys lie
//! in one vector and values in another, so that a look-up reads only keys, mostly of one cache line: O(log n). Inserting and
//! removing move what is behind, at most a few thousand short entries ([`crate::Limits`]). Sources are long ones, but they
//! come and go seldom, mostly behind all others, and are looked through all the time.

use smallvec::SmallVec;
use std::ops::Index;

/// A sorted vector of keys, and one with their values.
#[derive(Clone, Debug)]
pub(crate) struct SortedMap<K, V> {
    keys: SortedSet<K>,
    values: Vec<V>,
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self {
            keys: SortedSet::default(),
            values: Vec::new(),
        }
    }
}

impl<K: Ord + Copy, V> SortedMap<K, V> {
    /// The value that the key had before, if any.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.keys.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.values[at], value)),
            Err(at) => {
                self.keys.0.insert(at, key);
                self.values.insert(at, value);
                None
            }
        }
    }

    /// The value that the key had, if any.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.keys.find(key).ok()?;
        self.keys.0.remove(at);
        Some(self.values.remove(at))
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.keys.find(key).ok().map(|at| &self.values[at])
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.keys.find(key).ok().map(|at| &mut self.values[at])
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.keys.contains(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.keys.0.clear();
        self.values.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.keys.iter().zip(&self.values)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.keys.iter().zip(&mut self.values)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.values.iter_mut()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys.iter()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.values.iter()
    }
}

impl<K: Ord + Copy, V> Index<&K> for SortedMap<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("a key of this map")
    }
}

/// A sorted vector of keys. A few of them lie in the set itself, which is no longer for it.
#[derive(Clone, Debug)]
pub(crate) struct SortedSet<K>(SmallVec<[K; 4]>);

impl<K> Default for SortedSet<K> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<K: Ord + Copy> SortedSet<K> {
    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search(key)
    }

    /// False when it was there already.
    pub(crate) fn insert(&mut self, key: K) -> bool {
        let place = self.find(&key);
        if let Err(at) = place {
            self.0.insert(at, key);
        }
        place.is_err()
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, key: &K) -> bool {
        let place = self.find(key);
        if let Ok(at) = place {
            self.0.remove(at);
        }
        place.is_ok()
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &K> {
        self.0.iter()
    }

    pub(crate) fn pop_first(&mut self) -> Option<K> {
        (!self.is_empty()).then(|| self.0.remove(0))
    }

    /// Takes all of `other`, which is empty then.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, other);
            return;
        }
        self.0.append(&mut other.0);
        self.0.sort_unstable();
        self.0.dedup();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        #[test]
        fn it_is_a_map(ops in proptest::collection::vec((any::<bool>(), 0u8..20, any::<u8>()), 0..200)) {
            let (mut ours, mut model) = (SortedMap::default(), BTreeMap::new());
            for (insert, key, value) in ops {
                if insert {
                    prop_assert_eq!(ours.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(ours.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(ours.contains_key(&key), insert);
            }
            prop_assert!(ours.iter().eq(model.iter()));
            prop_assert_eq!(ours.len(), model.len());
        }

        #[test]
        fn sets_append_as_trees_do(a: Vec<u8>, b: Vec<u8>) {
            let (mut ours, mut other) = (SortedSet::default(), SortedSet::default());
            a.iter().for_each(|k| _ = ours.insert(*k));
            b.iter().for_each(|k| _ = other.insert(*k));
            ours.append(&mut other);
            prop_assert!(other.is_empty());
            let model: BTreeSet<u8> = a.into_iter().chain(b).collect();
            prop_assert!(ours.iter().eq(model.iter()));
            prop_assert_eq!(std::iter::from_fn(|| ours.pop_first()).collect::<BTreeSet<_>>(), model);
        }
    }
}
