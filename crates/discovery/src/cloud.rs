//! Finding peers beyond the link through the fleet's own cloud: geo → key-value → content policy → discovery → array,
//! each asked at the address that the answer before named (docs/control-plane.md).
//!
//! What to ask next, and when, is decided in pure modules (`core` and those below it): `now` and the seed are
//! arguments, the same inputs give the same questions. HTTP, the file and time are in `driver`, `service` and `file`.
//!
//! What must hold:
//!
//! - Nothing is asked before somebody wants something: no timer, no connection, no HTTP client.
//! - Every question has its own back-off with jitter; no service is asked more often than [`limits`] allows, however
//!   many contents are held. Contents that lie idle are joined one after the other.
//! - An answer is bounded and checked before it counts; what can't be read is a [`Failure`] with a name and a code.
//! - What was answered outlives a restart in one bounded file that is replaced whole. The array's tokens are in it:
//!   without them the array would take us for somebody else under our name.
//!
//! Entry types: [`Cloud`], [`CloudConfig`], [`Announcement`], [`Device`], [`ArraySearch`]; and [`Enrolment`], which is
//! apart from all that.

mod chain;
mod core;
mod driver;
mod enrol;
mod failure;
mod file;
mod handle;
pub mod limits;
mod member;
mod policies;
mod question;
mod service;
mod slot;
mod status;

pub use dosvc_cloud_protocol::{
    ArrayPeer, ContentPolicies, ContentPolicy, EnrolAnswer, EnrolRequest, HttpUrl, Scope,
};
pub use enrol::{EnrolError, Enrolment};
pub use failure::Failure;
pub use handle::{ArraySearch, Cloud, CloudConfig, CloudError, Seekers};
pub use member::{Announcement, Device, Part};
pub use status::{CloudStatus, MemberStatus, ServiceState, ServiceStatus};
