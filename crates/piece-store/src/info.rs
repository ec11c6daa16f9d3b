//! What is said about a content when it is added, and what the store says about it.

use crate::ContentKey;
use dosvc_content::PieceLengths;
use std::time::SystemTime;

/// What the caller knows about content that it adds.
#[derive(Clone, Debug)]
pub struct AddInfo {
    /// HTTP sources, best first. Merged with those that are known.
    pub urls: Vec<String>,
    /// The content's id, when the caller has one. The first one given stays.
    pub content_id: Option<String>,
    /// The present time.
    pub now: SystemTime,
}

/// One content of the store, as of one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContentInfo {
    /// What the content is found by.
    pub key: ContentKey,
    /// Length and piece size.
    pub lengths: PieceLengths,
    /// The content's id, if one was given.
    pub content_id: Option<String>,
    /// HTTP sources, best first.
    pub urls: Vec<String>,
    /// Number of pieces that are had.
    pub have_count: u32,
    /// Bytes of the pieces that are had.
    pub bytes_have: u64,
    /// When the content was added.
    pub added: SystemTime,
    /// When its last piece arrived; `None` while pieces are missing.
    pub completed: Option<SystemTime>,
    /// When a piece was last stored, read or delivered.
    pub last_used: SystemTime,
    /// Explicit expiry; overrides the cache's age limit.
    pub expires: Option<SystemTime>,
    /// The pin's end, if the content is pinned; a past time is a pin that has lapsed.
    pub pinned_until: Option<SystemTime>,
    /// Whether somebody holds the content open (a job, an upload).
    pub in_use: bool,
}

impl ContentInfo {
    /// Whether every piece is had.
    pub fn is_complete(&self) -> bool {
        self.have_count == self.lengths.piece_count()
    }

    /// Whether a pin holds at `now`.
    pub fn is_pinned(&self, now: SystemTime) -> bool {
        self.pinned_until.is_some_and(|until| until > now)
    }
}
