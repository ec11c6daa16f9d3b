//! Jobs: what callers asked for, each driven to its end by one task.
//!
//! A job waits for its turn, finds its hash file, wants its content from the content's swarm and follows that until
//! every byte is here and verified. Pausing drops the work in progress (turn and wish are given back by their
//! guards); resuming begins again with what is in the cache.
//!
//! Who reads a `watch` has it locked. Where both are needed, the status is locked before what the caller wants
//! (`control`), never after it.

use crate::{
    api::{JobError, JobId, JobState, JobStatus, SourceBytes},
    errors::{blocking, internal_error, origin_error, storage_error},
    explain::Tried,
    metadata::{self, Found, Metadata},
    request::{Request, without_password},
    room,
    shared::{Shared, lock},
    swarm::{Attachment, Counted, Progress},
    terms::Terms,
    turns::Turn,
};
use dosvc_content::{
    DownloadMode, HResult, PIECE_SIZE_DEFAULT, PieceIndex, PieceLengths, PiecesHashFile,
};
use dosvc_origin::{ContentFacts as ContentFactsOfServer, Origin, Validator};
use dosvc_piece_store::{AddInfo, Content, ContentKey, PlainKey, StoreError};
use dosvc_policy::{ContentFacts, EffectiveMode, effective_mode};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{oneshot, watch};
use url::Url;

/// How often a swarm that has too many messages waiting is asked again,
const ATTACH_ATTEMPTS: u32 = 200;
/// and how soon.
const ATTACH_PAUSE: Duration = Duration::from_millis(50);
/// The pause when a server can be asked again at once.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// What the caller wants of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Run,
    Pause,
    Cancel,
}

/// One job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    request: Request,
    status: watch::Sender<JobStatus>,
    control: watch::Sender<Control>,
    content: Mutex<Option<Arc<Content>>>,
    /// How far the job has counted what its swarm received.
    seen: Mutex<Option<Seen>>,
    /// Who was asked, while or after no swarm tells of it.
    tried: Arc<Tried>,
}

/// What a job has counted of a swarm's bytes.
#[derive(Debug)]
struct Seen {
    swarm: watch::Receiver<Progress>,
    counted: Counted,
}

impl Job {
    pub(crate) fn new(id: JobId, request: Request, device_mode: DownloadMode) -> Self {
        let mode = request.mode.unwrap_or(device_mode);
        let status = JobStatus {
            id,
            state: JobState::Queued,
            file_id: String::new(),
            source_url: request
                .urls
                .first()
                .map(|url| without_password(url.as_str())),
            file_size: None,
            bytes_done: 0,
            bytes_from_cache: 0,
            downloaded: SourceBytes::default(),
            wasted_bytes: 0,
            rate_bps: 0,
            connections: SourceBytes::default(),
            num_peers: 0,
            foreground: request.foreground,
            cache_host: None,
            download_mode: mode.number(),
            verified_by_hash_file: false,
            waiting: None,
            notes: Vec::new(),
            error: None,
            duration_ms: 0,
            caller: request.caller.clone(),
        };
        Self {
            id,
            request,
            status: watch::Sender::new(status),
            control: watch::Sender::new(Control::Run),
            content: Mutex::new(None),
            seen: Mutex::new(None),
            tried: Arc::default(),
        }
    }

    pub(crate) fn status(&self) -> JobStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<JobStatus> {
        self.status.subscribe()
    }

    /// The content, once the job is complete.
    pub(crate) fn content(&self) -> Option<Arc<Content>> {
        lock(&self.content).clone()
    }

    /// The mode that the caller asked for.
    pub(crate) fn requested_mode(&self) -> Option<DownloadMode> {
        self.request.mode
    }

    /// The sources that were asked for the hash file, or those of the download when it ended.
    pub(crate) fn tried(&self) -> &Tried {
        &self.tried
    }

    /// Pieces of the hash file that the caller gave: what the job keeps in memory while it waits.
    pub(crate) fn pieces_kept(&self) -> u64 {
        let file = self.request.hash_file.as_ref();
        file.map_or(0, |file| u64::from(file.lengths().piece_count()))
    }

