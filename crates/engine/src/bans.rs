//! Peers that lied or broke the protocol: what is remembered of them, and for how long. Pure: `now` is an argument.
//!
//! An address is banned for every content: whoever sends wrong bytes comes back from another port, or with another
//! id. An id is banned for the content at hand only, for anybody can use another's id, and must not be able to cut two
//! honest machines off from each other with it.

use dosvc_content::PeerId;
use dosvc_piece_store::ContentKey;
use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

/// How long a ban lasts. A machine with bad memory may have been mended.
const BAN_TIME: Duration = Duration::from_secs(3600);
/// Bans of each kind that are remembered; past it the oldest goes.
const BANS_MAX: usize = 4096;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    ids: Recent<(PeerId, ContentKey)>,
    addresses: Recent<IpAddr>,
}

impl Bans {
    pub(crate) fn ban_id(&mut self, peer: PeerId, content: ContentKey, now: Instant) {
        self.ids.add((peer, content), now);
    }

    pub(crate) fn ban_address(&mut self, address: IpAddr, now: Instant) {
        self.addresses.add(address, now);
    }

    pub(crate) fn has_id(&self, peer: PeerId, content: ContentKey, now: Instant) -> bool {
        self.ids.has(&(peer, content), now)
    }

    pub(crate) fn has_address(&self, address: IpAddr, now: Instant) -> bool {
        self.addresses.has(&address, now)
    }
}

/// Things with the moment when they were added last.
#[derive(Debug)]
struct Recent<T>(HashMap<T, Instant>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash + Copy> Recent<T> {
    fn add(&mut self, thing: T, now: Instant) {
        if self.0.len() >= BANS_MAX && !self.0.contains_key(&thing) {
            self.0
                .retain(|_, at| now.saturating_duration_since(*at) < BAN_TIME);
            if self.0.len() >= BANS_MAX {
                let oldest = self.0.iter().min_by_key(|(_, at)| **at).map(|(t, _)| *t);
                if let Some(oldest) = oldest {
                    self.0.remove(&oldest);
                }
            }
        }
        self.0.insert(thing, now);
    }

    fn has(&self, thing: &T, now: Instant) -> bool {
        self.0
            .get(thing)
            .is_some_and(|at| now.saturating_duration_since(*at) < BAN_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_banned_for_everything_and_an_id_for_one_content() {
        let now = Instant::now();
        let mut bans = Bans::default();
        let (one, other) = (
            ContentKey::Hashed([1; 32].into()),
            ContentKey::Hashed([2; 32].into()),
        );
        let peer = PeerId::from_random([7; 16]);
        let address = IpAddr::from([10, 0, 0, 1]);
        bans.ban_id(peer, one, now);
        bans.ban_address(address, now);
        assert!(bans.has_id(peer, one, now) && !bans.has_id(peer, other, now));
        assert!(bans.has_address(address, now));
        assert!(!bans.has_address(IpAddr::from([10, 0, 0, 2]), now));
        let later = now + BAN_TIME;
        assert!(!bans.has_id(peer, one, later) && !bans.has_address(address, later));
    }

    #[test]
    fn no_flood_makes_it_grow_and_the_last_ones_stay() {
        let mut now = Instant::now();
        let mut bans = Bans::default();
        for i in 0..2 * u32::try_from(BANS_MAX).expect("small") {
            now += Duration::from_millis(1);
            bans.ban_address(IpAddr::from(i.to_be_bytes()), now);
        }
        assert_eq!(bans.addresses.0.len(), BANS_MAX);
        let last = 2 * u32::try_from(BANS_MAX).expect("small") - 1;
        assert!(bans.has_address(IpAddr::from(last.to_be_bytes()), now));
        assert!(!bans.has_address(IpAddr::from([0, 0, 0, 0]), now));
    }
}
