//! Eight messages at once with the vector instructions of AVX-512, on registers of 256 bits: a lane for each message.

use super::{BLOCK_BYTES, Block, Chain, LANES};
use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_permute2x128_si256, _mm256_ror_epi32, _mm256_set_epi32,
    _mm256_set_epi64x, _mm256_set1_epi32, _mm256_shuffle_epi8, _mm256_srli_epi32,
    _mm256_ternarylogic_epi32, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32,
    _mm256_unpacklo_epi64,
};

/// FIPS 180-4, section 4.2.2.
#[rustfmt::skip]
const ROUND_CONSTANTS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// Truth tables of three inputs, as `vpternlog` wants them.
const XOR: i32 = 0x96;
const CHOOSE: i32 = 0xca;
const MAJORITY: i32 = 0xe8;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx2")
}

/// Hashes blocks, as many of each message, into the chaining values; false, and nothing done, where the processor
/// cannot.
pub(super) fn compress_lanes(chains: &mut [Chain; LANES], blocks: [&[Block]; LANES]) -> bool {
    if !is_available() {
        return false;
    }
    #[expect(
        unsafe_code,
        reason = "safe code that needs the features that were just asked for"
    )]
    unsafe {
        compress(chains, blocks);
    }
    true
}

/// A loop of sixteen, unrolled: with numbers known when it is compiled, a schedule stays in registers.
macro_rules! sixteen_times {
    ($i:ident => $body:expr) => {
        sixteen_times!(@ $i $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $i:ident $body:expr; $($n:literal)*) => {
        $({
            const $i: usize = $n;
            $body;
        })*
    };
}

/// One word of every message.
type Words = __m256i;

#[target_feature(enable = "avx512f,avx512vl,avx2")]
fn compress(chains: &mut [Chain; LANES], blocks: [&[Block]; LANES]) {
    let together = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    let blocks = blocks.map(|blocks| &blocks[..together]);
    let mut state: [Words; 8] = [0, 1, 2, 3, 4, 5, 6, 7].map(|word| {
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
    });
    for at in 0..together {
        let mut schedule = load(blocks.map(|blocks| &blocks[at]));
        let before = state;
        sixteen_times!(ROUND => state = step(state, ROUND_CONSTANTS[ROUND], schedule[ROUND]));
        for constants in ROUND_CONSTANTS[16..].as_chunks::<16>().0 {
            sixteen_times!(ROUND => {
                extend(&mut schedule, ROUND);
                state = step(state, constants[ROUND], schedule[ROUND]);
            });
        }
        for (word, before) in state.iter_mut().zip(before) {
            *word = _mm256_add_epi32(*word, before);
        }
    }
    let lanes = transpose(state);
    for (chain, lane) in chains.iter_mut().zip(lanes) {
        *chain = words_of(lane);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2")]
fn xor3(a: Words, b: Words, c: Words) -> Words {
    _mm256_ternarylogic_epi32::<XOR>(a, b, c)
}

/// A round (FIPS 180-4, section 6.2.2) with its constant and its word of the schedule.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2")]
fn step([a, b, c, d, e, f, g, h]: [Words; 8], constant: u32, word: Words) -> [Words; 8] {
    let constant = _mm256_set1_epi32(constant.cast_signed());
    let sum1 = xor3(
        _mm256_ror_epi32::<6>(e),
        _mm256_ror_epi32::<11>(e),
        _mm256_ror_epi32::<25>(e),
    );
    let choice = _mm256_ternarylogic_epi32::<CHOOSE>(e, f, g);
    let known = _mm256_add_epi32(_mm256_add_epi32(h, constant), word);
    let t1 = _mm256_add_epi32(_mm256_add_epi32(known, choice), sum1);
    let sum0 = xor3(
        _mm256_ror_epi32::<2>(a),
        _mm256_ror_epi32::<13>(a),
        _mm256_ror_epi32::<22>(a),
    );
    let t2 = _mm256_add_epi32(sum0, _mm256_ternarylogic_epi32::<MAJORITY>(a, b, c));
    [
        _mm256_add_epi32(t1, t2),
        a,
        b,
        c,
        _mm256_add_epi32(d, t1),
        e,
        f,
        g,
    ]
}

/// The schedule's next word, in place of the oldest.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2")]
fn extend(schedule: &mut [Words; 16], at: usize) {
    let ago = |words: usize| schedule[(at + 16 - words) % 16];
    let (old, recent) = (ago(15), ago(2));
    let sigma0 = xor3(
        _mm256_ror_epi32::<7>(old),
        _mm256_ror_epi32::<18>(old),
        _mm256_srli_epi32::<3>(old),
    );
    let sigma1 = xor3(
        _mm256_ror_epi32::<17>(recent),
        _mm256_ror_epi32::<19>(recent),
        _mm256_srli_epi32::<10>(recent),
    );
    schedule[at] = _mm256_add_epi32(
        _mm256_add_epi32(schedule[at], sigma0),
        _mm256_add_epi32(ago(7), sigma1),
    );
}

/// The sixteen words of a block of every message.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2")]
fn load(blocks: [&Block; LANES]) -> [Words; 16] {
    let low = transpose(blocks.map(|block| half(block, 0)));
    let high = transpose(blocks.map(|block| half(block, 1)));
    let mut words = [low[0]; 16];
    words[..8].copy_from_slice(&low);
    words[8..].copy_from_slice(&high);
    words
}

/// Eight words of one block; they are big-endian in the message.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2")]
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
#[target_feature(enable = "avx512f,avx512vl,avx2")]
fn transpose(rows: [Words; 8]) -> [Words; 8] {
    let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
    let quarter = |a, b, c, d| {
        let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab_low, cd_low),
            _mm256_unpackhi_epi64(ab_low, cd_low),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    };
    // Columns 0 to 3 are in the low halves, 4 to 7 in the high ones.
    let top = quarter(r0, r1, r2, r3);
    let bottom = quarter(r4, r5, r6, r7);
    let low = |i: usize| _mm256_permute2x128_si256::<0x20>(top[i], bottom[i]);
    let high = |i: usize| _mm256_permute2x128_si256::<0x31>(top[i], bottom[i]);
    [
        low(0),
        low(1),
        low(2),
        low(3),
        high(0),
        high(1),
        high(2),
        high(3),
    ]
}

/// A register's words, lowest first.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx2")]
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
