//! The search for the gateway over UPnP (SSDP), so that nobody else can answer for it.
//!
//! Who searches asks a socket of ours on the loopback interface instead of everybody. From there the question goes to the
//! network, and the answers that come from the gateway's own address come back; all others are dropped.

use super::Route;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};
use tokio::{net::UdpSocket, task::JoinSet};

/// Where UPnP devices listen.
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// Bytes of one question or answer.
const MESSAGE_MAX: usize = 1400;
/// Questions that are passed on.
const QUESTIONS_MAX: usize = 8;
/// Answers that are passed on: a gateway answers for each of its services.
const ANSWERS_MAX: usize = 16;

/// Runs until it is dropped.
pub(super) struct Filter {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Filter {
    pub(super) async fn start(route: Route) -> io::Result<Self> {
        let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = inside.local_addr()?;
        let outside = outside(route.local)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = pass(&inside, &outside, route.gateway).await {
                tracing::debug!(%error, "a search over UPnP has ended early");
            }
        });
        Ok(Self {
            address,
            _tasks: tasks,
        })
    }

    /// What is to be asked.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

fn outside(local: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(SocketAddrV4::new(local, 0)))?;
    socket.set_multicast_if_v4(&local)?;
    socket.set_multicast_ttl_v4(2)?;
    UdpSocket::from_std(socket.into())
}

async fn pass(inside: &UdpSocket, outside: &UdpSocket, gateway: Ipv4Addr) -> io::Result<()> {
    let (mut question, mut answer) = ([0; MESSAGE_MAX], [0; MESSAGE_MAX]);
    let (mut questions, mut answers) = (0, 0);
    let mut asker = None;
    loop {
        tokio::select! {
            asked = inside.recv_from(&mut question) => {
                let (length, from) = asked?;
                if questions < QUESTIONS_MAX && *asker.get_or_insert(from) == from {
                    questions += 1;
                    outside.send_to(&question[..length], GROUP).await?;
                }
            }
            answered = outside.recv_from(&mut answer) => {
                // Errors here are about other datagrams.
                let Ok((length, from)) = answered else { continue };
                let Some(asker) = asker.filter(|_| answers < ANSWERS_MAX && from.ip() == gateway) else {
                    continue;
                };
                answers += 1;
                inside.send_to(&answer[..length], asker).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_gateway_is_heard_and_not_for_ever() {
        let [inside, outside] = [0, 1].map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let [inside, outside] = [inside, outside].map(|socket| {
            socket.set_nonblocking(true).unwrap();
            UdpSocket::from_std(socket).unwrap()
        });
        let (to_inside, to_outside) = (inside.local_addr().unwrap(), outside.local_addr().unwrap());
        let gateway = Ipv4Addr::new(127, 0, 0, 7);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { pass(&inside, &outside, gateway).await });
        let asker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        asker.send_to(b"who is there?", to_inside).await.unwrap();
        let liar = UdpSocket::bind("127.0.0.8:0").await.unwrap();
        let honest = UdpSocket::bind("127.0.0.7:0").await.unwrap();
        // Answers count once the question was read.
        tasks.spawn(async move {
            loop {
                liar.send_to(b"I", to_outside).await?;
                honest.send_to(b"the gateway", to_outside).await?;
                tokio::task::yield_now().await;
            }
        });
        let mut buffer = [0; 64];
        for _ in 0..ANSWERS_MAX {
            let (length, _) = asker.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"the gateway");
        }
        let more = asker.recv_from(&mut buffer);
        let silence = std::time::Duration::from_millis(100);
        assert!(tokio::time::timeout(silence, more).await.is_err());
    }
}
