//! Where a download gets its hash file from (content-metadata, "The chain of trust").
//!
//! A trusted hash of hashes is the anchor: with it the hash file may come from anywhere, peers included. Without one
//! the hash file beside the content counts exactly as far as the origin itself does.

use crate::{
    api::JobError,
    cache_hosts::url_on,
    cloud,
    dial::{self, Target},
    errors::origin_error,
    explain::Tried,
    quic,
    request::{Request, parse_hash_file},
    route::Route,
    shared::{Scope, Shared},
    swarm::{DialError, Established, Finder, next_found, next_named},
    terms::Terms,
};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use dosvc_content::{
    HResult, HashOfHashes, HashOfHashesHasher, PeerId, PieceHash, PieceLengths, PiecesHashFile,
    hash_file_urls,
};
use dosvc_discovery::cloud::{Cloud, ContentPolicy, HttpUrl};
use dosvc_nat::quic::Manner;
use dosvc_origin::{OriginClient, OriginError, ShownUrl};
use dosvc_piece_store::ContentKey;
use dosvc_scheduler::SourceKind;
use dosvc_wire::{
    Extension, Limits,
    net::{self, DriveParams, Event, Unlimited},
};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use url::Url;

/// The largest hash file taken over HTTP: 2.8 million pieces.
const HASH_FILE_BYTES_MAX: usize = 128 << 20;
/// Pieces asked for in one message.
const METAINFO_PIECES: u32 = dosvc_wire::METAINFO_HASHES_MAX;
/// How long one peer may take to give the hash file, and so much more for each answer that it takes.
const PEER_TIME: Duration = Duration::from_secs(20);
const PEER_TIME_PER_ANSWER: Duration = Duration::from_millis(500);
/// Hashes of a hash file that are kept before it has shown itself to be the right one: 2 MiB. Of a larger one all
/// hashes are first only counted into the hash of hashes, and asked for again when that is right.
const UNPROVEN_HASHES_MAX: usize = 65_536;
/// Peers that are asked for one hash file at once.
const ASKED_AT_ONCE: usize = 8;
/// Addresses that are asked, or wait to be, for one hash file.
const ADDRESSES_MAX: usize = 256;
/// How long after a peer did not give the hash file it is asked again; doubles each time.
const PEER_RETRY: Duration = Duration::from_secs(2);
const PEER_RETRY_MAX: Duration = Duration::from_secs(60);
/// How often an address that was discovered is asked; discovery names it again if it comes back.
const DISCOVERED_ASKED_MAX: u32 = 5;
/// Hash files that are fetched over HTTP at once, by all downloads together.
pub(crate) const HTTP_FETCHES_MAX: usize = 4;
/// Without any source over HTTP, how long peers are waited for before that counts as an answer.
const PEERS_PATIENCE: Duration = Duration::from_secs(30);
/// How long the hash file that a content policy names is looked for before the content is downloaded without it.
const POLICY_HASH_FILE_TIME: Duration = Duration::from_secs(60);
/// Back-off between two rounds when servers can't be reached.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the search for a hash file came to.
#[derive(Debug)]
pub(crate) enum Metadata {
    /// A hash file that verifies.
    HashFile(PiecesHashFile),
    /// There is none: plain HTTP, and why.
    None(String),
}

/// What is known of a content before its download.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) metadata: Metadata,
    /// How it is to be treated; nothing where no content policy was asked.
    pub(crate) terms: Option<Terms>,
}

impl From<Metadata> for Found {
    fn from(metadata: Metadata) -> Self {
        Self {
            metadata,
            terms: None,
        }
    }
}

