//! What was answered, in a file: so that a restart asks nothing anew and the array knows us again.
//!
//! One JSON file, replaced whole; only its owner may read it, for tokens are secrets. What can't be read is dropped:
//! everything in it can be asked for again. Times are seconds left when it was written; a clock that was set back makes
//! them no longer.

use super::{
    chain::Kept,
    core::Core,
    limits::{ARRAYS_KEPT_MAX, CHAIN_USABLE, FILE_BYTES_MAX, FRESH_MAX, MEMBERS_MAX, POLICIES_MAX},
    member::{Arrays, Remembered},
    question::PolicyKey,
};
use dosvc_cloud_protocol::{
    ContentPolicy, GeoAnswer, HttpUrl, JoinToken, KeyValueAnswer, Text, limits::URL_BYTES_MAX,
};
use dosvc_content::{HashOfHashes, PeerId};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const VERSION: u32 = 1;

/// The whole file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    version: u32,
    /// Whom the answers were given to: for anybody else they don't count.
    peer_id: String,
    geo_url: HttpUrl,
    /// Seconds since 1970.
    saved_at: u64,
    geo: Option<SavedAnswer>,
    key_value: Option<SavedAnswer>,
    policies: Vec<SavedPolicy>,
    arrays: Vec<Vec<HttpUrl>>,
    contents: Vec<SavedContent>,
}

