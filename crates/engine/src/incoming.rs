//! Peers that dial us: who may speak to us at all, and which swarm they are for.

use crate::{
    dial::HANDSHAKE_TIME,
    places::{Place, Places},
    shared::{Scope, Shared},
    swarm::Established,
};
use dosvc_content::{DownloadMode, HashOfHashes};
use dosvc_piece_store::{Content, ContentKey};
use dosvc_wire::{
    Handshake,
    net::{self, Listener},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::{net::TcpStream, sync::OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

/// Introductions under way from one address; a machine needs one for each content at most.
const INTRODUCTIONS_PER_ADDRESS: u32 = 32;
/// Connections from one address, introductions included.
const CONNECTIONS_PER_ADDRESS: u32 = 64;
/// The same for loopback, where many daemons may share one address.
const CONNECTIONS_FROM_LOOPBACK: u32 = 256;

/// Accepts peers until told to close. The listener is closed when this returns.
pub(crate) async fn accept_peers(
    shared: Arc<Shared>,
    listener: Listener,
    close: CancellationToken,
) {
    let introductions = Arc::new(Places::default());
    loop {
        let (stream, address) = tokio::select! {
            () = close.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // Out of scope: closed without a byte. Group membership is proven later; until then it is assumed.
        let scope = shared.settings().scope(None);
        let assumed = scope.group.is_some();
        let found = shared.may_be_found();
        if let Err(why) = shared.peer_class(&scope, address.ip(), found, assumed) {
            tracing::debug!(%address, %why, "connection closed");
            if scope.mode == DownloadMode::Lan && shared.cloud().is_some() {
                let guard = introductions.enter(address.ip(), INTRODUCTIONS_PER_ADDRESS);
                ask_about_stranger(&shared, stream, guard);
            }
            continue;
        }
        let max = connections_max(address.ip());
        let (Some(guard), Some(place)) = (
            introductions.enter(address.ip(), INTRODUCTIONS_PER_ADDRESS),
            shared.places.enter(address.ip(), max),
        ) else {
            tracing::debug!(%address, "too many connections from one address");
            continue;
        };
        let Ok(permit) = Arc::clone(&shared.incoming).try_acquire_owned() else {
            tracing::debug!(%address, "connection maximum reached; peer turned away");
            continue;
        };
        let shared = Arc::clone(&shared);
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            let _guard = guard;
            let introduction = introduce(&shared, stream, address, (permit, Some(place)));
            tokio::select! {
                () = shared.cancel.cancelled() => {}
                result = introduction => if let Err(reason) = result {
                    tracing::debug!(%address, reason, "peer turned away");
                }
            }
        });
    }
}

/// In mode 1 the array says who is of the LAN, and may name those to us only later whom it has told of us: who dials is
/// heard out without an answer, and the array asked about the content. The peer dials again.
fn ask_about_stranger(shared: &Arc<Shared>, mut stream: TcpStream, guard: Option<Place>) {
    let Some(guard) = guard else { return };
    let shared = Arc::clone(shared);
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let _guard = guard;
        let handshake = net::receive_handshake(&mut stream, HANDSHAKE_TIME);
        let swarm = tokio::select! {
            () = shared.cancel.cancelled() => return,
            handshake = handshake => handshake.map(|theirs| theirs.swarm),
        };
        if let (Ok(swarm), Some(cloud)) = (swarm, shared.cloud()) {
            cloud.stranger(&swarm);
        }
    });
}

fn connections_max(address: IpAddr) -> u32 {
    if address.to_canonical().is_loopback() {
        CONNECTIONS_FROM_LOOPBACK
    } else {
        CONNECTIONS_PER_ADDRESS
    }
}

async fn introduce(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    address: SocketAddr,
    places: (OwnedSemaphorePermit, Option<Place>),
) -> Result<(), String> {
    let theirs = net::receive_handshake(&mut stream, HANDSHAKE_TIME)
        .await
        .map_err(|e| e.to_string())?;
    if theirs.peer_id == shared.peer_id {
        return Err("that is ourselves".to_owned());
    }
    if shared.is_banned(theirs.peer_id, ContentKey::Hashed(theirs.swarm)) {
        return Err("banned for this content".to_owned());
    }
    let ours = Handshake::new(theirs.swarm, shared.peer_id);
    let group = shared.settings().group;
    let mut proven_until = None;
    let (content, scope) = if let Some(group) = group {
        // Whether we hold the content is said to members only: everybody gets a handshake, strangers nothing more.
        net::send_handshake(&mut stream, &ours)
            .await
            .map_err(|e| e.to_string())?;
        let reached = shared.reached_at(stream.local_addr().ok());
        let params = shared.group_params(group, theirs.swarm, theirs.peer_id, reached);
        let member = net::verify_group(&mut stream, &params, HANDSHAKE_TIME)
            .await
            .map_err(|e| e.to_string())?;
        proven_until = member.hello().proven_until;
        let found = find_shared_content(shared, &theirs.swarm).await?;
        member
            .prove(&mut stream, HANDSHAKE_TIME)
            .await
            .map_err(|e| e.to_string())?;
        found
    } else {
        let found = find_shared_content(shared, &theirs.swarm).await?;
        // A content may have a narrower scope than the device: then this peer hears nothing of it.
        class_of(shared, &found.1, address)?;
        net::send_handshake(&mut stream, &ours)
            .await
            .map_err(|e| e.to_string())?;
        found
    };
    if scope.group != group {
        return Err("the content is for another group".to_owned());
    }
    let peer = Established {
        class: class_of(shared, &scope, address)?,
        stream,
        address,
        peer_id: theirs.peer_id,
        outgoing: false,
        group,
        proven_until,
        places,
    };
    if shared.admit(&content, peer) {
        Ok(())
    } else {
        Err("the swarm is busy, or the content is being deleted".to_owned())
    }
}

/// What a peer that dialled us is for a content of this scope.
fn class_of(
    shared: &Shared,
    scope: &Scope,
    address: SocketAddr,
) -> Result<dosvc_policy::PeerClass, String> {
    let proven = scope.group.is_some();
    shared
        .peer_class(scope, address.ip(), false, proven)
        .or_else(|_| shared.peer_class(scope, address.ip(), shared.may_be_found(), proven))
        .map_err(|why| why.to_string())
}

/// The content that a peer asks for, if we have or download it and it may be shared.
async fn find_shared_content(
    shared: &Arc<Shared>,
    swarm: &HashOfHashes,
) -> Result<(Arc<Content>, Scope), String> {
    let store = Arc::clone(&shared.store);
    let swarm = *swarm;
    let (content, limit) = tokio::task::spawn_blocking(move || {
        let limit = store.mode_limit(&ContentKey::Hashed(swarm));
        store.content(&swarm).map(|content| (content, limit))
    })
    .await
    .map_err(|e| e.to_string())?
    .map_err(|e| e.to_string())?;
    let content = content.ok_or("content not held")?;
    if shared.is_deleting(content.key()) {
        return Err("content is being deleted".to_owned());
    }
    let settings = shared.settings();
    let scope = settings.scope(limit);
    if !scope.offered {
        return Err("content is not to be shared with those who dial".to_owned());
    }
    if !settings.is_large_enough(content.lengths().content_length()) {
        return Err("content is too small to be shared".to_owned());
    }
    Ok((content, scope))
}
