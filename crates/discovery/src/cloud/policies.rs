//! Content policies: asked for while somebody waits for one, kept for as long as they count. Pure.

use super::{
    chain::{Refused, client_version, fresh_for, get},
    failure::Failure,
    limits::{NO_POLICY_FRESH, POLICIES_MAX, POLICY_FRESH},
    question::{Ask, Outcome, PolicyKey, Question},
    slot::Slot,
};
use crate::random::Random;
use dosvc_cloud_protocol::{
    ContentPolicy, ContentPolicyRequest, GeoAnswer, KeyValueAnswer, PROFILE_PC, Text,
};
use dosvc_content::{GroupHash, PeerId};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

#[derive(Debug)]
struct Entry {
    slot: Slot,
    /// The policy, or that there is none, and until when that counts.
    answer: Option<(Option<ContentPolicy>, Instant)>,
    /// How many wait for it.
    waiting: u32,
    used: Instant,
}

impl Entry {
    fn fresh(&self, now: Instant) -> Option<&Option<ContentPolicy>> {
        let (answer, until) = self.answer.as_ref()?;
        (*until > now).then_some(answer)
    }

    fn wants(&self, now: Instant) -> bool {
        self.waiting > 0 && self.fresh(now).is_none()
    }
}

/// Where the question for a policy stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PolicyState {
    /// There is one, or the service knows none for us.
    Known(Option<Box<ContentPolicy>>),
    /// An attempt since then has failed.
    Failed(Failure),
    /// It is on its way.
    Pending,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    entries: BTreeMap<PolicyKey, Entry>,
}

impl Policies {
    /// Somebody waits for this policy, until [`Self::unwant`]. False: too many are waited for.
    pub(crate) fn want(&mut self, now: Instant, key: &PolicyKey) -> bool {
        if !self.entries.contains_key(key) && !self.make_room() {
            return false;
        }
        let entry = self.entries.entry(key.clone()).or_insert_with(|| Entry {
            slot: Slot::new(now),
            answer: None,
            waiting: 0,
            used: now,
        });
        entry.waiting += 1;
        entry.used = now;
        entry.slot.hurry(now);
        true
    }

    pub(crate) fn unwant(&mut self, key: &PolicyKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.waiting = entry.waiting.saturating_sub(1);
        }
    }

    fn make_room(&mut self) -> bool {
        if self.entries.len() < POLICIES_MAX {
            return true;
        }
        let unused = self.entries.iter().filter(|(_, entry)| entry.waiting == 0);
        let oldest = unused.min_by_key(|(_, entry)| entry.used);
        let oldest = oldest.map(|(key, _)| key.clone());
        oldest.is_some_and(|key| self.entries.remove(&key).is_some())
    }

    /// Where the question stands for somebody who has waited since then.
    pub(crate) fn state(&self, now: Instant, key: &PolicyKey, since: Instant) -> PolicyState {
        let Some(entry) = self.entries.get(key) else {
            return PolicyState::Pending;
        };
        match (entry.fresh(now), entry.slot.failure_since(since)) {
            (Some(answer), _) => PolicyState::Known(answer.clone().map(Box::new)),
            (None, Some(failure)) => PolicyState::Failed(failure.clone()),
            (None, None) => PolicyState::Pending,
        }
    }

    /// When the next one is to be asked for.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let wanted = self.entries.values().filter(|entry| entry.wants(now));
        wanted.filter_map(|entry| entry.slot.due()).min()
    }

    /// What is to be asked now.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        (geo, key_value): (&GeoAnswer, &KeyValueAnswer),
        peer: PeerId,
        group: Option<GroupHash>,
    ) -> Option<Ask> {
        let mut entries = self.entries.iter_mut();
        let (key, entry) = entries.find(|(_, entry)| entry.wants(now) && entry.slot.is_due(now))?;
        entry.slot.asked(now);
        let request = ContentPolicyRequest {
            alt_catalog_id: key.url.clone(),
            do_client_version: client_version(),
            profile: Some(PROFILE_PC),
            country_code: Some(geo.country_code),
            e_id: group.and_then(|group| Text::new(group.to_string())),
            cache_host: None,
            peer_id: Some(peer),
        };
        let template = &key_value.content_policy_endpoint_full_uri;
        let address = template.fill(&key.id_in_address());
        let joint = if address.contains('?') { '&' } else { '?' };
        let url = format!("{address}{joint}{}", request.to_query());
        Some(get(Question::Policy(key.clone()), url))
    }

    pub(crate) fn handle(
        &mut self,
        now: Instant,
        key: &PolicyKey,
        outcome: Outcome,
        random: &mut Random,
    ) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        match read(outcome, random) {
            Ok((answer, fresh_until)) => {
                let until = now + fresh_until;
                entry.answer = Some((answer, until));
                entry.slot.answered(until);
            }
            Err((failure, retry_after)) => entry.slot.failed(now, failure, retry_after, random),
        }
    }

    /// How many are kept, and what the last attempts of those that failed came to.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&Slot, &Failure)> {
        let entries = self.entries.values();
        entries.filter_map(|entry| Some((&entry.slot, entry.slot.failure()?)))
    }

    /// How many count at present.
    pub(crate) fn fresh_count(&self, now: Instant) -> usize {
        let entries = self.entries.values();
        entries.filter(|entry| entry.fresh(now).is_some()).count()
    }

    /// Those that count at present, for the file.
    pub(crate) fn fresh(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (&PolicyKey, &ContentPolicy, Instant)> {
        self.entries.iter().filter_map(move |(key, entry)| {
            let (answer, until) = entry.answer.as_ref()?;
            let policy = answer.as_ref().filter(|_| *until > now)?;
            Some((key, policy, *until))
        })
    }

    /// Takes one back in from the file.
    pub(crate) fn restore(
        &mut self,
        now: Instant,
        key: PolicyKey,
        policy: ContentPolicy,
        until: Instant,
    ) {
        if self.entries.len() < POLICIES_MAX {
            let entry = Entry {
                slot: Slot::new(until),
                answer: Some((Some(policy), until)),
                waiting: 0,
                used: now,
            };
            self.entries.insert(key, entry);
        }
    }
}

/// Reads the answer: a policy or none, and how long that counts.
fn read(
    outcome: Outcome,
    random: &mut Random,
) -> Result<(Option<ContentPolicy>, Duration), Refused> {
    let reply = outcome.map_err(|why| (Failure::Unreachable(why), None))?;
    if reply.is_unknown() {
        return Ok((None, fresh_for(&reply, NO_POLICY_FRESH, random)));
    }
    super::chain::read(Ok(reply), ContentPolicy::from_json, POLICY_FRESH, random)
        .map(|(policy, fresh)| (Some(policy), fresh))
}
