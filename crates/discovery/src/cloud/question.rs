//! What is asked of whom, and which replies count.

use super::failure::Failure;
use dosvc_cloud_protocol::{JoinEvent, Text, limits::URL_BYTES_MAX};
use dosvc_content::{ContentId, HashOfHashes};
use std::time::Duration;

/// Whose policy is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PolicyKey {
    /// The content's URL without its query.
    pub(crate) url: Option<Text<URL_BYTES_MAX>>,
    /// The content's id, where the caller knows it.
    pub(crate) content_id: Option<String>,
}

impl PolicyKey {
    /// The id as the address of content policy has it: a content without one is found by its URL.
    pub(crate) fn id_in_address(&self) -> ContentId {
        let id = self.content_id.as_deref().and_then(|id| id.parse().ok());
        id.unwrap_or_else(|| "unknown".parse().expect("seven letters are an id"))
    }
}

/// A question to one of the services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    Geo,
    GeoVersion,
    KeyValue,
    Policy(PolicyKey),
    Discovery(HashOfHashes),
    Join(HashOfHashes, JoinEvent),
}

/// A question that is to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) question: Question,
    pub(crate) url: String,
    /// A JSON body: POST; else GET.
    pub(crate) body: Option<Vec<u8>>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// In lower case, without parameters.
    pub(crate) media_type: Option<String>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

/// A reply, or why there is none.
pub(crate) type Outcome = Result<Reply, String>;

impl Reply {
    /// The JSON of an answer.
    ///
    /// # Errors
    /// [`Failure`] for everything that is none. A web page is a captive portal's where the answer should be, with the
    /// status that was made for it, or at the end of a redirect, for the services send none; an error's page is an
    /// error.
    pub(crate) fn json(&self) -> Result<&[u8], Failure> {
        let media_type = self.media_type.as_deref();
        match self.status {
            200 if media_type == Some("text/html") => Err(Failure::CaptivePortal),
            200 if is_json(media_type) => Ok(&self.body),
            200 => Err(Failure::MediaType(
                media_type.unwrap_or("no media type").to_owned(),
            )),
            511 | 301..=303 | 307 | 308 => Err(Failure::CaptivePortal),
            status => Err(Failure::Status { status }),
        }
    }

    /// Content policy's way to say that there is none for who asks.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self.status, 404 | 410)
    }
}

fn is_json(media_type: Option<&str>) -> bool {
    matches!(media_type, Some("application/json" | "text/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_apart_by_status_and_media_type() {
        let table: [(u16, Option<&str>, Result<(), &str>); 12] = [
            (200, Some("text/json"), Ok(())),
            (200, Some("application/json"), Ok(())),
            (200, Some("text/html"), Err("captive_portal")),
            (200, Some("text/plain"), Err("media_type")),
            (200, None, Err("media_type")),
            (302, Some("text/html"), Err("captive_portal")),
            (307, None, Err("captive_portal")),
            (511, Some("text/html"), Err("captive_portal")),
            (304, None, Err("status")),
            (404, Some("text/html"), Err("status")),
            (502, Some("text/html"), Err("status")),
            (204, Some("application/json"), Err("status")),
        ];
        for (status, media_type, expected) in table {
            let reply = Reply {
                status,
                media_type: media_type.map(str::to_owned),
                ..Reply::default()
            };
            let found = reply.json().map(|_| ()).map_err(|failure| failure.name());
            assert_eq!(found, expected, "{status} {media_type:?}");
        }
    }
}
