//! Time: silent sources, stale claims, rotation, and when to be woken.

use super::Swarm;
use crate::{
    SourceId,
    source::{Down, Source},
};
use std::time::{Duration, Instant};

/// How often deadlines are looked at while anything is in flight.
const TICK: Duration = Duration::from_millis(100);
/// How long a source stays demoted the first time; doubles each time.
const DEMOTED: Duration = Duration::from_secs(5);
/// The longest demotion, as a power of two of the first.
const DEMOTED_DOUBLINGS: u32 = 4;
/// A neighbour's claim to be fetching a piece counts this long, …
const CLAIM_MAX: Duration = Duration::from_secs(15);
/// … or as long as our own uplink takes for so many, where that is longer, …
const CLAIM_PIECES: u32 = 6;
/// … but never longer than this.
const CLAIM_SLOW_MAX: Duration = Duration::from_secs(150);

impl Swarm {
    /// To be called when [`Self::poll_timeout`] says so; earlier or more often does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.note_begin(now);
        if now < self.next_tick {
            self.settle(now);
            return;
        }
        self.next_tick = now + TICK;
        let ids: Vec<SourceId> = self.sources.keys().copied().collect();
        for id in ids {
            self.check_source(id, now);
        }
        self.rotate(now);
        self.drop_stale_offers(now);
        self.http.due = true;
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] is due; `None`: nothing to wait for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.sources.is_empty() {
            return None;
        }
        let downloading = || !self.paused && self.sources.values().any(Source::is_busy);
        if self.is_uploading() || downloading() {
            let serve = self.serve_due_at();
            let offers = self.offers_due_at();
            let begins = self.begins_at();
            let soon = serve.into_iter().chain(offers).chain(begins).min();
            return Some(soon.map_or(self.next_tick, |at| at.min(self.next_tick)));
        }
        // What was shown and is not asked for is shown to others some time.
        let steering = self
            .sources
            .values()
            .any(|s| s.up.steered && s.up.interested);
        let steer = steering.then_some(self.next_tick + TICK * 9);
        if self.paused || self.is_complete() {
            return steer;
        }
        // Nothing moves: whatever may let it move again.
        let starts = [self.http_at(), self.cache_fallback_at(), self.grace_end()];
        let back = self.sources.values().filter_map(Source::back_at);
        let soon = starts
            .into_iter()
            .chain(back)
            .filter(|at| *at + TICK > self.next_tick)
            .map(|at| at.max(self.next_tick))
            .min();
        let claims = self
            .sources
            .values()
            .any(|s| !s.fetching.is_empty() || !s.is_peer());
        let look = claims.then_some(self.next_tick + TICK * 4);
        let begins = self.begins_at();
        let all = soon.into_iter().chain(look).chain(steer).chain(begins);
        all.min()
    }

    fn check_source(&mut self, id: SourceId, now: Instant) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        if matches!(s.down, Some(Down::Until(until)) if now >= until) {
            s.down = None;
            self.ready.insert(id);
        }
        if s.demoted_until.is_some_and(|until| now >= until) {
            s.demoted_until = None;
            s.ramp = 1;
            self.ready.insert(id);
        }
        let slow = self.uploads.time_of(CLAIM_PIECES).min(CLAIM_SLOW_MAX);
        let max = CLAIM_MAX.max(slow);
        let stale = |since: &Instant| now.saturating_duration_since(*since) > max;
        if s.fetching.values().any(stale) {
            let old: Vec<u32> = s
                .fetching
                .iter()
                .filter(|(_, t)| stale(t))
                .map(|(p, _)| *p)
                .collect();
            for piece in old {
                s.fetching.remove(&piece);
                self.offers.note_more();
                self.picker.remove_fetcher(self.pieces.index(piece));
            }
        }
        let silent = s.is_busy() && s.silent_at(now).is_some_and(|at| now >= at);
        if silent && self.could_take_over(id, now) {
            self.demote(id, now);
        } else if self
            .sources
            .get(&id)
            .is_some_and(|s| s.is_peer() && s.asked.is_empty())
        {
            // What waits elsewhere may have become worth taking over.
            self.ready.insert(id);
        }
    }

    /// Whether anybody else could deliver what is asked of this source; if not, waiting is all there is. An HTTP
    /// source is always worth a new connection.
    fn could_take_over(&self, id: SourceId, now: Instant) -> bool {
        let Some(s) = self.sources.get(&id) else {
            return false;
        };
        let delay_over = now >= self.http_at();
        let can = |other: &Source| {
            let has =
                |block: dosvc_content::Block| !other.is_peer() || other.has.has(block.piece());
            other.is_usable(now)
                && (other.is_peer() || delay_over)
                && s.asked.iter().any(|a| has(a.block))
        };
        !s.is_peer() || self.sources.iter().any(|(other, o)| *other != id && can(o))
    }

    pub(super) fn demote(&mut self, id: SourceId, now: Instant) {
        let Some(s) = self.sources.get_mut(&id) else {
            return;
        };
        let doublings = s.demotions.min(DEMOTED_DOUBLINGS);
        s.demotions += 1;
        s.demoted_until = Some(now + DEMOTED * 2u32.pow(doublings));
        s.ramp = 1;
        self.stats.demotions += 1;
        self.give_up_all(id, true, now);
    }
}
