//! What is known of a content's URLs, and which one to ask next. Pure: `now` and the seed are arguments.

use std::time::{Duration, Instant};

use url::Url;

use crate::answer::Answer;
use crate::backoff::Backoff;
use crate::client::Hop;
use crate::error::OriginError;
use crate::limits::URLS_MAX;
use crate::shown::ShownUrl;
use crate::validator::{Difference, Validator};

/// The URLs of one content, in the caller's order of preference.
#[derive(Debug)]
pub(crate) struct Sources {
    sources: Vec<Source>,
    /// The content's length, once anybody has told.
    total: Option<u64>,
    /// What an earlier run pinned; its total is in `total`.
    resumed: Validator,
    last_error: Option<OriginError>,
}

#[derive(Debug)]
struct Source {
    url: Url,
    /// Where its redirects led. Asked directly until it fails: a redirector may choose another server for every
    /// request, and each has its own entity tag.
    target: Option<Hop>,
    /// The validator of its first answer.
    pin: Option<Validator>,
    ranges: Option<bool>,
    /// Failures in a row.
    failures: u32,
    /// Not to be asked before.
    due: Option<Instant>,
    dead: Option<OriginError>,
    /// The failure that it waits after.
    error: Option<OriginError>,
    backoff: Backoff,
}

/// How one URL of a content stands.
#[derive(Debug, Clone)]
pub struct UrlReport {
    /// The URL, as given. May hold secrets: show it by [`ShownUrl`].
    pub url: Url,
    /// What it failed with last; `None` when it has not failed since it last gave something.
    pub error: Option<OriginError>,
    /// It is asked again then; `None`: now, or never again when `is_dead`.
    pub retry_at: Option<Instant>,
    /// It has failed for good.
    pub is_dead: bool,
    /// It is the one that is asked first.
    pub is_preferred: bool,
}

/// One attempt: at which URL, and how often that had failed when it began. Requests that run side by side and fail
/// together are one failure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    at: usize,
    failures: u32,
}

/// The URLs that were asked already, as bits.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tried(u32);

const _: () = assert!(URLS_MAX <= 32, "Tried has 32 bits");

impl Tried {
    pub(crate) fn add(&mut self, ticket: Ticket) {
        self.0 |= 1 << ticket.at;
    }

    fn has(self, at: usize) -> bool {
        self.0 & 1 << at != 0
    }
}

impl Sources {
    pub(crate) fn new(
        urls: Vec<Url>,
        validator: Validator,
        wait: (Duration, Duration),
        seed: u64,
    ) -> Self {
        let mut sources: Vec<Source> = Vec::new();
        for url in urls
            .into_iter()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
        {
            if sources.len() < URLS_MAX && sources.iter().all(|source| source.url != url) {
                let n = u64::try_from(sources.len()).expect("few");
                sources.push(Source::new(
                    url,
                    Backoff::new(wait.0, wait.1, seed.wrapping_add(n)),
                ));
            }
        }
        Self {
            sources,
            total: validator.total,
            resumed: validator,
            last_error: None,
        }
    }

    /// The best URL to ask now: alive, due, not in `tried`; those that know ranges first, then by preference.
    pub(crate) fn pick(&self, now: Instant, tried: Tried) -> Option<Ticket> {
        self.due(now, tried)
            .min_by_key(|(at, source)| (source.ranges == Some(false), *at))
            .map(|(at, source)| Ticket {
                at,
                failures: source.failures,
            })
    }

    /// Whether a URL that may know ranges could be asked now.
    pub(crate) fn may_find_ranges(&self, now: Instant, tried: Tried) -> bool {
        self.due(now, tried)
            .any(|(_, source)| source.ranges != Some(false))
    }

    fn due(&self, now: Instant, tried: Tried) -> impl Iterator<Item = (usize, &Source)> {
        self.sources.iter().enumerate().filter(move |(at, source)| {
            source.dead.is_none() && !tried.has(*at) && source.due.is_none_or(|due| due <= now)
        })
    }

