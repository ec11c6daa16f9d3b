//! Several messages at once with the vector instructions of AVX-512: a lane of a register for each message.
//!
//! [`sixteen`] lie in registers of 512 bits, [`eight`] in those of 256, of which a processor works on half as many again at a
//! time. Both do the same with instructions of their own, so the rounds are written down once, as a macro.

use super::{BLOCK_BYTES, Block, Chain};

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

/// The compression function of `LANES` messages for a module that has
///
/// - `Words`: one word of every message, and how to `add`, `rotate_right`, `shift_right`, `ternary`, `splat` them;
/// - `load`: the sixteen words of one block of every message;
/// - `gather` and `scatter`: from chaining values to words, and back.
macro_rules! compression {
    () => {
        /// Hashes blocks, as many of each message, into the chaining values.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
        pub(super) fn compress(chains: &mut [Chain; LANES], blocks: [&[Block]; LANES]) {
            let together = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
            let blocks = blocks.map(|blocks| &blocks[..together]);
            let mut state = gather(chains);
            for at in 0..together {
                let mut schedule = load(&blocks, at);
                let before = state;
                sixteen_times!(ROUND => state = step(state, ROUND_CONSTANTS[ROUND], schedule[ROUND]));
                for constants in ROUND_CONSTANTS[16..].as_chunks::<16>().0 {
                    sixteen_times!(ROUND => {
                        extend(&mut schedule, ROUND);
                        state = step(state, constants[ROUND], schedule[ROUND]);
                    });
                }
                for (word, before) in state.iter_mut().zip(before) {
                    *word = add(*word, before);
                }
            }
            *chains = scatter(state);
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
        fn xor3(a: Words, b: Words, c: Words) -> Words {
            ternary::<XOR>(a, b, c)
        }

        /// A round (FIPS 180-4, section 6.2.2) with its constant and its word of the schedule.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
        fn step([a, b, c, d, e, f, g, h]: [Words; 8], constant: u32, word: Words) -> [Words; 8] {
            let constant = splat(constant.cast_signed());
            let sum1 = xor3(
                rotate_right::<6>(e),
                rotate_right::<11>(e),
                rotate_right::<25>(e),
            );
            let choice = ternary::<CHOOSE>(e, f, g);
            let known = add(add(h, constant), word);
            let t1 = add(add(known, choice), sum1);
            let sum0 = xor3(
                rotate_right::<2>(a),
                rotate_right::<13>(a),
                rotate_right::<22>(a),
            );
            let t2 = add(sum0, ternary::<MAJORITY>(a, b, c));
            [add(t1, t2), a, b, c, add(d, t1), e, f, g]
        }

        /// The schedule's next word, in place of the oldest.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
        fn extend(schedule: &mut [Words; 16], at: usize) {
            let (old, recent) = (schedule[(at + 1) % 16], schedule[(at + 14) % 16]);
            let sigma0 = xor3(
                rotate_right::<7>(old),
                rotate_right::<18>(old),
                shift_right::<3>(old),
            );
            let sigma1 = xor3(
                rotate_right::<17>(recent),
                rotate_right::<19>(recent),
                shift_right::<10>(recent),
            );
            schedule[at] = add(add(schedule[at], sigma0), add(schedule[(at + 9) % 16], sigma1));
        }
    };
}

mod eight;
mod sixteen;

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx2")
}

/// Hashes blocks, as many of each message, into the chaining values of eight or sixteen; false, and nothing done, for
/// another number of them, or where the processor cannot.
pub(super) fn compress<'a>(chains: &mut [Chain], lane: impl FnMut() -> &'a [Block]) -> bool {
    if !is_available() {
        return false;
    }
    #[expect(
        unsafe_code,
        reason = "safe code that needs the features that were just asked for"
    )]
    unsafe {
        compress_in(chains, lane)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
fn compress_in<'a>(chains: &mut [Chain], mut lane: impl FnMut() -> &'a [Block]) -> bool {
    if let Ok(chains) = <&mut [Chain; 16]>::try_from(&mut *chains) {
        sixteen::compress(chains, [(); 16].map(|()| lane()));
    } else if let Ok(chains) = <&mut [Chain; 8]>::try_from(chains) {
        eight::compress(chains, [(); 8].map(|()| lane()));
    } else {
        return false;
    }
    true
}
