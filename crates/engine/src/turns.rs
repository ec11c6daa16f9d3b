//! Whose turn it is: downloads that may run at once, foreground before background, each kind in order of arrival.

use crate::shared::lock;
use std::sync::Mutex;
use tokio::sync::Notify;

/// The queue of downloads.
#[derive(Debug)]
pub(crate) struct Turns {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    limits: [usize; 2],
    active: [usize; 2],
    waiting: [Vec<u64>; 2],
    next_ticket: u64,
}

impl Turns {
    pub(crate) fn new(foreground_max: usize, background_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                limits: [foreground_max.max(1), background_max.max(1)],
                ..State::default()
            }),
            changed: Notify::new(),
        }
    }

    pub(crate) fn set_limits(&self, foreground_max: usize, background_max: usize) {
        lock(&self.state).limits = [foreground_max.max(1), background_max.max(1)];
        self.changed.notify_waiters();
    }

    /// How many downloads of a priority run at a time.
    pub(crate) fn limit(&self, foreground: bool) -> usize {
        lock(&self.state).limits[usize::from(!foreground)]
    }

    /// A turn, if it is to be had at once.
    pub(crate) fn try_enter(&self, foreground: bool) -> Option<Turn<'_>> {
        let class = usize::from(!foreground);
        let mut state = lock(&self.state);
        let is_next = state.waiting[class].is_empty();
        (is_next && state.take_place(class)).then(|| Turn { turns: self, class })
    }

    /// Waits for a turn. Dropping the future leaves the queue; dropping the turn lets the next one in.
    ///
    /// A background download starts only while no foreground one waits.
    pub(crate) async fn enter(&self, foreground: bool) -> Turn<'_> {
        let class = usize::from(!foreground);
        let ticket = {
            let mut state = lock(&self.state);
            state.next_ticket += 1;
            let ticket = state.next_ticket;
            state.waiting[class].push(ticket);
            ticket
        };
        let place = Place {
            turns: self,
            class,
            ticket,
        };
        loop {
            let changed = self.changed.notified();
            if lock(&self.state).admit(class, ticket) {
                std::mem::forget(place);
                return Turn { turns: self, class };
            }
            changed.await;
        }
    }
}

impl State {
    fn admit(&mut self, class: usize, ticket: u64) -> bool {
        let is_first = self.waiting[class].first() == Some(&ticket);
        let admitted = is_first && self.take_place(class);
        if admitted {
            self.waiting[class].remove(0);
        }
        admitted
    }

    /// Takes a place among those that run; false: there is none, or a foreground download goes before.
    fn take_place(&mut self, class: usize) -> bool {
        let foreground_waits = class == 1 && !self.waiting[0].is_empty();
        let has_place = !foreground_waits && self.active[class] < self.limits[class];
        self.active[class] += usize::from(has_place);
        has_place
    }
}

/// A place in the queue.
struct Place<'a> {
    turns: &'a Turns,
    class: usize,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.turns.state).waiting[self.class].retain(|t| *t != self.ticket);
        self.turns.changed.notify_waiters();
    }
}

/// The right to download; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    class: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.turns.state).active[self.class] -= 1;
        self.turns.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn foreground_goes_before_background_and_each_in_order() {
        let turns = Turns::new(1, 1);
        let mut first = pin!(turns.enter(false));
        let Poll::Ready(running) = poll(first.as_mut()) else {
            panic!("free")
        };
        let mut second = pin!(turns.enter(false));
        let mut third = pin!(turns.enter(false));
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(third.as_mut()).is_pending());
        let mut urgent = pin!(turns.enter(true));
        let Poll::Ready(urgent_turn) = poll(urgent.as_mut()) else {
            panic!("foreground never waits for background")
        };
        drop(running);
        assert!(poll(third.as_mut()).is_pending(), "not its turn");
        let Poll::Ready(_turn) = poll(second.as_mut()) else {
            panic!("its turn")
        };
        drop(urgent_turn);
    }

    #[test]
    fn one_who_leaves_the_queue_holds_nobody_up() {
        let turns = Turns::new(1, 1);
        let mut first = pin!(turns.enter(false));
        let Poll::Ready(running) = poll(first.as_mut()) else {
            panic!("free")
        };
        let mut third = pin!(turns.enter(false));
        {
            let mut second = Box::pin(turns.enter(false));
            assert!(poll(second.as_mut()).is_pending());
            assert!(poll(third.as_mut()).is_pending());
        }
        drop(running);
        assert!(poll(third.as_mut()).is_ready());
    }
}
