//! Caps on what others can make grow. None of them is a tuning knob for speed.

/// Caps of one swarm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Sources known at once; one more is refused with `Disconnect`.
    pub sources: usize,
    /// Requests that one peer may have queued here.
    pub queued_requests: usize,
    /// Blocks in flight from one peer.
    pub requests_in_flight: usize,
    /// Pieces that one peer may say it is fetching; more are not remembered.
    pub fetching: usize,
    /// Peers that may send requests at once.
    pub unchoked: usize,
    /// Blocks being sent at once when the receivers are slow; two otherwise.
    pub serving: usize,
    /// Bad pieces that a source alone delivered before it is given up.
    pub bad_pieces: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sources: 1000,
            queued_requests: 512,
            requests_in_flight: 256,
            fetching: 4096,
            unchoked: 64,
            serving: 16,
            bad_pieces: 3,
        }
    }
}
