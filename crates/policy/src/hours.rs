//! Business hours with a share of the bandwidth inside and outside of them (policies, section 5.4).

use crate::{Percent, RawValue};
use std::fmt;

/// Business hours: from one full hour to another in local time, and the bandwidth inside and outside of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hours {
    from: u8,
    to: u8,
    inside: Percent,
    outside: Percent,
}

impl Hours {
    /// Hours 0 to 23; `None` when one is not.
    pub fn new(from: u8, to: u8, inside: Percent, outside: Percent) -> Option<Self> {
        (from < 24 && to < 24).then_some(Self {
            from,
            to,
            inside,
            outside,
        })
    }

    /// First hour of business, 0 to 23.
    pub fn from(self) -> u8 {
        self.from
    }

    /// The hour at which business ends, 0 to 23.
    pub fn to(self) -> u8 {
        self.to
    }

    /// Whether this hour of the day (0 to 23) is inside: from `from` on, up to and without `to`. `from` after `to`
    /// crosses midnight; both equal is the whole day.
    pub fn contains(self, hour: u8) -> bool {
        match self.from.cmp(&self.to) {
            std::cmp::Ordering::Less => (self.from..self.to).contains(&hour),
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Greater => hour >= self.from || hour < self.to,
        }
    }

    /// The share of the bandwidth in this hour of the day; `None`: dynamic (configured as 0).
    pub fn share_at(self, hour: u8) -> Option<Percent> {
        let share = if self.contains(hour) {
            self.inside
        } else {
            self.outside
        };
        Some(share).filter(|share| share.get() > 0)
    }

    /// Reads `{ from = 8, to = 17, in = 20, out = 80 }` or `"8,17,20,80"`.
    pub(crate) fn read(raw: &RawValue) -> Option<Self> {
        let [from, to, inside, outside] = match raw {
            RawValue::Table(entries) if entries.len() == 4 => {
                let mut fields = [None; 4];
                for (field, name) in fields.iter_mut().zip(["from", "to", "in", "out"]) {
                    let (_, value) = entries.iter().find(|(key, _)| key == name)?;
                    *field = value.number(0, 100);
                }
                fields
            }
            RawValue::Text(text) | RawValue::Untyped(text) => {
                let mut fields = text.split(',').map(|part| part.trim().parse().ok());
                let read = [
                    fields.next()?,
                    fields.next()?,
                    fields.next()?,
                    fields.next()?,
                ];
                if fields.next().is_some() {
                    return None;
                }
                read
            }
            _ => return None,
        };
        Self::new(
            u8::try_from(from?).ok()?,
            u8::try_from(to?).ok()?,
            Percent::new(inside?)?,
            Percent::new(outside?)?,
        )
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{},{},{},{}",
            self.from,
            self.to,
            self.inside.get(),
            self.outside.get()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(from: u8, to: u8) -> Hours {
        Hours::new(from, to, Percent::of(20), Percent::of(0)).unwrap()
    }

    #[test]
    fn hours_are_read_from_a_table_or_from_text() {
        let table = |keys: [&str; 4], numbers: [i64; 4]| {
            RawValue::Table(
                keys.into_iter()
                    .map(str::to_owned)
                    .zip(numbers.into_iter().map(RawValue::Integer))
                    .collect(),
            )
        };
        let expected = Hours::new(8, 17, Percent::of(20), Percent::of(80));
        let keys = ["out", "in", "to", "from"];
        assert_eq!(Hours::read(&table(keys, [80, 20, 17, 8])), expected);
        assert_eq!(
            Hours::read(&RawValue::Text("8, 17,20,80".to_owned())),
            expected
        );
        assert_eq!(Hours::read(&table(keys, [80, 20, 24, 8])), None);
        assert_eq!(Hours::read(&table(keys, [101, 20, 17, 8])), None);
        assert_eq!(
            Hours::read(&table(["out", "in", "to", "start"], [80, 20, 17, 8])),
            None
        );
        for bad in [
            "",
            "8,17,20",
            "8,17,20,80,1",
            "24,17,20,80",
            "8,-1,20,80",
            "8,17,20,101",
        ] {
            assert_eq!(Hours::read(&RawValue::Text(bad.to_owned())), None, "{bad}");
        }
    }

    #[test]
    fn hours_can_cross_midnight() {
        let day = hours(8, 17);
        assert!(day.contains(8) && day.contains(16) && !day.contains(17) && !day.contains(7));
        let night = hours(22, 6);
        assert!(night.contains(23) && night.contains(0) && night.contains(5));
        assert!(!night.contains(6) && !night.contains(21));
        assert!((0..24).all(|hour| hours(9, 9).contains(hour)));
    }

    #[test]
    fn zero_is_dynamic() {
        assert_eq!(hours(8, 17).share_at(9), Some(Percent::of(20)));
        assert_eq!(hours(8, 17).share_at(20), None);
    }
}
