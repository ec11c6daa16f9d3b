//! Geo and key-value: what must be known before anything else can be asked. Pure.

use super::{
    failure::Failure,
    limits::{CHAIN_USABLE, FRESH_MAX, GEO_FRESH, KEY_VALUE_FRESH},
    question::{Ask, Outcome, Question, Reply},
    slot::Slot,
};
use crate::random::Random;
use dosvc_cloud_protocol::{
    GeoAnswer, GeoRequest, GeoVersionAnswer, HttpUrl, KeyValueAnswer, KeyValueRequest, PROFILE_PC,
    ProtocolError, Text, limits::VERSION_BYTES_MAX,
};
use dosvc_content::GroupHash;
use std::time::{Duration, Instant};

/// The version of the client that questions carry: the one that was recorded.
const CLIENT_VERSION: &str = "10.1.0.13";
/// An answer counts for so long at least, whatever its `max-age` says.
const FRESH_MIN: Duration = Duration::from_secs(60);

/// [`CLIENT_VERSION`] as questions have it.
pub(crate) fn client_version() -> Text<VERSION_BYTES_MAX> {
    Text::new(CLIENT_VERSION).expect("nine characters")
}

/// How long an answer counts: as it says, or `default`; a little shorter, so that machines which began together part.
pub(crate) fn fresh_for(reply: &Reply, default: Duration, random: &mut Random) -> Duration {
    let said = reply.max_age.unwrap_or(default);
    let fresh = said.clamp(FRESH_MIN, FRESH_MAX);
    fresh - random.up_to(fresh / 8)
}

/// An answer, and until when it counts.
#[derive(Debug, Clone)]
pub(crate) struct Kept<T> {
    pub(crate) answer: T,
    /// Until when it need not be asked for again.
    pub(crate) fresh_until: Instant,
    /// Until when it is better than none.
    pub(crate) usable_until: Instant,
}

impl<T> Kept<T> {
    fn new(answer: T, now: Instant, fresh: Duration) -> Self {
        Self {
            answer,
            fresh_until: now + fresh,
            usable_until: now + fresh.max(CHAIN_USABLE),
        }
    }
}

/// A service of the chain, for status and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Geo,
    KeyValue,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Chain {
    geo_url: HttpUrl,
    geo_version_url: HttpUrl,
    group: Option<GroupHash>,
    pub(crate) geo: Option<Kept<GeoAnswer>>,
    pub(crate) geo_slot: Slot,
    /// The whole of geo's answer is to be asked for, not its version only.
    geo_anew: bool,
    pub(crate) key_value: Option<Kept<KeyValueAnswer>>,
    pub(crate) key_value_slot: Slot,
}

impl Chain {
    pub(crate) fn new(geo_url: HttpUrl, geo_version_url: HttpUrl, now: Instant) -> Self {
        Self {
            geo_url,
            geo_version_url,
            group: None,
            geo: None,
            geo_slot: Slot::new(now),
            geo_anew: true,
            key_value: None,
            key_value_slot: Slot::new(now),
        }
    }

    pub(crate) fn geo_url(&self) -> &HttpUrl {
        &self.geo_url
    }

    /// What earlier runs were answered.
    pub(crate) fn restore(
        &mut self,
        geo: Option<Kept<GeoAnswer>>,
        key_value: Option<Kept<KeyValueAnswer>>,
    ) {
        self.geo_anew = geo.is_none();
        self.geo = geo;
        self.key_value = key_value;
    }

    /// Both answers, as long as they are better than none.
    pub(crate) fn answers(&self, now: Instant) -> Option<(&GeoAnswer, &KeyValueAnswer)> {
        let geo = self.geo.as_ref().filter(|kept| kept.usable_until > now)?;
        let key_value = self.key_value.as_ref();
        let key_value = key_value.filter(|kept| kept.usable_until > now)?;
        Some((&geo.answer, &key_value.answer))
    }

    /// The group, which geo and key-value are told.
    pub(crate) fn set_group(&mut self, group: Option<GroupHash>, now: Instant) {
        if std::mem::replace(&mut self.group, group) != group {
            self.anew(now);
        }
    }

    /// The machine is somewhere else, or of another group: what geo said may not hold any more.
    pub(crate) fn anew(&mut self, now: Instant) {
        self.geo_anew = true;
        if let Some(geo) = &mut self.geo {
            geo.fresh_until = now;
        }
        self.geo_slot.at_most(now);
        self.key_value_slot.at_most(now);
    }

