//! Programs of our own on machines: a server, and clients that ping and answer pings.

use crate::{
    PATIENCE,
    machine::{Machine, PRIMARY, SECONDARY},
};
use dosvc_nat::{
    net::{self, Incoming, State, Tunnel, TunnelConfig},
    teredo::{
        Ipv6Packet,
        client::{Qualified, ServerAddresses},
        icmp,
        server::ServerConfig,
    },
};
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    sync::mpsc,
    thread::{self, JoinHandle},
};
use tokio::sync::{broadcast, oneshot};

/// A thread on a machine; it ends when this is dropped.
pub(crate) struct Program {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Program {
    pub(crate) fn start<F: Future<Output = ()>>(
        machine: &Machine,
        work: impl FnOnce(oneshot::Receiver<()>) -> F + Send + 'static,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let machine = machine.clone();
        let thread = thread::spawn(move || {
            machine.move_in();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(work(stopped));
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// A server of ours; it is ready when this returns.
pub(crate) fn server(machine: &Machine) -> Program {
    let (ready, is_ready) = mpsc::channel();
    let program = Program::start(machine, move |stopped| async move {
        let server = net::serve(ServerConfig::new(PRIMARY, SECONDARY))
            .await
            .unwrap();
        ready.send(()).unwrap();
        let _stopped = stopped.await;
        server.shutdown().await;
    });
    is_ready.recv_timeout(PATIENCE).expect("the server starts");
    program
}

type Ping = (Ipv6Addr, mpsc::Sender<bool>);

/// A client of ours that has an address.
pub(crate) struct Client {
    pub(crate) own: Qualified,
    pings: tokio::sync::mpsc::UnboundedSender<Ping>,
    _program: Program,
}

impl Client {
    /// Starts clients on all of these machines at once.
    pub(crate) fn start_all(machines: &[Machine], port: u16) -> Vec<Self> {
        let starting: Vec<_> = machines
            .iter()
            .map(|machine| Self::begin(machine, port))
            .collect();
        let ready = starting
            .into_iter()
            .map(|(program, pings, qualified)| Self {
                own: qualified
                    .recv_timeout(PATIENCE)
                    .expect("the client qualifies"),
                pings,
                _program: program,
            });
        ready.collect()
    }

    fn begin(
        machine: &Machine,
        port: u16,
    ) -> (
        Program,
        tokio::sync::mpsc::UnboundedSender<Ping>,
        mpsc::Receiver<Qualified>,
    ) {
        let (pings, asked) = tokio::sync::mpsc::unbounded_channel();
        let (qualified, own) = mpsc::channel();
        let program = Program::start(machine, move |stopped| async move {
            tokio::select! {
                () = live(port, asked, qualified) => {}
                _ = stopped => {}
            }
        });
        (program, pings, own)
    }

    pub(crate) fn address(&self) -> Ipv6Addr {
        self.own.address.to_ipv6()
    }

    /// Starts a ping; the receiver hears whether an answer came.
    pub(crate) fn ping(&self, address: Ipv6Addr) -> mpsc::Receiver<bool> {
        let (answer, answered) = mpsc::channel();
        self.pings.send((address, answer)).unwrap();
        answered
    }
}

async fn live(
    port: u16,
    mut asked: tokio::sync::mpsc::UnboundedReceiver<Ping>,
    qualified: mpsc::Sender<Qualified>,
) {
    let config = TunnelConfig {
        servers: vec![ServerAddresses {
            primary: PRIMARY,
            secondary: Some(SECONDARY),
        }],
        bind: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port),
        discovery: false,
        native: false,
    };
    let (tunnel, incoming) = Tunnel::bind(config).await.unwrap();
    let replies = broadcast::Sender::new(256);
    tokio::spawn(answer(tunnel.clone(), incoming, replies.clone()));
    let mut state = tunnel.state();
    let own = loop {
        if let State::Qualified(own) = *state.borrow_and_update() {
            break own;
        }
        state.changed().await.unwrap();
    };
    qualified.send(own).unwrap();
    while let Some((address, answer)) = asked.recv().await {
        let (tunnel, own) = (tunnel.clone(), own.address.to_ipv6());
        let mut replies = replies.subscribe();
        tokio::spawn(async move {
            let opened = tunnel.connect(address).await.is_ok();
            let request = icmp::echo_request((own, address), b"are you there?");
            let sent = opened && tunnel.send(&request).is_ok();
            let reply = async { while replies.recv().await != Ok(address) {} };
            let came = sent && tokio::time::timeout(PATIENCE, reply).await.is_ok();
            let _test_is_over = answer.send(came);
        });
    }
}

async fn answer(tunnel: Tunnel, mut incoming: Incoming, replies: broadcast::Sender<Ipv6Addr>) {
    loop {
        let packet = Ipv6Packet::new(incoming.recv().await).unwrap();
        if let Some(reply) = icmp::echo_reply(packet) {
            let _gone = tunnel.send(&reply);
        } else if matches!(icmp::parse(packet), Some((icmp::ECHO_REPLY, _))) {
            let _nobody_waits = replies.send(packet.source());
        }
    }
}