/// Looks for the hash file of what a job wants. `waiting` is told why it takes long, when it does; `tried` who was
/// asked.
pub(crate) async fn find(
    shared: &Arc<Shared>,
    request: &Request,
    scope: Scope,
    tried: &Arc<Tried>,
    waiting: &(dyn Fn(Option<String>) + Sync),
) -> Result<Found, JobError> {
    if let Some(file) = &request.hash_file {
        return Ok(Metadata::HashFile(file.clone()).into());
    }
    if let Some(file) = from_store(shared, request).await? {
        return Ok(Metadata::HashFile(file).into());
    }
    let anchored = request.trusted.is_some() || !request.hash_file_urls.is_empty();
    if let Some(cloud) = shared.cloud().filter(|_| !anchored) {
        return by_content_policy(shared, &cloud, request, scope, tried, waiting).await;
    }
    let found = find_named(shared, request, scope, tried, waiting).await;
    found.map(Found::from)
}

/// A download of which the caller gave nothing but URLs, or an id: the fleet's content policy says what it is. Without one
/// it is downloaded in Simple mode.
async fn by_content_policy(
    shared: &Arc<Shared>,
    cloud: &Cloud,
    request: &Request,
    scope: Scope,
    tried: &Arc<Tried>,
    waiting: &(dyn Fn(Option<String>) + Sync),
) -> Result<Found, JobError> {
    waiting(Some(
        "asking the fleet's cloud for the content's policy".to_owned(),
    ));
    let id = request.content_id.as_ref();
    let answer = cloud.content_policy(request.urls.first(), id).await;
    waiting(None);
    let policy = match answer {
        Ok(Some(policy)) => policy,
        Ok(None) => {
            let why = "the fleet's content policy does not know this content";
            return Ok(Metadata::None(why.to_owned()).into());
        }
        Err(failure) => {
            let code = failure.hresult();
            let why = format!("the fleet's cloud gave no content policy: {failure} ({code})");
            return Ok(Metadata::None(why).into());
        }
    };
    let settings = shared.settings();
    let cloud = settings.config.cloud.as_ref();
    if let Some(key) = cloud.and_then(|cloud| cloud.publisher_key)
        && !is_signed(&policy, &key)
    {
        tracing::warn!(content = %policy.content_id, "the content policy is not signed by the publisher; it does not count");
        let why = "the content policy is not signed by the publisher (discovery.publisher_key)";
        return Ok(Metadata::None(why.to_owned()).into());
    }
    let terms = Terms::of(&policy);
    if terms.have_ended(SystemTime::now()) {
        let why = "the content policy says that this content has expired (ExpireAtSecsSinceEpoch)";
        return Ok(Metadata::None(why.to_owned()).into());
    }
    let urls = policy.pieces_hash_file_cdn_urls.iter();
    let named = Request {
        trusted: Some(policy.hash_of_hashes),
        hash_file_urls: urls.map(HttpUrl::to_url).collect(),
        urls: terms.urls_after(&request.urls),
        ..request.clone()
    };
    let found = |metadata| Found {
        metadata,
        terms: Some(terms.clone()),
    };
    if let Some(file) = from_store(shared, &named).await? {
        return Ok(found(Metadata::HashFile(file)));
    }
    let search = find_named(shared, &named, scope, tried, waiting);
    let why = match tokio::time::timeout(POLICY_HASH_FILE_TIME, search).await {
        Ok(Ok(metadata)) => return Ok(found(metadata)),
        Ok(Err(error)) => error.message,
        Err(_) => format!("not had within {} s", POLICY_HASH_FILE_TIME.as_secs()),
    };
    waiting(None);
    // Nobody has asked for checks: the content itself may be had all the same.
    Ok(found(Metadata::None(format!(
        "the hash file that the content policy names cannot be used: {why}"
    ))))
}

/// Whether the publisher with this Ed25519 key has signed the policy.
fn is_signed(policy: &ContentPolicy, key: &[u8; 32]) -> bool {
    policy.publisher_signature.is_some_and(|signature| {
        let key = UnparsedPublicKey::new(&ED25519, key);
        key.verify(&policy.signed_bytes(), &signature).is_ok()
    })
}

