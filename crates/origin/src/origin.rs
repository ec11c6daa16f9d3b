//! One content's URLs, asked one after the other.

mod state;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use hyper::header::{HeaderMap, HeaderValue, IF_RANGE, RANGE};
use url::Url;

use crate::answer::{self, Answer};
use crate::body::{Body, Reader};
use crate::client::{Hop, OriginClient, Response};
use crate::error::OriginError;
use crate::shown::ShownUrl;
use crate::validator::Validator;

pub(crate) use state::Ticket;
pub use state::UrlReport;
use state::{Sources, Tried};

/// One content on its origins: its URLs in order of preference with the state of each. Clones share the state, so
/// several requests can run side by side.
#[derive(Debug, Clone)]
pub struct Origin(Arc<Shared>);

/// What the clones of an [`Origin`] and its bodies share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) client: OriginClient,
    /// Whether nobody waits for what is asked for next.
    background: AtomicBool,
    /// Held for moments only, never across an `.await`.
    sources: Mutex<Sources>,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentFacts {
    /// The content's length in bytes.
    pub total: u64,
    /// Whether the server knows ranges.
    pub ranges: bool,
    /// The version of the content.
    pub validator: Validator,
    /// Where it is, after redirects.
    pub url: Url,
}

/// What is asked of a URL.
#[derive(Debug, Clone)]
enum Ask {
    /// These bytes.
    Range(Range<u64>),
    /// The length, by asking for the first byte.
    Length,
}

impl Ask {
    fn range(&self) -> Range<u64> {
        match self {
            Self::Range(range) => range.clone(),
            Self::Length => 0..1,
        }
    }
}

/// An answer whose head is in order.
struct Arrival {
    ticket: Ticket,
    hop: Hop,
    answer: Answer,
    response: Response,
}

impl Origin {
    pub(crate) fn new(
        client: OriginClient,
        urls: Vec<Url>,
        validator: Validator,
        seed: u64,
    ) -> Self {
        let wait = (client.config().backoff_min, client.config().backoff_max);
        let sources = Mutex::new(Sources::new(urls, validator, wait, seed));
        Self(Arc::new(Shared {
            background: AtomicBool::new(client.is_in_background()),
            client,
            sources,
        }))
    }

    /// Whether nobody waits for what is asked for from now on, or somebody does. At first it is as with the client.
    pub fn set_background(&self, background: bool) {
        self.0.background.store(background, Ordering::Relaxed);
    }

    /// Asks for the content's length and version, where no hash file gives them: a GET of the first byte. (A HEAD
    /// would not show whether ranges work, and some servers don't answer it.)
    ///
    /// # Errors
    /// [`OriginError::SizeUnknown`] when the server does not tell the length; else as [`Self::fetch`].
    pub async fn probe(&self) -> Result<ContentFacts, OriginError> {
        let arrival = self.ask(&Ask::Length).await?;
        let total = arrival.answer.total.or_else(|| self.0.lock().total());
        let total = total.expect("an answer to a question for the length has one");
        let (ranges, url) = (!arrival.answer.whole, arrival.hop.url.clone());
        if ranges && total > 0 {
            // The one byte is read so that the connection can be used again. A failure of that is counted by the
            // body, and takes nothing from what was learnt.
            let mut body = self.body(arrival, 0..1);
            while let Ok(Some(_)) = body.chunk().await {}
        }
        Ok(ContentFacts {
            total,
            ranges,
            validator: self.validator().unwrap_or_default(),
            url,
        })
    }

    /// Asks for these bytes: of the best URL that is due now and, when that fails, of the next, each once. The
    /// answer may be the whole content ([`Body::whole`]) when no URL knows ranges.
    ///
    /// # Errors
    /// The failure of the last URL asked. [`OriginError::BackingOff`] when none is due: wait until
    /// [`Self::next_attempt`]. An error being permanent is said of one URL; of the content see [`Self::is_dead`].
    pub async fn fetch(&self, range: Range<u64>) -> Result<Body, OriginError> {
        let total = self.0.lock().total();
        if range.is_empty() || total.is_some_and(|total| range.end > total) {
            return Err(OriginError::InvalidRange { range, total });
        }
        let arrival = self.ask(&Ask::Range(range.clone())).await?;
        Ok(self.body(arrival, range))
    }

    /// When to try again, while every URL waits; `None`: now (or never, see [`Self::is_dead`]).
    pub fn next_attempt(&self) -> Option<Instant> {
        self.0.lock().next_attempt(Instant::now())
    }

    /// Why no URL will ever do, once every one has failed for good: the failure of the most preferred one.
    pub fn is_dead(&self) -> Option<OriginError> {
        self.0.lock().dead()
    }

    /// How each URL stands, in the caller's order.
    pub fn report(&self) -> Vec<UrlReport> {
        self.0.lock().report(Instant::now())
    }

    /// The version of the content, to keep with the download's resume state; `None` before anything is known.
    pub fn validator(&self) -> Option<Validator> {
        self.0.lock().validator()
    }

    /// Whether the content comes in ranges: `Some(false)` once the best URL has shown that it knows none (then one
    /// fetch at a time is enough, it brings everything), `None` before an answer.
    pub fn has_ranges(&self) -> Option<bool> {
        self.0.lock().has_ranges()
    }

    /// Where the content comes from, after redirects; `None` when every URL is dead. May hold secrets in its query:
    /// show it by [`ShownUrl`].
    pub fn current_url(&self) -> Option<Url> {
        self.0.lock().current_url()
    }

