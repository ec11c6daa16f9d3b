//! Every bound on what the link can make this crate keep, do or send.

use std::time::Duration;

/// The longest packet that is read, in bytes (RFC 6762, section 17).
pub(crate) const PACKET_BYTES_MAX: usize = 9000;
/// Packets that we build stay under this, in bytes: they fit an Ethernet frame with either IP header.
pub(crate) const SENT_BYTES_MAX: usize = 1400;
/// A packet with more questions than this is refused.
pub(crate) const QUESTIONS_MAX: usize = 64;
/// A packet with more records than this, in all sections together, is refused.
pub(crate) const RECORDS_MAX: usize = 256;
/// Packets that are looked into, per link and second; the rest is dropped unread.
pub(crate) const PACKETS_PER_SECOND_MAX: u32 = 200;

/// Contents named in one packet that we send: with everything that belongs to them it stays under
/// [`SENT_BYTES_MAX`].
pub(crate) const LABELS_PER_PACKET_MAX: usize = 16;
/// Own addresses named in one packet.
pub(crate) const OWN_ADDRS_MAX: usize = 8;
/// Answers sent per link and second; who is not answered asks again.
pub(crate) const ANSWERS_PER_SECOND_MAX: u32 = 20;
/// Answers that wait for their moment, over all links.
pub(crate) const PENDING_MAX: usize = 64;
/// Remembered moments of multicasting a record, and of telling anybody of a content.
pub(crate) const RECENT_MAX: usize = 4096;
/// When so many others have named themselves as holders while our answer waits, ours is not needed: a thousand
/// holders on one link send some dozens of answers, not a thousand.
pub(crate) const ANSWERS_ENOUGH: u8 = 20;

/// Peers remembered per search; a new one takes the place of the one not heard of for longest.
pub(crate) const PEERS_PER_SEARCH_MAX: usize = 64;
/// Addresses remembered per peer.
pub(crate) const ADDRS_PER_PEER_MAX: usize = 16;
/// Peers whose incomplete records are asked for in one query.
pub(crate) const UNRESOLVED_ASKED_MAX: usize = 4;
/// Answers to others' questions that are kept for a search that may begin now.
pub(crate) const HEARD_MAX: usize = 512;
/// How long they are kept. An answer is not multicast again within a second, so who begins to search just then
/// must have listened.
pub(crate) const HEARD_AGE_MAX: Duration = Duration::from_secs(10);

/// Time to live of all our records. RFC 6762, section 10 has 120 s for records that hang on a host's name or
/// address and suggests 75 minutes for others; ours all come and go with a daemon.
pub(crate) const TTL: Duration = Duration::from_secs(120);
/// A longer time to live from others is cut to this.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(600);
/// The longest time to live towards resolvers that don't speak multicast DNS (RFC 6762, section 6.7).
pub(crate) const TTL_LEGACY: Duration = Duration::from_secs(10);

/// Interfaces that take part at the same time.
pub(crate) const INTERFACES_MAX: usize = 32;