    /// Where an attempt starts, and whether that is where a redirect led.
    pub(crate) fn start(&self, ticket: Ticket) -> (Hop, bool) {
        let source = &self.sources[ticket.at];
        match &source.target {
            Some(target) => (target.clone(), true),
            None => (Hop::given(source.url.clone()), false),
        }
    }

    /// The validator that an answer of this URL must agree with.
    pub(crate) fn pin(&self, ticket: Ticket) -> Validator {
        let pin = self.sources[ticket.at].pin.as_ref();
        pin.unwrap_or(&self.resumed).clone()
    }

    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// Takes an answer in: it must describe the version of the content that the download began with. `conditional`:
    /// the request had an `If-Range`.
    ///
    /// # Errors
    /// [`OriginError::Changed`].
    pub(crate) fn accept(
        &mut self,
        ticket: Ticket,
        hop: &Hop,
        conditional: bool,
        answer: &Answer,
    ) -> Result<(), OriginError> {
        let pin = self.pin(ticket);
        let server = hop.server();
        if let Some(difference) = self.difference(&pin, &server, conditional, answer) {
            return Err(OriginError::changed(ShownUrl::from(&hop.url), difference));
        }
        self.total = self.total.or(answer.total);
        let source = &mut self.sources[ticket.at];
        source.ranges = Some(!answer.whole);
        source.target = (hop.url != source.url).then(|| hop.clone());
        // A 206 may name less than the first answer did: what is pinned stays.
        let same_server = pin.is_for(&server);
        let old = |text: Option<String>| text.filter(|_| same_server);
        source.pin = Some(Validator {
            etag: old(pin.etag).or_else(|| answer.etag.clone()),
            last_modified: old(pin.last_modified).or_else(|| answer.last_modified.clone()),
            total: None,
            server: Some(server),
        });
        Ok(())
    }

    fn difference(
        &self,
        pin: &Validator,
        server: &str,
        conditional: bool,
        answer: &Answer,
    ) -> Option<Difference> {
        if let (Some(was), Some(is)) = (self.total, answer.total)
            && was != is
        {
            return Some(Difference::new("length", &was.to_string(), &is.to_string()));
        }
        let (etag, last_modified) = (answer.etag.as_deref(), answer.last_modified.as_deref());
        if !pin.is_for(server) {
            // Another server has tags of its own, but the date travels with the file; equal tags are proof too.
            let same_tag = pin.etag.is_some() && pin.etag.as_deref() == etag;
            return if same_tag {
                None
            } else {
                pin.difference(None, last_modified)
            };
        }
        if conditional && answer.whole && !pin.is_confirmed_by(etag, last_modified) {
            let was = pin.if_range().unwrap_or_default();
            let is = etag.or(last_modified).unwrap_or("unknown");
            return Some(Difference::new("the version (If-Range)", was, is));
        }
        if pin.server.is_none() && pin.names_version() && !pin.is_confirmed_by(etag, last_modified)
        {
            // Of another server than the one that the version is from: it must say that it has the same.
            let was = pin.etag.as_deref().or(pin.last_modified.as_deref());
            let is = etag.or(last_modified).unwrap_or("unknown");
            return Some(Difference::new("the version", was.unwrap_or_default(), is));
        }
        pin.difference(etag, last_modified)
    }

    /// Another server's word on the length, with a 416.
    pub(crate) fn length_differs(&self, total: u64) -> Option<Difference> {
        let was = self.total.filter(|was| *was != total)?;
        Some(Difference::new(
            "length",
            &was.to_string(),
            &total.to_string(),
        ))
    }

    /// Forgets where a redirect led, so that the next request asks the redirector again.
    pub(crate) fn forget_target(&mut self, ticket: Ticket) {
        self.sources[ticket.at].target = None;
    }

