//! Every timer of the protocol, and every bound on what the network can make us keep or send.

use std::time::Duration;

/// How long an answer to a router solicitation is waited for (RFC 4380 §5.2.1: T).
pub const SOLICITATION_TIMEOUT: Duration = Duration::from_secs(4);

/// How often it is sent at all (RFC 4380 §5.2.1: N).
pub const SOLICITATIONS_MAX: u8 = 3;

/// The longest time between two questions to the server that keep the NAT's mapping; each time three quarters of it and
/// up (RFC 4380 §5.2).
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// How long a client without an answer of any server waits before it asks again. The RFC says nothing; miredo has this.
pub const OFFLINE_RETRY: Duration = Duration::from_secs(100);

/// How long a path is good after something came from it (RFC 4380 §5.2.4).
pub const PATH_VALID_FOR: Duration = Duration::from_secs(30);

/// Least time between two tries to reach a peer (RFC 4380 §5.2.6).
pub const BUBBLE_INTERVAL: Duration = Duration::from_secs(2);

/// Bubbles through a peer's server without anything from the peer itself; after that there is silence for
/// [`BUBBLE_SILENCE`] (RFC 4380 §5.2.6).
pub const BUBBLES_MAX: u8 = 4;

/// See [`BUBBLES_MAX`].
pub const BUBBLE_SILENCE: Duration = Duration::from_secs(300);

/// Time between two multicast bubbles that look for peers of the same network (RFC 4380 §5.2.8).
pub const DISCOVERY_INTERVAL: [Duration; 2] = [Duration::from_secs(200), Duration::from_secs(300)];

/// How long a peer of the same network is remembered as one (RFC 4380 §5.2.8).
pub const LOCAL_PEER_FOR: Duration = Duration::from_secs(600);

/// Peers with which nothing happened for so long are forgotten.
pub const PEER_IDLE_MAX: Duration = Duration::from_secs(300);

/// Peers that are remembered; miredo has the same number.
pub const PEERS_MAX: usize = 1024;

/// Packets that wait for the path to one peer; the oldest one goes first.
pub const QUEUE_MAX: usize = 8;

/// Bytes of one packet that may wait. More than the tunnel carries is refused anyway.
pub const PACKET_MAX: usize = crate::teredo::MTU as usize;

/// What others can make us send in a second: each is an answer to one bubble that somebody's server has forwarded.
pub const ANSWERS_PER_SECOND_MAX: u32 = 64;

/// The same for what came straight from somebody unknown, which no server has looked at: a flood of that must not use up
/// the answers to what servers forward.
pub const UNASKED_PER_SECOND_MAX: u32 = 16;

/// Additional ports that are open at once, each for one peer, behind a NAT that keeps port numbers (RFC 6081 §5.4).
pub const EXTRA_PORTS_MAX: usize = 16;

/// Datagrams that wait to be sent; more are dropped, as a network would.
pub const TRANSMITS_MAX: usize = 4096;

/// Events that wait to be read; more are dropped, oldest first.
pub const EVENTS_MAX: usize = 2 * PEERS_MAX;

/// What one IPv4 address may ask of a server in a second, on average, and at once.
pub const REQUESTS_PER_SECOND_MAX: u32 = 200;

/// The largest ICMPv6 packet that a server forwards: a ping's, not data (as miredo's and Microsoft's servers).
pub const FORWARDED_ICMP_MAX: usize = 88;

/// Bytes of trailers that a server forwards: one of each kind (RFC 6081 §4), and some to spare.
pub const TRAILERS_MAX: usize = 64;

/// Clients that a relay remembers.
pub const RELAY_PEERS_MAX: usize = 4096;

/// Packets that wait at a relay for clients to answer, of all clients together.
pub const RELAY_WAITING_MAX: usize = 1024;

/// Bubbles that a relay sends in a second.
pub const RELAY_BUBBLES_PER_SECOND_MAX: u32 = 1000;

/// Those of them that go to one server.
pub const RELAY_SERVER_BUBBLES_PER_SECOND_MAX: u32 = 200;

/// Relays whose packets a client takes, and hosts with native IPv6 that it knows by them.
pub const NATIVES_MAX: usize = 256;
