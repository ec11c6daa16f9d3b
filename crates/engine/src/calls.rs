//! Calling those who look for what is here. Who gives is dialled by who wants, and behind most NATs that leads nowhere: the
//! router lets in what was asked for. So when the fleet's array, to which every content is renewed, names somebody who wants
//! it, that one is dialled once from here. If it can be reached, it is; if it is behind a NAT and has dialled us lately, its
//! router lets us in, and ours lets it in from then on.

use crate::{
    cloud,
    dial::{self, Target},
    route::Route,
    shared::{Scope, Shared},
    swarm::Message,
};
use dosvc_content::HashOfHashes;
use dosvc_discovery::cloud::{ArrayPeer, Scope as Distance, Seekers};
use dosvc_nat::quic::Manner;
use dosvc_piece_store::{Content, ContentKey};
use dosvc_policy::PeerClass;
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Peers that are called for one answer of an array: the first, which match best.
const CALLS_PER_ANSWER: usize = 4;
/// Calls at once, for all contents; beyond that nobody is called.
const CALLS_MAX: usize = 8;
/// How long a swarm may take to say who is connected.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// Calls whom arrays name, until there is no client of the cloud any more.
pub(crate) async fn run(shared: Arc<Shared>, mut seekers: mpsc::Receiver<Seekers>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    loop {
        let (swarm, peers) = tokio::select! {
            () = shared.cancel.cancelled() => return,
            named = seekers.recv() => match named {
                Some(named) => named,
                None => return,
            },
        };
        let Some((content, scope)) = given(&shared, swarm).await else {
            continue;
        };
        for peer in strangers(&shared, &content, peers).await {
            let Ok(place) = Arc::clone(&calls).try_acquire_owned() else {
                break;
            };
            let call = Call {
                content: Arc::clone(&content),
                scope,
                swarm,
                peer,
                _place: place,
            };
            let ended = shared
                .cancel
                .clone()
                .run_until_cancelled_owned(call.run(Arc::clone(&shared)));
            shared.tasks.spawn(ended);
        }
    }
}

/// The content, if all of it is here and may be given to peers beyond the LAN now.
async fn given(shared: &Arc<Shared>, swarm: HashOfHashes) -> Option<(Arc<Content>, Scope)> {
    let giving = shared.giving();
    let settings = shared.settings();
    if !(giving.group || giving.internet) {
        return None;
    }
    let store = Arc::clone(&shared.store);
    let key = ContentKey::Hashed(swarm);
    let found = tokio::task::spawn_blocking(move || {
        let limit = store.mode_limit(&key);
        store.content(&swarm).map(|content| (content, limit))
    });
    let (content, limit) = found.await.ok()?.ok()?;
    let content = content.filter(|content| content.is_complete())?;
    let scope = settings.scope(limit);
    let fits = scope.offered
        && !shared.is_deleting(key)
        && settings.is_large_enough(content.lengths().content_length());
    fits.then_some((content, scope))
}

/// Those of them that are not in the LAN, where they reach us, and not connected.
async fn strangers(shared: &Shared, content: &Content, peers: Vec<ArrayPeer>) -> Vec<ArrayPeer> {
    let mut peers: Vec<ArrayPeer> = peers
        .into_iter()
        .filter(|peer| peer.scope != Distance::Lan)
        .take(CALLS_PER_ANSWER)
        .collect();
    let Some(running) = shared.swarm(content.key()) else {
        return peers;
    };
    let (reply, answer) = oneshot::channel();
    let asked = running.messages.try_send(Message::Connected(reply)).is_ok();
    match tokio::time::timeout(ANSWER_TIME, answer).await {
        Ok(Ok(connected)) if asked => peers.retain(|peer| !connected.contains(&peer.peer_id)),
        // It has enough to do.
        _ => peers.clear(),
    }
    peers
}

/// One peer that is to be called.
struct Call {
    content: Arc<Content>,
    scope: Scope,
    swarm: HashOfHashes,
    peer: ArrayPeer,
    _place: OwnedSemaphorePermit,
}

impl Call {
    async fn run(self, shared: Arc<Shared>) {
        let giving = shared.giving();
        for route in self.routes(&shared) {
            let target = Target {
                route,
                peer: Some(self.peer.peer_id),
                discovered: false,
                // Its swarm says otherwise when somebody waits.
                manner: Manner::Background,
            };
            // What came of it is in the log.
            let Ok(peer) = dial::dial(&shared, self.scope, target, self.swarm).await else {
                continue;
            };
            let takes = match peer.class {
                PeerClass::Internet => giving.internet,
                PeerClass::Group => giving.group,
                PeerClass::Lan | PeerClass::LinkLocal => giving.lan,
            };
            if takes && shared.admit(&self.content, *peer) {
                tracing::debug!(%route, "a peer that looks for what is here was called");
            }
            return;
        }
    }

    /// The straight ways: by a tunnel we are reached as well as we reach others.
    fn routes(&self, shared: &Shared) -> Vec<Route> {
        let routes = cloud::routes(shared, &self.peer).into_iter();
        routes
            .filter(|route| !route.transport.is_tunnel())
            .collect()
    }
}
