//! Values of a topology file: a number with its unit, in one text.

use serde::{Deserialize, Deserializer, de::Error};
use std::time::Duration;

/// Bytes: `"128 MiB"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size(pub(super) u64);

/// Bytes a second: `"200 Mbit/s"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rate(pub(super) u64);

/// A time: `"50 ms"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Time(pub(super) Duration);

const SIZES: &[(&str, f64)] = &[
    ("B", 1.0),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
];

const RATES: &[(&str, f64)] = &[
    ("kbit/s", 125.0),
    ("Mbit/s", 125_000.0),
    ("Gbit/s", 125_000_000.0),
    ("kB/s", 1e3),
    ("MB/s", 1e6),
    ("GB/s", 1e9),
    ("MiB/s", 1_048_576.0),
];

/// In nanoseconds.
const TIMES: &[(&str, f64)] = &[
    ("us", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("min", 60e9),
    ("h", 3600e9),
];

/// Reads `<number> <unit>` as a whole number of the smallest unit.
fn read(text: &str, units: &[(&str, f64)]) -> Result<u64, String> {
    let names = || units.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", ");
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} does not begin with a number"))?;
    let unit = unit.trim();
    let scale = units.iter().find(|(name, _)| *name == unit);
    let (_, scale) = scale.ok_or_else(|| {
        format!(
            "{text:?} has no unit that is known here; one of {}",
            names()
        )
    })?;
    let value = (number * scale).round();
    if value > 1e18 {
        return Err(format!("{text:?} is too much"));
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole and bounded above")]
    #[expect(clippy::cast_sign_loss, reason = "no sign is read")]
    Ok(value as u64)
}

fn text<'de, D: Deserializer<'de>>(from: D, units: &[(&str, f64)]) -> Result<u64, D::Error> {
    read(&String::deserialize(from)?, units).map_err(D::Error::custom)
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text(from, SIZES).map(Self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let rate = text(from, RATES)?;
        if rate == 0 {
            return Err(D::Error::custom("a rate of 0"));
        }
        Ok(Self(rate))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        text(from, TIMES).map(|nanos| Self(Duration::from_nanos(nanos)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!(read("128 MiB", SIZES), Ok(128 << 20));
        assert_eq!(read("0.25ms", TIMES), Ok(250_000));
        assert_eq!(read("200 Mbit/s", RATES), Ok(25_000_000));
        for bad in ["", "12", "12 parsecs", "ms", "-1 ms", "1.2.3 s"] {
            assert!(read(bad, TIMES).is_err(), "{bad}");
        }
    }
}