    fn body(&self, arrival: Arrival, range: Range<u64>) -> Body {
        let total = arrival.answer.total.or_else(|| self.0.lock().total());
        let whole = arrival.answer.whole;
        let (start, left) = match whole {
            true => (0, total),
            false => (range.start, Some(range.end - range.start)),
        };
        let idle_timeout = self.0.client.config().idle_timeout;
        let reader = Reader::new(
            arrival.response,
            ShownUrl::from(&arrival.hop.url),
            idle_timeout,
        );
        Body::new(
            Arc::clone(&self.0),
            arrival.ticket,
            reader,
            (start, left),
            (whole, total),
        )
    }

    /// Asks one URL after the other.
    async fn ask(&self, ask: &Ask) -> Result<Arrival, OriginError> {
        let mut tried = Tried::default();
        let mut last = None;
        loop {
            let now = Instant::now();
            let Some(ticket) = self.0.lock().pick(now, tried) else {
                return Err(last.unwrap_or_else(|| self.0.lock().idle_error(now)));
            };
            tried.add(ticket);
            match self.attempt(ticket, ask).await {
                Ok(arrival) => {
                    let misses = arrival.answer.whole && ask.range().start > 0;
                    if !misses || !self.0.lock().may_find_ranges(Instant::now(), tried) {
                        return Ok(arrival);
                    }
                    // The whole content for a part of it: only if nobody else can do better.
                    last = Some(OriginError::RangeIgnored {
                        url: ShownUrl::from(&arrival.hop.url),
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "attempt failed");
                    self.0.failed(ticket, &error, false);
                    last = Some(error);
                }
            }
        }
    }

    /// Asks one URL: where its redirects led before, else (or when that is no more) from the start.
    async fn attempt(&self, ticket: Ticket, ask: &Ask) -> Result<Arrival, OriginError> {
        let (start, redirected) = self.0.lock().start(ticket);
        match self.request(ticket, start, ask).await {
            // What a redirect leads to often expires. The redirector may know a fresh place.
            Err(error) if redirected && error.is_permanent() => {
                self.0.lock().forget_target(ticket);
                let (start, _) = self.0.lock().start(ticket);
                self.request(ticket, start, ask).await
            }
            other => other,
        }
    }

    async fn request(&self, ticket: Ticket, start: Hop, ask: &Ask) -> Result<Arrival, OriginError> {
        let range = ask.range();
        let pin = self.0.lock().pin(ticket);
        let client = self.0.client();
        let (response, hop) = client
            .follow(start.clone(), |hop| range_headers(&range, &pin, hop))
            .await?;
        let (response, hop, answer) = match (read(&response, &hop, &range), ask) {
            (Ok(answer), _) => (response, hop, answer),
            (Err(OriginError::RangeRefused { total: Some(0), .. }), Ask::Length) => {
                let answer = answer::of_empty(response.headers());
                (response, hop, answer)
            }
            // A server that refuses even the first byte may still tell the length of the whole.
            (Err(OriginError::RangeRefused { .. }), Ask::Length) => {
                self.request_whole(start).await?
            }
            (Err(error), _) => return Err(self.refused(error)),
        };
        let conditional = if_range(&pin, &hop).is_some();
        let total = {
            let mut sources = self.0.lock();
            sources.accept(ticket, &hop, conditional, &answer)?;
            sources.total()
        };
        if total.is_none() && matches!(ask, Ask::Length) {
            return Err(OriginError::SizeUnknown {
                url: ShownUrl::from(&hop.url),
                status: response.status().as_u16(),
            });
        }
        Ok(Arrival {
            ticket,
            hop,
            answer,
            response,
        })
    }

    async fn request_whole(&self, start: Hop) -> Result<(Response, Hop, Answer), OriginError> {
        let client = self.0.client();
        let (response, hop) = client.follow(start, |_| HeaderMap::new()).await?;
        let answer = read(&response, &hop, &(0..1))?;
        Ok((response, hop, answer))
    }

    /// A 416 that names another length than ours means another version.
    fn refused(&self, error: OriginError) -> OriginError {
        if let OriginError::RangeRefused {
            url,
            total: Some(total),
            ..
        } = &error
            && let Some(difference) = self.0.lock().length_differs(*total)
        {
            return OriginError::changed(url.clone(), difference);
        }
        error
    }
}

impl Shared {
    fn client(&self) -> OriginClient {
        let background = self.background.load(Ordering::Relaxed);
        self.client.in_background(background)
    }

    fn lock(&self) -> MutexGuard<'_, Sources> {
        // Nothing panics while it is held; if something does, the state is still whole.
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A body failed.
    pub(crate) fn failed(&self, ticket: Ticket, error: &OriginError, progress: bool) {
        self.lock().failed(ticket, Instant::now(), error, progress);
    }

    /// A body came whole.
    pub(crate) fn succeeded(&self, ticket: Ticket) {
        self.lock().succeeded(ticket);
    }
}

fn read(response: &Response, hop: &Hop, range: &Range<u64>) -> Result<Answer, OriginError> {
    let url = ShownUrl::from(&hop.url);
    answer::read(
        &url,
        response.status(),
        response.headers(),
        range,
        SystemTime::now(),
    )
}

fn range_headers(range: &Range<u64>, pin: &Validator, hop: &Hop) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let bytes = format!("bytes={}-{}", range.start, range.end - 1);
    headers.insert(
        RANGE,
        HeaderValue::try_from(bytes).expect("digits are a header value"),
    );
    if let Some(value) = if_range(pin, hop) {
        headers.insert(IF_RANGE, value);
    }
    headers
}

/// `If-Range`, for the server only that the validator is from: to another its tag means nothing.
fn if_range(pin: &Validator, hop: &Hop) -> Option<HeaderValue> {
    let value = pin.if_range().filter(|_| pin.is_for(&hop.server()))?;
    HeaderValue::try_from(value).ok()
}
