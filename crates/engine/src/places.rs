//! How many connections one address may have here, so that no machine can take all places.

use crate::shared::lock;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
};

/// Places taken, by address.
#[derive(Debug, Default)]
pub(crate) struct Places {
    taken: Mutex<HashMap<IpAddr, u32>>,
}

impl Places {
    /// Takes a place for the address unless it has `max` already.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, max: u32) -> Option<Place> {
        let address = address.to_canonical();
        let mut taken = lock(&self.taken);
        let count = taken.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place {
            places: Arc::clone(self),
            address,
        })
    }
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_others_have_their_own() {
        let places = Arc::new(Places::default());
        let one = IpAddr::from([10, 0, 0, 1]);
        let held: Vec<Place> = (0..3).filter_map(|_| places.enter(one, 2)).collect();
        assert_eq!(held.len(), 2);
        assert!(places.enter(IpAddr::from([10, 0, 0, 2]), 2).is_some());
        drop(held);
        assert!(places.enter(one, 2).is_some());
        assert!(lock(&places.taken).is_empty(), "nothing is left behind");
    }
}
