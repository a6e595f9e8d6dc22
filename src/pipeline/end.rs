//! The end: everything is delivered that can be, and then every actor ends, the way in first.

use std::{collections::BTreeMap, time::Duration};

use forebay_actors::{
    message::Drain,
    record::SinkName,
    runtime::supervisor::{Child, ChildState},
};
use tokio::time::Instant;

use super::{Pipeline, SinkMember};

/// How often the drain looks whether everything is delivered.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// The first children are those that take events in: receiver and buffer.
const WAY_IN: usize = 2;

/// How long is waited for actors that were told to end.
pub const END_WAIT_MAX: Duration = Duration::from_secs(2);

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// Events that stay in the journal, by sink; empty where everything was delivered.
    pub left: BTreeMap<SinkName, u64>,
}

// === impl Pipeline ===

impl Pipeline {
    /// Delivers what can be delivered until the deadline, then ends every actor, the way in first. Whoever brings
    /// events must have stopped doing so.
    pub async fn drain(mut self, deadline: Instant) -> Drained {
        self.parts.gate.close();
        // What passed the gate before is committed first, and counts.
        let taking_in = |pipeline: &Self| {
            let door = pipeline.children.iter().take(WAY_IN);
            pipeline.parts.buffer_metrics.waiting_events.get() > 0 || door.map(Child::waiting).any(|n| n > 0)
        };
        while taking_in(&self) && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        // What waits in a queue waits for every process that has the sink: only what this one has taken is delivered by it.
        self.sinks.values().filter_map(|member| member.queue.as_ref()).for_each(|queue| queue.close());
        let head = self.parts.journal.span().end;
        let left_of = |pipeline: &Self, name: &SinkName, member: &SinkMember| match &member.queue {
            Some(queue) => queue.backlog().taken,
            None => head.since(pipeline.parts.cursors.get(name).next),
        };
        let left = loop {
            let left = self.sinks.iter().map(|(name, member)| (name.clone(), left_of(&self, name, member)));
            let left: BTreeMap<_, _> = left.filter(|(_, events)| *events > 0).collect();
            if left.is_empty() || Instant::now() >= deadline {
                break left;
            }
            for member in left.keys().filter_map(|name| self.sinks.get(name)) {
                // Again and again: a full mailbox does not take it, and a sink that restarts forgets it.
                let _ = member.mailbox.offer(Drain);
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        };
        let names: Vec<_> = self.sinks.keys().cloned().collect();
        self.end_sinks(&names).await;
        for (owner, holder, held) in self.parts.held.totals() {
            tracing::info!(sink = %owner, %holder, events = held.events, "held; whoever has the sink next reads them back");
        }
        self.children.iter().for_each(Child::end);
        ended(&self.children).await;
        let (cursors, journal) = (self.parts.cursors.clone(), self.parts.journal.clone());
        let saved = tokio::task::spawn_blocking(move || (cursors.save(), journal.sync())).await;
        match saved {
            Ok((Ok(()), Ok(()))) => {}
            Ok((cursors, journal)) => {
                cursors
                    .err()
                    .inspect(|error| tracing::error!(%error, "cursors could not be saved at the end"));
                journal
                    .err()
                    .inspect(|error| tracing::error!(%error, "the journal could not be synced at the end"));
            }
            Err(_) => tracing::error!("saving at the end panicked"),
        }
        self.arbiters.iter().for_each(|arbiter| {
            arbiter.stop();
        });
        Drained { left }
    }
}

/// Waits until all of them have ended, but not for ever: a thread that is held does not answer.
pub(super) async fn ended(children: &[Child]) {
    let deadline = Instant::now() + END_WAIT_MAX;
    while children.iter().any(|child| child.state() != ChildState::Ended) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