    /// Whether the job is complete and has this content for the caller to take.
    pub(crate) fn holds(&self, key: ContentKey) -> bool {
        lock(&self.content).as_ref().is_some_and(|c| c.key() == key)
    }

    /// Gives the content up, so that it can be deleted; the job's file can't be had any more then.
    pub(crate) fn let_go(&self) {
        *lock(&self.content) = None;
    }

    /// Takes content back that was not deleted after all.
    pub(crate) fn hold(&self, content: Arc<Content>) {
        *lock(&self.content) = Some(content);
    }

    /// Changes what the caller wants; refused when the job has ended.
    pub(crate) fn control(&self, control: Control) -> Result<(), JobError> {
        let mut ended = false;
        // In the status's lock: a job ends or is steered, never both.
        self.status.send_if_modified(|status| {
            let again = status.state == JobState::Cancelled && control == Control::Cancel;
            ended = status.state.is_final() && !again;
            if !ended {
                self.control.send_replace(control);
            }
            false
        });
        if ended {
            return Err(JobError::new(
                HResult::INVALID_STATE,
                format!("job {} has ended already", self.id),
            ));
        }
        Ok(())
    }

    /// Ends the job with this outcome, unless the caller has asked for something else meanwhile.
    fn conclude(&self, outcome: Result<Arc<Content>, JobError>) -> bool {
        let mut concluded = false;
        self.status.send_if_modified(|status| {
            concluded = *self.control.borrow() == Control::Run;
            if concluded {
                match outcome {
                    Ok(content) => {
                        *lock(&self.content) = Some(content);
                        stop(status, JobState::Complete);
                    }
                    Err(error) => {
                        tracing::warn!(job = %self.id, %error, "download failed");
                        status.error = Some(error);
                        stop(status, JobState::Failed);
                    }
                }
            }
            concluded
        });
        concluded
    }

    fn update(&self, change: impl FnOnce(&mut JobStatus)) {
        self.status.send_modify(change);
    }

    /// Drives the job to its end.
    pub(crate) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let mut control = self.control.subscribe();
        loop {
            let wanted = *control.borrow_and_update();
            match wanted {
                Control::Cancel => {
                    self.stopped(JobState::Cancelled);
                    return;
                }
                Control::Pause => {
                    self.stopped(JobState::Paused);
                    if control.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Control::Run => {}
            }
            let ended = unless_steered(&mut control, self.attempt(&shared)).await;
            if let Some(outcome) = ended
                && self.conclude(outcome)
            {
                return;
            }
        }
    }

    fn stopped(&self, state: JobState) {
        self.update(|status| stop(status, state));
    }

    async fn attempt(&self, shared: &Arc<Shared>) -> Result<Arc<Content>, JobError> {
        self.update(|s| s.state = JobState::Queued);
        let _turn = match shared.turns.try_enter(self.request.foreground) {
            Some(turn) => turn,
            None => self.wait_for_turn(shared).await,
        };
        let clock = Clock {
            job: self,
            started: Instant::now(),
            before: self.status.borrow().duration_ms,
        };
        self.update(|s| {
            s.state = JobState::Metadata;
            s.waiting = None;
        });
        let source = self.find_content(shared).await?;
        let content = Arc::clone(&source.content);
        self.update(|s| {
            s.state = JobState::Downloading;
            s.file_id = content.key().to_string();
            s.file_size = Some(content.lengths().content_length());
            if s.downloaded.total() == 0 {
                // Later it would be the job's own.
                s.bytes_from_cache = content.info().bytes_have;
            }
            s.bytes_done = content.info().bytes_have;
            s.verified_by_hash_file = content.hash_file().is_some();
            s.waiting = None;
        });
        self.show_mode(shared, &source);
        self.download(shared, source, &clock).await?;
        Ok(content)
    }

