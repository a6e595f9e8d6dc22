//! The batches that the life before had accepted, found again in the journal.
//!
//! What is remembered of batches is in memory, and a crash takes it. But every block of a batch stands in the journal under an id
//! that follows from the batch and its events, so the end of the journal says what was accepted last: also what was on its way
//! to be answered when the process died, which is what its sender will send again. That costs no write, only the reading of a
//! few records at the start.

use std::collections::HashMap;

use forebay_actors::{
    event::{Timestamp, stamps},
    journal::{GENERATION_BYTES, Journal, Piece},
};
use uuid::Uuid;

use super::INDEX_BITS;

/// Stored bytes from the end of the journal that are looked at, about: several times what can be on its way to be answered.
const RECALL_BYTES: u64 = 2 * GENERATION_BYTES;

/// Payload that is in memory at a time meanwhile.
const READ_BYTES: usize = 1024 * 1024;

/// Batches by the ids of their first events, with the number of their events in the journal.
#[derive(Debug, Default)]
pub(super) struct Recalled(HashMap<u128, u32>);

impl Recalled {
    /// Looks at the end of the journal, for batches that came after `since`; at most so many.
    pub(super) fn from(journal: &dyn Journal, since: Timestamp, max: usize) -> Self {
        let (span, stored_bytes) = (journal.span(), journal.usage().stored_bytes.max(1));
        // Where its last bytes begin is known only by the mean.
        let events = u128::from(span.count()) * u128::from(RECALL_BYTES) / u128::from(stored_bytes);
        let events = u64::try_from(events).unwrap_or(u64::MAX).min(span.count());
        let mut at = span.first.plus(span.count() - events);
        let mut found = HashMap::new();
        while at < span.end {
            let pieces = match journal.read(at, READ_BYTES) {
                Ok(pieces) if !pieces.is_empty() => pieces,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "which batches were accepted last could not be read; their events keep their ids");
                    break;
                }
            };
            for piece in &pieces {
                at = at.max(piece.end());
                let Piece::Record(record) = piece else { continue };
                for (stamp, count) in stamps(&record.payload) {
                    let first = stamp.first_id;
                    if first.get_version_num() != 8 || stamp.ingested_at < since {
                        continue;
                    }
                    let batch = batch_of(first);
                    if found.len() < max || found.contains_key(&batch) {
                        let events: &mut u32 = found.entry(batch).or_default();
                        *events = events.saturating_add(count);
                    }
                }
            }
        }
        Self(found)
    }

    /// Whether all events of a batch are there, by the id of its first.
    pub(super) fn has(&self, first: Uuid, events: u32) -> bool {
        self.0.get(&batch_of(first)).is_some_and(|found| *found >= events)
    }
}

/// What the ids of a batch have in common.
fn batch_of(id: Uuid) -> u128 {
    id.as_u128() >> INDEX_BITS
}
