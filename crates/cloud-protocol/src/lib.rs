//! What Delivery Optimization clients and their cloud services say to each other: requests and answers of geo,
//! key-value, content policy, discovery and array, with the field names and string-typed values that are publicly
//! known. What is not known (the array's answer) is ours; docs/control-plane.md lists it.
//!
//! Both sides use these types: the client (`dosvc-discovery`) writes requests and reads answers, the control plane
//! the other way round. Nothing here does I/O. Everything that is read is bounded by [`limits`] and checked when it is
//! made: a [`JoinRequest`] has a usable peer id and scope, an [`HttpUrl`] is one, a [`UrlTemplate`] has its placeholder.
//! Fields and parameters that nobody knows are ignored, on both sides, so that either may be newer; known ones that
//! are malformed or occur twice are errors.
//!
//! The order of a client: [`GeoRequest`] → [`KeyValueRequest`] → [`ContentPolicyRequest`] → [`DiscoveryRequest`] →
//! [`JoinRequest`], each at the address that the answer before named.

mod array;
mod content_policy;
mod discovery;
mod enrol;
mod error;
mod geo;
mod http_url;
mod key_value;
pub mod limits;
mod publish;
mod query;
mod text;

pub use array::{
    ArrayPeer, ClientDialect, JoinAnswer, JoinEvent, JoinRequest, JoinToken, SWARM_PORT, Scope,
    join_url,
};
pub use content_policy::{ContentPolicies, ContentPolicy, ContentPolicyRequest};
pub use discovery::{CollectiveArray, DiscoveryAnswer, DiscoveryRequest};
pub use enrol::{ENROL_BYTES_MAX, ENROL_PATH, ENROL_TOKEN_BYTES_MAX, EnrolAnswer, EnrolRequest};
pub use error::ProtocolError;
pub use geo::{GeoAnswer, GeoRequest, GeoVersionAnswer};
pub use http_url::{CONTENT_ID_PLACEHOLDER, HttpUrl, UrlTemplate, catalog_id};
pub use key_value::{KeyValueAnswer, KeyValueRequest};
pub use publish::{
    PUBLISH_BYTES_MAX, PUBLISH_PATH, PublishRequest, REVOKE_PATH, ROLLOUT_GROUPS_MAX,
    RevokeRequest, Rollout,
};
pub use text::{CountryCode, Text};

/// The profile that PCs send: 768.
pub const PROFILE_PC: u32 = 768;

/// The media type of geo's answers. `text/html` instead is a captive portal or a proxy that answers for itself; any
/// other type is a fault (Microsoft's troubleshooter judges so).
pub const GEO_MEDIA_TYPE: &str = "text/json";

/// The media type of everything else.
pub const JSON_MEDIA_TYPE: &str = "application/json";

/// Where geo is asked, below the service's root.
pub const GEO_PATH: &str = "/geo";

/// Where only the version of geo's answer is asked.
pub const GEO_VERSION_PATH: &str = "/geoversion";