    async fn wait_for_turn<'a>(&self, shared: &'a Shared) -> Turn<'a> {
        let limit = shared.turns.limit(self.request.foreground);
        self.update(|s| {
            s.waiting = Some(format!(
                "waits for its turn: {limit} downloads of its priority run at a time, foreground before background"
            ));
        });
        shared.turns.enter(self.request.foreground).await
    }

    /// The mode in effect, as settings and gates are now.
    fn judge(&self, shared: &Shared, facts: &ContentFacts) -> Result<EffectiveMode, JobError> {
        let settings = shared.settings();
        let policies = &settings.config.policies;
        effective_mode(policies, self.request.mode, facts, &settings.gates)
            .map_err(|e| JobError::new(e.hresult(), e.to_string()))
    }

    /// Says the mode and why; both follow settings and gates that change.
    fn show_mode(&self, shared: &Shared, source: &Source) {
        let content = &source.content;
        let facts = ContentFacts {
            length: Some(content.lengths().content_length()),
            has_hash_file: Some(content.hash_file().is_some()),
        };
        // A mode that refuses downloads is not for those that run.
        let Ok(mode) = self.judge(shared, &facts) else {
            return;
        };
        self.status.send_if_modified(|status| {
            let notes = match &source.no_hash_file {
                Some(why) => vec![format!(
                    "{why}: downloaded over plain HTTP, not checked against hashes and not shared"
                )],
                None => mode.reasons.iter().map(ToString::to_string).collect(),
            };
            let number = mode.mode.number();
            let changed = (status.download_mode, &status.notes) != (number, &notes);
            (status.download_mode, status.notes) = (number, notes);
            changed
        });
    }

    /// Finds the hash file and puts the content into the store.
    async fn find_content(&self, shared: &Arc<Shared>) -> Result<Source, JobError> {
        let settings = shared.settings();
        let mode = self.judge(shared, &ContentFacts::default())?;
        let scope = settings.scope(self.request.mode);
        let anchored = self.request.trusted.is_some() || self.request.hash_file.is_some();
        let Found { metadata, terms } =
            if mode.permits().hash_checks || anchored || !self.request.hash_file_urls.is_empty() {
                let waiting = |text: Option<String>| self.update(|s| s.waiting = text);
                metadata::find(shared, &self.request, scope, &self.tried, &waiting).await?
            } else {
                Metadata::None("download mode 99 (Simple) makes no hash checks".to_owned()).into()
            };
        let urls = match &terms {
            Some(terms) => terms.urls_after(&self.request.urls),
            None => self.request.urls.clone(),
        };
        match metadata {
            Metadata::HashFile(file) => {
                let (content, unclaimed) = self.add_content(shared, file, &urls).await?;
                let origin = self.open_origin(shared, &urls, None);
                let source = Source {
                    content,
                    unclaimed,
                    origin,
                    no_hash_file: None,
                    urls,
                    terms,
                };
                // Should the download never end, it is to go all the same.
                source.limit_cache(shared).await?;
                Ok(source)
            }
            Metadata::None(why) => {
                let (content, origin) = self.plain_content(shared, &urls).await?;
                Ok(Source {
                    content,
                    unclaimed: Vec::new(),
                    origin: Some(origin),
                    no_hash_file: Some(why),
                    urls,
                    terms,
                })
            }
        }
    }

    /// Puts a content into the store, with the pieces that a crash may have left in its file.
    async fn add_content(
        &self,
        shared: &Arc<Shared>,
        file: PiecesHashFile,
        urls: &[Url],
    ) -> Result<(Arc<Content>, Vec<PieceIndex>), JobError> {
        let (file, limit) = (Arc::new(file), self.request.mode);
        let add = || {
            let (store, file, info) = (
                Arc::clone(&shared.store),
                Arc::clone(&file),
                self.add_info(urls),
            );
            tokio::task::spawn_blocking(move || {
                let content = store.add(&file, info)?;
                // Before a byte of it is here: what a caller keeps to itself is never shared, not even after a
                // crash. A caller that asks for no mode changes nothing.
                if limit.is_some() {
                    store.set_mode_limit(&content.key(), limit)?;
                }
                let unclaimed = content.unclaimed()?;
                Ok((content, unclaimed))
            })
        };
        let added = match add().await.map_err(|e| internal_error(&e))? {
            // Not even room for the hash file: what may go goes first.
            Err(StoreError::DiskFull { .. }) => {
                room::make_a_little(shared).await;
                add().await.map_err(|e| internal_error(&e))?
            }
            added => added,
        };
        added.map_err(|e| storage_error(&e))
    }

    fn open_origin(
        &self,
        shared: &Shared,
        urls: &[Url],
        validator: Option<Validator>,
    ) -> Option<Origin> {
        let client = shared.origins.in_background(!self.request.foreground);
        (!urls.is_empty()).then(|| client.open(urls.to_vec(), validator))
    }

    /// Content without a hash file: the server says how long it is and how to tell its versions apart.
    async fn plain_content(
        &self,
        shared: &Arc<Shared>,
        urls: &[Url],
    ) -> Result<(Arc<Content>, Origin), JobError> {
        let Some(mut origin) = self.open_origin(shared, urls, None) else {
            return Err(JobError::new(
                HResult::NO_URI,
                "there is no hash file and no URL: nothing says what the content is",
            ));
        };
        let facts = loop {
            match origin.probe().await {
                Ok(facts) => break facts,
                Err(error) if error.is_permanent() || origin.is_dead().is_some() => {
                    self.tried.origin(&origin);
                    return Err(origin_error(&error));
                }
                Err(error) => {
                    self.tried.origin(&origin);
                    // A cache host answers for an origin that can't be reached. What it says of the version holds for
                    // the origin too, should that come back: no hashes tell versions apart.
                    if let Some(facts) = self.facts_from_cache_host(shared, urls).await {
                        let validator = Validator {
                            server: None,
                            ..facts.validator.clone()
                        };
                        let bound = self.open_origin(shared, urls, Some(validator));
                        origin = bound.unwrap_or(origin);
                        break facts;
                    }
                    self.update(|s| s.waiting = Some(format!("{error}; trying again")));
                    match origin.next_attempt() {
                        Some(at) => tokio::time::sleep_until(at.into()).await,
                        None => tokio::time::sleep(PROBE_PAUSE).await,
                    }
                }
            }
        };
        let lengths = PieceLengths::new(facts.total, u64::from(PIECE_SIZE_DEFAULT))
            .map_err(|e| JobError::new(HResult::INVALID_RANGE, e.to_string()))?;
        let key = PlainKey::of_url(urls[0].as_str());
        let validator = facts.validator.to_bytes();
        let info = self.add_info(urls);
        let store = Arc::clone(&shared.store);
        let content = blocking(move || store.add_plain(key, lengths, validator, info)).await?;
        Ok((content, origin))
    }

    /// What the first cache host that has the content says of it.
    async fn facts_from_cache_host(
        &self,
        shared: &Shared,
        urls: &[Url],
    ) -> Option<ContentFactsOfServer> {
        let settings = shared.settings();
        for host in &settings.cache_hosts {
            if shared.cache_hosts.is_banned(host, Instant::now()) {
                continue;
            }
            let nothing = Validator::default();
            let found = shared.cache_hosts.open(host, urls, nothing)?;
            found.set_background(!self.request.foreground);
            match found.probe().await {
                Ok(facts) => return Some(facts),
                Err(error) => {
                    tracing::debug!(host, %error, "cache host does not say what the content is")
                }
            }
        }
        None
    }

    fn add_info(&self, urls: &[Url]) -> AddInfo {
        AddInfo {
            urls: urls.iter().map(ToString::to_string).collect(),
            content_id: self.request.content_id.as_ref().map(ToString::to_string),
            now: SystemTime::now(),
        }
    }

    /// Wants the content of its swarm and follows it until everything is here.
    async fn download(
        &self,
        shared: &Arc<Shared>,
        mut source: Source,
        clock: &Clock<'_>,
    ) -> Result<(), JobError> {
        let content = Arc::clone(&source.content);
        let claim = room::claim(shared, &content).await?;
        let attachment = Attachment {
            job: self.id,
            foreground: self.request.foreground,
            urls: std::mem::take(&mut source.urls),
            qos: source.terms.as_ref().map(|terms| terms.qos),
            unclaimed: std::mem::take(&mut source.unclaimed),
            origin: source.origin.take(),
            peers: self.request.peers.clone(),
        };
        let key = content.key();
        let _attached = Attached {
            shared,
            key,
            job: self.id,
        };
        let (mut progress, before) = attach(shared, &content, attachment).await?;
        self.tried.clear();
        let base = Base {
            swarm: self.counted_before(&progress, before),
            job: self.status.borrow().clone(),
        };
        let mut settings = shared.settings_changes();
        loop {
            let now = progress.borrow_and_update().clone();
            self.show(&base, &now, clock);
            if let Some(sources) = &now.last_sources {
                self.tried.end_with(sources);
            }
            if let Some(error) = now.error {
                return Err(error);
            }
            if now.complete {
                return source.limit_cache(shared).await;
            }
            claim.check().await?;
            tokio::select! {
                changed = progress.changed() => if changed.is_err() {
                    return Err(internal_error(&"the swarm has ended"));
                },
                Ok(()) = settings.changed() => self.show_mode(shared, &source),
                // Others may fill the disk while nothing comes.
                () = tokio::time::sleep(room::LOOK_INTERVAL) => {}
            }
        }
    }

    /// Where this job's count goes on. What it asked for and was verified only while it was paused is its own, if
    /// nobody else has wanted the content meanwhile.
    fn counted_before(&self, swarm: &watch::Receiver<Progress>, before: Counted) -> Counted {
        let mut seen = lock(&self.seen);
        let counted = match seen.take() {
            Some(seen)
                if seen.swarm.same_channel(swarm) && seen.counted.wishes + 1 == before.wishes =>
            {
                Counted {
                    wishes: before.wishes,
                    // What is had when a job goes on is counted as the cache's already.
                    recovered_bytes: before.recovered_bytes,
                    ..seen.counted
                }
            }
            _ => before,
        };
        *seen = Some(Seen {
            swarm: swarm.clone(),
            counted,
        });
        counted
    }

    fn show(&self, base: &Base, now: &Progress, clock: &Clock<'_>) {
        if let Some(seen) = lock(&self.seen).as_mut() {
            seen.counted.downloaded = now.downloaded;
            seen.counted.wasted_bytes = now.wasted_bytes;
        }
        let duration_ms = clock.elapsed_ms();
        self.update(|s| {
            s.bytes_done = now.bytes_done;
            s.bytes_from_cache =
                base.job.bytes_from_cache + now.recovered_bytes - base.swarm.recovered_bytes;
            s.downloaded = base
                .job
                .downloaded
                .plus(&now.downloaded.since(&base.swarm.downloaded));
            s.wasted_bytes = base.job.wasted_bytes + now.wasted_bytes - base.swarm.wasted_bytes;
            s.rate_bps = now.rate_bps;
            s.connections = now.connections;
            s.num_peers = now.num_peers;
            s.waiting.clone_from(&now.waiting);
            s.cache_host.clone_from(&now.cache_host);
            s.duration_ms = duration_ms;
        });
    }
}

