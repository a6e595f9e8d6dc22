//! Holding: a destination that keeps batches of another sink while that sink's own destination is away.
//!
//! What is held is a whole batch, in the bytes of the journal, not what the holder would make of its events: it has to
//! be delivered elsewhere later, as if it came from the journal.
//!
//! ```text
//! packed = "FBH1" | first position u64 | end u64 | crc32 of these u32 | stored records      (numbers big-endian)
//! ```
//! Each record has its own checksum (see `journal/stored.rs`).

use std::sync::Arc;

use futures::future::LocalBoxFuture;

use crate::{
    destination::{Delivery, DeliveryError},
    event::DecodeError,
    journal::stored_form,
    record::{Batch, Position, Record, SinkName, Span},
};

/// Keeps batches for other sinks and gives them back. As with deliveries, one call is one try.
pub trait Holding {
    /// Holds the batch for `owner`. A success answer means what it means for a delivery; the same span a second time takes
    /// the place of the first.
    fn hold(&self, owner: &SinkName, batch: Arc<Batch>) -> Delivery;

    /// The batch that is held for `owner` under exactly this span; `None` where there is none.
    fn recall(&self, owner: &SinkName, span: Span) -> Recalled;

    /// Forgets what is held under this span, if anything is.
    fn release(&self, owner: &SinkName, span: Span) -> LocalBoxFuture<'static, Result<(), DeliveryError>>;
}

/// The future of a recall.
pub type Recalled = LocalBoxFuture<'static, Result<Option<Arc<Batch>>, DeliveryError>>;

const MAGIC: &[u8; 4] = b"FBH1";
const CRC_AT: usize = 20;
const HEADER_BYTES: usize = 24;

/// The batch as bytes. Of records that other batches share only its own events are in them.
///
/// # Errors
/// Where a record is damaged.
pub fn pack(batch: &Batch) -> Result<Vec<u8>, DecodeError> {
    let span = batch.span();
    let mut packed = Vec::with_capacity(HEADER_BYTES + batch.payload_bytes() / 2);
    packed.extend_from_slice(MAGIC);
    packed.extend_from_slice(&span.first.0.to_be_bytes());
    packed.extend_from_slice(&span.end.0.to_be_bytes());
    packed.extend_from_slice(&crc32fast::hash(&packed).to_be_bytes());
    for record in batch.records() {
        let own = if record.first < span.first || record.end() > span.end {
            &share(record, span)?
        } else {
            &**record
        };
        packed.extend_from_slice(&stored_form::encode(own));
    }
    Ok(packed)
}

/// The events of a record that lie in the span, as a record of their own.
fn share(record: &Arc<Record>, span: Span) -> Result<Record, DecodeError> {
    let share = Span { first: record.first.max(span.first), end: record.end().min(span.end) };
    let batch = Batch::new(share, vec![record.clone()]);
    let (mut payload, mut events) = (Vec::new(), batch.events());
    while let Some(event) = events.next_single() {
        payload.extend_from_slice(&event?);
    }
    let count = u32::try_from(share.count()).expect("a share has no more events than its record");
    Ok(Record { first: share.first, count, written_at: record.written_at, payload: payload.into() })
}

/// The batch again; `None` where the bytes are not what [`pack`] made, whole.
pub fn unpack(packed: &[u8]) -> Option<Batch> {
    let (header, mut rest) = packed.split_at_checked(HEADER_BYTES)?;
    let (said, crc) = header.split_at(CRC_AT);
    if !said.starts_with(MAGIC) || crc32fast::hash(said).to_be_bytes() != crc {
        return None;
    }
    let position = |at: usize| Some(Position(u64::from_be_bytes(*said.get(at..)?.first_chunk()?)));
    let span = Span { first: position(4)?, end: position(12)? };
    let (mut records, mut next) = (Vec::new(), span.first);
    while next < span.end {
        let bytes = stored_form::stored_bytes(rest)?;
        let (stored, behind) = rest.split_at_checked(bytes)?;
        let record = stored_form::decode(next, stored)?;
        (next, rest) = (record.end(), behind);
        records.push(Arc::new(record));
    }
    (next == span.end && span.first < span.end && rest.is_empty()).then(|| Batch::new(span, records))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{BlockBuilder, Draft, Stamp, Timestamp};

    fn record(first: u64, count: u32) -> Arc<Record> {
        let mut builder = BlockBuilder::default();
        for i in 0..u64::from(count) {
            builder.push(&Draft {
                event_id: None,
                timestamp: None,
                service: "api",
                message: &format!("event {}", first + i),
                metadata: None,
            });
        }
        let at = Timestamp::from_nanos(7);
        let stamp = Stamp { first_id: uuid::Uuid::from_u128(u128::from(first)), ingested_at: at };
        let blocks = builder.finish();
        let payload: Vec<u8> =
            blocks.into_iter().flat_map(|block| block.stamped(stamp).bytes().to_vec()).collect();
        Arc::new(Record { first: Position(first), count, written_at: at, payload: payload.into() })
    }

    fn batch(first: u64, end: u64) -> Batch {
        let records = [record(0, 10), record(10, 1), record(11, 20)];
        let overlaps = |r: &Arc<Record>| r.first.0 < end && r.end().0 > first;
        let span = Span { first: Position(first), end: Position(end) };
        Batch::new(span, records.into_iter().filter(overlaps).collect())
    }

    fn told(batch: &Batch) -> Vec<(String, String)> {
        let (mut told, mut events) = (Vec::new(), batch.events());
        while let Some(event) = events.next_event() {
            let event = event.unwrap();
            told.push((event.event_id.to_string(), event.message.to_string()));
        }
        told
    }

    proptest! {
        /// Whatever part of the records a batch has: it comes back with its id and its events, and with no others.
        #[test]
        fn a_batch_comes_back_as_it_was(first in 0_u64..31, count in 1_u64..31) {
            let batch = batch(first, (first + count).min(31));
            let back = unpack(&pack(&batch).unwrap()).unwrap();
            prop_assert_eq!(back.id(), batch.id());
            prop_assert_eq!(told(&back), told(&batch));
            prop_assert_eq!(back.records().iter().map(|r| u64::from(r.count)).sum::<u64>(), batch.count());
        }

        /// A flipped bit or a missing end is found wherever it is.
        #[test]
        fn damage_is_found(at in 0_usize..100_000, bit in 0_u8..8) {
            let mut packed = pack(&batch(3, 25)).unwrap();
            let at = at % packed.len();
            prop_assert!(unpack(&packed[..at]).is_none());
            packed[at] ^= 1 << bit;
            prop_assert!(unpack(&packed).is_none());
        }
    }
}