/// Looks for a hash file where the caller or the policy says, beside the content, and at peers.
async fn find_named(
    shared: &Arc<Shared>,
    request: &Request,
    scope: Scope,
    tried: &Arc<Tried>,
    waiting: &(dyn Fn(Option<String>) + Sync),
) -> Result<Metadata, JobError> {
    match request.trusted.filter(|_| scope.peering) {
        Some(trusted) => tokio::select! {
            found = from_http(shared, request, true, tried, waiting) => found,
            file = from_peers(shared, scope, request, trusted, tried) => Ok(Metadata::HashFile(file)),
        },
        None => from_http(shared, request, false, tried, waiting).await,
    }
}

async fn from_store(
    shared: &Arc<Shared>,
    request: &Request,
) -> Result<Option<PiecesHashFile>, JobError> {
    let Some(trusted) = request.trusted else {
        return Ok(None);
    };
    let store = Arc::clone(&shared.store);
    let content = tokio::task::spawn_blocking(move || store.content(&trusted))
        .await
        .map_err(|e| crate::errors::internal_error(&e))?;
    // A damaged entry is not what the caller asked about; it is replaced by what is found elsewhere.
    Ok(content.ok().flatten().and_then(|c| c.hash_file().cloned()))
}

/// One round after the other until servers give a clear answer.
async fn from_http(
    shared: &Arc<Shared>,
    request: &Request,
    peers_are_asked: bool,
    tried: &Tried,
    waiting: &(dyn Fn(Option<String>) + Sync),
) -> Result<Metadata, JobError> {
    let mut pause = RETRY_FIRST;
    loop {
        let missing = match one_round(shared, request, tried).await {
            Round::Found(file) => return Ok(Metadata::HashFile(file)),
            Round::Missing(why) => why,
            Round::Unreachable(error) => {
                waiting(Some(format!(
                    "no server can be asked for the hash file: {}; trying again in {} s",
                    error.message,
                    pause.as_secs()
                )));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
                continue;
            }
        };
        if peers_are_asked {
            waiting(Some("no server has the hash file; asking peers".to_owned()));
            tokio::time::sleep(PEERS_PATIENCE).await;
        }
        return if request.trusted.is_some() {
            Err(JobError::new(
                HResult::INTEGRITY_UNAVAILABLE,
                format!(
                    "{missing}; the hash of hashes cannot be checked without it. Give the hash file with --hash-file, \
                     or leave the hash of hashes out to download without checks"
                ),
            ))
        } else {
            Ok(Metadata::None(missing))
        };
    }
}

enum Round {
    Found(PiecesHashFile),
    /// Every server answered, and none has a hash file that counts.
    Missing(String),
    /// At least one server could not be asked.
    Unreachable(JobError),
}

async fn one_round(shared: &Arc<Shared>, request: &Request, tried: &Tried) -> Round {
    let mut missing = "no hash file was found beside the content".to_owned();
    let mut unreachable = None;
    let origins = candidates(request);
    let background = !request.foreground;
    let of_origins = shared.origins.in_background(background);
    let origins = origins.into_iter().map(|urls| (of_origins.clone(), urls));
    // Where the origin cannot be reached a cache host may.
    let settings = shared.settings();
    let hosts = settings.cache_hosts.iter().map(|host| {
        let urls = candidates(request).into_iter().flatten();
        let urls = urls.filter_map(|url| url_on(host, &url)).collect();
        (shared.cache_hosts.client().in_background(background), urls)
    });
    let mut rounds: Vec<(OriginClient, Vec<Url>)> = origins.collect();
    let origin_rounds = rounds.len();
    rounds.extend(hosts);
    for (at, (client, candidates)) in rounds.into_iter().enumerate() {
        if at == origin_rounds && unreachable.is_none() {
            break;
        }
        let mut all_answered = !candidates.is_empty();
        let mut fetches = JoinSet::new();
        for url in candidates {
            let (shared, client) = (Arc::clone(shared), client.clone());
            let trusted = request.trusted;
            fetches.spawn(async move {
                let result = fetch(&shared, &client, &url, trusted).await;
                (ShownUrl::from(&url), result)
            });
        }
        let kind = match at < origin_rounds {
            true => SourceKind::Origin,
            false => SourceKind::CacheHost,
        };
        while let Some(fetched) = fetches.join_next().await {
            let Ok((url, result)) = fetched else {
                all_answered = false;
                continue;
            };
            tried.http(kind, &url, &result);
            match result {
                Ok(Ok(file)) => return Round::Found(file),
                Ok(Err(error)) => {
                    tracing::warn!(%url, %error, "not a usable hash file");
                    missing = format!("{url} is not a usable hash file: {}", error.message);
                }
                Err(error) if error.is_permanent() => {
                    tracing::debug!(%url, %error, "no hash file here");
                }
                Err(error) => {
                    all_answered = false;
                    unreachable = Some(origin_error(&error));
                }
            }
        }
        // A cache host answers for the origin. Whoever wants checks waits for the origin itself.
        if at >= origin_rounds && all_answered && request.trusted.is_none() {
            return Round::Missing(missing);
        }
    }
    match unreachable {
        Some(error) => Round::Unreachable(error),
        None => Round::Missing(missing),
    }
}

