//! How much is asked, kept and waited for.

use std::time::Duration;

/// Answers with peers that wait for whoever calls those who look for what is here; more are dropped.
pub(crate) const SEEKERS_WAITING_MAX: usize = 16;
/// Questions under way at once.
pub const QUESTIONS_MAX: usize = 4;
/// How long one question may take, connection included.
pub const QUESTION_TIME: Duration = Duration::from_secs(15);
/// Contents that are joined; those beyond are not.
pub const MEMBERS_MAX: usize = 16_384;
/// Array services of one content that are kept, of those that discovery names.
pub(crate) const ARRAYS_KEPT_MAX: usize = 4;
/// Addresses of the LAN that are remembered.
pub const NEIGHBOURS_MAX: usize = 4096;
/// Content policies that are kept; of those that nobody waits for the oldest goes.
pub const POLICIES_MAX: usize = 256;
/// Bytes of the file that answers are kept in.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// The wait after a first failure; doubles with each further one.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_secs(2);
/// The longest wait after failures, before jitter.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// The same behind a captive portal, where somebody may log in any moment.
pub(crate) const BACKOFF_PORTAL_MAX: Duration = Duration::from_secs(30);
/// Somebody waits for an answer: then a service is asked again this soon after the last time.
pub(crate) const HURRY_GAP: Duration = Duration::from_secs(2);

/// How long geo's answer counts before its version is asked for; the answer does not say.
pub(crate) const GEO_FRESH: Duration = Duration::from_secs(3600);
/// How long key-value's answer counts when it does not say.
pub(crate) const KEY_VALUE_FRESH: Duration = Duration::from_secs(6 * 3600);
/// How long addresses from geo and key-value are used while the services don't answer.
pub(crate) const CHAIN_USABLE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long discovery's answer counts when it does not say.
pub(crate) const ARRAYS_FRESH: Duration = Duration::from_secs(24 * 3600);
/// How long a content policy counts when it does not say,
pub(crate) const POLICY_FRESH: Duration = Duration::from_secs(3600);
/// and how long it counts that there is none.
pub(crate) const NO_POLICY_FRESH: Duration = Duration::from_secs(60);
/// What `max-age` may say, at most.
pub(crate) const FRESH_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The least time between two joins of contents that lie idle: what a daemon that holds many of them costs.
pub const IDLE_JOIN_GAP: Duration = Duration::from_secs(2);
/// The first join of a content that lies idle comes within this time.
pub(crate) const IDLE_JOIN_SPREAD: Duration = Duration::from_secs(60);
/// The least time between two joins of one content, whatever has changed.
pub(crate) const JOIN_GAP: Duration = Duration::from_secs(10);
/// After the machine's addresses or port have changed, a content that is downloaded is joined within this time.
pub(crate) const DEVICE_SPREAD: Duration = Duration::from_secs(2);
/// A stranger has dialled, and the array may know it: a content is joined early, no two within this time.
pub(crate) const STRANGER_GAP: Duration = Duration::from_secs(10);
/// How long the array is told at the end that we leave; what it is not told expires there.
pub(crate) const LEAVE_TIME: Duration = Duration::from_secs(3);
/// How soon after a change the file is written, and how far two writings are apart.
pub(crate) const SAVE_AFTER: Duration = Duration::from_secs(5);
pub(crate) const SAVE_GAP: Duration = Duration::from_secs(60);
