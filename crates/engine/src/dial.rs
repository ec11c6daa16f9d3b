//! Dialling a peer: connection, handshakes and, in group mode, the proof of membership.

use crate::{
    shared::{Scope, Shared},
    swarm::{DialError, Established},
};
use dosvc_content::HashOfHashes;
use dosvc_wire::{
    Handshake,
    net::{self, Reached},
};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// How long a peer may take to accept a connection.
const CONNECT_TIME: Duration = Duration::from_secs(4);
/// How long each step of the introduction may take.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Connects to a peer and introduces us to it. What it is to us is settled here: outside the mode's scope nothing is
/// sent.
pub(crate) async fn dial(
    shared: &Arc<Shared>,
    scope: Scope,
    address: SocketAddr,
    swarm: HashOfHashes,
    discovered: bool,
) -> Result<Box<Established>, DialError> {
    if shared.is_own_address(address) {
        return Err(DialError::Ourselves);
    }
    let group = scope.group;
    let class = shared.peer_class(&scope, address.ip(), discovered, group.is_some())?;
    let permit = Arc::clone(&shared.outgoing)
        .try_acquire_owned()
        .map_err(|_| DialError::NO_PLACE)?;
    let failed = |step: &'static str, error: &dyn std::fmt::Display| {
        tracing::debug!(%address, step, %error, "dial failed");
        let error = error.to_string();
        DialError::Failed { step, error }
    };
    let mut stream = net::dial(address, CONNECT_TIME)
        .await
        .map_err(|e| failed("connect", &e))?;
    net::send_handshake(&mut stream, &Handshake::new(swarm, shared.peer_id))
        .await
        .map_err(|e| failed("send handshake", &e))?;
    let theirs = net::receive_handshake(&mut stream, HANDSHAKE_TIME)
        .await
        .map_err(|e| failed("receive handshake", &e))?;
    if theirs.peer_id == shared.peer_id {
        return Err(DialError::Ourselves);
    }
    if theirs.swarm != swarm {
        return Err(failed(
            "receive handshake",
            &"the peer answered for other content",
        ));
    }
    let mut proven_until = None;
    if let Some(group) = group {
        let params = shared.group_params(group, swarm, theirs.peer_id, Reached::Dialled(address));
        let member = net::prove_group(&mut stream, &params, HANDSHAKE_TIME)
            .await
            .map_err(|e| failed("prove group membership", &e))?;
        proven_until = member.proven_until;
    }
    Ok(Box::new(Established {
        stream,
        address,
        peer_id: theirs.peer_id,
        class,
        outgoing: true,
        group,
        proven_until,
        places: (permit, None),
    }))
}
