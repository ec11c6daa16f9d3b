//! What was sent to peers in a calendar month, and whether there may be more (policies, section 3).

use crate::PeerClass;
use std::fmt;

/// A calendar month, in local time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Month {
    year: i16,
    month: u8,
}

impl Month {
    /// Months 1 to 12; `None` when it is none.
    pub fn new(year: i16, month: u8) -> Option<Self> {
        (1..=12).contains(&month).then_some(Self { year, month })
    }

    /// Reads `2026-11`.
    pub fn parse(text: &str) -> Option<Self> {
        let (year, month) = text.rsplit_once('-')?;
        Self::new(year.parse().ok()?, month.parse().ok()?)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

/// Bytes sent to peers in one month, by what they are to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MonthlyUploads {
    /// The month.
    pub month: Month,
    /// To peers in the LAN.
    pub lan: u64,
    /// To peers found by DNS-SD on the link.
    pub link_local: u64,
    /// To peers of the group beyond the LAN.
    pub group: u64,
    /// To Internet peers: the only ones that the cap counts.
    pub internet: u64,
}

impl MonthlyUploads {
    /// Nothing yet.
    pub fn new(month: Month) -> Self {
        Self {
            month,
            lan: 0,
            link_local: 0,
            group: 0,
            internet: 0,
        }
    }

    /// Begins a new month when it is one. A clock that was set back does not: nothing is sent twice for it.
    pub fn turn_to(&mut self, month: Month) -> bool {
        let turns = month > self.month;
        if turns {
            *self = Self::new(month);
        }
        turns
    }

    /// Counts bytes to a peer of this class when the cap (`None`: none) permits them; false: it does not, and
    /// nothing is counted.
    pub fn take(&mut self, class: PeerClass, bytes: u64, cap: Option<u64>) -> bool {
        let sum = self.of(class).saturating_add(bytes);
        if class == PeerClass::Internet && cap.is_some_and(|cap| sum > cap) {
            return false;
        }
        *self.of(class) = sum;
        true
    }

    /// Takes back what was counted of bytes that were not sent after all, unless a new month has begun since.
    pub fn give_back(&mut self, class: PeerClass, bytes: u64, counted_in: Month) {
        if counted_in == self.month {
            let sum = self.of(class);
            *sum = sum.saturating_sub(bytes);
        }
    }

    /// Whether the cap leaves no room for a block of this many bytes.
    pub fn is_reached(&self, cap: Option<u64>, block: u64) -> bool {
        cap.is_some_and(|cap| self.internet.saturating_add(block) > cap)
    }

    fn of(&mut self, class: PeerClass) -> &mut u64 {
        match class {
            PeerClass::Lan => &mut self.lan,
            PeerClass::LinkLocal => &mut self.link_local,
            PeerClass::Group => &mut self.group,
            PeerClass::Internet => &mut self.internet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn month(text: &str) -> Month {
        Month::parse(text).unwrap()
    }

    #[test]
    fn what_is_given_back_has_room_again_but_not_in_another_month() {
        let november = month("2026-11");
        let mut uploads = MonthlyUploads::new(november);
        assert!(uploads.take(PeerClass::Internet, 1000, Some(1000)));
        uploads.give_back(PeerClass::Internet, 400, november);
        assert!(!uploads.take(PeerClass::Internet, 401, Some(1000)));
        assert!(uploads.take(PeerClass::Internet, 400, Some(1000)));
        assert!(uploads.turn_to(month("2026-12")));
        assert!(uploads.take(PeerClass::Internet, 500, Some(1000)));
        uploads.give_back(PeerClass::Internet, 400, november);
        assert_eq!(uploads.internet, 500);
    }

    #[test]
    fn cap_counts_internet_peers_alone_and_is_never_exceeded() {
        let mut uploads = MonthlyUploads::new(month("2026-11"));
        let cap = Some(1000);
        for class in [PeerClass::Lan, PeerClass::LinkLocal, PeerClass::Group] {
            assert!(uploads.take(class, 5000, cap), "{class:?}");
        }
        assert!(uploads.take(PeerClass::Internet, 600, cap));
        assert!(!uploads.is_reached(cap, 400) && uploads.is_reached(cap, 401));
        assert!(!uploads.take(PeerClass::Internet, 401, cap));
        assert!(uploads.take(PeerClass::Internet, 400, cap));
        assert!(!uploads.take(PeerClass::Internet, 1, cap));
        assert!(uploads.take(PeerClass::Internet, 1, None), "no cap");
        assert_eq!(
            (
                uploads.lan,
                uploads.link_local,
                uploads.group,
                uploads.internet
            ),
            (5000, 5000, 5000, 1001)
        );
    }

    #[test]
    fn new_month_begins_at_nothing_and_an_older_one_does_not() {
        let mut uploads = MonthlyUploads::new(month("2026-12"));
        uploads.take(PeerClass::Internet, 7, None);
        assert!(!uploads.turn_to(month("2026-12")) && !uploads.turn_to(month("2026-11")));
        assert_eq!(uploads.internet, 7);
        assert!(uploads.turn_to(month("2027-01")));
        assert_eq!(uploads, MonthlyUploads::new(month("2027-01")));
    }

    #[test]
    fn months_are_read_and_written_alike() {
        assert_eq!(month("2026-02").to_string(), "2026-02");
        for bad in ["", "2026", "2026-13", "2026-0", "x-1", "99999-1"] {
            assert_eq!(Month::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn internet_bytes_never_pass_the_cap(
            cap in 0u64..10_000, blocks in prop::collection::vec(0u64..2000, 0..50)
        ) {
            let mut uploads = MonthlyUploads::new(month("2026-11"));
            let mut sent = 0;
            for block in blocks {
                let room = !uploads.is_reached(Some(cap), block);
                prop_assert_eq!(uploads.take(PeerClass::Internet, block, Some(cap)), room);
                sent += if room { block } else { 0 };
            }
            prop_assert!(sent <= cap && uploads.internet == sent);
        }
    }
}
