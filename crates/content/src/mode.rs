//! Download modes (download-modes, section 1).

use std::{fmt, str::FromStr};

/// How a device, or one content on it, may download: the value of the policy `DODownloadMode`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum DownloadMode {
    /// 0: HTTP sources only, hash checks still made.
    CdnOnly = 0,
    /// 1: peers behind the same NAT.
    Lan = 1,
    /// 2: peers of the same group, LAN peers first.
    Group = 2,
    /// 3: LAN peers and peers anywhere.
    Internet = 3,
    /// 99: HTTP only, no cloud services, no checks beyond those of HTTP.
    Simple = 99,
    /// 100: handed to BITS on Windows; refused here with 0x80D03002.
    Bypass = 100,
}

impl DownloadMode {
    /// Every mode, in the order of the numbers.
    pub const ALL: [Self; 6] = [
        Self::CdnOnly,
        Self::Lan,
        Self::Group,
        Self::Internet,
        Self::Simple,
        Self::Bypass,
    ];

    /// The policy's number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The mode with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|m| u64::from(m.number()) == number)
    }

    /// The name that the cmdlets use.
    pub fn name(self) -> &'static str {
        match self {
            Self::CdnOnly => "CdnOnly",
            Self::Lan => "Lan",
            Self::Group => "Group",
            Self::Internet => "Internet",
            Self::Simple => "Simple",
            Self::Bypass => "Bypass",
        }
    }
}

impl fmt::Display for DownloadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Text that names no download mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of 0 (CdnOnly), 1 (Lan), 2 (Group), 3 (Internet), 99 (Simple), 100 (Bypass)")]
pub struct ParseModeError;

impl FromStr for DownloadMode {
    type Err = ParseModeError;

    /// Reads the number, or the cmdlets' name in any case; `HttpOnly` is another name of 0.
    fn from_str(text: &str) -> Result<Self, ParseModeError> {
        if let Ok(number) = text.parse() {
            return Self::from_number(number).ok_or(ParseModeError);
        }
        if text.eq_ignore_ascii_case("HttpOnly") {
            return Ok(Self::CdnOnly);
        }
        Self::ALL
            .into_iter()
            .find(|m| m.name().eq_ignore_ascii_case(text))
            .ok_or(ParseModeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_read() {
        for mode in DownloadMode::ALL {
            assert_eq!(mode.number().to_string().parse(), Ok(mode));
            assert_eq!(mode.name().to_lowercase().parse(), Ok(mode));
        }
        assert_eq!("httponly".parse(), Ok(DownloadMode::CdnOnly));
        for bad in ["4", "-1", "98", "101", "", "lans"] {
            assert_eq!(bad.parse::<DownloadMode>(), Err(ParseModeError));
        }
    }
}
