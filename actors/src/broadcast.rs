//! The broadcast: every batch to every sink, and nobody waits for anybody.

use std::sync::{Arc, PoisonError, RwLock};

use crate::{
    message::Shaped,
    record::{Batch, SinkName},
    runtime::mailbox::Mailbox,
    sink::Sink,
};

/// The sinks that are told of batches. Shared by `Batcher`, which sends, and the pipeline, which adds and removes.
#[derive(Debug, Clone, Default)]
pub struct Broadcast {
    sinks: Arc<RwLock<Listeners>>,
}

type Listeners = Vec<(SinkName, Mailbox<Sink>)>;

impl Broadcast {
    /// From now on the sink is told.
    pub fn add(&self, name: SinkName, mailbox: Mailbox<Sink>) {
        let mut sinks = self.sinks.write().unwrap_or_else(PoisonError::into_inner);
        sinks.retain(|(other, _)| *other != name);
        sinks.push((name, mailbox));
    }

    /// The sink is told no more.
    pub fn remove(&self, name: &SinkName) {
        self.sinks.write().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| other != name);
    }

    /// Offers the batch to every sink, and returns how many had no room. These read it from the journal later:
    /// a miss costs the slow sink a read, and the others nothing.
    pub fn send(&self, batch: &Arc<Batch>) -> usize {
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        sinks.iter().filter(|(_, sink)| sink.offer(Shaped { batch: batch.clone() }).is_err()).count()
    }
}