    /// An attempt failed: the URL is dead if that is for good, else waits. `progress`: much had come before, so the
    /// waits begin anew.
    pub(crate) fn failed(
        &mut self,
        ticket: Ticket,
        now: Instant,
        error: &OriginError,
        progress: bool,
    ) {
        self.last_error = Some(error.clone());
        let source = &mut self.sources[ticket.at];
        source.target = None;
        source.error = Some(error.clone());
        if error.is_permanent() {
            source.dead.get_or_insert_with(|| error.clone());
            return;
        }
        if progress {
            source.failures = 0;
        }
        if progress || source.failures == ticket.failures {
            source.failures = source.failures.saturating_add(1);
            let wait = source.backoff.delay(source.failures);
            source.due = source.due.max(Some(now + wait));
        }
        if let Some(wait) = error.retry_after() {
            source.due = source.due.max(Some(now + wait));
        }
    }

    /// All bytes of an answer came.
    pub(crate) fn succeeded(&mut self, ticket: Ticket) {
        let source = &mut self.sources[ticket.at];
        // A failure of another request in the meantime stays counted.
        if source.failures == ticket.failures {
            source.failures = 0;
            source.due = None;
            source.error = None;
        }
    }

    /// How each URL stands, in the caller's order.
    pub(crate) fn report(&self, now: Instant) -> Vec<UrlReport> {
        let preferred = self.preferred().map(|source| &source.url);
        let report = |source: &Source| UrlReport {
            url: source.url.clone(),
            error: source.error.clone(),
            retry_at: source.due.filter(|due| *due > now),
            is_dead: source.dead.is_some(),
            is_preferred: preferred == Some(&source.url),
        };
        self.sources.iter().map(report).collect()
    }

    /// When the first URL is due, if none is now.
    pub(crate) fn next_attempt(&self, now: Instant) -> Option<Instant> {
        let alive = self.sources.iter().filter(|source| source.dead.is_none());
        let first = alive.map(|source| source.due).min()??;
        (first > now).then_some(first)
    }

    /// The error of the most preferred URL, when every one is dead.
    pub(crate) fn dead(&self) -> Option<OriginError> {
        let Some(first) = self.sources.first() else {
            return Some(OriginError::NoUrl);
        };
        let all = self.sources.iter().all(|source| source.dead.is_some());
        first.dead.clone().filter(|_| all)
    }

    /// Why no URL can be asked now.
    pub(crate) fn idle_error(&self, now: Instant) -> OriginError {
        self.dead().unwrap_or_else(|| OriginError::BackingOff {
            until: self.next_attempt(now).unwrap_or(now),
            last: Box::new(self.last_error.clone().unwrap_or(OriginError::NoUrl)),
        })
    }

    /// The validator to keep for a later run: of the best URL that has answered, else what was given.
    pub(crate) fn validator(&self) -> Option<Validator> {
        let pin = self.preferred().and_then(|source| source.pin.as_ref());
        let validator = Validator {
            total: self.total,
            ..pin.unwrap_or(&self.resumed).clone()
        };
        (validator != Validator::default()).then_some(validator)
    }

    /// Where the next request would go if no URL had to wait.
    pub(crate) fn current_url(&self) -> Option<Url> {
        let source = self.preferred()?;
        let target = source.target.as_ref().map(|target| &target.url);
        Some(target.unwrap_or(&source.url).clone())
    }

    /// Whether the best URL knows ranges.
    pub(crate) fn has_ranges(&self) -> Option<bool> {
        self.preferred()?.ranges
    }

    /// The best URL alive: one that has answered before one that has not, then those that don't wait.
    fn preferred(&self) -> Option<&Source> {
        let alive = self.sources.iter().filter(|source| source.dead.is_none());
        alive.min_by_key(|source| {
            (
                source.pin.is_none(),
                source.ranges == Some(false),
                source.failures > 0,
            )
        })
    }
}

impl Source {
    fn new(url: Url, backoff: Backoff) -> Self {
        Self {
            url,
            target: None,
            pin: None,
            ranges: None,
            failures: 0,
            due: None,
            dead: None,
            error: None,
            backoff,
        }
    }
}

#[cfg(test)]
mod tests;
