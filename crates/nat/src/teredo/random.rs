//! Randomness from a seed.

use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// Bytes that nobody can predict who doesn't know the seed: SHA-256 over seed and counter. The same seed gives the same
/// bytes.
#[derive(Clone)]
pub(crate) struct Random {
    seed: [u8; 32],
    counter: u64,
}

impl Random {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    /// Up to 32 bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32) };
        self.counter += 1;
        let hash = Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.counter.to_be_bytes())
            .finalize();
        let mut bytes = [0; N];
        bytes.copy_from_slice(&hash[..N]);
        bytes
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes())
    }

    /// A time between the two.
    pub(crate) fn between(&mut self, [least, most]: [Duration; 2]) -> Duration {
        least + most.saturating_sub(least) * u32::from(self.u16()) / 0xFFFF
    }
}
