//! Receiving flows of connections that a library keeps: HTTP connections, which serve one request after the other.

use crate::flow::{Manner, Receiving};
use crate::socket::{self, OwnedSocket};
use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Connections that are remembered.
const CONNECTIONS_MAX: usize = 128;

/// A connection: our address and the other end's.
pub type Ends = (SocketAddr, SocketAddr);

type SharedFlow = Arc<Mutex<Receiving>>;

/// What is known of connections, by their addresses. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Receivers(Arc<Mutex<Vec<(Ends, SharedFlow)>>>);

/// Somebody who reads from a connection of a [`Receivers`]. Keeps the connection open, so drop it with the answer that
/// is read.
#[derive(Debug)]
pub struct Receiver {
    flow: SharedFlow,
    socket: OwnedSocket,
}

impl Receivers {
    /// The connection of this process between these addresses, if it is found. Asks the system for all that is open,
    /// so once for an answer, not for every part of it.
    pub fn receiver(&self, ends: Ends) -> Option<Receiver> {
        let socket = socket::find(ends.0, ends.1)?;
        let mut known = lock(&self.0);
        // The latest is last; addresses that come again are a connection that is still open, or the same path.
        let entry = match known.iter().position(|(known, _)| *known == ends) {
            Some(at) => known.remove(at),
            None => (ends, Arc::default()),
        };
        if known.len() >= CONNECTIONS_MAX {
            known.remove(0);
        }
        let flow = Arc::clone(&entry.1);
        known.push(entry);
        Some(Receiver { flow, socket })
    }

    /// Whether a connection between these addresses was told anything, and not told otherwise since. Cheap.
    pub fn is_held(&self, ends: Ends) -> bool {
        let flow = {
            let known = lock(&self.0);
            let entry = known.iter().find(|(known, _)| *known == ends);
            entry.map(|(_, flow)| Arc::clone(flow))
        };
        flow.is_some_and(|flow| lock(&flow).is_held())
    }
}

impl Receiver {
    /// As [`Receiving::moved`].
    pub fn moved(&self, now: Instant, manner: Manner) {
        lock(&self.flow).moved(self.socket.as_fd(), now, manner);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds it can panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn flow_of_a_connection_is_found_again_and_the_oldest_is_forgotten() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let remote = listener.local_addr().expect("bound");
        let connections: Vec<TcpStream> = (0..=CONNECTIONS_MAX)
            .map(|_| TcpStream::connect(remote).expect("listening"))
            .collect();
        let receivers = Receivers::default();
        let receiver = |stream: &TcpStream| {
            let local = stream.local_addr().expect("bound");
            receivers.receiver((local, remote)).expect("open")
        };
        let first = receiver(&connections[0]);
        assert!(Arc::ptr_eq(&first.flow, &receiver(&connections[0]).flow));
        for stream in &connections[1..] {
            receiver(stream).moved(Instant::now(), Manner::default());
        }
        assert!(!Arc::ptr_eq(&first.flow, &receiver(&connections[0]).flow));
        assert_eq!(lock(&receivers.0).len(), CONNECTIONS_MAX);
    }
}
