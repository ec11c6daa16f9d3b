//! A peer in a swarm, in as few bytes as it needs.

use super::{Seconds, Seen};
use dosvc_cloud_protocol::{ArrayPeer, JoinRequest, Scope};
use dosvc_content::PeerId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A peer in a swarm: 104 bytes. Numbers that would be aligned to eight or sixteen bytes are kept as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    id: [u8; 20],
    /// The address that the service saw; IPv4 as `::ffff:a.b.c.d`.
    external: [u8; 16],
    /// The IPv6 address that it reported; zeros: none.
    lan_ipv6: [u8; 16],
    /// The first half of the group's hash; zeros: none.
    group: [u8; 16],
    /// The Teredo address without its prefix; zeros: none.
    teredo: [u8; 12],
    token: [u8; 8],
    /// The IPv4 address that it reported; zeros: none.
    lan_ip: [u8; 4],
    country: [u8; 2],
    port: u16,
    flags: u8,
    pub(crate) expires: Seconds,
}

/// A record as bytes: what it holds, without padding.
pub(crate) const RECORD_BYTES: usize = 20 + 3 * 16 + 12 + 8 + 4 + 2 + 2 + 1 + 4;

/// Which networks count as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Site(pub(super) u128);

impl Site {
    /// An IPv4 address is a site, and a network of 64 bits of IPv6.
    pub(crate) fn of(external: u128) -> Self {
        if is_mapped(external) {
            Self(external)
        } else {
            Self(external & !u128::from(u64::MAX))
        }
    }

    /// First and last address of the networks near this one: 16 bits of IPv4, 32 of IPv6.
    pub(crate) fn near(self) -> (u128, u128) {
        self.around(16, 32)
    }

    /// The network around this one that has an allowance of its own: 24 bits of IPv4, 48 of IPv6.
    pub(crate) fn network(self) -> u128 {
        self.around(24, 48).0
    }

    fn around(self, v4_bits: u32, v6_bits: u32) -> (u128, u128) {
        let free = if is_mapped(self.0) {
            32 - v4_bits
        } else {
            128 - v6_bits
        };
        let rest = (1_u128 << free) - 1;
        (self.0 & !rest, self.0 | rest)
    }
}

/// `::ffff:0:0/96`, which IPv4 addresses are kept in.
fn is_mapped(address: u128) -> bool {
    address >> 32 == 0xffff
}

