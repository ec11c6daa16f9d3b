//! The month's uploads, kept so that neither a restart nor a crash makes the monthly cap forget what was sent.
//!
//! The file says more than was sent to Internet peers: an amount is reserved in it before it is used. So a crash never
//! forgets any of them; it may count up to the reserve too much. The other counters are for people and are as old as
//! the last writing then.

use crate::{
    bandwidth::month_now,
    shared::{Shared, lock},
};
use dosvc_content::BLOCK_LENGTH_MAX;
use dosvc_policy::{Month, MonthlyUploads, PeerClass};
use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::sync::Notify;

/// The file in the state folder.
const FILE: &str = "uploads-this-month";
/// What the file reserves for Internet peers beyond what was sent to them. The next amount is reserved when half of
/// this is used up: 16 MiB take 130 ms at 1 Gbit/s, writing a small file a few.
const RESERVE: u64 = 32 << 20;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    state: Mutex<State>,
    due: Notify,
    /// Held by who writes the file.
    writing: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// What was sent and what is under way.
    uploads: MonthlyUploads,
    /// Of it, what is under way to Internet peers.
    under_way: u64,
    /// What the file says; `None`: it says nothing of this month.
    written: Option<MonthlyUploads>,
}

impl Ledger {
    /// Reads the file. One that is missing, or of an earlier month, is a month without uploads.
    pub(crate) fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let read = match fs::read_to_string(&path) {
            Ok(text) => parse(&text).or_else(|| {
                tracing::warn!(path = %path.display(), "not readable; the month's uploads are counted from nothing");
                None
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the month's uploads are counted from nothing");
                None
            }
        };
        let month = month_now();
        let mut uploads = read.unwrap_or_else(|| MonthlyUploads::new(month));
        let written = (!uploads.turn_to(month)).then_some(read).flatten();
        Self {
            path,
            state: Mutex::new(State {
                uploads,
                under_way: 0,
                written,
            }),
            due: Notify::new(),
            writing: Mutex::new(()),
        }
    }

    /// Counts what is about to be sent, as under way until what this gives is dropped; `None`: the cap does not
    /// permit it.
    pub(crate) fn take(
        self: &Arc<Self>,
        class: PeerClass,
        bytes: u64,
        cap: Option<u64>,
    ) -> Option<Taken> {
        let mut state = lock(&self.state);
        state.turn_to(month_now());
        if !state.uploads.take(class, bytes, cap) {
            return None;
        }
        if class == PeerClass::Internet {
            state.under_way += bytes;
            let reserved = state.written.map_or(0, |written| written.internet);
            if state.uploads.internet + RESERVE / 2 > reserved {
                self.due.notify_one();
            }
        }
        Some(Taken {
            ledger: Arc::clone(self),
            class,
            bytes,
            month: state.uploads.month,
        })
    }

    /// Whether so much was sent that there is not even room for one more block to an Internet peer. What is under way
    /// does not count yet: it goes out first.
    pub(crate) fn is_reached(&self, cap: Option<u64>) -> bool {
        let mut state = lock(&self.state);
        state.turn_to(month_now());
        let state = &*state;
        let sent = MonthlyUploads {
            internet: state.uploads.internet.saturating_sub(state.under_way),
            ..state.uploads
        };
        sent.is_reached(cap, u64::from(BLOCK_LENGTH_MAX))
    }

    pub(crate) fn uploads(&self) -> MonthlyUploads {
        let mut state = lock(&self.state);
        state.turn_to(month_now());
        state.uploads
    }

    /// Writes the file if it does not say what it should. `reserve`: what to reserve beyond what was sent.
    fn save(&self, reserve: u64) -> io::Result<()> {
        let _alone = lock(&self.writing);
        let record = {
            let state = lock(&self.state);
            let internet = state.uploads.internet.saturating_add(reserve);
            MonthlyUploads {
                // Nothing to reserve for who never sends to Internet peers.
                internet: if state.uploads.internet == 0 {
                    0
                } else {
                    internet
                },
                ..state.uploads
            }
        };
        if lock(&self.state).written == Some(record) {
            return Ok(());
        }
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(text_of(&record).as_bytes())?;
        file.sync_data()?;
        fs::rename(&fresh, &self.path)?;
        lock(&self.state).written = Some(record);
        Ok(())
    }

    /// Writes exactly what was sent: at a regular end.
    pub(crate) fn close(&self) {
        self.report(self.save(0));
    }

    fn report(&self, saved: io::Result<()>) {
        if let Err(error) = saved {
            tracing::error!(path = %self.path.display(), %error, "the month's uploads cannot be written");
        }
    }
}

/// Bytes that were counted and are under way until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    ledger: Arc<Ledger>,
    class: PeerClass,
    bytes: u64,
    month: Month,
}