/// Works until the caller wants something else than that the job runs; then the work is dropped, and there is no outcome.
async fn unless_steered<T>(
    control: &mut watch::Receiver<Control>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let steered = async {
        // The answer is a lock, which must be gone when the work is dropped: that takes the status's.
        drop(control.wait_for(|c| *c != Control::Run).await);
    };
    tokio::select! {
        outcome = work => Some(outcome),
        () = steered => None,
    }
}

/// Joins the content's swarm, and learns what the swarm had received before this job.
async fn attach(
    shared: &Arc<Shared>,
    content: &Arc<Content>,
    attachment: Attachment,
) -> Result<(watch::Receiver<Progress>, Counted), JobError> {
    for _ in 0..ATTACH_ATTEMPTS {
        let (reply, taken) = oneshot::channel();
        // No reply: the swarm ended before it came to the message.
        if let Some(progress) = shared.attach(content, attachment.clone(), reply)
            && let Ok(before) = taken.await
        {
            return Ok((progress, before));
        }
        tokio::time::sleep(ATTACH_PAUSE).await;
    }
    Err(internal_error(&"the swarm is busy"))
}

fn stop(status: &mut JobStatus, state: JobState) {
    status.state = state;
    status.rate_bps = 0;
    status.connections = SourceBytes::default();
    status.waiting = None;
}

