//! Dialling a peer: the connection, and then handshakes and, in group mode, the proof of membership.

use crate::{
    quic,
    route::{Route, Transport},
    shared::{Scope, Shared},
    stream::PeerStream,
    swarm::{DialError, Established, HEAD_START},
};
use dosvc_content::{HashOfHashes, PeerId};
use dosvc_nat::{
    quic::Manner,
    tcp::{self, TunnelStream},
};
use dosvc_policy::PeerClass;
use dosvc_wire::{
    Handshake,
    net::{self, Reached},
};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::sync::OwnedSemaphorePermit;

/// How long a peer may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(4);
/// The same through a tunnel, whose path has to be opened first: that alone may take 8 s.
const TUNNEL_CONNECT_TIME: Duration = Duration::from_secs(12);
/// How long each step of the introduction may take.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// A connection on which nothing was said yet.
#[derive(Debug)]
pub(crate) struct Opened {
    stream: PeerStream,
    route: Route,
    class: PeerClass,
    scope: Scope,
    /// Who the other end has proven to be.
    proven: Option<PeerId>,
    permit: OwnedSemaphorePermit,
}

/// Who is to be dialled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) route: Route,
    /// Who is expected there; a way that proves it leads to nobody else.
    pub(crate) peer: Option<PeerId>,
    /// Found by DNS-SD on the link.
    pub(crate) discovered: bool,
    /// How the content is downloaded.
    pub(crate) manner: Manner,
}

/// Connects to a peer. What it is to us is settled here: outside the mode's scope nothing is sent.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    scope: Scope,
    target: Target,
) -> Result<Opened, DialError> {
    let Target { route, peer, .. } = target;
    if shared.is_own_route(route) {
        return Err(DialError::Ourselves);
    }
    let proven = scope.group.is_some();
    let class = shared.peer_class(&scope, route.address.ip(), target.discovered, proven)?;
    let permit = Arc::clone(&shared.outgoing)
        .try_acquire_owned()
        .map_err(|_| DialError::NO_PLACE)?;
    let failed = |error: &dyn std::fmt::Display| failed(route, "connect", error);
    let (stream, proven) = match route.transport {
        Transport::Tcp => {
            let stream = net::dial(route.address, CONNECT_TIME).await;
            (PeerStream::from(stream.map_err(|e| failed(&e))?), None)
        }
        Transport::Quic | Transport::Teredo => {
            let time = match route.transport {
                Transport::Teredo => TUNNEL_CONNECT_TIME,
                _ => CONNECT_TIME,
            };
            let end = quic::end_for(shared, route).ok_or(DialError::NO_WAY)?;
            let dial = async {
                let link = end.dial(route.address, peer, target.manner).await;
                let link = link.map_err(|e| failed(&e))?;
                let proven = link.peer();
                let stream = link.open().await.map_err(|e| failed(&e))?;
                Ok((PeerStream::from(stream), Some(proven)))
            };
            let timed_out = |_| failed(&"no answer in time");
            tokio::time::timeout(time, dial)
                .await
                .map_err(timed_out)??
        }
        Transport::TeredoTcp => (PeerStream::from(open_in_tunnel(shared, route).await?), None),
    };
    Ok(Opened {
        stream,
        route,
        class,
        scope,
        proven,
        permit,
    })
}

/// Connects by TCP through the tunnel. QUIC, which proves who is there, waits for the same path, so it keeps its head start
/// over this from when the path is open.
async fn open_in_tunnel(shared: &Shared, route: Route) -> Result<TunnelStream, DialError> {
    let tunnel = shared.tunnel().ok_or(DialError::NO_WAY)?;
    let IpAddr::V6(address) = route.address.ip() else {
        return Err(DialError::NO_WAY);
    };
    let failed = |error: &dyn std::fmt::Display| failed(route, "connect", error);
    let open = async {
        if tunnel.end.is_some() {
            let path = tunnel.tcp.tunnel().connect(address).await;
            path.map_err(|why| failed(&tcp::DialError::from(why)))?;
            tokio::time::sleep(HEAD_START).await;
        }
        let stream = tunnel.tcp.dial(address, route.address.port()).await;
        stream.map_err(|e| failed(&e))
    };
    let opened = tokio::time::timeout(TUNNEL_CONNECT_TIME, open).await;
    opened.map_err(|_| failed(&"no answer in time"))?
}

/// Introduces us to the peer on an open connection.
pub(crate) async fn introduce(
    shared: &Arc<Shared>,
    opened: Opened,
    swarm: HashOfHashes,
) -> Result<Box<Established>, DialError> {
    let Opened {
        mut stream,
        route,
        class,
        scope,
        proven,
        permit,
    } = opened;
    let failed = |step, error: &dyn std::fmt::Display| failed(route, step, error);
    net::send_handshake(&mut stream, &Handshake::new(swarm, shared.peer_id))
        .await
        .map_err(|e| failed("send handshake", &e))?;
    let theirs = net::receive_handshake(&mut stream, HANDSHAKE_TIME)
        .await
        .map_err(|e| failed("receive handshake", &e))?;
    if theirs.peer_id == shared.peer_id {
        return Err(DialError::Ourselves);
    }
    if proven.is_some_and(|proven| proven != theirs.peer_id) {
        return Err(failed("receive handshake", &FALSE_ID));
    }
    if theirs.swarm != swarm {
        let error = &"the peer answered for other content";
        return Err(failed("receive handshake", error));
    }
    let group = scope.group;
    let mut proven_until = None;
    if let Some(group) = group {
        let reached = match &stream {
            PeerStream::Tcp(_) | PeerStream::TunnelTcp(_) => Reached::Dialled(route.address),
            PeerStream::Quic(_) => Reached::Authenticated,
        };
        let params = shared.group_params(group, swarm, theirs.peer_id, reached);
        let member = net::prove_group(&mut stream, &params, HANDSHAKE_TIME)
            .await
            .map_err(|e| failed("prove group membership", &e))?;
        proven_until = member.proven_until;
    }
    Ok(Box::new(Established {
        stream,
        route,
        peer_id: theirs.peer_id,
        class,
        outgoing: true,
        group,
        proven_until,
        places: (permit, None),
    }))
}

/// Connects to a peer and introduces us to it.
pub(crate) async fn dial(
    shared: &Arc<Shared>,
    scope: Scope,
    target: Target,
    swarm: HashOfHashes,
) -> Result<Box<Established>, DialError> {
    let opened = open(shared, scope, target).await?;
    introduce(shared, opened, swarm).await
}

/// What a peer is told that says to be somebody else than its key shows.
pub(crate) const FALSE_ID: &str = "the peer's id is not that of its key";

fn failed(route: Route, step: &'static str, error: &dyn std::fmt::Display) -> DialError {
    tracing::debug!(%route, step, %error, "dial failed");
    let error = error.to_string();
    DialError::Failed { step, error }
}
