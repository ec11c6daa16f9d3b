//! Why one content is downloaded and shared the way it is: what jobs, settings, cache and swarm say of it, put together.

use crate::{
    api::{
        CacheEntry, DelayExplanation, Explanation, GateStatus, JobError, JobId, JobState,
        JobStatus, ModeExplanation, SourceExplanation, SourceStanding,
    },
    cache, cloud,
    engine::gates_now,
    jobs::Job,
    route::Route,
    shared::{Settings, Shared, lock},
    swarm::{DialError, Message, SOURCES_KEPT_MAX, SwarmView, blank, http_name, other_url},
};
use dosvc_content::{DownloadMode, HResult, PiecesHashFile};
use dosvc_origin::{Origin, OriginError, ShownUrl};
use dosvc_piece_store::ContentKey;
use dosvc_policy::{ContentFacts, EffectiveMode, PeerRestriction, Policy, effective_mode};
use dosvc_scheduler::SourceKind;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How long a swarm may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Downloads whose sources are remembered when their files have been taken.
const TAKEN_MAX: usize = 32;

/// The sources of downloads that are over and forgotten, by file id, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Taken(Mutex<VecDeque<(String, Vec<SourceExplanation>)>>);

impl Taken {
    /// The download's file has been taken.
    pub(crate) fn remember(&self, job: &Job) {
        let (file_id, sources) = (job.status().file_id, job.tried().all());
        if file_id.is_empty() || sources.is_empty() {
            return;
        }
        let mut taken = lock(&self.0);
        taken.retain(|(known, _)| *known != file_id);
        if taken.len() == TAKEN_MAX {
            taken.pop_front();
        }
        taken.push_back((file_id, sources));
    }

    fn sources(&self, file_id: &str) -> Vec<SourceExplanation> {
        let taken = lock(&self.0);
        let found = taken.iter().find(|(known, _)| known == file_id);
        found
            .map(|(_, sources)| sources.clone())
            .unwrap_or_default()
    }
}

/// The sources of one download that were asked while there was no swarm to tell of them; when it has ended, those it
/// had. At most [`SOURCES_KEPT_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Tried(Mutex<Vec<SourceExplanation>>);

impl Tried {
    fn all(&self) -> Vec<SourceExplanation> {
        lock(&self.0).clone()
    }

    fn note(&self, source: SourceExplanation) {
        let mut sources = lock(&self.0);
        if let Some(known) = sources
            .iter_mut()
            .find(|s| (&s.address, s.transport) == (&source.address, source.transport))
        {
            *known = source;
        } else if sources.len() < SOURCES_KEPT_MAX {
            sources.push(source);
        }
    }

    /// An HTTP source was asked for the hash file.
    pub(crate) fn http(
        &self,
        kind: SourceKind,
        url: &ShownUrl,
        answer: &Result<Result<PiecesHashFile, JobError>, OriginError>,
    ) {
        let (state, why) = match answer {
            Ok(Ok(_)) => (SourceStanding::Idle, "it gave the hash file".to_owned()),
            Ok(Err(error)) => (
                SourceStanding::Refused,
                format!("no usable hash file: {}", error.message),
            ),
            Err(error) if error.is_permanent() => {
                (SourceStanding::Refused, format!("no hash file: {error}"))
            }
            Err(error) => (SourceStanding::Down, error.to_string()),
        };
        self.note(SourceExplanation {
            kind: http_name(kind).to_owned(),
            address: url.to_string(),
            ..blank(state, &why)
        });
    }

    /// A peer did not give the hash file.
    pub(crate) fn peer(&self, route: Route, error: &DialError, pause: Duration) {
        let (state, why) = match error {
            DialError::Refused(_) | DialError::Ourselves => {
                (SourceStanding::Refused, error.to_string())
            }
            DialError::Failed { .. } => {
                let again = pause.as_secs();
                let why = format!("{error}; asked again {again} s later");
                (SourceStanding::Down, why)
            }
        };
        self.note(SourceExplanation {
            address: route.address.to_string(),
            transport: Some(route.transport),
            ..blank(state, &why)
        });
    }

    /// The origin was asked what the content is.
    pub(crate) fn origin(&self, origin: &Origin) {
        let now = Instant::now();
        for url in origin.report() {
            self.note(other_url(http_name(SourceKind::Origin), &url, now));
        }
    }

    /// The download's swarm tells of its sources from now on.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// The download has ended, with these sources.
    pub(crate) fn end_with(&self, sources: &[SourceExplanation]) {
        *lock(&self.0) = sources.to_vec();
    }
}