/// Where swarm and job stood when the job came to the swarm: what is counted since is the job's.
struct Base {
    swarm: Counted,
    job: JobStatus,
}

/// What a job downloads, and how.
struct Source {
    content: Arc<Content>,
    /// Missing pieces that a crash may have left in the file.
    unclaimed: Vec<PieceIndex>,
    origin: Option<Origin>,
    /// Why there is no hash file, if there is none.
    no_hash_file: Option<String>,
    /// Where the content is.
    urls: Vec<Url>,
    /// How it is to be treated, if a content policy says so.
    terms: Option<Terms>,
}

impl Source {
    /// Writes down when the content leaves the cache, as of now. A content that no policy was asked about keeps what was
    /// said before.
    async fn limit_cache(&self, shared: &Shared) -> Result<(), JobError> {
        let Some(terms) = &self.terms else {
            return Ok(());
        };
        let device = shared.settings().config.policies.max_cache_age();
        let expiry = terms.expiry(SystemTime::now(), device);
        let (store, key) = (Arc::clone(&shared.store), self.content.key());
        blocking(move || match store.set_expiry(&key, expiry) {
            // So far ahead that it makes no difference.
            Err(StoreError::TooFarAhead) => store.set_expiry(&key, None),
            // Nothing is kept of it as it is.
            Err(StoreError::Unknown { .. }) => Ok(()),
            other => other,
        })
        .await
    }
}