fn bytes_of(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

const SCOPE_BITS: u8 = 0b11;
const SEED: u8 = 0b100;
const TAKES_ONLY: u8 = 0b1000;
/// The peer is among those of its site that strangers are told of.
const OPEN: u8 = 0b1_0000;

impl Record {
    /// What a request says of a peer.
    pub(crate) fn of(request: &JoinRequest, seen: Seen, token: u64, expires: Seconds) -> Self {
        let mut group = [0; 16];
        if let Some(hash) = &request.group_id {
            group.copy_from_slice(&hash.as_bytes()[..16]);
        }
        let mut teredo = [0; 12];
        if let Some(address) = request.teredo_ipv6 {
            teredo.copy_from_slice(&address.octets()[4..]);
        }
        let mut flags = request.scope.number();
        if request.left == 0 {
            flags |= SEED;
        }
        if request.restricted_upload {
            flags |= TAKES_ONLY;
        }
        Self {
            id: *request.peer_id.as_bytes(),
            external: bytes_of(seen.address),
            lan_ipv6: request.ipv6.map_or([0; 16], |a| a.octets()),
            group,
            teredo,
            token: token.to_le_bytes(),
            lan_ip: request.reported_ip.map_or([0; 4], |a| a.octets()),
            country: seen.country.as_bytes(),
            port: request.port,
            flags,
            expires,
        }
    }

    /// All of it as bytes.
    pub(crate) fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        let mut rest = &mut out[..];
        for part in [
            &self.id[..],
            &self.external,
            &self.lan_ipv6,
            &self.group,
            &self.teredo,
            &self.token,
            &self.lan_ip,
            &self.country,
            &self.port.to_le_bytes(),
            &[self.flags],
            &self.expires.to_le_bytes(),
        ] {
            let (here, behind) = rest.split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = behind;
        }
        out
    }

    /// Reads [`Self::to_bytes`] back.
    pub(crate) fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self {
        fn next<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
            let (part, rest) = bytes
                .split_first_chunk()
                .expect("all parts are as long as all");
            *bytes = rest;
            *part
        }
        let rest = &mut bytes.as_slice();
        Self {
            id: next(rest),
            external: next(rest),
            lan_ipv6: next(rest),
            group: next(rest),
            teredo: next(rest),
            token: next(rest),
            lan_ip: next(rest),
            country: next(rest),
            port: u16::from_le_bytes(next(rest)),
            flags: next::<1>(rest)[0],
            expires: Seconds::from_le_bytes(next(rest)),
        }
    }

    pub(crate) fn id(&self) -> PeerId {
        self.id.into()
    }

    pub(crate) fn external(&self) -> u128 {
        u128::from_be_bytes(self.external)
    }

    pub(crate) fn site(&self) -> Site {
        Site::of(self.external())
    }

    /// The group, shortened; `None`: in none.
    pub(crate) fn group(&self) -> Option<u128> {
        Some(u128::from_be_bytes(self.group)).filter(|group| *group != 0)
    }

    pub(crate) fn country(&self) -> u16 {
        u16::from_be_bytes(self.country)
    }

    pub(crate) fn token(&self) -> u64 {
        u64::from_le_bytes(self.token)
    }

    pub(crate) fn scope(&self) -> Scope {
        match self.flags & SCOPE_BITS {
            1 => Scope::Lan,
            2 => Scope::Group,
            _ => Scope::Internet,
        }
    }

    /// Whether it has everything.
    pub(crate) fn is_seed(&self) -> bool {
        self.flags & SEED != 0
    }

    /// Whether it takes and does not give: nobody is told of it.
    pub(crate) fn takes_only(&self) -> bool {
        self.flags & TAKES_ONLY != 0
    }

    /// Whether strangers are told of it.
    pub(crate) fn is_open(&self) -> bool {
        self.flags & OPEN != 0
    }

    /// Whether strangers could be told of it.
    pub(crate) fn may_be_open(&self) -> bool {
        self.scope() == Scope::Internet && !self.takes_only()
    }

    pub(crate) fn set_open(&mut self, open: bool) {
        self.flags = self.flags & !OPEN | if open { OPEN } else { 0 };
    }

    pub(crate) fn set_token(&mut self, token: u64) {
        self.token = token.to_le_bytes();
    }

    /// Whether there can be anybody that it may meet.
    pub(crate) fn can_meet_anybody(&self) -> bool {
        self.scope() != Scope::Group || self.group().is_some()
    }

    /// Whether a peer is of the same group or behind the same address.
    pub(crate) fn is_near(&self, other: &Self) -> bool {
        self.site() == other.site() || self.group().is_some() && self.group() == other.group()
    }

    /// Whether everything that others connect to is the same.
    pub(crate) fn same_addresses(&self, other: &Self) -> bool {
        self.external == other.external
            && self.lan_ip == other.lan_ip
            && self.lan_ipv6 == other.lan_ipv6
            && self.teredo == other.teredo
            && self.port == other.port
    }

    /// Takes over that the peer is still here, and whether it has everything.
    pub(crate) fn renew(&mut self, other: &Self) {
        self.expires = other.expires;
        self.flags = self.flags & !SEED | other.flags & SEED;
    }

    /// What somebody is told that it meets in this scope. The address in its own network is for its LAN and its group.
    pub(crate) fn shown(&self, scope: Scope) -> ArrayPeer {
        let near = scope != Scope::Internet;
        let lan_ipv6 = some(&self.lan_ipv6)
            .map(Ipv6Addr::from)
            .filter(|address| near || is_global(address));
        let mut teredo = [0; 16];
        teredo[..4].copy_from_slice(&[0x20, 1, 0, 0]);
        teredo[4..].copy_from_slice(&self.teredo);
        ArrayPeer {
            peer_id: self.id(),
            scope,
            lan_ip: some(&self.lan_ip).map(Ipv4Addr::from).filter(|_| near),
            lan_ipv6,
            external_ip: Some(IpAddr::from(self.external).to_canonical()),
            teredo_ipv6: some(&self.teredo).map(|_| teredo.into()),
            port: self.port,
        }
    }
}

fn some<const N: usize>(bytes: &[u8; N]) -> Option<[u8; N]> {
    (*bytes != [0; N]).then_some(*bytes)
}

