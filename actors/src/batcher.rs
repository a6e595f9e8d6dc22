//! `Batcher`: turns what was committed into batches and broadcasts them.
//!
//! - Owns: nothing that outlives a message.
//! - Receives: [`Committed`] from `Buffer`.
//! - Sends: [`Shaped`](crate::message::Shaped) to every sink.
//! - On failure: what it had at hand reaches the sinks from the journal.
//! - Limits: a batch holds about [`BATCH_BYTES`], so that a sink's mailbox is bounded in bytes.
//!
//! It never waits for more: how long to wait, and for how much, differs from sink to sink and is theirs to say.

use std::sync::Arc;

use actix::{Actor, Context, Handler, Supervised};
use prometheus::{IntCounter, Registry};

use crate::{
    broadcast::Broadcast,
    message::Committed,
    record::{Batch, Record, Span},
    runtime::metrics::{Probe, registered},
};

/// Commits that may wait in its mailbox, each of up to [`COMMIT_BYTES`](crate::buffer::COMMIT_BYTES).
pub const MAILBOX_COMMITS: usize = 4;

/// Payload of one broadcast batch: two full records.
pub const BATCH_BYTES: usize = 2 * crate::journal::RECORD_BYTES;

/// What a `Batcher` is built from.
#[derive(Debug, Clone)]
pub struct BatcherSpec {
    /// Who is told.
    pub broadcast: Broadcast,
    /// Its own metrics.
    pub metrics: BatcherMetrics,
}

/// What was broadcast.
#[derive(Debug, Clone)]
pub struct BatcherMetrics {
    batches: IntCounter,
    misses: IntCounter,
}

impl BatcherMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let misses = "Batches that a sink had no room for; it reads them from the journal";
        Self {
            batches: registered(
                registry,
                IntCounter::new("forebay_batcher_batches_total", "Batches broadcast"),
            ),
            misses: registered(registry, IntCounter::new("forebay_batcher_misses_total", misses)),
        }
    }
}

/// The actor.
pub struct Batcher {
    spec: BatcherSpec,
    probe: Probe,
}

impl Batcher {
    /// A batcher as its specification says.
    pub fn new(spec: BatcherSpec, probe: Probe) -> Self {
        Self { spec, probe }
    }

    fn broadcast(&self, records: &[Arc<Record>]) {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return };
        let span = Span { first: first.first, end: last.end() };
        let missed = self.spec.broadcast.send(&Arc::new(Batch::new(span, records.to_vec())));
        self.spec.metrics.batches.inc();
        self.spec.metrics.misses.inc_by(missed as u64);
    }
}

impl Actor for Batcher {
    type Context = Context<Self>;
}

impl Supervised for Batcher {
    fn restarting(&mut self, _: &mut Context<Self>) {
        *self = Self::new(self.spec.clone(), self.probe.clone());
    }
}

impl Handler<Committed> for Batcher {
    type Result = ();

    fn handle(&mut self, Committed { records }: Committed, _: &mut Context<Self>) {
        let _handling = self.probe.handling();
        let mut rest = &records[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |record: &&Arc<Record>| {
                bytes += record.payload.len();
                bytes <= BATCH_BYTES
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            self.broadcast(now);
            rest = later;
        }
    }
}