/// Explains a download, named by its number, or a content, named by its file id or the beginning of it.
pub(crate) async fn explain(
    shared: &Arc<Shared>,
    jobs: &[Arc<Job>],
    id: &str,
) -> Result<Explanation, JobError> {
    let number = id.parse().ok().map(JobId);
    let named = jobs.iter().find(|job| Some(job.id) == number);
    let cached = cache::keyed_entries(shared).await;
    let file_id = match named {
        Some(job) => job.status().file_id,
        None => file_id(jobs, cached.iter().map(|(_, e)| e.file_id.as_str()), id)?,
    };
    let (key, entry) = cached
        .into_iter()
        .find(|(_, e)| e.file_id == file_id)
        .unzip();
    let latest = || {
        let whole = (entry.as_ref()).is_some_and(|e| e.file_size_in_cache == e.file_size);
        let counts = |status: &JobStatus| {
            // What went wrong is of no matter any more when another download has brought everything since.
            let over = matches!(status.state, JobState::Failed | JobState::Cancelled);
            !file_id.is_empty() && status.file_id == file_id && !(whole && over)
        };
        let own = jobs.iter().filter(|job| counts(&job.status()));
        own.max_by_key(|job| (!job.status().state.is_final(), job.id))
    };
    let job = named.or_else(latest);
    let download = job.map(|job| job.status());
    let view = view(shared, &file_id).await;

    let settings = shared.settings();
    let requested = job.and_then(|job| job.requested_mode());
    let limit = key.and_then(|key: ContentKey| shared.store.mode_limit(&key));
    let facts = facts(download.as_ref(), entry.as_ref());
    let mode = mode(&settings, requested.or(limit), &facts);
    let (sources, sources_are_past) = match (view.as_ref(), job) {
        (Some(view), _) if !view.sources.is_empty() => {
            (view.sources.clone(), view.sources_are_past)
        }
        (_, Some(job)) => (job.tried().all(), job.status().state.is_final()),
        _ => (shared.taken.sources(&file_id), true),
    };
    let gates = gates_now(shared, &settings);
    let delays = view.as_ref().map(|v| v.delays.clone()).unwrap_or_default();
    Ok(Explanation {
        no_peers: no_peers(&settings, &mode.explained),
        advice: advice(download.as_ref(), &mode, &gates, &delays),
        mode: mode.explained,
        gates,
        restriction: match settings.config.policies.restrict_peer_selection_by() {
            PeerRestriction::None => None,
            PeerRestriction::Subnet => Some("only peers in this machine's subnets".to_owned()),
            PeerRestriction::LocalDiscovery => {
                Some("only peers found by DNS-SD on the link".to_owned())
            }
        },
        limit: download
            .as_ref()
            .filter(|download| is_running(download))
            .map(|download| {
                let limits = shared.bandwidth.status(&settings.config.policies);
                if download.foreground {
                    limits.foreground
                } else {
                    limits.background
                }
            }),
        delays,
        waiting: match (&view, &download) {
            (Some(view), _) if view.waiting.is_some() => view.waiting.clone(),
            (_, Some(download)) => download.waiting.clone(),
            _ => None,
        },
        sources,
        sources_are_past,
        array: cloud::explain(shared, key),
        cache: entry,
        download,
        file_id,
    })
}

fn is_running(download: &JobStatus) -> bool {
    !download.state.is_final() && download.state != JobState::Paused
}

/// What is known of the content: what its download says, else what the cache holds.
fn facts(download: Option<&JobStatus>, entry: Option<&CacheEntry>) -> ContentFacts {
    ContentFacts {
        length: download
            .and_then(|d| d.file_size)
            .or_else(|| entry.map(|e| e.file_size)),
        // While the hash file is looked for nothing is known about it.
        has_hash_file: match (download, entry) {
            (Some(download), _) if download.file_id.is_empty() => None,
            (Some(download), _) => Some(download.verified_by_hash_file),
            (None, entry) => Some(entry.is_some_and(|e| !e.hash_of_hashes.is_empty())),
        },
    }
}

