//! Sixteen messages on registers of 512 bits.

use super::{BLOCK_BYTES, Block, CHOOSE, Chain, MAJORITY, ROUND_CONSTANTS, XOR, eight};
use std::arch::x86_64::{
    __m512i as Words, _mm512_add_epi32 as add, _mm512_castsi256_si512, _mm512_castsi512_si256,
    _mm512_extracti64x4_epi64, _mm512_inserti64x4, _mm512_ror_epi32 as rotate_right,
    _mm512_set_epi64, _mm512_set1_epi32 as splat, _mm512_shuffle_epi8, _mm512_shuffle_i32x4,
    _mm512_srli_epi32 as shift_right, _mm512_ternarylogic_epi32 as ternary, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

const LANES: usize = 16;

compression!();

/// A chaining value's words of every message.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn gather(chains: &[Chain; LANES]) -> [Words; 8] {
    let (low, high) = halves(chains);
    let (low, high) = (eight::gather(low), eight::gather(high));
    [0, 1, 2, 3, 4, 5, 6, 7]
        .map(|word| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low[word]), high[word]))
}

/// The reverse of [`gather`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn scatter(words: [Words; 8]) -> [Chain; LANES] {
    let low = eight::scatter(words.map(|word| _mm512_castsi512_si256(word)));
    let high = eight::scatter(words.map(|word| _mm512_extracti64x4_epi64::<1>(word)));
    let mut chains = [low[0]; LANES];
    chains[..8].copy_from_slice(&low);
    chains[8..].copy_from_slice(&high);
    chains
}

fn halves(chains: &[Chain; LANES]) -> (&[Chain; 8], &[Chain; 8]) {
    chains
        .split_first_chunk()
        .and_then(|(low, high)| Some((low, high.first_chunk()?)))
        .expect("twice eight")
}

/// The sixteen words of one block of every message.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn load(blocks: &[&[Block]; LANES], at: usize) -> [Words; 16] {
    let mut rows = [splat(0); LANES];
    for (row, blocks) in rows.iter_mut().zip(blocks) {
        *row = words_of(&blocks[at]);
    }
    transpose(&rows)
}

/// One block; its words are big-endian in the message.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn words_of(block: &Block) -> Words {
    let parts: &[[u8; 8]; BLOCK_BYTES / 8] =
        block.as_chunks().0.try_into().expect("a block has as many");
    let part = |i: usize| i64::from_le_bytes(parts[i]);
    let block = _mm512_set_epi64(
        part(7),
        part(6),
        part(5),
        part(4),
        part(3),
        part(2),
        part(1),
        part(0),
    );
    const HIGH: i64 = 0x0c0d_0e0f_0809_0a0b;
    const LOW: i64 = 0x0405_0607_0001_0203;
    let order = _mm512_set_epi64(HIGH, LOW, HIGH, LOW, HIGH, LOW, HIGH, LOW);
    _mm512_shuffle_epi8(block, order)
}

/// Rows to columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn transpose(rows: &[Words; 16]) -> [Words; 16] {
    let mut groups = [[splat(0); 4]; 4];
    for (group, rows) in groups.iter_mut().zip(rows.as_chunks().0) {
        *group = quarters(rows);
    }
    let [a, b, c, d] = groups;
    let mut columns = *rows;
    for n in 0..4 {
        let (ab_even, ab_odd) = (even(a[n], b[n]), odd(a[n], b[n]));
        let (cd_even, cd_odd) = (even(c[n], d[n]), odd(c[n], d[n]));
        columns[n] = even(ab_even, cd_even);
        columns[n + 4] = even(ab_odd, cd_odd);
        columns[n + 8] = odd(ab_even, cd_even);
        columns[n + 12] = odd(ab_odd, cd_odd);
    }
    columns
}

/// Of four rows: the columns n, n + 4, n + 8 and n + 12, each in a quarter of the register, for each n of four.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn quarters(&[a, b, c, d]: &[Words; 4]) -> [Words; 4] {
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// The first and the third quarter of both.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn even(a: Words, b: Words) -> Words {
    _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b)
}

/// The second and the fourth quarter of both.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn odd(a: Words, b: Words) -> Words {
    _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)
}
