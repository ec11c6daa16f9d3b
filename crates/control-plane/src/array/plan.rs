//! Whom a peer may be told of, the best first: what every store of swarms carries out.
//!
//! A swarm's peers stand in one order ([`Key`](super::record::Key)): those of one list, in it those of one major (group
//! or country), in it those of one site. Everybody that a line of the table in [`super`] is about stands in a few
//! stretches of that order, so that a store needs only three things to answer: how many stand before a key, who stands
//! at a rank, and what is known of a peer.

use super::record::{List, Record};
use dosvc_cloud_protocol::{Scope, limits::PEERS_MAX};

/// Peers of one site in one swarm that strangers are told of; its own LAN and group are told of all.
pub(crate) const OPEN_PER_SITE_MAX: usize = 64;

/// Peers that may be drawn in vain for one class of an answer: who asks, what has just expired, and who belongs to a class
/// before.
pub(crate) const IN_VAIN_MAX: usize = 3 * PEERS_MAX;

/// A place between the keys: a list, those in it who have everything or the others, their major, and a site in that.
pub(crate) type Place = (List, bool, u128, u128);

/// All keys from one place to another, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stretch {
    pub(crate) first: Place,
    pub(crate) last: Place,
}

impl Stretch {
    fn site(list: List, seed: bool, major: u128, site: u128) -> Self {
        Self::sites(list, seed, major, (site, site))
    }

    fn sites(list: List, seed: bool, major: u128, (first, last): (u128, u128)) -> Self {
        Self {
            first: (list, seed, major, first),
            last: (list, seed, major, last),
        }
    }
}

/// A stretch without one that lies inside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) all: Stretch,
    pub(crate) without: Option<Stretch>,
}

impl From<Stretch> for Part {
    fn from(all: Stretch) -> Self {
        Self { all, without: None }
    }
}

/// Peers that are equally good: drawn at random from all of their parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Class {
    /// How who asks meets them.
    pub(crate) scope: Scope,
    pub(crate) parts: Vec<Part>,
    /// Whether those of the same group or site are to be left out: they stand there too, and belong to classes before.
    pub(crate) strangers: bool,
}

/// The classes for a peer that asks, the best first.
pub(crate) fn classes(asks: &Record) -> impl Iterator<Item = Class> + use<> {
    let site = asks.site();
    let country = u128::from(asks.country());
    let group = asks.group();
    let every = (0, u128::MAX);
    // Who has everything is told only of those who don't.
    let halves: &[bool] = if asks.is_seed() {
        &[false]
    } else {
        &[false, true]
    };
    let class =
        move |scope, lists: &[(List, u128)], part: &dyn Fn(List, bool, u128) -> Part| Class {
            scope,
            parts: lists
                .iter()
                .flat_map(|(list, major)| halves.iter().map(|seed| part(*list, *seed, *major)))
                .collect(),
            strangers: false,
        };
    let at_site = move |lists: &[(List, u128)]| {
        class(Scope::Lan, lists, &|list, seed, major| {
            Stretch::site(list, seed, major, site.0).into()
        })
    };
    let group_elsewhere = move |group| {
        let lists = [(List::Group, group), (List::GroupToo, group)];
        class(Scope::Group, &lists, &|list, seed, group| Part {
            all: Stretch::sites(list, seed, group, every),
            without: Some(Stretch::site(list, seed, group, site.0)),
        })
    };
    let ring = move |number, seed| match number {
        0 => Stretch::site(List::Open, seed, country, site.0),
        1 => Stretch::sites(List::Open, seed, country, site.near()),
        2 => Stretch::sites(List::Open, seed, country, every),
        _ => Stretch {
            first: (List::Open, seed, 0, 0),
            last: (List::Open, seed, u128::MAX, u128::MAX),
        },
    };
    let strangers = move |number| Class {
        strangers: true,
        ..class(Scope::Internet, &[(List::Open, 0)], &|_, seed, _| Part {
            all: ring(number, seed),
            without: Some(ring(number - 1, seed)),
        })
    };
    let scope = asks.scope();
    // One after the other: most answers are full before the last.
    (0..5).filter_map(move |step| match (scope, step) {
        (Scope::Lan, 0) => Some(at_site(&[(List::Lan, 0), (List::Open, country)])),
        (Scope::Group, 0) => {
            group.map(|group| at_site(&[(List::Group, group), (List::GroupToo, group)]))
        }
        (Scope::Internet, 0) => Some(match group {
            Some(group) => at_site(&[(List::Lan, 0), (List::Open, country), (List::Group, group)]),
            None => at_site(&[(List::Lan, 0), (List::Open, country)]),
        }),
        (Scope::Group | Scope::Internet, 1) => group.map(group_elsewhere),
        (Scope::Internet, 2..=4) => Some(strangers(step - 1)),
        _ => None,
    })
}
