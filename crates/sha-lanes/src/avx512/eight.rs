//! Eight messages on registers of 256 bits.

use super::{BLOCK_BYTES, Block, CHOOSE, Chain, MAJORITY, ROUND_CONSTANTS, XOR};
use std::arch::x86_64::{
    __m256i as Words, _mm256_add_epi32 as add, _mm256_permute2x128_si256,
    _mm256_ror_epi32 as rotate_right, _mm256_set_epi32, _mm256_set_epi64x,
    _mm256_set1_epi32 as splat, _mm256_shuffle_epi8, _mm256_srli_epi32 as shift_right,
    _mm256_ternarylogic_epi32 as ternary, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
};

const LANES: usize = 8;

compression!();

/// A chaining value's words of every message.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
pub(super) fn gather(chains: &[Chain; LANES]) -> [Words; 8] {
    [0, 1, 2, 3, 4, 5, 6, 7].map(|word| {
        let lane = |lane: usize| chains[lane][word].cast_signed();
        _mm256_set_epi32(
            lane(7),
            lane(6),
            lane(5),
            lane(4),
            lane(3),
            lane(2),
            lane(1),
            lane(0),
        )
    })
}

/// The reverse of [`gather`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
pub(super) fn scatter(words: [Words; 8]) -> [Chain; LANES] {
    transpose(&words).map(|lane| words_of(lane))
}

/// The sixteen words of one block of every message.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn load(blocks: &[&[Block]; LANES], at: usize) -> [Words; 16] {
    let mut rows = [[splat(0); LANES]; 2];
    for (lane, blocks) in blocks.iter().enumerate() {
        rows[0][lane] = half(&blocks[at], 0);
        rows[1][lane] = half(&blocks[at], 1);
    }
    let [low, high] = &rows;
    let mut words = [splat(0); 16];
    words[..8].copy_from_slice(&transpose(low));
    words[8..].copy_from_slice(&transpose(high));
    words
}

/// Eight words of one block; they are big-endian in the message.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn half(block: &Block, which: usize) -> Words {
    let parts: &[[u8; 8]; BLOCK_BYTES / 8] =
        block.as_chunks().0.try_into().expect("a block has as many");
    let part = |i: usize| i64::from_le_bytes(parts[4 * which + i]);
    let order = _mm256_set_epi64x(
        0x0c0d_0e0f_0809_0a0b,
        0x0405_0607_0001_0203,
        0x0c0d_0e0f_0809_0a0b,
        0x0405_0607_0001_0203,
    );
    _mm256_shuffle_epi8(_mm256_set_epi64x(part(3), part(2), part(1), part(0)), order)
}

/// Rows to columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn transpose(&[r0, r1, r2, r3, r4, r5, r6, r7]: &[Words; 8]) -> [Words; 8] {
    // Columns 0 to 3 are in the low halves, 4 to 7 in the high ones.
    let top = halves(r0, r1, r2, r3);
    let bottom = halves(r4, r5, r6, r7);
    let mut columns = [r0; 8];
    for n in 0..4 {
        columns[n] = _mm256_permute2x128_si256::<0x20>(top[n], bottom[n]);
        columns[n + 4] = _mm256_permute2x128_si256::<0x31>(top[n], bottom[n]);
    }
    columns
}

/// Of four rows: the columns n and n + 4, each in a half of the register, for each n of four.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn halves(a: Words, b: Words, c: Words, d: Words) -> [Words; 4] {
    let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab_low, cd_low),
        _mm256_unpackhi_epi64(ab_low, cd_low),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// A register's words, lowest first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn words_of(lane: Words) -> Chain {
    use std::arch::x86_64::_mm256_extract_epi32;
    [
        _mm256_extract_epi32::<0>(lane),
        _mm256_extract_epi32::<1>(lane),
        _mm256_extract_epi32::<2>(lane),
        _mm256_extract_epi32::<3>(lane),
        _mm256_extract_epi32::<4>(lane),
        _mm256_extract_epi32::<5>(lane),
        _mm256_extract_epi32::<6>(lane),
        _mm256_extract_epi32::<7>(lane),
    ]
    .map(i32::cast_unsigned)
}
