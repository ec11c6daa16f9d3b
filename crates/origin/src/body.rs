//! The bytes of an answer: exactly those that were asked for, or an error.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dosvc_polite::Throttle;
use http_body_util::BodyExt;

use crate::client::{Response, cause_text};
use crate::error::OriginError;
use crate::limits::{PROGRESS_BYTES_MIN, SPEED_FLOOR_BYTES_PER_SECOND};
use crate::line::{LineInfo, Reading};
use crate::origin::{Shared, Ticket};
use crate::shown::ShownUrl;

/// The body of an answer, read chunk by chunk.
///
/// Dropping it early is fine: the request ends, nothing counts as a failure (over HTTP/1.1 the connection is closed).
#[derive(Debug)]
pub struct Body {
    /// Where in the content the body starts: 0 when it is the whole content.
    pub start: u64,
    /// Whether the server sent the whole content, from byte 0 on, whatever was asked: it knows no ranges.
    pub whole: bool,
    /// The length of the content, as far as known.
    pub total: Option<u64>,
    reader: Reader,
    /// Bytes still to come; `None` for a whole content of unknown length.
    left: Option<u64>,
    received: u64,
    state: State,
    shared: Arc<Shared>,
    ticket: Ticket,
    /// There while a gate of the caller's limits the connection.
    reading: Option<Reading>,
}

#[derive(Debug)]
enum State {
    Reading,
    Done,
    Failed(OriginError),
}

impl Body {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ticket: Ticket,
        reader: Reader,
        (start, left): (u64, Option<u64>),
        (whole, total): (bool, Option<u64>),
    ) -> Self {
        Self {
            start,
            whole,
            total,
            reader,
            left,
            received: 0,
            state: State::Reading,
            shared,
            ticket,
            reading: None,
        }
    }

    /// Bytes still to come; `None` for a whole content whose length no one has told.
    pub fn remaining(&self) -> Option<u64> {
        self.left
    }

    /// From now on what the connection brings is limited by this gate, instead of by what limits requests of its kind.
    /// Bodies that share a connection (HTTP/2) share what the first in the foreground has, else what the first has.
    pub fn limit(&mut self, gate: Arc<dyn Throttle>) {
        let line = self.reader.line();
        self.reading = line.map(|line| line.read_through(gate));
    }

    /// Where the bytes come from, after redirects.
    pub fn url(&self) -> &ShownUrl {
        &self.reader.url
    }

    /// The address of the server that the bytes come from; `None` when a proxy may stand between.
    pub fn server(&self) -> Option<SocketAddr> {
        let line = self.reader.line();
        line.map(|line| line.remote)
            .filter(|_| !self.shared.client.uses_proxies())
    }

    /// Whether more is there, and waits for our own limit.
    pub fn is_held(&self) -> bool {
        self.reader.line().is_some_and(LineInfo::is_held)
    }

    /// The next bytes; `None` after exactly as many as are due. Safe to cancel: no byte is lost.
    ///
    /// # Errors
    /// The body ends early, goes on after its end, stalls, or its connection is lost; then every further call
    /// fails the same way. Bytes handed out before are in place and can be kept.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, OriginError> {
        match &self.state {
            State::Reading => {}
            State::Done => return Ok(None),
            State::Failed(error) => return Err(error.clone()),
        }
        let next = match self.reader.next().await {
            Ok(next) => self.account(next),
            // All that is due is here; how the connection ends is nothing to fail for.
            Err(error) if self.left == Some(0) => {
                tracing::debug!(%error, "after the last byte");
                self.account(None)
            }
            // A connection that ends within a body of known length is a short body to the caller.
            Err(OriginError::Lost { url, cause }) if self.left.is_some() => {
                tracing::debug!(%url, %cause, "body cut");
                self.account(None)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &next {
            self.state = State::Failed(error.clone());
            let progress = self.received >= PROGRESS_BYTES_MIN;
            self.shared.failed(self.ticket, error, progress);
        }
        if let Ok(None) = next {
            // Lets the connection go back to its pool before the caller asks for more: otherwise a new one would be
            // opened for every other range.
            tokio::task::yield_now().await;
        }
        next
    }

    /// Checks what came against what is due.
    fn account(&mut self, next: Option<Bytes>) -> Result<Option<Bytes>, OriginError> {
        let Some(bytes) = next else {
            return self.ended();
        };
        let length = u64::try_from(bytes.len()).expect("a chunk fits in memory");
        if let Some(left) = &mut self.left {
            let due = self.received + *left;
            *left = left
                .checked_sub(length)
                .ok_or_else(|| OriginError::LongBody {
                    url: self.reader.url.clone(),
                    expected: due,
                })?;
        }
        self.received += length;
        if self.left == Some(0) {
            // Said now, for a caller that stops here. The end itself is read with the next call.
            self.shared.succeeded(self.ticket);
        }
        Ok(Some(bytes))
    }

    fn ended(&mut self) -> Result<Option<Bytes>, OriginError> {
        match self.left {
            Some(left) if left > 0 => Err(OriginError::ShortBody {
                url: self.reader.url.clone(),
                expected: self.received + left,
                got: self.received,
            }),
            _ => {
                self.state = State::Done;
                self.shared.succeeded(self.ticket);
                Ok(None)
            }
        }
    }
}

