//! Where the chain stands, for people.

use super::{
    chain::{Kept, Link},
    core::Core,
    failure::Failure,
    slot::Slot,
};
use dosvc_content::HashOfHashes;
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// How a service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// Nobody has needed it yet.
    NotAsked,
    /// It is being asked for the first time, or again after a failure.
    Asking,
    /// It has answered, and that counts.
    Answered,
    /// It did not answer; what it said earlier is used meanwhile.
    Stale,
    /// It did not answer.
    Failing,
}

/// One service of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// `geo`, `key_value`, `content_policy` or `array` (with discovery, which names it).
    pub service: &'static str,
    /// How it stands.
    pub state: ServiceState,
    /// When it is asked next at the earliest, if somebody wants it then.
    pub next: Option<Duration>,
    /// What the last attempt failed with.
    pub failure: Option<Failure>,
    /// What is known from it, in words.
    pub known: String,
}

/// The whole client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudStatus {
    /// Where geo is asked.
    pub geo_url: String,
    /// The services, in the order of the chain.
    pub services: Vec<ServiceStatus>,
    /// The address that the services see.
    pub external_ip: Option<IpAddr>,
    /// Contents that an array lists us for.
    pub joined: usize,
    /// Contents that are to be joined, those included.
    pub members: usize,
}

/// One content at the array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Why nothing can be asked beyond geo and key-value.
    pub broken: Option<Failure>,
    /// A question is under way.
    pub asking: bool,
    /// When it is joined next; `None` while a question is under way.
    pub next: Option<Duration>,
    /// What the last attempt failed with.
    pub failure: Option<Failure>,
    /// How many peers the array named last; `None`: not joined yet.
    pub peers: Option<u32>,
    /// Whether the array names us to others.
    pub listed: bool,
    /// Array service, if discovery has named one.
    pub array: Option<String>,
}

impl Core {
    pub(crate) fn status(&self, now: Instant) -> CloudStatus {
        let chain = &self.chain;
        let geo = chain.geo.as_ref();
        let geo_known = geo.map(|geo| {
            let answer = &geo.answer;
            format!("{} in {}", answer.external_ip_address, answer.country_code)
        });
        let key_value_known = || {
            let answer = &chain.key_value.as_ref()?.answer;
            let policy = answer.content_policy_endpoint_full_uri.as_str();
            let discovery = answer.discovery_endpoint_full_uri.as_str();
            Some(format!(
                "content policy at {policy}, discovery at {discovery}"
            ))
        };
        CloudStatus {
            geo_url: chain.geo_url().to_string(),
            services: vec![
                link("geo", &chain.geo_slot, standing(geo, now), geo_known, now),
                link(
                    "key_value",
                    &chain.key_value_slot,
                    standing(chain.key_value.as_ref(), now),
                    key_value_known(),
                    now,
                ),
                self.policy_status(now),
                self.array_status(now),
            ],
            external_ip: self.external_ip(),
            joined: self.joined(),
            members: self.members.len(),
        }
    }

    /// The address that an array saw last, or geo.
    pub(crate) fn external_ip(&self) -> Option<IpAddr> {
        let geo = self.chain.geo.as_ref();
        self.external
            .or_else(|| geo.map(|geo| geo.answer.external_ip_address))
    }

    fn joined(&self) -> usize {
        let members = self.members.values();
        let listed = members.filter(|m| m.standing().1.is_some_and(|(_, listed)| listed));
        listed.count()
    }

    fn policy_status(&self, now: Instant) -> ServiceStatus {
        let kept = self.policies.fresh_count(now);
        let failing = self.policies.failures();
        let latest = failing.max_by_key(|(slot, _)| slot.last_asked());
        ServiceStatus {
            service: "content_policy",
            state: match (&latest, kept) {
                (Some(_), _) => ServiceState::Failing,
                (None, 0) => ServiceState::NotAsked,
                (None, _) => ServiceState::Answered,
            },
            next: None,
            failure: latest.map(|(_, failure)| failure.clone()),
            known: format!("{kept} answers kept"),
        }
    }

    fn array_status(&self, now: Instant) -> ServiceStatus {
        let slots = || self.members.values().map(|m| m.standing().0);
        let failing = slots().filter(|slot| slot.failure().is_some());
        let failing = failing.max_by_key(|slot| slot.last_asked());
        let joined = self.joined();
        let state = match (failing, joined) {
            (Some(_), 0) => ServiceState::Failing,
            (Some(_), _) => ServiceState::Stale,
            (None, 0) if slots().any(Slot::is_asking) => ServiceState::Asking,
            (None, 0) => ServiceState::NotAsked,
            (None, _) => ServiceState::Answered,
        };
        ServiceStatus {
            service: "array",
            state,
            next: slots()
                .filter_map(|slot| slot.due())
                .min()
                .map(|at| at.saturating_duration_since(now)),
            failure: failing.and_then(|slot| slot.failure().cloned()),
            known: format!("{joined} of {} contents joined", self.members.len()),
        }
    }

    pub(crate) fn member_status(
        &self,
        now: Instant,
        content: &HashOfHashes,
    ) -> Option<MemberStatus> {
        let member = self.members.get(content).filter(|m| !m.is_leaving())?;
        let (slot, joined) = member.standing();
        let array = member.arrays.as_ref();
        Some(MemberStatus {
            broken: self.broken(now).map(|(_, failure)| failure),
            asking: slot.is_asking(),
            next: slot.due().map(|at| at.saturating_duration_since(now)),
            failure: slot.failure().cloned(),
            peers: joined.map(|(peers, _)| peers),
            listed: joined.is_some_and(|(_, listed)| listed),
            array: array.and_then(|(arrays, _)| Some(arrays.first()?.to_string())),
        })
    }
}

impl Link {
    /// The service's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Geo => "geo",
            Self::KeyValue => "key_value",
        }
    }
}

/// Whether there is an answer, and whether it is fresh.
fn standing<T>(kept: Option<&Kept<T>>, now: Instant) -> (bool, bool) {
    let usable = kept.is_some_and(|kept| kept.usable_until > now);
    (usable, kept.is_some_and(|kept| kept.fresh_until > now))
}

fn link(
    service: &'static str,
    slot: &Slot,
    (usable, fresh): (bool, bool),
    known: Option<String>,
    now: Instant,
) -> ServiceStatus {
    let state = match (slot.failure().is_some(), usable) {
        (true, true) => ServiceState::Stale,
        (true, false) => ServiceState::Failing,
        (false, true) => ServiceState::Answered,
        (false, false) if slot.is_asking() => ServiceState::Asking,
        (false, false) => ServiceState::NotAsked,
    };
    // A fresh answer is asked for again when it is old.
    let due = slot.due().filter(|_| slot.failure().is_some() || fresh);
    ServiceStatus {
        service,
        state,
        next: due.map(|at| at.saturating_duration_since(now)),
        failure: slot.failure().cloned(),
        known: known.unwrap_or_default(),
    }
}