/// 2000::/3 without Teredo, which has a field of its own.
fn is_global(address: &Ipv6Addr) -> bool {
    let segments = address.segments();
    segments[0] & 0xe000 == 0x2000 && segments[..2] != [0x2001, 0]
}

/// By what a swarm's peers are kept in order: all that one question is about stand side by side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    pub(crate) list: List,
    /// Whether it has everything: who has everything too never has to look at it.
    pub(crate) seed: bool,
    pub(crate) major: u128,
    pub(crate) site: u128,
    pub(crate) id: [u8; 20],
}

/// Who is told of an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum List {
    /// The same site. Sorted by site.
    Lan,
    /// The same group, in group mode. Sorted by group, then site.
    Group,
    /// The same group, in Internet mode. Sorted by group, then site.
    GroupToo,
    /// Anybody in Internet mode, and the same site. Sorted by country, then site.
    Open,
}

impl Record {
    /// The key of this record in a list.
    pub(crate) fn key(&self, list: List) -> Key {
        Key {
            list,
            seed: self.is_seed(),
            major: match list {
                List::Lan => 0,
                List::Group | List::GroupToo => self.group().unwrap_or(0),
                List::Open => self.country().into(),
            },
            site: self.site().0,
            id: self.id,
        }
    }

    /// The lists that it stands in: at most two.
    pub(crate) fn lists(&self) -> impl Iterator<Item = List> + use<> {
        let (mut near, mut group) = (None, None);
        if !self.takes_only() {
            near = match self.scope() {
                Scope::Group => None,
                Scope::Internet if self.is_open() => Some(List::Open),
                Scope::Lan | Scope::Internet => Some(List::Lan),
            };
            group = self.group().and_then(|_| match self.scope() {
                Scope::Lan => None,
                Scope::Group => Some(List::Group),
                Scope::Internet => Some(List::GroupToo),
            });
        }
        near.into_iter().chain(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_104_bytes() {
        assert_eq!(size_of::<Record>(), 104);
    }

    #[test]
    fn sites_are_addresses_of_ipv4_and_networks_of_ipv6() {
        let v4 = |text: &str| u128::from_be_bytes(bytes_of(text.parse().unwrap()));
        assert_ne!(Site::of(v4("192.0.2.1")), Site::of(v4("192.0.2.2")));
        assert_eq!(
            Site::of(v4("192.0.2.1")).network(),
            Site::of(v4("192.0.2.2")).network()
        );
        assert_eq!(
            Site::of(v4("2001:db8::1")),
            Site::of(v4("2001:db8::ffff:0:0:1"))
        );
        assert_ne!(Site::of(v4("2001:db8::1")), Site::of(v4("2001:db8:0:1::1")));
        let (first, last) = Site::of(v4("192.0.2.1")).near();
        assert_eq!((first, last), (v4("192.0.0.0"), v4("192.0.255.255")));
        let (first, last) = Site::of(v4("2001:db8:5::1")).near();
        assert_eq!(first, v4("2001:db8::"));
        assert_eq!(last, v4("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"));
    }

    #[test]
    fn strangers_see_public_addresses_alone() {
        let mut request = JoinRequest::new("x".parse().unwrap(), [1; 20].into(), Scope::Internet);
        request.reported_ip = Some([10, 0, 0, 1].into());
        request.ipv6 = Some("fd00::1".parse().unwrap());
        request.teredo_ipv6 = Some("2001:0:4136:e378:8000:63bf:3fff:fdd2".parse().unwrap());
        let seen = Seen {
            address: "::ffff:192.0.2.1".parse().unwrap(),
            country: "DE".parse().unwrap(),
        };
        let record = Record::of(&request, seen, 5, 9);
        let shown = record.shown(Scope::Internet);
        assert_eq!((shown.lan_ip, shown.lan_ipv6), (None, None));
        assert_eq!(shown.external_ip, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(shown.teredo_ipv6, request.teredo_ipv6);
        for scope in [Scope::Lan, Scope::Group] {
            let shown = record.shown(scope);
            assert_eq!(
                (shown.lan_ip, shown.lan_ipv6),
                (request.reported_ip, request.ipv6)
            );
        }
        request.ipv6 = Some("2001:db8::1".parse().unwrap());
        let public = Record::of(&request, seen, 5, 9).shown(Scope::Internet);
        assert_eq!(public.lan_ipv6, request.ipv6);
    }
}
