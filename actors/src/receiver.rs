//! `Receiver`: the door.
//!
//! - Owns: the source of event ids.
//! - Receives: [`Admit`], whole requests, from any ingress.
//! - Sends: [`Append`] to `Buffer`, with the requests' own replies.
//! - On failure: the requests at hand are dropped unanswered, which their senders take for "not acknowledged"; ids go
//!   on from a new seed, so none is given twice.
//! - Limits: its mailbox; what `Buffer` refuses it refuses.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use actix::{Actor, Context, Handler, Supervised};
use prometheus::{IntCounter, IntCounterVec, Registry};

use crate::{
    buffer::Buffer,
    event::{Block, IdSource, Stamp, Stamped, Timestamp},
    message::{Admit, Append, Refusal, Request, StampedRequest},
    reply::send_all,
    runtime::{
        clock::{Clock, seed},
        mailbox::{Mailbox, NotTaken},
        metrics::{Probe, counters, registered},
    },
};

/// Requests that may wait in its mailbox: more than all connections of one process can have open.
pub const MAILBOX_REQUESTS: usize = 8192;

/// What a `Receiver` is built from.
#[derive(Clone)]
pub struct ReceiverSpec {
    /// Where requests go.
    pub buffer: Mailbox<Buffer>,
    /// Tells `ingested_at`.
    pub clock: Clock,
    /// Shared with whoever shuts the process down.
    pub gate: Gate,
    /// Its own metrics.
    pub metrics: ReceiverMetrics,
}

/// Open while the process takes events.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// From now on every request is refused.
    pub fn close(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Ingress metrics.
#[derive(Debug, Clone)]
pub struct ReceiverMetrics {
    /// Events accepted, durably.
    pub events: IntCounter,
    /// Events or requests refused, by reason.
    pub rejected: IntCounterVec,
}

impl ReceiverMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let events =
            IntCounter::new("forebay_receiver_events_total", "Events accepted: durable and acknowledged");
        let help = "Refused: events where one was at fault, else requests; by reason";
        let rejected = counters(registry, "forebay_receiver_rejected_total", help, &["reason"]);
        // An alert on the increase of a counter misses the first refusal if the counter appears with it.
        Refusal::ALL.iter().for_each(|refusal| rejected.with_label_values(&[refusal.as_str()]).inc_by(0));
        Self { events: registered(registry, events), rejected }
    }
}

/// The actor.
pub struct Receiver {
    spec: ReceiverSpec,
    probe: Probe,
    ids: IdSource,
}

impl Receiver {
    /// A receiver as its specification says.
    pub fn new(spec: ReceiverSpec, probe: Probe) -> Self {
        Self { spec, probe, ids: IdSource::new(seed()) }
    }

    fn stamp(&mut self, blocks: Vec<Block>, ingested_at: Timestamp) -> Vec<Stamped> {
        let mut stamp = |block: Block| {
            let first_id = block.first_id().unwrap_or_else(|| self.ids.first_of(block.count(), ingested_at));
            block.stamped(Stamp { first_id, ingested_at })
        };
        blocks.into_iter().map(&mut stamp).collect()
    }
}

impl Actor for Receiver {
    type Context = Context<Self>;
}

impl Supervised for Receiver {
    fn restarting(&mut self, _: &mut Context<Self>) {
        *self = Self::new(self.spec.clone(), self.probe.clone());
    }
}

impl Handler<Admit> for Receiver {
    type Result = ();

    fn handle(&mut self, Admit { requests }: Admit, _: &mut Context<Self>) {
        let _handling = self.probe.handling();
        if self.spec.gate.is_closed() {
            return send_all(requests.into_iter().map(|request| (request.reply, Err(Refusal::ShuttingDown))));
        }
        // They came at the same moment.
        let ingested_at = self.spec.clock.now();
        let mut stamp =
            |Request { blocks, reply }| StampedRequest { blocks: self.stamp(blocks, ingested_at), reply };
        let requests = requests.into_iter().map(&mut stamp).collect();
        let (refused, refusal) = match self.spec.buffer.offer(Append { requests }) {
            Ok(()) => return,
            Err(NotTaken::Full(append)) => (append, Refusal::Overloaded),
            Err(NotTaken::Ended(append)) => (append, Refusal::ShuttingDown),
        };
        send_all(refused.requests.into_iter().map(|request| (request.reply, Err(refusal))));
    }
}
