//! Small maps and sets in the order of their keys.
//!
//! Most hold a few entries and become empty all the time, where a tree would allocate and free a node each time. Entries
//! lie in one vector: a look-up costs O(log n); inserting and removing move what is behind, at most a few thousand short
//! entries ([`crate::Limits`]). Sources are long ones, but they come and go seldom, mostly behind all others, and are looked
//! through all the time.

use std::ops::Index;

/// A sorted vector of keys with values.
#[derive(Clone, Debug)]
pub(crate) struct SortedMap<K, V>(Vec<(K, V)>);

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord + Copy, V> SortedMap<K, V> {
    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(k, _)| k.cmp(key))
    }

    /// The value that the key had before, if any.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// The value that the key had, if any.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).ok().map(|at| &mut self.0[at].1)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (&*key, value))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }
}

impl<K: Ord + Copy, V> Index<&K> for SortedMap<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("a key of this map")
    }
}

/// A sorted vector of keys.
#[derive(Clone, Debug)]
pub(crate) struct SortedSet<K>(SortedMap<K, ()>);

impl<K> Default for SortedSet<K> {
    fn default() -> Self {
        Self(SortedMap::default())
    }
}

impl<K: Ord + Copy> SortedSet<K> {
    /// False when it was there already.
    pub(crate) fn insert(&mut self, key: K) -> bool {
        self.0.insert(key, ()).is_none()
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, key: &K) -> bool {
        self.0.remove(key).is_some()
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    pub(crate) fn pop_first(&mut self) -> Option<K> {
        (!self.is_empty()).then(|| self.0.0.remove(0).0)
    }

    /// Takes all of `other`, which is empty then.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.is_empty() {
            std::mem::swap(self, other);
            return;
        }
        let all = &mut self.0.0;
        all.append(&mut other.0.0);
        all.sort_unstable_by_key(|(key, ())| *key);
        all.dedup_by_key(|(key, ())| *key);
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
