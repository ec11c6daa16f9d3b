//! The task that sends what is due, hands answers on, and keeps the file.

use super::{
    chain::Link,
    failure::Failure,
    file,
    handle::{Shared, lock},
    limits::{LEAVE_TIME, SAVE_AFTER, SAVE_GAP},
    question::{Outcome, Question},
    service::Service,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Instant, SystemTime},
};
use tokio::task::JoinSet;

/// Runs until stopped; then what can be said in [`LEAVE_TIME`] is said.
pub(crate) fn run(shared: Arc<Shared>, service: Service) -> impl Future<Output = ()> + Send {
    // Made here, so that even a future that is never polled tells those who wait that it has gone.
    let mut driver = Driver {
        service: Arc::new(service),
        under_way: JoinSet::new(),
        broken: None,
        save_due: None,
        saved: None,
        leave_until: None,
        shared,
    };
    async move { driver.run().await }
}

struct Driver {
    shared: Arc<Shared>,
    service: Arc<Service>,
    under_way: JoinSet<(Question, Outcome)>,
    /// What has been said about the chain.
    broken: Option<(Link, Failure)>,
    /// When the file is to be written.
    save_due: Option<Instant>,
    saved: Option<Instant>,
    /// It is to end then at the latest.
    leave_until: Option<Instant>,
}

impl Driver {
    async fn run(&mut self) {
        loop {
            if self.leave_until.is_none() && self.shared.stopping.load(Ordering::Acquire) {
                self.leave_until = Some(Instant::now() + LEAVE_TIME);
            }
            self.send_due();
            let now = Instant::now();
            let next = self.shared.core().timeout(now);
            if let Some(until) = self.leave_until
                && (now >= until || (next.is_none() && self.under_way.is_empty()))
            {
                break;
            }
            let next = [next, self.save_due, self.leave_until]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = sleep_until(next) => {}
                Some(done) = self.under_way.join_next() => if let Ok((question, outcome)) = done {
                    self.take(question, outcome);
                },
            }
            if self.save_due.is_some_and(|at| at <= Instant::now()) {
                self.save().await;
            }
        }
        self.save().await;
    }

    fn send_due(&mut self) {
        loop {
            let ask = self.shared.core().poll(Instant::now());
            let Some(ask) = ask else { break };
            tracing::debug!(question = ?ask.question, url = ask.url.split('?').next(), "asking");
            let service = Arc::clone(&self.service);
            let question = ask.question.clone();
            self.under_way
                .spawn(async move { (question, service.ask(ask).await) });
        }
    }

    fn take(&mut self, question: Question, outcome: Outcome) {
        if let Err(error) = &outcome {
            tracing::debug!(?question, error, "no answer");
        }
        let now = Instant::now();
        let (found, broken, unsaved) = {
            let mut core = self.shared.core();
            let found = core.handle(now, question, outcome);
            (found, core.broken(now), core.unsaved)
        };
        if let Some((content, peers)) = found {
            match lock(&self.shared.found).get(&content) {
                Some(sender) => _ = sender.send_replace(peers),
                None if peers.is_empty() => {}
                // Nobody waits for it: they are named again with the next answer.
                None => _ = self.shared.named.try_send((content, peers)),
            }
        }
        self.tell(broken);
        if unsaved && self.save_due.is_none() {
            let soonest = now + SAVE_AFTER;
            self.save_due = Some(self.saved.map_or(soonest, |at| soonest.max(at + SAVE_GAP)));
        }
        self.shared.answered.notify_waiters();
    }

    /// Says once that the services can't be used, once that they can be again.
    fn tell(&mut self, broken: Option<(Link, Failure)>) {
        let kind = |broken: &Option<(Link, Failure)>| {
            let (link, failure) = broken.as_ref()?;
            Some((*link, failure.name()))
        };
        match (&self.broken, &broken) {
            (before, Some((link, failure))) if kind(before) != kind(&broken) => {
                let (service, code) = (link.name(), failure.hresult());
                tracing::warn!(service, state = failure.name(), %code, %failure,
                    "the fleet's cloud service cannot be used: downloads do without content policy and array until it can");
            }
            (Some(_), None) => tracing::info!("the fleet's cloud services answer again"),
            _ => {}
        }
        self.broken = broken;
    }

    async fn save(&mut self) {
        let now = Instant::now();
        self.save_due = None;
        self.saved = Some(now);
        let shared = Arc::clone(&self.shared);
        let written = tokio::task::spawn_blocking(move || {
            let mut saved = {
                let mut core = shared.core();
                if !core.unsaved {
                    return Ok(());
                }
                core.save(now, SystemTime::now(), shared.peer_id)
            };
            file::write(&shared.state_file, &mut saved)
        });
        if let Ok(Err(error)) = written.await {
            let path = self.shared.state_file.display();
            tracing::warn!(%path, %error, "what the cloud services answered is not kept");
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Drop for Driver {
    /// However the task ends, nobody waits for answers any more.
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        lock(&self.shared.found).clear();
        self.shared.answered.notify_waiters();
    }
}