/// Fetches and judges one hash file; a few at a time, for each may take much memory and time.
async fn fetch(
    shared: &Shared,
    client: &OriginClient,
    url: &Url,
    trusted: Option<HashOfHashes>,
) -> Result<Result<PiecesHashFile, JobError>, OriginError> {
    // The semaphore is never closed; without a place there is no bound, and nothing worse.
    let _place = shared.hash_file_fetches.acquire().await;
    let small = client
        .fetch_small_if(url, HASH_FILE_BYTES_MAX, looks_like_json)
        .await?;
    let parse = move || parse_hash_file(&small.bytes, trusted.as_ref());
    let parsed = tokio::task::spawn_blocking(parse).await;
    Ok(parsed.unwrap_or_else(|error| Err(crate::errors::internal_error(&error))))
}

/// Whether these can be the first bytes of a hash file: an object, and no page of a captive portal.
fn looks_like_json(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    text.trim_ascii_start().first().is_none_or(|b| *b == b'{')
}

/// URLs to ask, in rounds that go out at once.
fn candidates(request: &Request) -> Vec<Vec<Url>> {
    if !request.hash_file_urls.is_empty() {
        return vec![request.hash_file_urls.clone()];
    }
    request
        .urls
        .iter()
        .map(|url| {
            hash_file_urls(url.as_str())
                .iter()
                .filter_map(|text| Url::parse(text).ok())
                .collect()
        })
        .collect()
}

/// Asks peers for the hash file until one gives it; never ends without one.
async fn from_peers(
    shared: &Arc<Shared>,
    scope: Scope,
    request: &Request,
    trusted: HashOfHashes,
    tried: &Arc<Tried>,
) -> PiecesHashFile {
    let mut search = shared
        .discovery()
        .filter(|_| scope.offered)
        .map(|d| d.find(trusted));
    let mut array = cloud::search(shared, &scope, trusted);
    let asker = Arc::new(Asker {
        shared: Arc::clone(shared),
        scope,
        trusted,
        tried: Arc::clone(tried),
        places: Semaphore::new(ASKED_AT_ONCE),
    });
    let mut asked: HashSet<Route> = HashSet::new();
    let mut asking = JoinSet::new();
    let settings = shared.settings();
    for address in request.peers.iter().chain(&settings.config.static_peers) {
        for route in quic::routes(shared, *address) {
            if asked.insert(route) {
                asking.spawn(Arc::clone(&asker).ask(route, None, Finder::Configured));
            }
        }
    }
    loop {
        tokio::select! {
            Some(Ok((route, file))) = asking.join_next() => match file {
                Some(file) => return file,
                None => { asked.remove(&route); }
            },
            found = next_found(&mut search) => match found {
                Some(found) => for address in found.addrs {
                    for route in quic::routes(shared, address) {
                        if asked.len() < ADDRESSES_MAX && asked.insert(route) {
                            let peer = Some(found.peer_id);
                            asking.spawn(Arc::clone(&asker).ask(route, peer, Finder::LinkLocal));
                        }
                    }
                },
                None => search = None,
            },
            named = next_named(&mut array) => match named {
                Some(peers) => for peer in peers {
                    for route in cloud::routes(shared, &peer) {
                        if asked.len() < ADDRESSES_MAX && asked.insert(route) {
                            let id = Some(peer.peer_id);
                            asking.spawn(Arc::clone(&asker).ask(route, id, Finder::Array));
                        }
                    }
                },
                None => array = None,
            },
            // Nobody to ask and nothing to search with: the caller waits for other sources.
            else => std::future::pending().await,
        }
    }
}

