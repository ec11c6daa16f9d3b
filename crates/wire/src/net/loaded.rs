//! What of a file is in memory.
//!
//! sendfile(2) stops the runtime's thread, and all that waits for it, until the disk has read what is not there. So that
//! is asked for before, and what is missing is read on another thread. To ask for a byte takes as long as to send 10 KiB,
//! so what was in memory a moment ago is taken to be there still. Only a clock tells what a moment is: neither the bytes
//! that went out since then do, nor whether room had to be waited for, as the fastest connection waits for it, too.

#[cfg(target_os = "linux")]
use std::{
    fs::File,
    io::{self, IoSliceMut},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

/// For so long what was found in memory is taken to be there still: long enough for a fast connection to send a block and
/// the few that wait before it, also where others use the processors.
#[cfg(target_os = "linux")]
const HOLDS: Duration = Duration::from_millis(30);

/// What is known of a part of one file that is sent in several steps: whether it was found in memory lately.
#[derive(Debug, Default)]
pub struct Loaded {
    #[cfg(target_os = "linux")]
    found: Option<Found>,
}

#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Found {
    part: Range<u64>,
    at: Instant,
}

#[cfg(target_os = "linux")]
impl Loaded {
    /// Whether a part of the file can be sent without waiting for a disk.
    pub(super) fn holds(&mut self, file: &File, part: Range<u64>, now: Instant) -> bool {
        self.find(part, now, |at| is_in_memory(file, at))
    }

    /// Sees to it that a part of the file is in memory, without stopping the runtime's thread.
    ///
    /// # Errors
    /// What the system says. That the file ends before is left to who sends it.
    pub(super) async fn load(
        &mut self,
        file: &Arc<File>,
        part: Range<u64>,
        now: Instant,
    ) -> io::Result<()> {
        if self.holds(file, part.clone(), now) {
            return Ok(());
        }
        let file = Arc::clone(file);
        tokio::task::spawn_blocking(move || read(&file, part)).await?
    }

    /// Whether a part is in memory, as far as its ends tell: what is read ahead comes in order, and what has to make room
    /// goes in order.
    fn find(&mut self, part: Range<u64>, now: Instant, is_in_memory: impl Fn(u64) -> bool) -> bool {
        if self.found.as_ref().is_some_and(|f| f.holds(&part, now)) {
            return true;
        }
        let last = part.end.saturating_sub(1).max(part.start);
        let here = is_in_memory(last) && is_in_memory(part.start);
        self.found = here.then_some(Found { part, at: now });
        here
    }
}

#[cfg(target_os = "linux")]
impl Found {
    fn holds(&self, part: &Range<u64>, now: Instant) -> bool {
        let inside = self.part.start <= part.start && part.end <= self.part.end;
        inside && now.saturating_duration_since(self.at) < HOLDS
    }
}

#[cfg(target_os = "linux")]
fn read(file: &File, part: Range<u64>) -> io::Result<()> {
    let mut chunk = [0; 16 << 10];
    let mut at = part.start;
    while at < part.end {
        match std::os::unix::fs::FileExt::read_at(file, &mut chunk, at) {
            Ok(0) => break,
            Ok(n) => at += n as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a byte can be read without waiting for a disk. True also where the file system doesn't tell.
#[cfg(target_os = "linux")]
fn is_in_memory(file: &File, at: u64) -> bool {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    let mut byte = [0];
    let read = preadv2(
        file,
        &mut [IoSliceMut::new(&mut byte)],
        at,
        ReadWriteFlags::NOWAIT,
    );
    read != Err(Errno::AGAIN)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::fs::{Advice, fadvise};
    use std::{cell::Cell, io::Write as _};

    const MIB: u64 = 1 << 20;

    /// Sends 1 MiB in so many steps, one after each `pause`, and counts how often a byte is asked for.
    fn asked(steps: u32, pause: Duration) -> u32 {
        let asked = Cell::new(0);
        let mut loaded = Loaded::default();
        let begun = Instant::now();
        for step in 0..steps {
            let sent = MIB / u64::from(steps) * u64::from(step);
            let rest = 5 * MIB + sent..6 * MIB;
            let here = loaded.find(rest, begun + pause * step, |_| {
                asked.set(asked.get() + 1);
                true
            });
            assert!(here);
        }
        asked.get()
    }

    #[test]
    fn a_part_that_goes_out_in_no_time_is_asked_for_once_however_many_steps_it_takes() {
        for steps in [1, 3, 100] {
            assert_eq!(asked(steps, HOLDS / 100), 2);
        }
    }

    #[test]
    fn what_a_slow_receiver_takes_is_asked_for_again_whenever_it_takes_some() {
        assert_eq!(asked(8, HOLDS), 2 * 8);
        let mut loaded = Loaded::default();
        let now = Instant::now();
        assert!(loaded.find(0..MIB, now, |_| true));
        assert!(!loaded.find(MIB / 2..MIB, now + HOLDS, |_| false));
    }

    #[test]
    fn a_part_of_what_was_found_is_not_asked_for_and_anything_else_is() {
        let mut loaded = Loaded::default();
        let now = Instant::now();
        let mut find = |part, here| {
            let asked = Cell::new(0);
            let found = loaded.find(part, now, |_| {
                asked.set(asked.get() + 1);
                here
            });
            (found, asked.get())
        };
        assert_eq!(find(MIB..2 * MIB, true), (true, 2));
        assert_eq!(find(MIB + 1..MIB + 2, false), (true, 0));
        assert_eq!(find(MIB..2 * MIB + 1, true), (true, 2));
        assert_eq!(find(MIB - 1..MIB, false), (false, 1));
        assert_eq!(find(MIB..2 * MIB, false), (false, 1), "nothing is known");
        assert_eq!(find(MIB..2 * MIB, true), (true, 2));
    }

    #[tokio::test]
    async fn a_part_that_left_memory_is_there_again_before_it_is_sent() {
        const LEN: u64 = 3 * MIB;
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&[7].repeat(3 << 20)).expect("room for it");
        file.sync_all().expect("written");
        let file = Arc::new(file);
        let mut loaded = Loaded::default();
        let mut now = Instant::now();
        for _ in 0..2 {
            // Nothing leaves where there is no disk below.
            fadvise(&file, 0, None, Advice::DontNeed).expect("advice");
            let read = loaded.load(&file, 0..LEN, now).await;
            read.expect("readable");
            let ends = [0, LEN / 2, LEN - 1];
            assert!(ends.iter().all(|&at| is_in_memory(&file, at)));
            // It is known to be here, until that was a while ago.
            assert!(loaded.holds(&file, 0..LEN, now));
            now += HOLDS;
        }
    }

    #[tokio::test]
    async fn a_part_beyond_the_end_is_left_to_who_sends_it() {
        let file = Arc::new(tempfile::tempfile().expect("a temporary file"));
        let read = Loaded::default()
            .load(&file, 5..1 << 20, Instant::now())
            .await;
        read.expect("no error of the disk");
    }
}
