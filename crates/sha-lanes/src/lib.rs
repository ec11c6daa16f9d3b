//! SHA-256 of several messages at once.
//!
//! The rounds of one message wait for each other, so one message can't use the width of the processor. Messages don't
//! depend on each other: with a vector register's lane for each, eight cost what one costs, and sixteen half as much again.
//! That beats even the processor's SHA instructions from [`LANES_WORTH`] messages on; fewer are hashed one by one with
//! those.

#[cfg(target_arch = "x86_64")]
mod avx512;

use sha2::block_api::compress256;

/// The most messages that are hashed at once.
pub const LANES: usize = 16;
/// Messages from which on the lanes are faster than one by one, on processors that have SHA instructions too.
pub const LANES_WORTH: usize = 5;
/// Messages from which on all lanes are faster than half of them, and the rest one by one.
pub const LANES_WORTH_ALL: usize = 11;

const BLOCK_BYTES: usize = 64;
/// What a message's length takes at its very end.
const LENGTH_BYTES: usize = 8;

type Block = [u8; BLOCK_BYTES];
/// The chaining value: a to h.
type Chain = [u32; 8];

/// FIPS 180-4, section 5.3.3.
const INITIAL: Chain = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Whether several at once take less time here than one after the other.
pub fn pays() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::is_available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The SHA-256 of each message, in their order. [`LANES`] at a time are hashed together as far as all of them reach, so
/// messages of about the same length gain most.
pub fn digests(messages: &[&[u8]]) -> Vec<[u8; 32]> {
    let together = messages.chunks(LANES);
    together
        .flat_map(|messages| Hasher::new(messages.len()).finish(messages))
        .collect()
}

/// Messages that are hashed together while parts of them come, for whoever does not hold all of each in memory.
#[derive(Debug)]
pub struct Hasher {
    /// Of each message; those beyond them belong to lanes that have none.
    chains: [Chain; LANES],
    messages: usize,
    /// What each message has had so far: whole blocks.
    bytes: u64,
}

impl Hasher {
    /// For so many messages.
    ///
    /// # Panics
    /// When those are more than [`LANES`].
    pub fn new(messages: usize) -> Self {
        assert!(messages <= LANES, "{messages} messages are too many");
        Self {
            chains: [INITIAL; LANES],
            messages,
            bytes: 0,
        }
    }

    /// Takes the next part of each message.
    ///
    /// # Panics
    /// Unless there is a part for each message, and all of them have the same length, a multiple of 64 bytes.
    pub fn update(&mut self, parts: &[&[u8]]) {
        let length = parts.first().map_or(0, |part| part.len());
        assert!(
            length.is_multiple_of(BLOCK_BYTES) && parts.iter().all(|part| part.len() == length),
            "parts are whole blocks, as many of each message"
        );
        self.compress(parts);
        self.bytes += length as u64;
    }

    /// Takes what is left of each message, of any length, and returns the digests.
    ///
    /// # Panics
    /// Unless there is an end for each message.
    pub fn finish(mut self, ends: &[&[u8]]) -> impl Iterator<Item = [u8; 32]> {
        self.compress(ends);
        let lanes = self.chains.into_iter().zip(ends);
        lanes.map(move |(chain, end)| finish(chain, end, self.bytes))
    }

    /// Hashes the whole blocks of what comes next of each message.
    fn compress(&mut self, parts: &[&[u8]]) {
        assert_eq!(parts.len(), self.messages, "one for each message");
        let (mut chains, mut parts) = (&mut self.chains[..], parts);
        while !parts.is_empty() {
            let lanes = lanes_for(parts.len());
            let (in_lanes, later) = parts.split_at(lanes.min(parts.len()));
            let (now, rest) = chains.split_at_mut(lanes);
            let together = compress_lanes(now, in_lanes);
            for (chain, part) in now.iter_mut().zip(in_lanes) {
                compress256(chain, &part.as_chunks::<BLOCK_BYTES>().0[together..]);
            }
            (chains, parts) = (rest, later);
        }
    }
}

/// In how many lanes the first of so many messages are hashed.
fn lanes_for(messages: usize) -> usize {
    match messages {
        ..LANES_WORTH => 1,
        LANES_WORTH..LANES_WORTH_ALL => LANES / 2,
        LANES_WORTH_ALL.. => LANES,
    }
}

