//! The only way to send: bounded, counted, never blocking.
//!
//! actix's `do_send` and `notify` ignore a mailbox's bound, so nothing but this file calls an address.

use actix::{
    Actor, Addr, Context, Handler, Message,
    dev::{MessageResponse, ToEnvelope},
    prelude::SendError,
};

use super::metrics::Probe;

/// The address of a supervised actor. It stays good over the actor's restarts.
pub struct Mailbox<A: Actor<Context = Context<A>>> {
    addr: Addr<A>,
    probe: Probe,
}

/// A message that was not taken, given back.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken<M> {
    /// The mailbox is full: the actor is behind.
    #[error("the mailbox is full")]
    Full(M),
    /// The actor has ended: the process shuts down, or its child was removed.
    #[error("the actor has ended")]
    Ended(M),
}

impl<A: Actor<Context = Context<A>>> Mailbox<A> {
    pub(super) fn new(addr: Addr<A>, probe: Probe) -> Self {
        Self { addr, probe }
    }

    /// The address of an actor that takes nothing; for tests of those who send.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        let (sender, _) = actix::dev::channel::channel(1);
        let metrics = super::metrics::ActorMetrics::new(&prometheus::Registry::new());
        Self::new(Addr::new(sender), metrics.probe("nobody"))
    }

    /// Whether the actor takes messages, now or after a restart; not where it has ended.
    pub fn is_open(&self) -> bool {
        self.addr.connected()
    }

    /// Puts the message into the mailbox, or gives it back at once.
    ///
    /// # Errors
    /// [`NotTaken`], with the message.
    pub fn offer<M>(&self, message: M) -> Result<(), NotTaken<M>>
    where
        M: Message + Send + 'static,
        M::Result: Send + MessageResponse<A, M>,
        A: Handler<M>,
        Context<A>: ToEnvelope<A, M>,
    {
        // Counted before it is sent: the actor may take it before this thread goes on. The bound is kept here, because
        // actix gives every clone of an address a place beyond its own bound, and some are cloned for every commit.
        let sent = match self.probe.enters() {
            true => self.addr.try_send(message).inspect_err(|_| self.probe.leaves()),
            false => Err(SendError::Full(message)),
        };
        sent.map_err(|refused| match refused {
            SendError::Full(message) => {
                self.probe.refused.inc();
                NotTaken::Full(message)
            }
            SendError::Closed(message) => NotTaken::Ended(message),
        })
    }
}

impl<A: Actor<Context = Context<A>>> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Self { addr: self.addr.clone(), probe: self.probe.clone() }
    }
}

impl<A: Actor<Context = Context<A>>> std::fmt::Debug for Mailbox<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({} waiting)", self.probe.waiting())
    }
}
