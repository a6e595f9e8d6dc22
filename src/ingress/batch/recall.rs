//! The batches that the life before had accepted, found again in the journal.
//!
//! What is remembered of batches is in memory, and a crash takes it. But every block of a batch stands in the journal under an id
//! that follows from the batch and its events, so the end of the journal says what was accepted last: also what was on its way
//! to be answered when the process died, which is what its sender will send again. That costs no write, only the reading of a
//! few records at the start.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use forebay_actors::{
    event::{Timestamp, stamps},
    journal::{Journal, Piece},
};
use uuid::Uuid;

use super::INDEX_BITS;

/// Stored bytes from the end of the journal that are looked at, about: several times what can be on its way to be answered.
const RECALL_BYTES: u64 = 24 * 1024 * 1024;

/// Payload that is in memory at a time meanwhile.
const READ_BYTES: usize = 1024 * 1024;

/// Batches by what their ids have in common, with the number of their events that are there from the first on without a gap. Not
/// simply how many there are: two attempts of which each was torn by a crash may have left the same half twice.
#[derive(Debug, Default)]
pub(super) struct Recalled(HashMap<u128, u32>);

impl Recalled {
    /// Looks at the end of the journal, for batches of the last `window` before its last one; at most so many, the newest. It is
    /// the life before that counts, not how long nobody lived: whoever was left without an answer then asks again now.
    pub(super) fn from(journal: &dyn Journal, window: Duration, max: usize) -> Self {
        let (span, stored_bytes) = (journal.span(), journal.usage().stored_bytes.max(1));
        // Where its last bytes begin is known only by the mean.
        let events = u128::from(span.count()) * u128::from(RECALL_BYTES) / u128::from(stored_bytes);
        let events = u64::try_from(events).unwrap_or(u64::MAX).min(span.count());
        let mut at = span.first.plus(span.count() - events);
        let (mut found, mut order) = (HashMap::new(), VecDeque::new());
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
                    if first.get_version_num() != 8 {
                        continue;
                    }
                    let (batch, before) = (batch_of(first), index_of(first));
                    let whole: &mut u32 = found.entry(batch).or_insert_with(|| {
                        order.push_back((stamp.ingested_at, batch));
                        0
                    });
                    if before <= *whole {
                        *whole = (*whole).max(before.saturating_add(count));
                    }
                    forget(&mut found, &mut order, stamp.ingested_at.minus(window), max);
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

/// Forgets what came before `since`, and the oldest of what is more than `max`.
fn forget(
    found: &mut HashMap<u128, u32>,
    order: &mut VecDeque<(Timestamp, u128)>,
    since: Timestamp,
    max: usize,
) {
    while let Some((at, batch)) = order.front()
        && (*at < since || order.len() > max)
    {
        found.remove(batch);
        order.pop_front();
    }
}

/// What the ids of a batch have in common.
fn batch_of(id: Uuid) -> u128 {
    id.as_u128() >> INDEX_BITS
}

/// The place in its batch of the event that has the id.
fn index_of(id: Uuid) -> u32 {
    id.as_u128() as u32 & ((1 << INDEX_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use forebay_actors::{
        event::{Block, BlockBuilder, Draft, Stamp},
        journal::MemoryJournal,
        record::Position,
        runtime::clock::Clock,
    };

    use super::{super::stamped, *};

    fn block(events: usize) -> Block {
        let mut builder = BlockBuilder::default();
        let draft = Draft { event_id: None, timestamp: None, service: "s", message: "m", metadata: None };
        (0..events).for_each(|_| builder.push(&draft));
        builder.finish().remove(0)
    }

    fn first(batch: u128) -> Uuid {
        uuid::Builder::from_custom_bytes((batch << 64).to_be_bytes()).into_uuid()
    }

    /// Puts these blocks of a batch of two blocks into the journal.
    fn put(journal: &MemoryJournal, batch: u128, which: std::ops::Range<usize>, at: i64) {
        let blocks = stamped(vec![block(5), block(5)], first(batch));
        let ingested_at = Timestamp::from_nanos(at);
        let stamp = |block: Block| {
            let stamp = Stamp { first_id: block.first_id().unwrap(), ingested_at };
            block.stamped(stamp)
        };
        let blocks: Vec<_> = blocks.into_iter().map(stamp).collect();
        journal.commit(&blocks[which]).unwrap();
    }

    /// Scenario: a batch that is there whole; one that is torn, twice at the same place; one torn and then whole; one of which only
    /// the end is there; before them all one that is too old.
    /// Guarantee: those that are there whole are found, and no other: that one was never acknowledged, or its time was over. How
    /// long ago the last of them came does not matter.
    #[test]
    fn only_what_is_there_whole_is_found() {
        let journal = MemoryJournal::new(Clock::system(), Position(0));
        put(&journal, 5, 0..2, 3);
        put(&journal, 1, 0..2, 9);
        put(&journal, 2, 0..1, 9);
        put(&journal, 2, 0..1, 9);
        put(&journal, 3, 0..1, 9);
        put(&journal, 3, 0..2, 9);
        put(&journal, 4, 1..2, 9);
        let found = Recalled::from(&journal, Duration::from_nanos(5), 100);
        let has: Vec<_> = (1..=5).filter(|batch| found.has(first(*batch), 10)).collect();
        assert_eq!(has, [1, 3]);
        assert!(found.has(first(2), 5) && !found.has(first(9), 1));
        let newest = Recalled::from(&journal, Duration::from_secs(1), 2);
        assert_eq!((newest.0.len(), newest.has(first(3), 10)), (2, true));
    }
}
