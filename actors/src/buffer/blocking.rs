//! What the buffer does on blocking threads. Nothing here needs the actor, so it goes on and answers when that restarts.

use tokio::time::Instant;

use super::{BufferSpec, Waiting};
use crate::{
    event::Timestamp,
    journal::{JournalError, Usage},
    message::{Accepted, CommitDone, Committed, Refusal, StampedRequest},
    receiver::refuse,
    record::{Position, SinkName, Span},
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
    drop(blocks);
    observe(&spec.metrics.commit_seconds, began.elapsed());
    spec.metrics.commit_requests.observe(replies.len() as f64);
    let failure = match result {
        Ok(records) => {
            spec.received.events.inc_by(events);
            replies.into_iter().for_each(|(reply, accepted)| {
                let _ = reply.send(Ok(accepted));
            });
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
            replies.into_iter().for_each(|(reply, _)| refuse(reply, refusal));
            Some(refusal)
        }
    };
    CommitDone { usage: spec.journal.usage(), failure }
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

pub(super) fn make_room(spec: &BufferSpec) -> Result<Usage, RoomError> {
    let journal = &spec.journal;
    let limits = spec.limits;
    let headroom = ROOM_BYTES.min(limits.journal_bytes_max / 4);
    let is_near_its_cap = || {
        let events = limits.journal_events_max.is_some_and(|max| journal.span().count() + max / 4 > max);
        events || journal.usage().disk_bytes + headroom > limits.journal_bytes_max
    };
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
        journal.remove(end, Timestamp::from_nanos(i64::MAX)).map_err(RoomError::Journal)?;
    }
    Ok(journal.usage())
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
