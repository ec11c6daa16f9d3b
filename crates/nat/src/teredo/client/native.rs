//! Hosts with native IPv6, through relays (RFC 4380 §5.2.3, §5.4): only for clients that want them.
//!
//! A relay shows itself by a bubble that our server has passed on, and gets an answer. For a while after that, packets with
//! native sources are taken from it, and what is for these hosts goes back to it. Nobody is called by us: the test that
//! RFC 4380 has for that can be aimed at third parties.

use super::{Client, Dropped, Ipv6Packet, LocalPort, Path, Refusal, Sent};
use crate::teredo::{
    limits::{NATIVES_MAX, PATH_VALID_FOR},
    relay::is_native,
};
use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddrV4},
    time::Instant,
};

/// Relays, and hosts behind them, with the time of the last sign of life.
#[derive(Debug, Default)]
pub(super) struct Natives {
    relays: BTreeMap<SocketAddrV4, Instant>,
    hosts: BTreeMap<Ipv6Addr, (SocketAddrV4, Instant)>,
}

fn is_fresh(now: Instant, heard: Instant) -> bool {
    now.saturating_duration_since(heard) < PATH_VALID_FOR
}

/// Makes room for one more: the oldest goes.
fn make_room<K: Copy + Ord, V>(all: &mut BTreeMap<K, V>, age: impl Fn(&V) -> Instant) {
    if all.len() >= NATIVES_MAX
        && let Some((&oldest, _)) = all.iter().min_by_key(|(_, value)| age(value))
    {
        all.remove(&oldest);
    }
}

impl Natives {
    /// Somebody has asked for us through our server, and gets an answer there.
    pub(super) fn answered(&mut self, now: Instant, relay: SocketAddrV4) {
        if !self.relays.contains_key(&relay) {
            make_room(&mut self.relays, |heard| *heard);
        }
        self.relays.insert(relay, now);
    }

    fn host(&self, now: Instant, host: Ipv6Addr) -> Option<SocketAddrV4> {
        let (relay, heard) = self.hosts.get(&host)?;
        is_fresh(now, *heard).then_some(*relay)
    }

    /// Something came from this host, by this relay. Whether that may be.
    fn heard(&mut self, now: Instant, host: Ipv6Addr, relay: SocketAddrV4) -> bool {
        let known = self
            .relays
            .get(&relay)
            .is_some_and(|heard| is_fresh(now, *heard));
        // A host that talks by one relay is not taken over by another.
        let elsewhere = self.host(now, host).is_some_and(|other| other != relay);
        if !known || elsewhere {
            return false;
        }
        self.relays.insert(relay, now);
        if !self.hosts.contains_key(&host) {
            make_room(&mut self.hosts, |(_, heard)| *heard);
        }
        self.hosts.insert(host, (relay, now));
        true
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Client {
    /// A packet with a native source: `None` when it isn't one, or we take none.
    pub(super) fn accept_native(
        &mut self,
        now: Instant,
        path: Path,
        packet: Ipv6Packet<'_>,
    ) -> Option<Result<(), Dropped>> {
        let own = self.qualified()?.address.to_ipv6();
        if !self.config.native || !is_native(packet.source()) || packet.destination() != own {
            return None;
        }
        let heard = !packet.is_bubble()
            && path.port == LocalPort::Service
            && self.natives.heard(now, packet.source(), path.to);
        Some(heard.then_some(()).ok_or(Dropped::Spoofed))
    }

    /// Where a packet for a native host goes: to the relay that it came by.
    pub(super) fn reach_native(&self, now: Instant, host: Ipv6Addr) -> Option<Sent> {
        if !self.config.native || !is_native(host) {
            return None;
        }
        let relay = self.natives.host(now, host);
        Some(match relay {
            Some(relay) => Sent::Now(Path::from_service(relay)),
            None => Sent::Refused(Refusal::Unreachable),
        })
    }
}