/// An answer as the service wrote it, so that it is checked again when it is read.
#[derive(Debug, Serialize, Deserialize)]
struct SavedAnswer {
    json: String,
    fresh_s: u64,
    usable_s: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedPolicy {
    url: Option<Text<URL_BYTES_MAX>>,
    content_id: Option<String>,
    json: String,
    fresh_s: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedContent {
    content: String,
    /// Which of [`Saved::arrays`].
    arrays: Option<usize>,
    fresh_s: u64,
    token: Option<String>,
}

impl Core {
    /// Everything that is worth keeping; nothing is unsaved after it.
    pub(crate) fn save(&mut self, now: Instant, wall: SystemTime, peer: PeerId) -> Saved {
        self.unsaved = false;
        let left = |until: Instant| until.saturating_duration_since(now).as_secs();
        let chain = &self.chain;
        let geo = chain.geo.as_ref();
        let key_value = chain.key_value.as_ref();
        let mut arrays: Vec<Vec<HttpUrl>> = Vec::new();
        let mut places: HashMap<Arrays, usize> = HashMap::new();
        let members = self.members.iter().map(|(c, m)| (*c, m.remembered()));
        let others = self.remembered.iter().map(|(c, known)| (*c, known.clone()));
        let mut contents = Vec::new();
        for (content, known) in members.chain(others).take(MEMBERS_MAX) {
            let place = known.arrays.as_ref().map(|(list, _)| {
                *places.entry(Arc::clone(list)).or_insert_with(|| {
                    arrays.push(list.to_vec());
                    arrays.len() - 1
                })
            });
            if place.is_none() && known.token.is_none() {
                continue;
            }
            contents.push(SavedContent {
                content: content.to_hex(),
                arrays: place,
                fresh_s: known.arrays.as_ref().map_or(0, |(_, until)| left(*until)),
                token: known.token.map(|token| token.to_string()),
            });
        }
        Saved {
            version: VERSION,
            peer_id: peer.to_string(),
            geo_url: chain.geo_url().clone(),
            saved_at: seconds(wall),
            geo: geo.map(|kept| saved(&kept.answer.to_json(), kept, &left)),
            key_value: key_value.map(|kept| saved(&kept.answer.to_json(), kept, &left)),
            policies: self
                .policies
                .fresh(now)
                .map(|(key, policy, until)| SavedPolicy {
                    url: key.url.clone(),
                    content_id: key.content_id.clone(),
                    json: String::from_utf8_lossy(&policy.to_json()).into_owned(),
                    fresh_s: left(until),
                })
                .collect(),
            arrays,
            contents,
        }
    }

    /// Takes back what an earlier run has kept, as far as it was for us and counts still.
    pub(crate) fn restore(&mut self, now: Instant, wall: SystemTime, peer: PeerId, file: Saved) {
        if file.version != VERSION
            || file.peer_id != peer.to_string()
            || file.geo_url != *self.chain.geo_url()
        {
            return;
        }
        let passed = seconds(wall).saturating_sub(file.saved_at);
        let until = |left: u64, most: Duration| {
            let left = Duration::from_secs(left.saturating_sub(passed)).min(most);
            now + left
        };
        let kept = |answer: &SavedAnswer| {
            (
                until(answer.fresh_s, FRESH_MAX),
                until(answer.usable_s, CHAIN_USABLE),
            )
        };
        let geo = file.geo.and_then(|saved| {
            let (fresh_until, usable_until) = kept(&saved);
            let answer = GeoAnswer::from_json(saved.json.as_bytes()).ok()?;
            Some(Kept {
                answer,
                fresh_until,
                usable_until,
            })
        });
        let key_value = file.key_value.and_then(|saved| {
            let (fresh_until, usable_until) = kept(&saved);
            let answer = KeyValueAnswer::from_json(saved.json.as_bytes()).ok()?;
            Some(Kept {
                answer,
                fresh_until,
                usable_until,
            })
        });
        self.chain.restore(geo, key_value);
        for saved in file.policies.into_iter().take(POLICIES_MAX) {
            let key = PolicyKey {
                url: saved.url,
                content_id: saved.content_id,
            };
            if let Ok(policy) = ContentPolicy::from_json(saved.json.as_bytes()) {
                self.policies
                    .restore(now, key, policy, until(saved.fresh_s, FRESH_MAX));
            }
        }
        let lists = file.arrays.into_iter().take(MEMBERS_MAX);
        let lists: Vec<Arrays> = lists
            .map(|list| list.into_iter().take(ARRAYS_KEPT_MAX).collect())
            .collect();
        for saved in file.contents.into_iter().take(MEMBERS_MAX) {
            let Ok(content) = HashOfHashes::from_hex(&saved.content) else {
                continue;
            };
            let list = saved.arrays.and_then(|at| lists.get(at)).cloned();
            let list = list.filter(|list| !list.is_empty());
            let token = saved.token.and_then(|text| text.parse::<JoinToken>().ok());
            let arrays = list.map(|list| (list, until(saved.fresh_s, FRESH_MAX)));
            self.remembered
                .insert(content, Remembered { arrays, token });
        }
    }
}

fn saved<T>(json: &[u8], kept: &Kept<T>, left: &impl Fn(Instant) -> u64) -> SavedAnswer {
    SavedAnswer {
        json: String::from_utf8_lossy(json).into_owned(),
        fresh_s: left(kept.fresh_until),
        usable_s: left(kept.usable_until),
    }
}

fn seconds(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Reads the file; nothing when there is none or it is none of ours.
pub(crate) fn read(path: &Path) -> Option<Saved> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .ok()?;
    let parsed = match bytes.len() > FILE_BYTES_MAX {
        true => Err("it is too large".to_owned()),
        false => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
    };
    match parsed {
        Ok(saved) => Some(saved),
        Err(error) => {
            tracing::warn!(path = %path.display(), error, "what the cloud services answered earlier is asked for anew");
            None
        }
    }
}

/// Writes the file: whole or not at all.
///
/// # Errors
/// What the system says.
pub(crate) fn write(path: &Path, saved: &mut Saved) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(saved)?;
    if bytes.len() > FILE_BYTES_MAX {
        // Policies are the largest, and soon asked for.
        saved.policies.clear();
        bytes = serde_json::to_vec(saved)?;
    }
    if bytes.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("there is too much to keep"));
    }
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(&bytes)?;
    file.sync_data()?;
    fs::rename(&fresh, path)
}
