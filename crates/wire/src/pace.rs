//! How fast a connection takes blocks, and how much of one goes out at a time.
//!
//! What was handed to the kernel can't be overtaken: a Have or a request that comes up while a block is being sent waits
//! behind all of it that stands in the socket, and behind the rest of its message. On a fast link that is nothing. On a
//! slow one it is what everybody waits for: a piece of 1 MiB among four at 200 Mbit/s takes 170 ms. So both are measured
//! in time.

use std::time::Duration;

/// Bytes of a block in one message take about this long.
const PART_TIME: Duration = Duration::from_millis(5);
/// Bytes that the kernel holds and has not sent yet last about this long, or up to twice as long, as they are rounded.
const UNSENT_TIME: Duration = Duration::from_micros(2_500);
/// The shortest part, in bytes.
const PART_MIN: u32 = 32 << 10;
/// The least that the kernel may hold unsent, in bytes.
const UNSENT_MIN: u32 = 16 << 10;
/// The most, in bytes: about what Linux lets a socket's buffer hold. More would change nothing but cost system calls.
const UNSENT_MAX: u32 = 4 << 20;
/// Until a block was measured, parts and unsent bytes have this length.
const FIRST: u32 = 64 << 10;

/// The measured pace of one connection's sending side. Pure: times are arguments.
#[derive(Debug, Default)]
pub struct Pace {
    /// Bytes a second, of the last blocks.
    rate: Option<f64>,
}

impl Pace {
    /// A block went out in this time.
    pub fn note(&mut self, bytes: u32, time: Duration) {
        if bytes < PART_MIN {
            // The socket's buffer takes it in no time.
            return;
        }
        let rate = f64::from(bytes) / time.as_secs_f64().max(1e-6);
        self.rate = Some(self.rate.map_or(rate, |old| (old + rate) / 2.0));
    }

    /// Of `rest` bytes of a block, those that the next message carries.
    pub fn part(&self, rest: u32) -> u32 {
        let part = self.over(PART_TIME).max(PART_MIN);
        // No crumbs at the end.
        if rest / 2 < part { rest } else { part }
    }

    /// Bytes that the kernel may hold unsent.
    pub fn unsent_max(&self) -> u32 {
        self.over(UNSENT_TIME).clamp(UNSENT_MIN, UNSENT_MAX)
    }

    /// Bytes that go out in this time, rounded to a power of two so that they change seldom.
    fn over(&self, time: Duration) -> u32 {
        let Some(rate) = self.rate else {
            return FIRST;
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped before"
        )]
        let bytes = (rate * time.as_secs_f64()).clamp(1.0, f64::from(1 << 30)) as u32;
        bytes.next_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    fn pace(bytes_a_second: u32) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..8 {
            let time = f64::from(MIB) / f64::from(bytes_a_second);
            pace.note(MIB, Duration::from_secs_f64(time));
        }
        pace
    }

    #[test]
    fn a_fast_connection_sends_whole_blocks_and_fills_the_kernel() {
        let pace = pace(500 * MIB);
        assert_eq!(pace.part(MIB), MIB);
        assert!(pace.unsent_max() >= 2 * MIB);
    }

    #[test]
    fn a_very_fast_connection_has_nothing_to_tell_the_kernel_about_its_ups_and_downs() {
        let mut pace = pace(1000 * MIB);
        for micros in [1000, 250, 700, 300, 400] {
            pace.note(MIB, Duration::from_micros(micros));
            assert_eq!(pace.unsent_max(), UNSENT_MAX, "{micros}");
        }
    }

    #[test]
    fn a_slow_connection_is_never_busy_for_long_with_what_cannot_be_overtaken() {
        for rate in [4 * MIB, 8 * MIB, 25 * MIB] {
            let pace = pace(rate);
            let longest = PART_TIME.max(UNSENT_TIME) * 2;
            let bytes = f64::from(rate) * longest.as_secs_f64();
            assert!(f64::from(pace.part(MIB)) <= bytes.max(PART_MIN.into()));
            assert!(f64::from(pace.unsent_max()) <= bytes.max(UNSENT_MIN.into()));
        }
        let slowest = pace(1000);
        assert_eq!(
            (slowest.part(MIB), slowest.unsent_max()),
            (PART_MIN, UNSENT_MIN)
        );
    }

    #[test]
    fn parts_add_up_without_crumbs() {
        let pace = pace(20 * MIB);
        for length in [1, PART_MIN, PART_MIN + 1, 700_001, MIB - 1, MIB] {
            let mut rest = length;
            while rest > 0 {
                let part = pace.part(rest);
                assert!(part <= rest && (part == length || part >= PART_MIN));
                rest -= part;
            }
        }
    }

    #[test]
    fn what_fits_into_the_socket_buffer_says_nothing_about_the_link() {
        let mut pace = Pace::default();
        pace.note(1000, Duration::ZERO);
        assert_eq!(pace.unsent_max(), FIRST);
        pace.note(MIB, Duration::ZERO);
        assert_eq!(pace.unsent_max(), UNSENT_MAX, "no division by zero");
    }
}
