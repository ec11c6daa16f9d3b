//! Notices that the configuration's files have changed: inotify on their folders, so that files that are replaced,
//! removed or not there yet are noticed too. What counts is whether the files differ from before, not which events
//! came: a folder in which others write causes no reload, and a swapped link (as containers mount configuration) does.

use super::{
    layer::{conf_d, folder_of},
    managed::signature_file,
};
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::{self, Errno},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::io::unix::AsyncFd;

/// Files are looked at when nothing has happened for this long: a change often comes in several steps.
const QUIET: Duration = Duration::from_millis(150);
/// Or this long after the first event, whatever goes on.
const LONGEST: Duration = Duration::from_secs(1);

/// What tells one version of a file from another: file system, number, size, and when content and rights last changed.
type Version = (u64, u64, u64, (i64, i64), (i64, i64));

/// Watches the configuration's files.
#[derive(Debug)]
pub(crate) struct Watch {
    main: PathBuf,
    managed: Option<PathBuf>,
    events: Option<AsyncFd<OwnedFd>>,
    seen: BTreeMap<PathBuf, Version>,
}

impl Watch {
    /// What the files are now; [`Self::follow`] begins to watch.
    pub(crate) fn new(main: &Path) -> Self {
        let mut watch = Self {
            main: main.to_owned(),
            managed: None,
            events: None,
            seen: BTreeMap::new(),
        };
        watch.mark();
        watch
    }

    /// Watches, with the managed file as it is configured.
    ///
    /// # Errors
    ///
    /// The system does not let us; then nothing is ever noticed.
    pub(crate) fn follow(&mut self, managed: &Path) -> std::io::Result<()> {
        if self.managed.as_deref() != Some(managed) {
            self.managed = Some(managed.to_owned());
            // It has been read already, since `new` or `mark`: only what comes after counts.
            let versions = self.managed_files().filter_map(|f| Some((version(&f)?, f)));
            let versions: Vec<_> = versions.collect();
            self.seen.extend(versions.into_iter().map(|(v, f)| (f, v)));
        }
        if self.events.is_none() {
            let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            #[expect(
                deprecated,
                reason = "safe with an owned descriptor; its successor takes an unsafe block"
            )]
            let events = AsyncFd::new(inotify)?;
            self.events = Some(events);
        }
        self.arm()?;
        Ok(())
    }

    /// The files are about to be read: what they are now is no change.
    pub(crate) fn mark(&mut self) {
        self.seen = self.versions();
    }

    /// Waits until the files are others than before. Safe to cancel.
    pub(crate) async fn changed(&mut self) {
        loop {
            self.next_event().await;
            let first = Instant::now();
            while first.elapsed() < LONGEST
                && tokio::time::timeout(QUIET, self.next_event()).await.is_ok()
            {}
            if let Err(error) = self.arm() {
                tracing::debug!(%error, "a folder of the configuration cannot be watched");
            }
            let now = self.versions();
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }

    /// Waits for events and forgets them.
    async fn next_event(&self) {
        let Some(events) = &self.events else {
            return std::future::pending().await;
        };
        let mut buffer = [0; 4096];
        loop {
            let Ok(mut ready) = events.readable().await else {
                return std::future::pending().await;
            };
            match ready.try_io(|fd| Ok(io::read(fd, &mut buffer[..])?)) {
                Ok(Ok(_)) => return,
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "changes of the configuration files are no longer noticed");
                    return std::future::pending().await;
                }
                Err(_would_block) => {}
            }
        }
    }

    /// Watches every folder that matters, or what is there of the way to it.
    fn arm(&self) -> io::Result<()> {
        let Some(events) = &self.events else {
            return Ok(());
        };
        let main = folder_of(&self.main);
        let managed = self.managed.as_deref().map(folder_of);
        let folders: BTreeSet<&Path> = [Some(main), managed]
            .into_iter()
            .flatten()
            .filter_map(|folder| folder.ancestors().find(|f| f.is_dir()))
            .collect();
        let conf_d = Some(main.join("conf.d")).filter(|folder| folder.is_dir());
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        // A folder that is watched already is not watched twice.
        for folder in folders.into_iter().chain(conf_d.as_deref()) {
            inotify::add_watch(events.get_ref(), folder, flags)?;
        }
        Ok(())
    }

    fn managed_files(&self) -> impl Iterator<Item = PathBuf> {
        let managed = self.managed.iter();
        managed.flat_map(|file| [file.clone(), signature_file(file)])
    }

    fn versions(&self) -> BTreeMap<PathBuf, Version> {
        let conf_d = conf_d(&folder_of(&self.main).join("conf.d")).unwrap_or_default();
        [self.main.clone()]
            .into_iter()
            .chain(conf_d)
            .chain(self.managed_files())
            .filter_map(|file| Some((version(&file)?, file)))
            .map(|(version, file)| (file, version))
            .collect()
    }
}

fn version(file: &Path) -> Option<Version> {
    let m = fs::metadata(file).ok()?;
    let (modified, changed) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
    Some((m.dev(), m.ino(), m.size(), modified, changed))
}