/// What can be done, by whom it concerns; of gates that change nothing for this content nothing is said.
fn advice(
    download: Option<&JobStatus>,
    mode: &Mode,
    gates: &[GateStatus],
    delays: &[DelayExplanation],
) -> Vec<String> {
    let mut advice = Vec::new();
    match download.map(|download| (download.state, download.id)) {
        Some((JobState::Paused, id)) => {
            advice.push(format!("`dosvc resume {id}` lets the download go on"));
        }
        Some((JobState::Failed | JobState::Cancelled, _)) => {
            advice.push(
                "the same `dosvc get`, with what is wrong put right, goes on from what is here"
                    .to_owned(),
            );
        }
        _ => {}
    }
    let held = delays.iter().filter(|delay| delay.left_ms > 0);
    advice.extend(held.filter(|d| !d.policy.is_empty()).map(|delay| {
        let policy = &delay.policy;
        format!(
            "a smaller {policy} lets it begin earlier; a change counts for running downloads too"
        )
    }));
    advice.extend(mode.remedies.iter().map(|text| (*text).to_owned()));
    let may_be_shared = |d: &JobStatus| is_running(d) || d.state == JobState::Complete;
    let counts = download.is_none_or(may_be_shared);
    let gates = gates.iter().filter(|_| counts);
    advice.extend(gates.map(|gate| gate.remedy.clone()));
    let mut seen = HashSet::new();
    advice.retain(|text| seen.insert(text.clone()));
    advice
}

/// The one content, of a job or in the cache, whose id begins like this.
fn file_id<'a>(
    jobs: &[Arc<Job>],
    cached: impl Iterator<Item = &'a str>,
    beginning: &str,
) -> Result<String, JobError> {
    let refuse = |why: &str| {
        Err(JobError::new(
            HResult::NOT_FOUND,
            format!("{beginning:?}: {why}"),
        ))
    };
    let mut fitting: Vec<String> = jobs
        .iter()
        .map(|job| job.status().file_id)
        .chain(cached.map(str::to_owned))
        .filter(|id| !id.is_empty() && id.starts_with(beginning))
        .collect();
    fitting.sort_unstable();
    fitting.dedup();
    match fitting.as_slice() {
        [] => refuse(
            "no download has this number, and no content's id begins like that (`dosvc status` shows both)",
        ),
        [_, _, ..] => refuse("several contents have an id that begins like that; give more of it"),
        [_] if beginning.len() < 4 => refuse("give at least four characters of the id"),
        [id] => Ok(id.clone()),
    }
}

async fn view(shared: &Shared, file_id: &str) -> Option<SwarmView> {
    let (_, swarm) = shared
        .running_swarms()
        .into_iter()
        .find(|(key, _)| key.to_string() == file_id)?;
    let (reply, answer) = oneshot::channel();
    swarm.messages.try_send(Message::Explain(reply)).ok()?;
    tokio::time::timeout(ANSWER_TIME, answer).await.ok()?.ok()
}

/// The mode in effect, and what can be done about it.
struct Mode {
    explained: ModeExplanation,
    remedies: Vec<&'static str>,
}

/// The mode in effect. One that was asked for when the device's was wider counts as far as the device's reaches.
fn mode(settings: &Settings, requested: Option<DownloadMode>, facts: &ContentFacts) -> Mode {
    let policies = &settings.config.policies;
    let judge = |requested| effective_mode(policies, requested, facts, &settings.gates);
    let (effective, refusal) = match judge(requested) {
        Ok(effective) => (effective, None),
        Err(refusal) => {
            let narrowed = settings.scope(requested).mode;
            let effective = judge(Some(narrowed)).unwrap_or(EffectiveMode {
                mode: settings.mode,
                reasons: Vec::new(),
            });
            (effective, Some(refusal.to_string()))
        }
    };
    let reasons = effective.reasons.iter().map(ToString::to_string);
    let mut remedies: Vec<_> = effective.reasons.iter().map(|r| r.remedy()).collect();
    if !settings.permits.peers {
        remedies.push("download_mode 1, 2 or 3 lets peers be used");
    }
    Mode {
        explained: ModeExplanation {
            configured: settings.mode.number(),
            provider: policies.provider(Policy::DownloadMode).to_string(),
            effective: effective.mode.number(),
            reasons: refusal.into_iter().chain(reasons).collect(),
        },
        remedies,
    }
}

/// Why a content in this mode has no peers.
fn no_peers(settings: &Settings, mode: &ModeExplanation) -> Vec<String> {
    let effective = DownloadMode::from_number(mode.effective.into());
    if effective.is_some_and(|mode| dosvc_policy::permits(mode).peers) {
        let closing = settings.gates.iter().filter(|gate| gate.closes().peers);
        return closing.map(ToString::to_string).collect();
    }
    if mode.reasons.is_empty() {
        return vec![format!("download mode {} has no peers", settings.mode)];
    }
    mode.reasons.clone()
}
