//! Why one content is downloaded and shared the way it is: what jobs, settings, cache and swarm say of it, put together.

use crate::{
    api::{Explanation, JobError, JobId, ModeExplanation},
    cache, cloud,
    engine::gates_now,
    jobs::Job,
    shared::{Settings, Shared},
    swarm::{Message, SwarmView},
};
use dosvc_content::{DownloadMode, HResult};
use dosvc_piece_store::ContentKey;
use dosvc_policy::{ContentFacts, PeerRestriction, Policy, effective_mode};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// How long a swarm may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(2);

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
    let of_content = |job: &&Arc<Job>| !file_id.is_empty() && job.status().file_id == file_id;
    let latest = || {
        let own = jobs.iter().filter(of_content);
        own.max_by_key(|job| (!job.status().state.is_final(), job.id))
    };
    let job = named.or_else(latest);
    let download = job.map(|job| job.status());
    let (key, entry) = cached
        .into_iter()
        .find(|(_, e)| e.file_id == file_id)
        .unzip();
    let view = view(shared, &file_id).await;

    let settings = shared.settings();
    let facts = ContentFacts {
        length: download
            .as_ref()
            .and_then(|d| d.file_size)
            .or_else(|| entry.as_ref().map(|e| e.file_size)),
        // While the hash file is looked for nothing is known about it.
        has_hash_file: match (&download, &entry) {
            (Some(download), _) if download.file_id.is_empty() => None,
            (Some(download), _) => Some(download.verified_by_hash_file),
            (None, entry) => Some(entry.as_ref().is_some_and(|e| !e.hash_of_hashes.is_empty())),
        },
    };
    let requested = job.and_then(|job| job.requested_mode());
    let limit = key.and_then(|key: ContentKey| shared.store.mode_limit(&key));
    let mode = mode(&settings, requested.or(limit), &facts)?;
    Ok(Explanation {
        no_peers: no_peers(&settings, &mode),
        mode,
        gates: gates_now(shared, &settings),
        restriction: match settings.config.policies.restrict_peer_selection_by() {
            PeerRestriction::None => None,
            PeerRestriction::Subnet => Some("only peers in this machine's subnets".to_owned()),
            PeerRestriction::LocalDiscovery => {
                Some("only peers found by DNS-SD on the link".to_owned())
            }
        },
        limit: download
            .as_ref()
            .filter(|download| !download.state.is_final())
            .map(|download| {
                let limits = shared.bandwidth.status(&settings.config.policies);
                if download.foreground {
                    limits.foreground
                } else {
                    limits.background
                }
            }),
        delays: view.as_ref().map(|v| v.delays.clone()).unwrap_or_default(),
        waiting: match (&view, &download) {
            (Some(view), _) if view.waiting.is_some() => view.waiting.clone(),
            (_, Some(download)) => download.waiting.clone(),
            _ => None,
        },
        sources: view.map(|v| v.sources).unwrap_or_default(),
        array: cloud::explain(shared, key),
        cache: entry,
        download,
        file_id,
    })
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

/// The mode in effect. A refusal is an error of the download, whose state tells it.
fn mode(
    settings: &Settings,
    requested: Option<DownloadMode>,
    facts: &ContentFacts,
) -> Result<ModeExplanation, JobError> {
    let policies = &settings.config.policies;
    let effective = effective_mode(policies, requested, facts, &settings.gates)
        .map_err(|e| JobError::new(e.hresult(), e.to_string()))?;
    Ok(ModeExplanation {
        configured: settings.mode.number(),
        provider: policies.provider(Policy::DownloadMode).to_string(),
        effective: effective.mode.number(),
        reasons: effective.reasons.iter().map(ToString::to_string).collect(),
    })
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
