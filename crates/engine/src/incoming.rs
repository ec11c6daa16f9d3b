//! Peers that dial us: who may speak to us at all, and which swarm they are for.

use crate::{dial::HANDSHAKE_TIME, shared::Shared, swarm::Established};
use dosvc_content::HashOfHashes;
use dosvc_piece_store::Content;
use dosvc_wire::{
    Handshake,
    net::{self, Listener},
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::net::TcpStream;

/// Introductions under way from one address; a machine needs one for each content at most.
const INTRODUCTIONS_PER_ADDRESS: u32 = 32;

/// Accepts peers until the engine stops.
pub(crate) async fn accept_peers(shared: Arc<Shared>, listener: Listener) {
    let introductions = Arc::new(Introductions::default());
    loop {
        let (stream, address) = tokio::select! {
            () = shared.cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // Out of scope: closed without a byte. Group membership is proven later; until then it is assumed.
        let assumed = shared.settings().group.is_some();
        if shared.peer_class(address.ip(), true, assumed).is_none() {
            tracing::debug!(%address, "connection from outside the mode's scope closed");
            continue;
        }
        let Some(guard) = introductions.enter(address.ip()) else {
            tracing::debug!(%address, "too many introductions from one address");
            continue;
        };
        let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
            tracing::warn!(%address, "connection maximum reached; peer turned away");
            continue;
        };
        let shared = Arc::clone(&shared);
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            let _guard = guard;
            let introduction = introduce(&shared, stream, address, permit);
            tokio::select! {
                () = shared.cancel.cancelled() => {}
                result = introduction => if let Err(reason) = result {
                    tracing::debug!(%address, reason, "peer turned away");
                }
            }
        });
    }
}

async fn introduce(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    address: SocketAddr,
    permit: tokio::sync::OwnedSemaphorePermit,
) -> Result<(), String> {
    let theirs = net::receive_handshake(&mut stream, HANDSHAKE_TIME)
        .await
        .map_err(|e| e.to_string())?;
    if theirs.peer_id == shared.peer_id {
        return Err("that is ourselves".to_owned());
    }
    let ours = Handshake::new(theirs.swarm, shared.peer_id);
    let group = shared.settings().group;
    let content = if let Some(group) = group {
        // Whether we hold the content is said to members only: everybody gets a handshake, strangers nothing more.
        net::send_handshake(&mut stream, &ours)
            .await
            .map_err(|e| e.to_string())?;
        let params = shared.group_params(group, theirs.swarm, theirs.peer_id);
        let member = net::verify_group(&mut stream, &params, HANDSHAKE_TIME)
            .await
            .map_err(|e| e.to_string())?;
        let content = find_shared_content(shared, &theirs.swarm).await?;
        member
            .prove(&mut stream, HANDSHAKE_TIME)
            .await
            .map_err(|e| e.to_string())?;
        content
    } else {
        let content = find_shared_content(shared, &theirs.swarm).await?;
        net::send_handshake(&mut stream, &ours)
            .await
            .map_err(|e| e.to_string())?;
        content
    };
    if shared.is_banned(&theirs.peer_id, content.key()) {
        return Err("banned for this content".to_owned());
    }
    let class = shared
        .peer_class(address.ip(), false, group.is_some())
        .or_else(|| shared.peer_class(address.ip(), true, group.is_some()))
        .ok_or("outside the mode's scope")?;
    let peer = Established {
        stream,
        address,
        peer_id: theirs.peer_id,
        class,
        outgoing: false,
        greeted: group.is_some(),
        permit,
    };
    if shared.admit(&content, peer) {
        Ok(())
    } else {
        Err("the swarm is busy, or the content is being deleted".to_owned())
    }
}

/// The content that a peer asks for, if we have or download it and it may be shared.
async fn find_shared_content(
    shared: &Arc<Shared>,
    swarm: &HashOfHashes,
) -> Result<Arc<Content>, String> {
    let store = Arc::clone(&shared.store);
    let swarm = *swarm;
    let content = tokio::task::spawn_blocking(move || store.content(&swarm))
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())?
        .ok_or("content not held")?;
    if shared.is_deleting(content.key()) {
        return Err("content is being deleted".to_owned());
    }
    let policies = &shared.settings().config.policies;
    if content.lengths().content_length() < policies.min_file_size_to_cache() {
        return Err("content is too small to be shared".to_owned());
    }
    Ok(content)
}

/// Introductions under way, by address.
#[derive(Debug, Default)]
struct Introductions {
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

impl Introductions {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<IntroductionGuard> {
        let mut by_address = crate::shared::lock(&self.by_address);
        let count = by_address.entry(address).or_default();
        if *count >= INTRODUCTIONS_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(IntroductionGuard {
            introductions: Arc::clone(self),
            address,
        })
    }
}

struct IntroductionGuard {
    introductions: Arc<Introductions>,
    address: IpAddr,
}

impl Drop for IntroductionGuard {
    fn drop(&mut self) {
        let mut by_address = crate::shared::lock(&self.introductions.by_address);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}
