//! The task that sends what is due and keeps sockets and interfaces in step, and the readers.

use crate::{
    discovery::{InterfaceFilter, Shared},
    limits::{INTERFACES_MAX, PACKET_BYTES_MAX},
    link::{Link, LinkId},
    responder::Transmit,
    sockets,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::net::UdpSocket;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// Interfaces are looked at again this often during a search,
const REFRESH_SEARCHING: Duration = Duration::from_secs(30);
/// this often while contents are held,
const REFRESH_HOLDING: Duration = Duration::from_secs(60);
/// and if they have not been for this long, before anything is sent, for an answer names addresses that are true,
/// and when a packet has come that could not come over the link as it was known.
const REFRESH_GAP: Duration = Duration::from_secs(1);
/// A reader waits so long after an error before it tries again.
const READ_RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Driver {
    shared: Arc<Shared>,
    filter: InterfaceFilter,
    mdns_port: u16,
    open: BTreeMap<LinkId, Open>,
    refreshed: Option<Instant>,
    /// There is no interface to work on, and that has been said.
    alone: bool,
    tasks: TaskTracker,
    token: CancellationToken,
}

/// A socket and its reader, which ends with it.
struct Open {
    link: Link,
    socket: Arc<UdpSocket>,
    _end_reader: DropGuard,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        filter: InterfaceFilter,
        mdns_port: u16,
        tasks: TaskTracker,
        token: CancellationToken,
    ) -> Self {
        Self {
            shared,
            filter,
            mdns_port,
            open: BTreeMap::new(),
            refreshed: None,
            alone: false,
            tasks,
            token,
        }
    }

    /// Runs until cancelled, or stopped and done.
    pub(crate) async fn run(mut self) {
        loop {
            let stopping = self.shared.stopping.load(Ordering::Acquire);
            let next = self.step().await;
            if stopping {
                break;
            }
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = sleep_until(next) => {}
                () = self.token.cancelled() => break,
            }
        }
    }

    /// Sends what is due; when there is something to do next.
    async fn step(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let (active, searching, timeout) = {
            let core = self.shared.core();
            (core.is_active(), core.is_searching(), core.timeout(now))
        };
        if !active {
            self.close();
            return None;
        }
        let age = self.refreshed.map(|at| now.duration_since(at));
        let interval = if searching {
            REFRESH_SEARCHING
        } else {
            REFRESH_HOLDING
        };
        let sending = timeout.is_some_and(|at| at <= now);
        let wanted = self.shared.doubtful.swap(false, Ordering::AcqRel) || sending;
        if age.is_none_or(|age| age >= interval || (wanted && age >= REFRESH_GAP)) {
            self.refresh(now);
        }
        if sending {
            let packets = self.shared.core().poll(now);
            for packet in packets {
                self.send(packet).await;
            }
        }
        let refresh = self.refreshed.map(|at| at + interval);
        let timeout = self.shared.core().timeout(now);
        timeout.into_iter().chain(refresh).min()
    }

    async fn send(&self, packet: Transmit) {
        let Some(open) = self.open.get(&packet.link) else {
            return;
        };
        if let Err(error) = open.socket.send_to(&packet.bytes, packet.to).await {
            let interface = &open.link.interface.name;
            tracing::debug!(interface, to = %packet.to, %error, "multicast DNS packet not sent");
        }
    }

    /// Brings the sockets in step with the interfaces.
    fn refresh(&mut self, now: Instant) {
        self.refreshed = Some(now);
        let interfaces = match dosvc_host::interfaces() {
            Ok(interfaces) => interfaces,
            Err(error) => {
                tracing::warn!(%error, "cannot list the network interfaces; those known before stay in use");
                return;
            }
        };
        let links = self.links(interfaces);
        self.open
            .retain(|id, _| links.iter().any(|link| link.id == *id));
        for link in links {
            match self.open.get_mut(&link.id) {
                // The rest of a link may change without its socket.
                Some(open)
                    if open.link.interface.name == link.interface.name
                        && (link.id.v6 || open.link.own_v4() == link.own_v4()) =>
                {
                    open.link = link;
                }
                _ => self.open_link(link),
            }
        }
        let links: Vec<Link> = self.open.values().map(|open| open.link.clone()).collect();
        if links.is_empty() && !self.alone {
            tracing::warn!(
                "no interface for multicast DNS: peers on the link are not found until there is one"
            );
        }
        self.alone = links.is_empty();
        self.shared.core().set_links(now, links);
    }

    /// A link for each family that an interface has an address of; those with IPv4 first, for a host of many
    /// containers has many interfaces with a link-local IPv6 address only.
    fn links(&self, mut interfaces: Vec<dosvc_host::Interface>) -> Vec<Link> {
        interfaces.retain(|interface| self.filter.admits(interface));
        interfaces.sort_by_key(|i| (!i.addrs.iter().any(|(ip, _)| ip.is_ipv4()), i.index));
        if interfaces.len() > INTERFACES_MAX {
            let left_out: Vec<_> = interfaces.drain(INTERFACES_MAX..).map(|i| i.name).collect();
            tracing::debug!(?left_out, "too many interfaces for multicast DNS");
        }
        let mut links = Vec::new();
        for interface in interfaces {
            for v6 in [false, true] {
                if interface.addrs.iter().any(|(ip, _)| ip.is_ipv6() == v6) {
                    links.push(Link {
                        id: LinkId {
                            index: interface.index,
                            v6,
                        },
                        interface: interface.clone(),
                    });
                }
            }
        }
        links
    }

    fn open_link(&mut self, link: Link) {
        let interface = &link.interface.name;
        let socket = match sockets::open(&link, self.mdns_port) {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                tracing::debug!(interface, v6 = link.id.v6, %error, "no multicast DNS on this interface");
                return;
            }
        };
        tracing::debug!(
            interface,
            v6 = link.id.v6,
            "multicast DNS on this interface"
        );
        let token = self.token.child_token();
        let reader = read(Arc::clone(&self.shared), link.id, Arc::clone(&socket));
        self.tasks
            .spawn(token.clone().run_until_cancelled_owned(reader));
        let id = link.id;
        let open = Open {
            link,
            socket,
            _end_reader: token.drop_guard(),
        };
        self.open.insert(id, open);
    }

    /// Leaves the groups: nothing is sent and nothing wakes us.
    fn close(&mut self) {
        self.open.clear();
        self.refreshed = None;
        self.shared.core().set_links(Instant::now(), Vec::new());
    }
}

impl Drop for Driver {
    /// However the driver ends, nobody waits for answers any more.
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.found.notify_waiters();
    }
}

/// Hands every packet of a socket to the core.
async fn read(shared: Arc<Shared>, link: LinkId, socket: Arc<UdpSocket>) {
    // One byte more than allowed, so that a longer packet is seen to be longer.
    let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "cannot read multicast DNS packets");
                tokio::time::sleep(READ_RETRY).await;
                continue;
            }
        };
        let outcome = shared
            .core()
            .handle_packet(Instant::now(), link, from, &buffer[..length]);
        if outcome.off_link {
            shared.doubtful.store(true, Ordering::Release);
        }
        if outcome.output || outcome.off_link {
            shared.wake.notify_one();
        }
        if outcome.found {
            shared.found.notify_waiters();
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