/// The time that a job has run, pauses left out.
struct Clock<'a> {
    job: &'a Job,
    started: Instant,
    before: u64,
}

impl Clock<'_> {
    fn elapsed_ms(&self) -> u64 {
        let run = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.before.saturating_add(run)
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        let duration_ms = self.elapsed_ms();
        self.job.update(|s| s.duration_ms = duration_ms);
    }
}

/// A job's wish at its swarm; taken back when dropped.
struct Attached<'a> {
    shared: &'a Shared,
    key: ContentKey,
    job: JobId,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.shared.detach(self.key, self.job);
    }
}

#[cfg(test)]
mod tests {
    use super::{Control, unless_steered};
    use std::{
        sync::mpsc::{self, Sender},
        thread,
        time::Duration,
    };
    use tokio::sync::watch;

    /// Says, when it is dropped, whether somebody else can change what is wanted meanwhile.
    struct Work {
        wanted: watch::Sender<Control>,
        is_free: Sender<bool>,
    }

    impl Drop for Work {
        fn drop(&mut self) {
            let wanted = self.wanted.clone();
            let (changed, change) = mpsc::channel();
            thread::spawn(move || {
                wanted.send_replace(Control::Cancel);
                let _ = changed.send(());
            });
            let is_free = change.recv_timeout(Duration::from_secs(5)).is_ok();
            let _ = self.is_free.send(is_free);
        }
    }

    /// Work that is dropped writes the status, and who steers the job has the status locked while changing what is wanted:
    /// a pause with a resume or cancel close behind it stopped both for ever.
    #[tokio::test]
    async fn what_is_wanted_can_be_changed_while_the_work_is_dropped() {
        let wanted = watch::Sender::new(Control::Pause);
        let mut control = wanted.subscribe();
        let (is_free, answer) = mpsc::channel();
        let work = Work { wanted, is_free };
        let attempt = async move {
            let _work = work;
            std::future::pending::<()>().await;
        };
        assert_eq!(unless_steered(&mut control, attempt).await, None);
        assert_eq!(answer.recv(), Ok(true));
    }
}