impl Taken {
    /// None of the bytes was sent, nor will be.
    pub(crate) fn give_back(self) {
        let mut state = lock(&self.ledger.state);
        state.uploads.give_back(self.class, self.bytes, self.month);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.class == PeerClass::Internet {
            lock(&self.ledger.state).under_way -= self.bytes;
        }
    }
}

impl State {
    fn turn_to(&mut self, month: Month) {
        if self.uploads.turn_to(month) {
            self.written = None;
        }
    }
}

/// Writes the file ahead of what is sent, until the engine ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = shared.ledger.due.notified() => save(&shared).await,
        }
    }
}

/// Writes the file if anything has changed.
pub(crate) async fn save(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    let saved = tokio::task::spawn_blocking(move || {
        let saved = shared.ledger.save(RESERVE);
        shared.ledger.report(saved);
    });
    let _ = saved.await;
}

fn text_of(uploads: &MonthlyUploads) -> String {
    let MonthlyUploads {
        month,
        lan,
        link_local,
        group,
        internet,
    } = uploads;
    let mut text = format!("month {month}\n");
    for (name, bytes) in [
        ("lan", lan),
        ("link_local", link_local),
        ("group", group),
        ("internet", internet),
    ] {
        let _ = writeln!(text, "{name} {bytes}");
    }
    text
}

fn parse(text: &str) -> Option<MonthlyUploads> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    let bytes = |name: &str| field(name)?.parse::<u64>().ok();
    Some(MonthlyUploads {
        month: Month::parse(field("month")?)?,
        lan: bytes("lan")?,
        link_local: bytes("link_local")?,
        group: bytes("group")?,
        internet: bytes("internet")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_LENGTH_MAX as u64;

    #[test]
    fn crash_forgets_nothing_and_a_regular_end_counts_nothing_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let cap = Some(1 << 30);
        let ledger = Arc::new(Ledger::open(folder.path()));
        assert!(ledger.take(PeerClass::Internet, 10 * BLOCK, cap).is_some());
        assert!(ledger.take(PeerClass::Lan, 7, cap).is_some());
        ledger.save(RESERVE).expect("a folder that can be written");
        // What was reserved is used without writing.
        assert!(ledger.take(PeerClass::Internet, 16 * BLOCK, cap).is_some());
        drop(ledger);
        let after_crash = Arc::new(Ledger::open(folder.path()));
        assert_eq!(after_crash.uploads().internet, 10 * BLOCK + RESERVE);
        assert_eq!(after_crash.uploads().lan, 7);
        drop(after_crash.take(PeerClass::Internet, BLOCK, cap));
        after_crash.close();
        let after_end = Ledger::open(folder.path());
        assert_eq!(after_end.uploads().internet, 11 * BLOCK + RESERVE);
    }

    #[test]
    fn cap_is_reached_when_what_is_under_way_has_gone_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Arc::new(Ledger::open(folder.path()));
        let cap = Some(2 * BLOCK);
        let take = || ledger.take(PeerClass::Internet, BLOCK, cap);
        let (first, second) = (take().expect("room"), take().expect("room"));
        assert!(take().is_none(), "no room beside what is under way");
        assert!(!ledger.is_reached(cap), "nothing has gone out");
        second.give_back();
        assert_eq!(ledger.uploads().internet, BLOCK);
        let again = take().expect("room for what was withdrawn");
        drop(first);
        assert!(!ledger.is_reached(cap));
        drop(again);
        assert!(ledger.is_reached(cap));
        assert_eq!(ledger.uploads().internet, 2 * BLOCK);
    }

    #[test]
    fn writing_is_due_before_the_reserve_is_used_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Arc::new(Ledger::open(folder.path()));
        let is_due = || {
            let due = std::pin::pin!(ledger.due.notified());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            Future::poll(due, &mut context).is_ready()
        };
        for _ in 0..100 {
            drop(ledger.take(PeerClass::Internet, BLOCK, None));
            let reserved = lock(&ledger.state).written.map_or(0, |w| w.internet);
            assert_eq!(is_due(), ledger.uploads().internet + RESERVE / 2 > reserved);
            ledger.save(RESERVE).expect("written");
        }
        assert!(!is_due());
    }

    #[test]
    fn another_month_begins_at_nothing_and_nonsense_does_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        for text in [
            "month 2001-01\nlan 1\nlink_local 2\ngroup 3\ninternet 4\n",
            "nonsense",
            "month 2001-01\nlan -1\n",
        ] {
            fs::write(&path, text).expect("written");
            let ledger = Arc::new(Ledger::open(folder.path()));
            assert_eq!(ledger.uploads(), MonthlyUploads::new(month_now()), "{text}");
        }
        let now = month_now();
        let text = format!("month {now}\nlan 1\nlink_local 2\ngroup 3\ninternet 1073741000\n");
        fs::write(&path, &text).expect("written");
        let ledger = Arc::new(Ledger::open(folder.path()));
        assert_eq!(text_of(&ledger.uploads()), text);
        assert!(ledger.is_reached(Some(1 << 30)) && !ledger.is_reached(None));
    }
}
