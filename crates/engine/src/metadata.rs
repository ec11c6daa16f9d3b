//! Where a download gets its hash file from (content-metadata, "The chain of trust").
//!
//! A trusted hash of hashes is the anchor: with it the hash file may come from anywhere, peers included. Without one
//! the hash file beside the content counts exactly as far as the origin itself does.

use crate::{
    api::JobError,
    dial,
    errors::origin_error,
    request::{Request, parse_hash_file},
    shared::Shared,
    swarm::Established,
};
use dosvc_content::{
    HResult, HashOfHashes, PieceHash, PieceLengths, PiecesHashFile, hash_file_urls,
};
use dosvc_wire::{
    Extension, Limits,
    net::{self, DriveParams, Event},
};
use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinSet};
use url::Url;

/// The largest hash file taken over HTTP: 2.8 million pieces.
const HASH_FILE_BYTES_MAX: usize = 128 << 20;
/// Pieces asked for in one message.
const METAINFO_PIECES: u32 = dosvc_wire::METAINFO_HASHES_MAX;
/// How long one peer may take to give the hash file.
const PEER_TIME: Duration = Duration::from_secs(20);
/// How long after a configured peer did not give the hash file it is asked again.
const PEER_RETRY: Duration = Duration::from_secs(5);
/// Without any source over HTTP, how long peers are waited for before that counts as an answer.
const PEERS_PATIENCE: Duration = Duration::from_secs(30);
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

