//! Who fetches over HTTP where not everybody knows everybody.
//!
//! Of those who know each other one fetches (`http.rs`). In a large fleet several are first among their own neighbours
//! and know nothing of each other, nor of what each of them fetches until it has spread: so they fetch the same. Each
//! machine therefore tells its neighbours who ranks first of all that it heard of, and how far away that one is; who hears
//! of a better one than itself leaves HTTP to it, as to a better neighbour, and no longer than to such a one.
//!
//! A rank is believed, as a neighbour's id is: who claims the best and fetches nothing costs the others one turn.

use super::Swarm;
use crate::{Command, Lead, SourceId};
use std::time::{Duration, Instant};

/// Nobody further away than this is told of: what is fetched there comes late, and so does the news that it is gone.
const HOPS_MAX: u8 = 4;
/// After we waited for one who fetched nothing we listen to nobody for this long.
const DISTRUST: Duration = Duration::from_secs(15);
/// Changes told at once, …
const TELL_BURST: u32 = 16;
/// … and the time after which one more may be. So nobody can make us talk.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What was heard and told.
#[derive(Debug)]
pub(super) struct Leads {
    told: Option<Lead>,
    /// Changes that may be told now.
    tells: u32,
    /// When there was last one more.
    refilled: Instant,
    distrust_until: Option<Instant>,
    /// Some peer told of one, ever.
    heard: bool,
}

impl Leads {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            told: None,
            tells: TELL_BURST,
            refilled: now,
            distrust_until: None,
            heard: false,
        }
    }

    fn may_tell(&mut self, now: Instant) -> bool {
        while self.tells < TELL_BURST && now >= self.refilled + TELL_EVERY {
            self.tells += 1;
            self.refilled += TELL_EVERY;
        }
        if self.tells == TELL_BURST {
            self.refilled = now;
        }
        let may = self.tells > 0;
        self.tells -= u32::from(may);
        may
    }
}

impl Swarm {
    /// A peer tells who ranks first at the HTTP server of those that it heard of (extension message); `None`: nobody.
    pub fn handle_lead(&mut self, id: SourceId, lead: Option<Lead>, now: Instant) {
        let Some(s) = self.sources.get_mut(&id).filter(|s| s.is_peer()) else {
            return;
        };
        s.last_heard = now;
        self.leads.heard |= lead.is_some();
        if std::mem::replace(&mut s.lead, lead) != lead {
            self.http.due = true;
            self.settle(now);
        }
    }

    /// The first of those that neighbours told of, seen from here; not ourselves.
    fn best_heard(&self, now: Instant) -> Option<Lead> {
        let distrusted = self.leads.distrust_until.is_some_and(|until| now < until);
        if distrusted || !self.leads.heard {
            return None;
        }
        let ours = self.own_rank();
        let heard = self.sources.values().filter_map(|s| s.lead);
        let near = heard.filter(|lead| lead.hops < HOPS_MAX && lead.rank != ours);
        let seen = near.map(|lead| Lead {
            hops: lead.hops + 1,
            ..lead
        });
        seen.max_by(|a, b| a.rank.cmp(&b.rank).then(b.hops.cmp(&a.hops)))
    }

    /// Whether somebody further away than our neighbours comes before us at the HTTP server.
    pub(super) fn is_led(&self, now: Instant) -> bool {
        let best = self.best_heard(now);
        best.is_some_and(|best| best.rank > self.own_rank())
    }

    /// We waited for one who fetched nothing.
    pub(super) fn distrust_leads(&mut self, now: Instant) {
        self.leads.distrust_until = Some(now + DISTRUST);
    }

    /// Tells all neighbours who ranks first, when that has changed.
    pub(super) fn tell_lead(&mut self, now: Instant) {
        let own = self.may_lead(now).then(|| Lead {
            rank: self.own_rank(),
            hops: 0,
        });
        let heard = self.best_heard(now);
        let best = match (own, heard) {
            (Some(own), Some(heard)) if heard.rank > own.rank => Some(heard),
            (Some(own), _) => Some(own),
            (None, heard) => heard,
        };
        if best == self.leads.told || !self.leads.may_tell(now) {
            return;
        }
        self.leads.told = best;
        let peers = self.sources.iter().filter(|(_, s)| s.is_extended_peer());
        for (&source, _) in peers {
            self.commands
                .push_back(Command::TellLead { source, lead: best });
        }
    }

    /// A new extended peer learns what the others were told.
    pub(super) fn tell_lead_to(&mut self, source: SourceId) {
        let lead = self.leads.told;
        if lead.is_some() && self.sources[&source].is_extended_peer() {
            self.commands.push_back(Command::TellLead { source, lead });
        }
    }
}
