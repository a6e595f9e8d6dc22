//! What the buffer does on blocking threads. Nothing here needs the actor, so it goes on and answers when that restarts.

use std::time::Duration;

use tokio::time::Instant;

use super::{BufferSpec, Waiting, gauge_value, removals::Removal};
use crate::{
    event::Timestamp,
    journal::{JournalError, Usage},
    message::{Accepted, CommitDone, Committed, Refusal, StampedRequest},
    record::{Position, SinkName, Span},
    reply::send_all,
    runtime::metrics::observe,
    state::{Cursor, DeadLetter, Reason, StateError, WhenFull},
};

/// Commits, answers, and tells `Batcher`; needs nothing of the actor, so that it can outlive it.
pub(super) fn commit(spec: &BufferSpec, requests: Vec<Waiting>, events: u64) -> CommitDone {
    let began = Instant::now();
    let (mut blocks, mut replies) = (Vec::with_capacity(requests.len()), Vec::with_capacity(requests.len()));
    for Waiting { request: StampedRequest { blocks: request, reply }, .. } in requests {
        let stamps = request.iter().map(|stamped| (stamped.stamp(), stamped.count())).collect();
        blocks.extend(request);
        replies.push((reply, Accepted { stamps }));
    }
    let result = spec.journal.commit(&blocks);
    let usage = spec.journal.usage();
    drop(blocks);
    observe(&spec.metrics.commit_seconds, began.elapsed());
    spec.metrics.commit_requests.observe(replies.len() as f64);
    let failure = match result {
        Ok(records) => {
            spec.received.events.inc_by(events);
            // Whoever has the answer may look at once, and the actor has its turn later.
            if usage.backlog.is_none() {
                spec.metrics.events.set(gauge_value(events_waiting(spec)));
            }
            send_all(replies.into_iter().map(|(reply, accepted)| (reply, Ok(accepted))));
            // Where Batcher is behind or gone, sinks read the journal.
            let _ = spec.batcher.offer(Committed { records });
            None
        }
        Err(error) => {
            let refusal = match error {
                JournalError::Full { .. } => Refusal::DiskFull,
                JournalError::AtItsCap { .. } => Refusal::JournalFull,
                _ => Refusal::JournalFailed,
            };
            tracing::error!(%error, events, "a commit failed; nothing of it was acknowledged");
            send_all(replies.into_iter().map(|(reply, _)| (reply, Err(refusal))));
            Some(refusal)
        }
    };
    CommitDone { usage, failure }
}

/// Events in the journal that a sink still needs.
pub(super) fn events_waiting(spec: &BufferSpec) -> u64 {
    let end = spec.journal.span().end;
    end.since(spec.cursors.lowest().unwrap_or(end))
}

/// Room that is made below the cap: two generations, so that producers do not come to the cap at every request.
pub(super) const ROOM_BYTES: u64 = 2 * crate::journal::GENERATION_BYTES;

#[derive(Debug, thiserror::Error)]
pub(super) enum RoomError {
    #[error(transparent)]
    State(StateError),
    #[error(transparent)]
    Journal(JournalError),
}

pub(super) fn make_room(spec: &BufferSpec, keep: Duration) -> Result<(Usage, Removal), RoomError> {
    let journal = &spec.journal;
    let limits = spec.limits;
    let headroom = ROOM_BYTES.min(limits.journal_bytes_max / 4);
    let is_near_its_cap = || {
        let events = limits.journal_events_max.is_some_and(|max| journal.span().count() + max / 4 > max);
        events || journal.usage().disk_bytes + headroom > limits.journal_bytes_max
    };
    let ever = Timestamp::from_nanos(i64::MAX);
    let mut removal = Removal::default();
    while is_near_its_cap()
        && let Some(end) = journal.oldest_end()
    {
        let behind = spec.cursors.behind(end);
        if behind.iter().any(|(_, _, policy)| *policy == WhenFull::Block) {
            break;
        }
        for (sink, cursor, _) in behind {
            skip(spec, &sink, cursor, end)?;
        }
        spec.cursors.save().map_err(RoomError::State)?;
        // What nobody wants kept cannot go too early.
        let written_before = if keep.is_zero() { ever } else { spec.clock.now().minus(keep) };
        let served = journal.remove(end, written_before).map_err(RoomError::Journal)?;
        let early = journal.remove(end, ever).map_err(RoomError::Journal)?;
        removal = Removal { served: removal.served.plus(served), early: removal.early.plus(early) };
    }
    Ok((journal.usage(), removal))
}

fn skip(spec: &BufferSpec, sink: &SinkName, cursor: Cursor, end: Position) -> Result<(), RoomError> {
    let span = Span { first: cursor.next, end };
    let letter = DeadLetter::of_span(sink, span, Reason::DroppedOldest, spec.clock.now());
    spec.dead_letters.add(&[letter]).map_err(RoomError::State)?;
    spec.metrics.dropped.with_label_values(&[sink.as_str()]).inc_by(span.count());
    spec.cursors.advance(sink, Cursor::at(end));
    tracing::warn!(%sink, from = %span.first, to = %span.end, "the journal is full: the sink skips its oldest events");
    Ok(())
}
