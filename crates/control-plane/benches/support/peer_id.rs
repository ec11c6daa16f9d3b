//! Peers' ids, for the load and the benches.

/// A peer's id: as even as a hash, and another one for every number.
pub(crate) fn peer_id(number: u32) -> [u8; 20] {
    let mut id = [0; 20];
    let mut state = number;
    for part in id.chunks_exact_mut(4) {
        state = state.wrapping_mul(0x9e37_79b9);
        state ^= state >> 15;
        part.copy_from_slice(&state.to_be_bytes());
    }
    id
}