/// Asks for one hash file.
struct Asker {
    shared: Arc<Shared>,
    scope: Scope,
    trusted: HashOfHashes,
    tried: Arc<Tried>,
    places: Semaphore,
}

impl Asker {
    /// Asks an address again and again: a peer may be busy, or come up later. `None`: given up.
    async fn ask(
        self: Arc<Self>,
        route: Route,
        peer: Option<PeerId>,
        finder: Finder,
    ) -> (Route, Option<PiecesHashFile>) {
        let target = Target {
            route,
            peer,
            discovered: finder == Finder::LinkLocal,
            // It is small, and everything waits for it.
            manner: Manner::Foreground,
        };
        let mut pause = PEER_RETRY;
        let mut asked = 0;
        loop {
            let place = self.places.acquire().await;
            let answer = self.metainfo_of(target).await;
            drop(place);
            asked += 1;
            if let Err(error) = &answer {
                self.tried.peer(route, error, pause);
            }
            match answer {
                Ok(file) => return (route, Some(file)),
                Err(DialError::Ourselves) => return (route, None),
                Err(_) if finder != Finder::Configured && asked >= DISCOVERED_ASKED_MAX => {
                    return (route, None);
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PEER_RETRY_MAX);
        }
    }

    /// Connects to a peer and asks it for the hash file.
    async fn metainfo_of(&self, target: Target) -> Result<PiecesHashFile, DialError> {
        let shared = &self.shared;
        let peer = dial::dial(shared, self.scope, target, self.trusted).await?;
        let Established {
            stream,
            group,
            peer_id,
            places: _places,
            ..
        } = *peer;
        if shared.is_banned(peer_id, ContentKey::Hashed(self.trusted)) {
            return Err(DialError::BANNED);
        }
        let (commands, receiver) = net::command_channel();
        let (sender, events) = mpsc::channel(16);
        let params = DriveParams {
            key: 0,
            lengths: None,
            limits: Limits::default(),
            pool: shared.pool.clone(),
            events: sender,
            down: Arc::new(Unlimited),
            up: Arc::new(Unlimited),
            feeds: net::Feeds::default(),
        };
        let mut dialogue = Dialogue {
            commands,
            events,
            deadline: Instant::now() + PEER_TIME,
        };
        let collect = async {
            if group.is_none() {
                dialogue
                    .commands
                    .send(net::Command::Extension(shared.hello(true)))
                    .ok()?;
            }
            dialogue.hash_file(&self.trusted).await
        };
        let file = tokio::select! {
            _ = net::drive(stream, params, receiver) => None,
            file = collect => file,
        };
        file.ok_or_else(|| DialError::Failed {
            step: "get the hash file",
            error: "the peer did not send one that is right".to_owned(),
        })
    }
}

/// The questions to one peer, and its answers.
struct Dialogue {
    commands: net::CommandSender,
    events: mpsc::Receiver<(u32, Event)>,
    deadline: Instant,
}

impl Dialogue {
    /// Gets the hash file. What a peer merely says takes no more memory than [`UNPROVEN_HASHES_MAX`] hashes.
    async fn hash_file(&mut self, trusted: &HashOfHashes) -> Option<PiecesHashFile> {
        let (lengths, first) = self.part(0, None).await?;
        let count = lengths.piece_count() as usize;
        if count > UNPROVEN_HASHES_MAX && !self.proves(&lengths, &first, trusted).await? {
            return None;
        }
        let mut hashes = first;
        while hashes.len() < count {
            let at = u32::try_from(hashes.len()).ok()?;
            let (_, more) = self.part(at, Some(&lengths)).await?;
            hashes.extend(more);
        }
        let file = PiecesHashFile::new(lengths, hashes).ok()?;
        file.expect(trusted).ok()
    }

