//! Faults on purpose: how chaos tests, `forebay chaos` and its endpoint bring an actor down.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// A way to bring an actor down on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// As if it had panicked between two messages.
    Panic,
    /// As if the actor had stopped itself.
    Stop,
    /// It does nothing for so long; its mailbox fills. Its thread goes on for others.
    Stall(Duration),
    /// Its handler panics.
    PanicInHandler {
        /// Messages that are handled well before.
        after: u64,
        /// Where in the handler.
        moment: Moment,
    },
}

/// Where in the handling of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The message has been taken from the mailbox, and nothing was done with it: it is lost.
    Entering,
    /// Everything was done, and what the actor knows of it is lost.
    Leaving,
}

/// A panic that waits for its message.
#[derive(Debug, Default)]
pub(super) struct Trap {
    /// Looked at before the lock: nearly always there is no trap.
    is_set: AtomicBool,
    waiting: Mutex<Option<(u64, Moment)>>,
}

impl Trap {
    pub(super) fn set(&self, after: u64, moment: Moment) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some((after, moment));
        self.is_set.store(true, Ordering::Release);
    }

    /// A handler begins; panics if the trap is for its beginning.
    pub(super) fn entering(&self) {
        if self.is_set.load(Ordering::Acquire) && self.springs(Moment::Entering) {
            panic!("a panic that was asked for, before the message was handled");
        }
    }

    /// A handler ends; panics if the trap is for its end.
    pub(super) fn leaving(&self) {
        if self.is_set.load(Ordering::Acquire) && !std::thread::panicking() && self.springs(Moment::Leaving) {
            panic!("a panic that was asked for, after the message was handled");
        }
    }

    /// Counts messages at the moment that is waited for. A trap springs once.
    fn springs(&self, now: Moment) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *waiting {
            Some((0, moment)) if *moment == now => {
                *waiting = None;
                self.is_set.store(false, Ordering::Release);
                true
            }
            Some((after, moment)) if *moment == now => {
                *after -= 1;
                false
            }
            _ => false,
        }
    }
}