/// Hashes the blocks that every message has, each message in a lane; returns how many those are.
fn compress_lanes(chains: &mut [Chain], messages: &[&[u8]]) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        let blocks = messages
            .iter()
            .map(|message| message.as_chunks::<BLOCK_BYTES>().0);
        let together = blocks.clone().map(<[Block]>::len).min().unwrap_or(0);
        // Lanes without a message hash the first ones again.
        let mut blocks = blocks.cycle();
        let lane = || &blocks.next().unwrap_or_default()[..together];
        if avx512::compress(chains, lane) {
            return together;
        }
    }
    let _ = (chains, messages);
    0
}

/// The digest of a message whose whole blocks are in the chaining value. `end` is the last part of it, and `before` the
/// bytes in front of that.
fn finish(mut chain: Chain, end: &[u8], before: u64) -> [u8; 32] {
    let tail = end.as_chunks::<BLOCK_BYTES>().1;
    // FIPS 180-4, section 5.1.1: a one, zeros, and the length in bits at the end of a block.
    let mut padded = [[0; BLOCK_BYTES]; 2];
    let blocks = if tail.len() + 1 + LENGTH_BYTES <= BLOCK_BYTES {
        1
    } else {
        2
    };
    let bytes = padded[..blocks].as_flattened_mut();
    bytes[..tail.len()].copy_from_slice(tail);
    bytes[tail.len()] = 0x80;
    let length_at = bytes.len() - LENGTH_BYTES;
    let bits = (before + end.len() as u64) * 8;
    bytes[length_at..].copy_from_slice(&bits.to_be_bytes());
    compress256(&mut chain, &padded[..blocks]);
    let mut digest = [0; 32];
    for (out, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(chain) {
        *out = word.to_be_bytes();
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    fn message(len: usize, seed: usize) -> Vec<u8> {
        (0..len)
            .map(|i| (i * 31 + i / 251 + seed * 7).to_le_bytes()[0])
            .collect()
    }

    fn are_right(messages: &[Vec<u8>]) -> bool {
        let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let want: Vec<[u8; 32]> = messages
            .iter()
            .map(|m| <[u8; 32]>::from(Sha256::digest(m)))
            .collect();
        digests(&messages) == want
    }

    #[test]
    fn every_length_around_the_ends_of_blocks_is_right() {
        let all: Vec<Vec<u8>> = (0..300).map(|len| message(len, len)).collect();
        assert!(are_right(&all));
        for len in 0..300 {
            let same: Vec<Vec<u8>> = (0..LANES).map(|seed| message(len, seed)).collect();
            assert!(are_right(&same), "{len}");
        }
    }

    #[test]
    fn any_number_of_pieces_is_right() {
        let pieces: Vec<Vec<u8>> = (0..2 * LANES + LANES_WORTH)
            .map(|n| message((1 << 18) - 77 * (n % 3), n))
            .collect();
        for count in 0..=pieces.len() {
            assert!(are_right(&pieces[..count]), "{count}");
        }
    }

    #[test]
    fn messages_in_parts_are_right() {
        for (count, end) in [(1, 0), (4, 1), (7, 63), (10, 64), (16, 1000)] {
            let messages: Vec<Vec<u8>> = (0..count)
                .map(|seed| message(3 * BLOCK_BYTES + end, seed))
                .collect();
            let parts = |range: std::ops::Range<usize>| -> Vec<&[u8]> {
                messages.iter().map(|m| &m[range.clone()]).collect()
            };
            let mut hasher = Hasher::new(count);
            hasher.update(&parts(0..BLOCK_BYTES));
            hasher.update(&parts(BLOCK_BYTES..3 * BLOCK_BYTES));
            let ends = parts(3 * BLOCK_BYTES..3 * BLOCK_BYTES + end);
            let want = messages.iter().map(|m| <[u8; 32]>::from(Sha256::digest(m)));
            let right = hasher.finish(&ends).eq(want);
            assert!(right, "{count} with {end} bytes at the end");
        }
    }

    #[test]
    #[should_panic(expected = "whole blocks")]
    fn parts_of_unlike_lengths_are_refused() {
        Hasher::new(2).update(&[&[0; BLOCK_BYTES], &[0; 2 * BLOCK_BYTES]]);
    }

    proptest! {
        #[test]
        fn any_messages_are_right(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 0..20),
        ) {
            prop_assert!(are_right(&messages));
        }
    }
}
