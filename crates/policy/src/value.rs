//! Values as they come in, before a policy's row says what they mean.

use crate::shown_key;
use std::fmt;

/// A whole number of per cent, 0 to 100.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Percent(u8);

impl Percent {
    /// `None` above 100.
    pub fn new(percent: u64) -> Option<Self> {
        u8::try_from(percent).ok().filter(|p| *p <= 100).map(Self)
    }

    /// For numbers that are known when the program is compiled.
    ///
    /// # Panics
    ///
    /// Above 100.
    pub const fn of(percent: u8) -> Self {
        assert!(percent <= 100, "at most 100 per cent");
        Self(percent)
    }

    /// The number, 0 to 100.
    pub fn get(self) -> u8 {
        self.0
    }

    /// This share of a number, rounded down.
    pub fn part_of(self, whole: u64) -> u64 {
        // Exact, and without overflow for every whole: the remainder's share is added on its own.
        let percent = u64::from(self.0);
        whole / 100 * percent + whole % 100 * percent / 100
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// A value as it stands in a file, a variable or a command, not checked against anything.
#[derive(Clone, PartialEq, Debug)]
pub enum RawValue {
    /// A number.
    Integer(i64),
    /// A truth value.
    Boolean(bool),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// A table.
    Table(Vec<(String, Self)>),
    /// Text from where everything is text (environment, command line): it may mean a number or a list, too.
    Untyped(String),
    /// What no key takes (fractions, dates, numbers past 64 bits), as it was written.
    Other(String),
}

impl RawValue {
    /// A number between two bounds, both included.
    pub fn number(&self, min: u64, max: u64) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            Self::Untyped(text) => text.trim().parse().ok(),
            _ => None,
        }
        .filter(|number| (min..=max).contains(number))
    }

    /// A truth value; 0 and 1 are ones.
    pub fn flag(&self) -> Option<bool> {
        match self {
            Self::Boolean(flag) => Some(*flag),
            Self::Untyped(text) if text.trim().eq_ignore_ascii_case("true") => Some(true),
            Self::Untyped(text) if text.trim().eq_ignore_ascii_case("false") => Some(false),
            other => other.number(0, 1).map(|number| number == 1),
        }
    }

    /// Text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Untyped(text) => Some(text),
            _ => None,
        }
    }

    /// A list of texts, or one text with commas; empty items are refused, an empty text is an empty list.
    pub fn texts(&self) -> Option<Vec<&str>> {
        let items: Vec<&str> = match self {
            Self::List(items) => items.iter().map(Self::text).collect::<Option<_>>()?,
            other => match other.text()?.trim() {
                "" => Vec::new(),
                text => text.split(',').collect(),
            },
        };
        let items: Vec<&str> = items.into_iter().map(str::trim).collect();
        (!items.contains(&"")).then_some(items)
    }
}

/// Longest value that an error shows, in characters.
const SHOWN_MAX: usize = 80;

/// As it would stand in a TOML file, cut after 80 characters.
impl fmt::Display for RawValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text, 0);
        match text.char_indices().nth(SHOWN_MAX) {
            Some((at, _)) => write!(f, "{}…", &text[..at]),
            None => f.write_str(&text),
        }
    }
}

impl RawValue {
    /// Writes the value, no deeper than three levels: deeper ones are cut off anyhow.
    fn write(&self, out: &mut String, depth: u8) {
        if depth > 3 {
            return out.push('…');
        }
        match self {
            Self::Integer(number) => *out += &number.to_string(),
            Self::Boolean(flag) => *out += &flag.to_string(),
            Self::Text(text) | Self::Untyped(text) => *out += &format!("{text:?}"),
            Self::Other(text) => *out += text,
            Self::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    *out += if i == 0 { "" } else { ", " };
                    item.write(out, depth + 1);
                }
                out.push(']');
            }
            Self::Table(entries) if entries.is_empty() => *out += "{}",
            Self::Table(entries) => {
                *out += "{ ";
                for (i, (key, value)) in entries.iter().enumerate() {
                    *out += if i == 0 { "" } else { ", " };
                    *out += &shown_key(key);
                    *out += " = ";
                    value.write(out, depth + 1);
                }
                *out += " }";
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn untyped(text: &str) -> RawValue {
        RawValue::Untyped(text.to_owned())
    }

    #[test]
    fn untyped_text_is_read_as_what_is_wanted() {
        assert_eq!(untyped(" 12 ").number(0, 12), Some(12));
        assert_eq!(untyped("13").number(0, 12), None);
        assert_eq!(untyped("True").flag(), Some(true));
        assert_eq!(untyped("0").flag(), Some(false));
        assert_eq!(untyped("a, b").texts(), Some(vec!["a", "b"]));
    }

    #[test]
    fn text_in_a_file_is_no_number() {
        let text = RawValue::Text("12".to_owned());
        assert_eq!(text.number(0, 100), None);
        assert_eq!(RawValue::Text("true".to_owned()).flag(), None);
        assert_eq!(RawValue::Integer(-1).number(0, 100), None);
        assert_eq!(RawValue::Integer(2).flag(), None);
    }

    #[test]
    fn empty_text_is_an_empty_list_and_empty_items_are_refused() {
        assert_eq!(untyped("").texts(), Some(vec![]));
        assert_eq!(untyped("a,,b").texts(), None);
        assert_eq!(RawValue::List(vec![untyped("")]).texts(), None);
        assert_eq!(RawValue::List(vec![RawValue::Integer(1)]).texts(), None);
    }

    #[test]
    fn values_are_shown_as_in_toml() {
        let value = RawValue::Table(vec![
            (
                "a".to_owned(),
                RawValue::List(vec![RawValue::Integer(1), untyped("x\"")]),
            ),
            ("b".to_owned(), RawValue::Boolean(true)),
        ]);
        assert_eq!(value.to_string(), r#"{ a = [1, "x\""], b = true }"#);
        assert_eq!(untyped(&"é".repeat(500)).to_string().chars().count(), 81);
    }

    proptest! {
        #[test]
        fn part_of_is_exact(percent in 0u8..=100, whole: u64) {
            let exact = u128::from(whole) * u128::from(percent) / 100;
            prop_assert_eq!(u128::from(Percent::of(percent).part_of(whole)), exact);
        }
    }
}