/// Looks for the hash file of what a job wants. `waiting` is told why it takes long, when it does.
pub(crate) async fn find(
    shared: &Arc<Shared>,
    request: &Request,
    peering: bool,
    waiting: &(dyn Fn(Option<String>) + Sync),
) -> Result<Metadata, JobError> {
    if let Some(file) = &request.hash_file {
        return Ok(Metadata::HashFile(file.clone()));
    }
    if let Some(file) = from_store(shared, request).await? {
        return Ok(Metadata::HashFile(file));
    }
    match request.trusted.filter(|_| peering) {
        Some(trusted) => tokio::select! {
            found = from_http(shared, request, true, waiting) => found,
            file = from_peers(shared, request, trusted) => Ok(Metadata::HashFile(file)),
        },
        None => from_http(shared, request, false, waiting).await,
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
    waiting: &(dyn Fn(Option<String>) + Sync),
) -> Result<Metadata, JobError> {
    let mut pause = RETRY_FIRST;
    loop {
        let missing = match one_round(shared, request).await {
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

async fn one_round(shared: &Arc<Shared>, request: &Request) -> Round {
    let mut missing = "no hash file was found beside the content".to_owned();
    let mut unreachable = None;
    for candidates in candidates(request) {
        let mut fetches = JoinSet::new();
        for url in candidates {
            let shared = Arc::clone(shared);
            fetches.spawn(async move {
                let result = shared.origins.fetch_small(&url, HASH_FILE_BYTES_MAX).await;
                (url, result)
            });
        }
        while let Some(fetched) = fetches.join_next().await {
            let Ok((url, result)) = fetched else { continue };
            match result {
                Ok(small) => match parse_hash_file(&small.bytes, request.trusted.as_ref()) {
                    Ok(file) => return Round::Found(file),
                    Err(error) => {
                        tracing::warn!(%url, %error, "not a usable hash file");
                        missing = format!("{url} is not a usable hash file: {}", error.message);
                    }
                },
                Err(error) if error.is_permanent() => {
                    tracing::debug!(%url, %error, "no hash file here");
                }
                Err(error) => unreachable = Some(origin_error(&error)),
            }
        }
    }
    match unreachable {
        Some(error) => Round::Unreachable(error),
        None => Round::Missing(missing),
    }
}

/// URLs to ask, in rounds that go out at once.
fn candidates(request: &Request) -> Vec<Vec<Url>> {
    if let Some(url) = &request.hash_file_url {
        return vec![vec![url.clone()]];
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
    request: &Request,
    trusted: HashOfHashes,
) -> PiecesHashFile {
    let mut search = shared.discovery().map(|d| d.find(trusted));
    let mut asked: HashSet<SocketAddr> = HashSet::new();
    let mut asking = JoinSet::new();
    let settings = shared.settings();
    for address in request.peers.iter().chain(&settings.config.static_peers) {
        if asked.insert(*address) {
            asking.spawn(ask_until_answered(Arc::clone(shared), *address, trusted));
        }
    }
    loop {
        tokio::select! {
            Some(Ok((address, file))) = asking.join_next() => match file {
                Some(file) => return file,
                // Discovery finds it again if it is still there.
                None => { asked.remove(&address); }
            },
            found = next_found(&mut search) => match found {
                Some(found) => for address in found.addrs {
                    if asked.insert(address) {
                        let shared = Arc::clone(shared);
                        asking.spawn(async move {
                            (address, ask_peer(&shared, address, trusted, true).await)
                        });
                    }
                },
                None => search = None,
            },
        }
    }
}

/// A configured peer may come up later: it is asked again and again.
async fn ask_until_answered(
    shared: Arc<Shared>,
    address: SocketAddr,
    trusted: HashOfHashes,
) -> (SocketAddr, Option<PiecesHashFile>) {
    loop {
        if let Some(file) = ask_peer(&shared, address, trusted, false).await {
            return (address, Some(file));
        }
        tokio::time::sleep(PEER_RETRY).await;
    }
}

async fn next_found(
    search: &mut Option<dosvc_discovery::Search>,
) -> Option<dosvc_discovery::Found> {
    match search {
        Some(search) => search.next().await,
        None => std::future::pending().await,
    }
}

async fn ask_peer(
    shared: &Arc<Shared>,
    address: SocketAddr,
    trusted: HashOfHashes,
    discovered: bool,
) -> Option<PiecesHashFile> {
    let answer = metainfo_of(shared, address, trusted, discovered);
    tokio::time::timeout(PEER_TIME, answer).await.ok().flatten()
}

async fn metainfo_of(
    shared: &Arc<Shared>,
    address: SocketAddr,
    trusted: HashOfHashes,
    discovered: bool,
) -> Option<PiecesHashFile> {
    let peer = dial::dial(shared, address, trusted, discovered)
        .await
        .ok()?;
    let Established {
        stream,
        greeted,
        permit,
        ..
    } = *peer;
    let (commands, receiver) = net::command_channel();
    let (sender, mut events) = mpsc::channel(16);
    let params = DriveParams {
        key: 0,
        lengths: None,
        limits: Limits::default(),
        pool: shared.pool.clone(),
        events: sender,
        down: Arc::new(crate::limiter::OpenGate),
        up: Arc::new(crate::limiter::OpenGate),
    };
    let drive = net::drive(stream, params, receiver);
    let collect = async {
        if !greeted {
            commands
                .send(net::Command::Extension(shared.hello()))
                .ok()?;
        }
        let mut hashes: Vec<PieceHash> = Vec::new();
        loop {
            let first = u32::try_from(hashes.len()).ok()?;
            let count = METAINFO_PIECES;
            let ask = Extension::MetainfoRequest { first, count };
            commands.send(net::Command::Extension(ask)).ok()?;
            let (lengths, more) = next_metainfo(&mut events, first).await?;
            let wanted = lengths.piece_count() as usize;
            if more.is_empty() && wanted > hashes.len() || hashes.len() + more.len() > wanted {
                return None;
            }
            hashes.extend(more);
            if hashes.len() == wanted {
                let file = PiecesHashFile::new(lengths, hashes).ok()?;
                return file.expect(&trusted).ok();
            }
        }
    };
    let file = tokio::select! {
        _ = drive => None,
        file = collect => file,
    };
    drop(permit);
    file
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
