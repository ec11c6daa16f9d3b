//! The HTTP range client for origins (CDN) and cache hosts.
//!
//! An [`OriginClient`] holds the connections; [`OriginClient::open`] makes an [`Origin`]: one content's URLs
//! in order of preference, each with its state (back-off, `Retry-After`, dead, without ranges). The caller
//! says which bytes it wants and when ([`Origin::fetch`], [`Origin::next_attempt`]); what comes back is a
//! [`Body`] that is exactly the bytes asked for, or an error that says why not.
//!
//! What holds:
//!
//! - Bytes of two versions of a content never mix: the validator of the first answer is pinned, every later
//!   answer must agree, or it is [`OriginError::Changed`].
//! - Bodies are never coded: `identity` is asked for and anything else refused.
//! - Redirects are followed here, hop by hop; a public server can't send us to a private address.
//! - Nothing that a server sends makes memory grow: chunks are handed on as they come, small files are
//!   bounded while they are read ([`OriginClient::fetch_small`]), answers of services too ([`OriginClient::ask`]).
//!
//! - A limited connection brings no more than its limit lets through ([`Limits`], [`Body::limit`]); the limit lies below
//!   TLS and HTTP.
//!
//! What it does not do: decide which bytes to fetch or what the limits are, check hashes, keep anything on disk.

mod address;
mod answer;
mod backoff;
mod body;
mod cache_host;
mod client;
mod connector;
mod content_range;
mod error;
mod exchange;
mod limits;
mod line;
mod origin;
mod redirect;
mod resolver;
mod retry_after;
mod shown;
mod validator;

pub use body::Body;
pub use cache_host::cache_host_url;
pub use client::{OriginClient, OriginConfig, Small};
pub use error::{OriginError, RedirectRefusal};
pub use exchange::Reply;
pub use limits::{
    ETAG_BYTES_MAX, RETRY_AFTER_MAX, SPEED_FLOOR_BYTES_PER_SECOND, URLS_MAX, VALIDATOR_BYTES_MAX,
};
pub use line::Limits;
pub use origin::{ContentFacts, Origin, UrlReport};
pub use rustls::pki_types::CertificateDer;
pub use shown::ShownUrl;
pub use url::Url;
pub use validator::{Validator, ValidatorError};
