//! Batches as a web service's log would make them, of as many events as are wanted.

use forebay_actors::{
    event::{BlockBuilder, Draft, Stamp, Timestamp},
    record::{Batch, Position, Record, Span},
};
use uuid::Uuid;

/// Services that the events are of, in turn.
pub const SERVICES: u64 = 40;

/// The first event's time.
const BEGIN_S: i64 = 1_767_000_000;

/// Events of one second.
pub const PER_SECOND: u64 = 50;

/// The time of the second that so many others were before.
pub fn time(seconds: u64) -> Timestamp {
    Timestamp::from_nanos((BEGIN_S + i64::try_from(seconds).expect("a few days")) * 1_000_000_000)
}

/// The batch of `rows` events from the event `first` on.
pub fn batch(first: u64, rows: u64) -> Batch {
    let mut builder = BlockBuilder::default();
    for row in first..first + rows {
        let status = if row.is_multiple_of(17) { 500 } else { 200 };
        let metadata =
            format!("{{\"client\":\"192.0.2.{}\",\"status\":{status},\"bytes\":{}}}", row % 250, row % 9973);
        builder.push(&Draft {
            event_id: None,
            timestamp: Some(time(row / PER_SECOND)),
            service: &format!("service-{:02}", row % SERVICES),
            message: &format!("GET /item/{} HTTP/1.1", row % 100_003),
            metadata: Some(&metadata),
        });
    }
    taken(first, builder)
}

/// The batch of these events, as the journal would have it from the position `first` on.
pub fn taken(first: u64, builder: BlockBuilder) -> Batch {
    let (mut payload, mut at) = (Vec::new(), first);
    for block in builder.finish() {
        // As the ids of a running process: they grow with time.
        let first_id = Uuid::from_u128(u128::from(at) << 32 | 0x7000 << 64);
        at += u64::from(block.count());
        let stamp = Stamp { first_id, ingested_at: time(at / PER_SECOND) };
        payload.extend_from_slice(block.stamped(stamp).bytes());
    }
    let count = u32::try_from(at - first).expect("a batch is small");
    let written_at = time(first / PER_SECOND);
    let record = Record { first: Position(first), count, written_at, payload: payload.into() };
    let span = Span { first: record.first, end: record.end() };
    Batch::new(span, vec![record.into()])
}