    /// Whether all hashes together are those that are trusted; none is kept.
    async fn proves(
        &mut self,
        lengths: &PieceLengths,
        first: &[PieceHash],
        trusted: &HashOfHashes,
    ) -> Option<bool> {
        let mut hasher = HashOfHashesHasher::new(lengths);
        first.iter().for_each(|hash| hasher.push(hash));
        let mut at = u32::try_from(first.len()).ok()?;
        while at < lengths.piece_count() {
            let (_, more) = self.part(at, Some(lengths)).await?;
            more.iter().for_each(|hash| hasher.push(hash));
            at += u32::try_from(more.len()).ok()?;
        }
        Some(hasher.finish() == *trusted)
    }

    /// The hashes from piece `first` on, as many as the peer gives at once: at least one, none past the end.
    async fn part(
        &mut self,
        first: u32,
        known: Option<&PieceLengths>,
    ) -> Option<(PieceLengths, Vec<PieceHash>)> {
        let ask = Extension::MetainfoRequest {
            first,
            count: METAINFO_PIECES,
        };
        self.commands.send(net::Command::Extension(ask)).ok()?;
        let answer = next_metainfo(&mut self.events, first);
        let (lengths, hashes) = tokio::time::timeout_at(self.deadline.into(), answer)
            .await
            .ok()
            .flatten()?;
        let left = (lengths.piece_count() - first.min(lengths.piece_count())) as usize;
        let fits = known.is_none_or(|known| *known == lengths)
            && hashes.len() <= left
            && (left == 0 || !hashes.is_empty());
        self.deadline += PEER_TIME_PER_ANSWER;
        fits.then_some((lengths, hashes))
    }
}

/// The next answer that begins at `first`.
async fn next_metainfo(
    events: &mut mpsc::Receiver<(u32, Event)>,
    first: u32,
) -> Option<(PieceLengths, Vec<PieceHash>)> {
    loop {
        if let Event::Extension(Extension::Metainfo {
            content_length,
            piece_size,
            first: begins,
            hashes,
        }) = events.recv().await?.1
            && begins == first
        {
            let lengths = PieceLengths::new(content_length, piece_size.into()).ok()?;
            return Some((lengths, hashes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    #[test]
    fn only_the_publishers_signature_of_this_very_policy_counts() {
        let json =
            br#"{"ContentId":"x","HashOfHashes":"pnfBh6zEGx3sxf6WBId825S6VQpwJTWIaAWU/cBsHD0=",
            "PiecesHashFileCdnUrls":["http://a.test/x.phf"]}"#;
        let pair = |seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes");
        let key = |pair: &Ed25519KeyPair| -> [u8; 32] {
            pair.public_key().as_ref().try_into().expect("32 bytes")
        };
        let (ours, other) = (pair(1), pair(2));
        let mut policy = ContentPolicy::from_json(json).expect("a policy");
        assert!(!is_signed(&policy, &key(&ours)), "there is no signature");
        let signature = ours.sign(&policy.signed_bytes());
        policy.publisher_signature = signature.as_ref().try_into().ok();
        assert!(is_signed(&policy, &key(&ours)));
        assert!(!is_signed(&policy, &key(&other)), "somebody else's");
        policy.hash_of_hashes = [1; 32].into();
        assert!(!is_signed(&policy, &key(&ours)), "of another content");
    }
}
