//! Peers that dial us: who may speak to us at all, and which swarm they are for.

use crate::{
    dial::{FALSE_ID, HANDSHAKE_TIME},
    places::Place,
    route::{Route, Transport},
    shared::{INCOMING_MAX, Scope, Shared},
    stream::PeerStream,
    swarm::{ConnectionPlaces, Established},
};
use dosvc_content::{DownloadMode, HashOfHashes, PeerId};
use dosvc_nat::{
    quic::{Arrival, Manner, PORT, QuicEndpoint},
    tcp::TcpStack,
};
use dosvc_piece_store::{Content, ContentKey};
use dosvc_wire::{
    Handshake,
    net::{self, Listener, Reached},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio_util::sync::CancellationToken;

/// Introductions under way from one address; a machine needs one for each content at most.
const INTRODUCTIONS_PER_ADDRESS: u32 = 32;
/// Connections from one address, introductions included.
const CONNECTIONS_PER_ADDRESS: u32 = 64;
/// The same for loopback, where many daemons may share one address.
const CONNECTIONS_FROM_LOOPBACK: u32 = 256;

/// When fewer places than this are free, who wants one by QUIC has to show first that it is where it says.
const PLACES_FOR_ANYBODY: usize = INCOMING_MAX * 3 / 4;

/// Where TCP connections come in.
pub(crate) trait Listen: Send + Sync + 'static {
    /// The next one, and from where.
    fn next(&self) -> impl Future<Output = (PeerStream, Route)> + Send;
}

impl Listen for Listener {
    async fn next(&self) -> (PeerStream, Route) {
        let (stream, address) = self.accept().await;
        (stream.into(), Route::tcp(address))
    }
}

impl Listen for TcpStack {
    async fn next(&self) -> (PeerStream, Route) {
        let stream = self.accept().await;
        let route = Route {
            transport: Transport::TeredoTcp,
            address: stream.peer_addr().into(),
        };
        (stream.into(), route)
    }
}

/// Where QUIC connections come in.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) end: QuicEndpoint,
    pub(crate) transport: Transport,
    pub(crate) close: CancellationToken,
}

/// The places that a peer has from its first packet on.
struct Admitted {
    introduction: Place,
    places: ConnectionPlaces,
}

/// Accepts peers by TCP until told to close. The listener is closed when this returns.
pub(crate) async fn accept_peers(
    shared: Arc<Shared>,
    listener: impl Listen,
    close: CancellationToken,
) {
    loop {
        let (stream, route) = tokio::select! {
            () = close.cancelled() => return,
            accepted = listener.next() => accepted,
        };
        let address = route.address;
        // Out of scope: closed without a byte.
        if let Err(why) = may_come_in(&shared, address.ip()) {
            tracing::debug!(%address, %why, "connection closed");
            let mode = shared.settings().scope(None).mode;
            if mode == DownloadMode::Lan && shared.cloud().is_some() {
                ask_about_stranger(&shared, stream, address.ip());
            }
            continue;
        }
        let Some(admitted) = admit(&shared, address) else {
            continue;
        };
        let newcomer = Newcomer {
            stream,
            route,
            proven: None,
        };
        let task = welcome(
            Arc::clone(&shared),
            admitted,
            std::future::ready(Ok(newcomer)),
        );
        shared.tasks.spawn(task);
    }
}

/// Accepts peers by QUIC until told to close.
pub(crate) async fn accept_quic(shared: Arc<Shared>, door: Door) {
    loop {
        let arrival = tokio::select! {
            () = door.close.cancelled() => return,
            arrival = door.end.accept() => match arrival {
                Some(arrival) => arrival,
                None => return,
            },
        };
        let address = arrival.remote_address();
        // Out of scope: nobody hears that there is anything here.
        if let Err(why) = may_come_in(&shared, address.ip()) {
            tracing::debug!(%address, %why, "connection ignored");
            arrival.ignore();
            continue;
        }
        if shared.incoming.available_permits() < PLACES_FOR_ANYBODY && !arrival.is_validated() {
            arrival.validate();
            continue;
        }
        let Some(admitted) = admit(&shared, address) else {
            arrival.ignore();
            continue;
        };
        let newcomer = establish(arrival, door.transport);
        shared
            .tasks
            .spawn(welcome(Arc::clone(&shared), admitted, newcomer));
    }
}