/// Reads an answer's body and sees when it stalls.
#[derive(Debug)]
pub(crate) struct Reader {
    response: Response,
    pub(crate) url: ShownUrl,
    idle_timeout: Duration,
    /// Time spent waiting for the server, and bytes that came, in the current window.
    waited: Duration,
    received: u64,
}

impl Reader {
    pub(crate) fn new(response: Response, url: ShownUrl, idle_timeout: Duration) -> Self {
        Self {
            response,
            url,
            idle_timeout,
            waited: Duration::ZERO,
            received: 0,
        }
    }

    /// The next bytes, `None` at the end of the body.
    ///
    /// # Errors
    /// [`OriginError::Stalled`] when none come within the idle timeout or when they come below the floor over that
    /// time; [`OriginError::Lost`] when the connection ends within the body.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        let waiting = Waiting::new(self.line().cloned());
        let next = loop {
            let left = self.idle_timeout.saturating_sub(waiting.time());
            let next = tokio::time::timeout(left, chunk(&mut self.response)).await;
            // Our own limit may have been what was waited for.
            if next.is_ok() || waiting.time() >= self.idle_timeout {
                break next;
            }
        };
        self.waited += waiting.time();
        let next = match next {
            Ok(Ok(next)) => next,
            Ok(Err(error)) => {
                return Err(OriginError::Lost {
                    url: self.url.clone(),
                    cause: cause_text(&error),
                });
            }
            Err(_) => return Err(self.stalled()),
        };
        if let Some(bytes) = &next {
            self.received += u64::try_from(bytes.len()).expect("a chunk fits in memory");
        }
        if self.waited >= self.idle_timeout {
            let floor = SPEED_FLOOR_BYTES_PER_SECOND as f64 * self.waited.as_secs_f64();
            if next.is_some() && (self.received as f64) < floor {
                return Err(self.stalled());
            }
            self.waited = Duration::ZERO;
            self.received = 0;
        }
        Ok(next)
    }

    fn line(&self) -> Option<&LineInfo> {
        self.response.extensions().get()
    }

    fn stalled(&self) -> OriginError {
        OriginError::Stalled {
            url: self.url.clone(),
            received: self.received,
            waited: self.waited,
        }
    }
}

/// How long a server is waited for. What our own limit took of it does not count.
struct Waiting {
    line: Option<LineInfo>,
    since: Instant,
    held: Duration,
}

impl Waiting {
    fn new(line: Option<LineInfo>) -> Self {
        Self {
            since: Instant::now(),
            held: line.as_ref().map(LineInfo::held).unwrap_or_default(),
            line,
        }
    }

    fn time(&self) -> Duration {
        let held = self.line.as_ref().map(LineInfo::held).unwrap_or_default();
        self.since
            .elapsed()
            .saturating_sub(held.saturating_sub(self.held))
    }
}

/// The next bytes of a body; trailers are left out.
async fn chunk(response: &mut Response) -> Result<Option<Bytes>, hyper::Error> {
    while let Some(frame) = response.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}
