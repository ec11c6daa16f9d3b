//! Rates in bytes a second, and how bytes are shown to people.

use std::{fmt, num::NonZeroU64, str::FromStr};

/// A rate in bytes a second, at least 1. "No limit" is the absence of a rate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRate(NonZeroU64);

impl ByteRate {
    /// A rate in bytes a second; `None` for 0.
    pub fn from_bps(bytes_per_second: u64) -> Option<Self> {
        NonZeroU64::new(bytes_per_second).map(Self)
    }

    /// A rate in the policies' unit, KB/s (1024 bytes a second); `None` for 0.
    pub fn from_kbps(kilobytes_per_second: u64) -> Option<Self> {
        Self::from_bps(kilobytes_per_second.saturating_mul(1024))
    }

    /// Bytes a second.
    pub fn bps(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", format_bytes(self.bps()))
    }
}

/// Text that is no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a rate such as 500KB, 2.5MB or 1GB (a second, powers of 1024), or plain bytes")]
pub struct ParseRateError;

impl FromStr for ByteRate {
    type Err = ParseRateError;

    /// Reads bytes a second, with an optional unit `KB`, `MB`, `GB` (`KiB` … too) and an optional `/s`.
    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let text = text.trim();
        let text = text.strip_suffix("/s").unwrap_or(text);
        let split = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            _ => return Err(ParseRateError),
        };
        let number: f64 = number.parse().map_err(|_| ParseRateError)?;
        let bps = number * f64::from(1u32 << shift);
        if !(1.0..=1e15).contains(&bps) {
            return Err(ParseRateError);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and 1e15"
        )]
        Self::from_bps(bps as u64).ok_or(ParseRateError)
    }
}

/// Bytes for people: `17 B`, `1.2 MiB`; three significant digits, powers of 1024.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as "1024.0": move on before that.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_048_575, "1.00 MiB"),
            (1 << 20, "1.00 MiB"),
            (150 << 20, "150 MiB"),
            (4 << 30, "4.00 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    #[test]
    fn rates_are_read_with_units() {
        assert_eq!(
            "1000".parse(),
            Ok(ByteRate(NonZeroU64::new(1000).expect("not 0")))
        );
        assert_eq!(
            "2.5MB/s".parse::<ByteRate>().map(ByteRate::bps),
            Ok(2_621_440)
        );
        assert_eq!("20 KiB".parse::<ByteRate>().map(ByteRate::bps), Ok(20_480));
        for bad in ["", "0", "x", "1 TB", "-5", "1..2", "NaN", "inf"] {
            assert_eq!(bad.parse::<ByteRate>(), Err(ParseRateError), "{bad}");
        }
    }
}