/// Group membership is proven later; until then it is assumed.
fn may_come_in(shared: &Shared, address: IpAddr) -> Result<(), crate::swarm::DialError> {
    let scope = shared.settings().scope(None);
    let assumed = scope.group.is_some();
    let found = shared.may_be_found();
    shared
        .peer_class(&scope, address, found, assumed)
        .map(|_| ())
}

fn admit(shared: &Arc<Shared>, address: SocketAddr) -> Option<Admitted> {
    let ip = address.ip();
    let introduction = shared.introductions.enter(ip, INTRODUCTIONS_PER_ADDRESS);
    let place = shared.places.enter(ip, connections_max(ip));
    let (Some(introduction), Some(place)) = (introduction, place) else {
        tracing::debug!(%address, "too many connections from one address");
        return None;
    };
    let Ok(permit) = Arc::clone(&shared.incoming).try_acquire_owned() else {
        tracing::debug!(%address, "connection maximum reached; peer turned away");
        return None;
    };
    Some(Admitted {
        introduction,
        places: (permit, Some(place)),
    })
}

/// Who is about to introduce itself.
struct Newcomer {
    stream: PeerStream,
    route: Route,
    /// Who it has proven to be.
    proven: Option<PeerId>,
}

/// Completes the handshake of QUIC, and waits for the peer to speak.
async fn establish(arrival: Arrival, transport: Transport) -> Result<Newcomer, String> {
    let address = arrival.remote_address();
    let establish = async {
        // Its swarm says otherwise when somebody waits.
        let link = arrival.establish(Manner::Background).await;
        let link = link.map_err(|e| e.to_string())?;
        let proven = link.peer();
        let stream = link.accept().await.map_err(|e| e.to_string())?;
        Ok(Newcomer {
            stream: stream.into(),
            route: Route { transport, address },
            proven: Some(proven),
        })
    };
    tokio::time::timeout(HANDSHAKE_TIME, establish)
        .await
        .map_err(|_| "no stream in time".to_owned())?
}

async fn welcome(
    shared: Arc<Shared>,
    admitted: Admitted,
    newcomer: impl Future<Output = Result<Newcomer, String>> + Send,
) {
    let Admitted {
        introduction: _introduction,
        places,
    } = admitted;
    let introduction = async {
        let newcomer = newcomer.await?;
        let route = newcomer.route;
        introduce(&shared, newcomer, places)
            .await
            .map_err(|reason| format!("{route}: {reason}"))
    };
    tokio::select! {
        () = shared.cancel.cancelled() => {}
        result = introduction => if let Err(reason) = result {
            tracing::debug!(reason, "peer turned away");
        }
    }
}

/// In mode 1 the array says who is of the LAN, and may name those to us only later whom it has told of us: who dials is
/// heard out without an answer, and the array asked about the content. The peer dials again.
fn ask_about_stranger(shared: &Arc<Shared>, mut stream: PeerStream, address: IpAddr) {
    let Some(guard) = shared
        .introductions
        .enter(address, INTRODUCTIONS_PER_ADDRESS)
    else {
        return;
    };
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
    newcomer: Newcomer,
    places: ConnectionPlaces,
) -> Result<(), String> {
    let Newcomer {
        mut stream,
        route,
        proven,
    } = newcomer;
    let theirs = net::receive_handshake(&mut stream, HANDSHAKE_TIME)
        .await
        .map_err(|e| e.to_string())?;
    if theirs.peer_id == shared.peer_id {
        return Err("that is ourselves".to_owned());
    }
    if proven.is_some_and(|proven| proven != theirs.peer_id) {
        return Err(FALSE_ID.to_owned());
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
        let reached = match &stream {
            PeerStream::Tcp(tcp) => shared.reached_at(tcp.local_addr().ok()),
            PeerStream::TunnelTcp(_) => {
                let own = shared.tunnel().and_then(|tunnel| tunnel.address());
                shared.reached_at(own.map(|own| SocketAddr::new(own.into(), PORT)))
            }
            PeerStream::Quic(_) => Reached::Authenticated,
        };
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
        class_of(shared, &found.1, route)?;
        net::send_handshake(&mut stream, &ours)
            .await
            .map_err(|e| e.to_string())?;
        found
    };
    if scope.group != group {
        return Err("the content is for another group".to_owned());
    }
    let peer = Established {
        class: class_of(shared, &scope, route)?,
        stream,
        route,
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
    route: Route,
) -> Result<dosvc_policy::PeerClass, String> {
    let address = route.address;
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
