//! Which scenarios run beside others. Each has a network of its own, and most wait for most of their time; those that
//! measure a rate, a processor's time or how long something takes have the machine to themselves.

use std::{
    cell::Cell,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

static MACHINE: RwLock<()> = RwLock::new(());

thread_local! {
    /// Whether this thread's scenario has its turn already.
    static HAS_TURN: Cell<bool> = const { Cell::new(false) };
}

/// A scenario's turn, until it is dropped. What a scenario takes while it has one is part of it.
pub(crate) struct Turn(Option<Guard>);

enum Guard {
    Beside {
        _guard: RwLockReadGuard<'static, ()>,
    },
    Alone {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

impl Turn {
    /// Together with others, as soon as nobody needs the machine alone.
    pub(crate) fn beside_others() -> Self {
        Self::take(|| Guard::Beside {
            _guard: MACHINE.read().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// With nothing else of the suite under way. Taken before the scenario's network.
    pub(crate) fn alone() -> Self {
        assert!(!HAS_TURN.get(), "a turn alone is taken first");
        Self::take(|| Guard::Alone {
            _guard: MACHINE.write().unwrap_or_else(PoisonError::into_inner),
        })
    }

    fn take(guard: impl FnOnce() -> Guard) -> Self {
        if HAS_TURN.get() {
            return Self(None);
        }
        let guard = guard();
        HAS_TURN.set(true);
        Self(Some(guard))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.0.is_some() {
            HAS_TURN.set(false);
        }
    }
}