    /// Somebody waits for what comes after the chain.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.geo_slot.hurry(now);
        self.key_value_slot.hurry(now);
    }

    /// What is to be asked now, given that somebody wants what comes after it.
    pub(crate) fn poll(&mut self, now: Instant, random: &mut Random) -> Option<Ask> {
        let geo_fresh = self.geo.as_ref().is_some_and(|kept| kept.fresh_until > now);
        if !geo_fresh && self.geo_slot.is_due(now) {
            self.geo_slot.asked(now);
            return Some(self.geo_question(now, random));
        }
        let geo = self.geo.as_ref().filter(|kept| kept.usable_until > now)?;
        // A new answer may name another address; it is on its way.
        if self.geo_slot.is_asking() {
            return None;
        }
        let fresh = self.key_value.as_ref();
        if fresh.is_some_and(|kept| kept.fresh_until > now) || !self.key_value_slot.is_due(now) {
            return None;
        }
        self.key_value_slot.asked(now);
        let request = KeyValueRequest {
            do_client_version: client_version(),
            country_code: Some(geo.answer.country_code),
            profile: Some(PROFILE_PC),
            cache_id: Some(geo.answer.cache_id.clone()).filter(|id| !id.is_empty()),
            e_id: self.group.and_then(|group| Text::new(group.to_string())),
            cache_host: None,
        };
        let url = &geo.answer.key_value_endpoint_full_uri;
        Some(get(Question::KeyValue, url.with_query(&request.to_query())))
    }

    fn geo_question(&self, now: Instant, random: &mut Random) -> Ask {
        let request = GeoRequest {
            do_client_version: client_version(),
            profile: Some(PROFILE_PC),
            call_id: Some(random.number()),
            group_id: self.group.and_then(|group| Text::new(group.to_string())),
        };
        let usable = self
            .geo
            .as_ref()
            .is_some_and(|kept| kept.usable_until > now);
        let (question, url) = match usable && !self.geo_anew {
            true => (Question::GeoVersion, &self.geo_version_url),
            false => (Question::Geo, &self.geo_url),
        };
        get(question, url.with_query(&request.to_query()))
    }

    /// When [`Self::poll`] may have something that everything else waits for; `None`: it is being asked.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let geo = self.geo.as_ref().filter(|kept| kept.usable_until > now);
        if geo.is_none() || self.geo_slot.is_asking() {
            return self.geo_slot.due();
        }
        self.key_value_slot.due()
    }

    /// Why nothing can be asked beyond the chain, if an attempt that ended at `since` or later has shown it.
    pub(crate) fn failure_since(&self, since: Instant, now: Instant) -> Option<&Failure> {
        let slots = [&self.geo_slot, &self.key_value_slot];
        let mut failures = slots.into_iter().filter_map(|s| s.failure_since(since));
        failures.next().filter(|_| self.answers(now).is_none())
    }

    /// Which service keeps everything else from being asked, and why; `None` while all is well.
    pub(crate) fn broken(&self, now: Instant) -> Option<(Link, &Failure)> {
        let geo = self.geo_slot.failure().map(|failure| (Link::Geo, failure));
        let key_value = self.key_value_slot.failure();
        let broken = geo.or_else(|| key_value.map(|failure| (Link::KeyValue, failure)));
        broken.filter(|_| self.answers(now).is_none())
    }

    pub(crate) fn handle_geo(&mut self, now: Instant, outcome: Outcome, random: &mut Random) {
        let (answer, fresh) = match read(outcome, GeoAnswer::from_json, GEO_FRESH, random) {
            Ok(read) => read,
            Err((failure, retry_after)) => {
                return self.geo_slot.failed(now, failure, retry_after, random);
            }
        };
        let known = self.geo.as_ref().map(|kept| &kept.answer);
        let same = known.is_some_and(|known| {
            known.version == answer.version
                && known.key_value_endpoint_full_uri == answer.key_value_endpoint_full_uri
        });
        if !same {
            // Another version may mean other services.
            if let Some(key_value) = &mut self.key_value {
                key_value.fresh_until = now;
            }
            self.key_value_slot.at_most(now);
        }
        self.geo = Some(Kept::new(answer, now, fresh));
        self.geo_anew = false;
        self.geo_slot.answered(now + fresh);
    }

    pub(crate) fn handle_geo_version(
        &mut self,
        now: Instant,
        outcome: Outcome,
        random: &mut Random,
    ) {
        match read(outcome, GeoVersionAnswer::from_json, GEO_FRESH, random) {
            Ok((answer, fresh)) => match &mut self.geo {
                Some(geo) if geo.answer.version == answer.version && !self.geo_anew => {
                    *geo = Kept::new(geo.answer.clone(), now, fresh);
                    self.geo_slot.answered(now + fresh);
                }
                _ => self.ask_geo(now),
            },
            Err((failure @ (Failure::Unreachable(_) | Failure::CaptivePortal), retry_after)) => {
                self.geo_slot.failed(now, failure, retry_after, random);
            }
            // A service need not know this question.
            Err(_) => self.ask_geo(now),
        }
    }

    fn ask_geo(&mut self, now: Instant) {
        self.geo_anew = true;
        self.geo_slot.answered(now);
    }

    pub(crate) fn handle_key_value(&mut self, now: Instant, outcome: Outcome, random: &mut Random) {
        match read(outcome, KeyValueAnswer::from_json, KEY_VALUE_FRESH, random) {
            Ok((answer, fresh)) => {
                self.key_value = Some(Kept::new(answer, now, fresh));
                self.key_value_slot.answered(now + fresh);
            }
            Err((failure, retry_after)) => {
                self.key_value_slot
                    .failed(now, failure, retry_after, random);
                // The address may be an old one.
                if let Some(geo) = &mut self.geo
                    && self.key_value_slot.failures() >= 2
                {
                    geo.fresh_until = now;
                    self.geo_anew = true;
                }
            }
        }
    }
}

/// A question by GET.
pub(crate) fn get(question: Question, url: String) -> Ask {
    Ask {
        question,
        url,
        body: None,
    }
}

/// A failure, and how long the service wants to be left alone.
pub(crate) type Refused = (Failure, Option<Duration>);

/// Reads what came back: the answer, and how long it counts.
pub(crate) fn read<T>(
    outcome: Outcome,
    parse: impl FnOnce(&[u8]) -> Result<T, ProtocolError>,
    fresh: Duration,
    random: &mut Random,
) -> Result<(T, Duration), Refused> {
    let reply = outcome.map_err(|why| (Failure::Unreachable(why), None))?;
    let refused = |failure| (failure, reply.retry_after);
    let json = reply.json().map_err(refused)?;
    let answer = parse(json).map_err(|error| refused(Failure::Malformed(error)))?;
    Ok((answer, fresh_for(&reply, fresh, random)))
}
