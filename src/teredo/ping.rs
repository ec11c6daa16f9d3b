//! `dosvc teredo ping`: is a peer there, and how far away?

use super::{args::PingArgs, no_client, running};
use crate::{SaidAlready, cli::Global, show};
use dosvc_nat::{
    net::{ConnectError, Tunnel},
    teredo::icmp,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Longest time for one answer, once the path is open.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Pings that wait for their answers at the same time, whoever asked for them.
const WAITING_MAX: usize = 64;
/// Pings of one request: the answer must come while it is waited for.
const COUNT_MAX: u8 = 30;

/// What is asked of the running client.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) address: Ipv6Addr,
    pub(crate) count: u8,
}

/// What it found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Why nothing was sent at all.
    error: Option<String>,
    /// How long it took to open the path, in milliseconds.
    open_ms: Option<f64>,
    /// How long each answer took, in milliseconds; `null` where none came.
    rtt_ms: Vec<Option<f64>>,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: PingArgs) -> anyhow::Result<()> {
    let PingArgs {
        address,
        count,
        control,
        json,
    } = args;
    let client = running(global, &control)?;
    let request = Request { address, count };
    let outcome: Outcome = client
        .send(hyper::Method::POST, "/v1/ping", &request)
        .await
        .map_err(no_client)?;
    if json {
        show::json(&outcome)?;
    } else {
        outcome
            .lines(address)
            .into_iter()
            .try_for_each(show::line)?;
    }
    match outcome.rtt_ms.iter().any(Option::is_some) {
        true => Ok(()),
        false => Err(SaidAlready.into()),
    }
}

impl Outcome {
    fn lines(&self, address: Ipv6Addr) -> Vec<String> {
        let open = self
            .open_ms
            .map(|ms| format!("{address}: path open after {ms:.1} ms"));
        let error = self
            .error
            .as_ref()
            .map(|error| format!("{address}: {error}"));
        let answers = self.rtt_ms.iter().map(|rtt| match rtt {
            Some(ms) => format!("answer after {ms:.2} ms"),
            None => "no answer".to_owned(),
        });
        open.into_iter().chain(error).chain(answers).collect()
    }
}

/// Pings under way.
pub(super) struct Pings {
    tunnel: Tunnel,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    answers: BTreeMap<u64, (Ipv6Addr, oneshot::Sender<()>)>,
}

impl Pings {
    pub(super) fn new(tunnel: Tunnel) -> Self {
        Self {
            tunnel,
            waiting: Mutex::default(),
        }
    }

    pub(super) fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the path and pings, one after the other.
    pub(super) async fn ping(&self, request: &Request) -> Outcome {
        let started = Instant::now();
        let opened = self.tunnel.connect(request.address).await;
        let mut outcome = Outcome {
            error: opened.err().map(|error: ConnectError| error.to_string()),
            open_ms: opened.is_ok().then(|| ms(started.elapsed())),
            rtt_ms: Vec::new(),
        };
        if outcome.error.is_none() {
            for _ in 0..request.count.min(COUNT_MAX) {
                let answer = self.ping_once(request.address).await;
                outcome.rtt_ms.push(answer.map(ms));
            }
        }
        outcome
    }

    async fn ping_once(&self, address: Ipv6Addr) -> Option<Duration> {
        let own = self.tunnel.address()?;
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut waiting = self.waiting();
            if waiting.answers.len() >= WAITING_MAX {
                return None;
            }
            waiting.next += 1;
            let number = waiting.next;
            waiting.answers.insert(number, (address, answer));
            number
        };
        let body = [&[0; 4][..], &number.to_be_bytes()].concat();
        let started = Instant::now();
        let sent = self.tunnel.send(&icmp::echo_request((own, address), &body));
        let answered = match sent {
            Ok(()) => tokio::time::timeout(ANSWER_TIME_MAX, answered)
                .await
                .is_ok(),
            Err(_) => false,
        };
        self.waiting().answers.remove(&number);
        answered.then(|| started.elapsed())
    }

    /// An echo reply came. Whether it was for one of our own pings.
    pub(super) fn answered(&self, from: Ipv6Addr, body: &[u8]) -> bool {
        let number = body.get(4..12).and_then(|bytes| bytes.try_into().ok());
        let number = number.map(u64::from_be_bytes).unwrap_or_default();
        let mut waiting = self.waiting();
        let asked = waiting.answers.get(&number);
        let ours = asked.is_some_and(|(address, _)| *address == from);
        if ours && let Some((_, answer)) = waiting.answers.remove(&number) {
            let _gone = answer.send(());
        }
        ours
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}
