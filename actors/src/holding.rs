//! Holding: a destination that keeps batches of another sink while that sink's own destination is away.
//!
//! What is held is a whole batch in the bytes of the journal, not what the holder would make of its events: it has to be
//! delivered elsewhere later, as if it came from the journal. Which batches are held, by whom and for whom, is known to
//! [`Books`](crate::state::Books) alone; a holder is never asked what it has.
//!
//! ```text
//! packed = "FBH1" | first position u64 | end u64 | bytes of a bitmap u32 | bitmap | crc32 of these u32 | stored records
//! ```
//! (Numbers big-endian.) The bitmap says which positions the batch has, where it has not all of them. Each record has its own checksum (see `journal/stored.rs`). Of a record that other batches share, the requests are in it
//! that the batch has events of, each whole: so a request of OpenTelemetry stays the bytes that came.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, future::LocalBoxFuture};

use crate::{
    destination::{Delivery, DeliveryError},
    event::{DecodeError, blocks_around},
    examination::Examination,
    journal::stored_form,
    record::{Batch, Position, Record, Selection, SinkName, Span},
};

/// Keeps batches for other sinks and gives them back. As with deliveries, one call is one try.
pub trait Holding {
    /// Holds the batch. A success answer means what it means for a delivery; under the same key a second time, the same
    /// batch takes the place of the first.
    fn hold(&self, key: &HeldKey, batch: Arc<Batch>) -> Delivery;

    /// What [`pack`] made of the batch that is held under this key; `None` where the holder is there and has nothing under it.
    fn fetch(&self, key: &HeldKey) -> Fetched;

    /// Forgets what is held under this key, if anything is.
    fn release(&self, key: &HeldKey) -> Released;

    /// What a holder needs beside what its destination's own examination looks at; nothing where that is all.
    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        std::future::ready(Examination::default()).boxed_local()
    }
}

/// The future of a fetch.
pub type Fetched = LocalBoxFuture<'static, Result<Option<Bytes>, DeliveryError>>;

/// The future of a release.
pub type Released = LocalBoxFuture<'static, Result<(), DeliveryError>>;

/// What a batch is held under; never used for another batch, nor a second time for the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeldKey {
    /// The sink whose batch it is.
    pub owner: SinkName,
    /// Its positions.
    pub span: Span,
    /// What tells this time from any other, and this data directory from one before it: drawn at random.
    pub number: u64,
}

impl HeldKey {
    /// As a name within its owner's: usable as that of a file. Sorted by it, what is held is in the order of its positions.
    pub fn name(&self) -> String {
        format!("{:020}-{:020}-{:016x}", self.span.first.0, self.span.end.0, self.number)
    }
}

impl fmt::Display for HeldKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name())
    }
}

const MAGIC: &[u8; 4] = b"FBH1";
/// Bytes before the bitmap.
const HEADER_BYTES: usize = 24;
const CRC_BYTES: usize = 4;

/// The batch as bytes, with all of the metadata, whatever part of it the batch lets out.
///
/// # Errors
/// Where a record is damaged.
pub fn pack(batch: &Batch) -> Result<Vec<u8>, DecodeError> {
    let span = batch.span();
    let mut packed = Vec::with_capacity(HEADER_BYTES + batch.payload_bytes() / 2);
    packed.extend_from_slice(MAGIC);
    packed.extend_from_slice(&span.first.0.to_be_bytes());
    packed.extend_from_slice(&span.end.0.to_be_bytes());
    let bitmap = batch.selection().map_or_else(Vec::new, |selection| bitmap(selection, span));
    packed.extend_from_slice(&u32::try_from(bitmap.len()).unwrap_or(u32::MAX).to_be_bytes());
    packed.extend_from_slice(&bitmap);
    packed.extend_from_slice(&crc32fast::hash(&packed).to_be_bytes());
    for record in batch.records() {
        packed.extend_from_slice(&stored_form::encode(&share(record, span)?));
    }
    Ok(packed)
}

/// A bit for each position of the span.
fn bitmap(selection: &Selection, span: Span) -> Vec<u8> {
    let mut bitmap = Vec::new();
    for position in selection.within(span) {
        let at = position.since(span.first);
        // A batch's events are counted in memory.
        let (byte, bit) = ((at / 8) as usize, at % 8);
        bitmap.resize(bitmap.len().max(byte + 1), 0);
        bitmap[byte] |= 1 << bit;
    }
    bitmap
}

/// The positions whose bits are set.
fn selection(bitmap: &[u8], span: Span) -> Selection {
    let mut selection = Selection::none_of(span);
    for (at, byte) in (0..).step_by(8).zip(bitmap) {
        for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
            let position = span.first.plus(at + bit);
            selection.insert(Span { first: position, end: position.plus(1) });
        }
    }
    selection
}

/// As much of a record as the span needs.
fn share(record: &Record, span: Span) -> Result<Record, DecodeError> {
    if record.first >= span.first && record.end() <= span.end {
        return Ok(record.clone());
    }
    let wanted = span.first.since(record.first)..span.end.min(record.end()).since(record.first);
    let (bytes, events) = blocks_around(&record.payload, wanted)?;
    Ok(Record {
        first: record.first.plus(events.start),
        // The record has no more events than this.
        count: u32::try_from(events.end - events.start).unwrap_or(record.count),
        written_at: record.written_at,
        payload: record.payload.slice(bytes),
    })
}

/// The batch again; `None` where the bytes are not what [`pack`] made, whole.
pub fn unpack(packed: &[u8]) -> Option<Batch> {
    let number = |at: usize| Some(u64::from_be_bytes(*packed.get(at..)?.first_chunk()?));
    let bytes = u32::from_be_bytes(*packed.get(HEADER_BYTES - 4..)?.first_chunk()?) as usize;
    let (said, behind) = packed.split_at_checked(HEADER_BYTES.checked_add(bytes)?)?;
    let (crc, mut rest) = behind.split_at_checked(CRC_BYTES)?;
    if !said.starts_with(MAGIC) || crc32fast::hash(said).to_be_bytes() != crc {
        return None;
    }
    let span = Span { first: Position(number(4)?), end: Position(number(12)?) };
    let (mut records, mut next) = (Vec::new(), span.first);
    while !rest.is_empty() {
        let (first, bytes) = stored_form::header(rest)?;
        let (stored, behind) = rest.split_at_checked(bytes)?;
        let record = stored_form::decode(first, stored)?;
        let follows = if records.is_empty() { first <= next } else { first == next };
        (next, rest) = (record.end(), behind);
        records.push(Arc::new(record));
        follows.then_some(())?;
    }
    if span.first >= span.end || records.is_empty() || next < span.end {
        return None;
    }
    let batch = Batch::new(span, records);
    match &said[HEADER_BYTES..] {
        [] => Some(batch),
        bitmap => batch.select(selection(bitmap, span)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        event::{Block, BlockBuilder, Draft, Stamp, Timestamp},
        otlp::Signal,
        record::Part,
    };

    fn stamped(first: u64, block: Block) -> Vec<u8> {
        let at = Timestamp::from_nanos(7);
        let stamp = Stamp { first_id: uuid::Uuid::from_u128(u128::from(first)), ingested_at: at };
        block.stamped(stamp).bytes().to_vec()
    }

    /// A record of requests of so many events.
    fn record(first: u64, requests: &[u64]) -> Arc<Record> {
        let (mut payload, mut at) = (Vec::new(), first);
        for count in requests {
            let mut builder = BlockBuilder::default();
            for i in 0..*count {
                builder.push(&Draft {
                    event_id: None,
                    timestamp: None,
                    service: "api",
                    message: &format!("event {}", at + i),
                    metadata: None,
                });
            }
            builder.finish().into_iter().for_each(|block| payload.extend(stamped(at, block)));
            at += count;
        }
        let count = u32::try_from(at - first).unwrap();
        let written_at = Timestamp::from_nanos(9);
        Arc::new(Record { first: Position(first), count, written_at, payload: payload.into() })
    }

    fn batch(first: u64, end: u64) -> Batch {
        let records = [record(0, &[3, 1, 6]), record(10, &[1]), record(11, &[5, 5, 10])];
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

    /// A request of OpenTelemetry comes back as the bytes that came, also where the batch has only some of its items.
    #[test]
    fn requests_come_back_as_they_came() {
        // Two spans in one scope of one resource, with a name each: fields of `ExportTraceServiceRequest` by number.
        let spans: Vec<u8> = [&[0x12, 3, 0x2a, 1, b'a'][..], &[0x12, 3, 0x2a, 1, b'b']].concat();
        let scope = [&[0x12, spans.len() as u8][..], &spans].concat();
        let request = [&[0x0a, scope.len() as u8][..], &scope].concat();
        let payload = stamped(5, Block::otlp(Signal::Traces, &request, 2)).into();
        let record =
            Arc::new(Record { first: Position(5), count: 2, written_at: Timestamp::default(), payload });
        for (first, end) in [(5, 7), (6, 7)] {
            let batch = Batch::new(Span { first: Position(first), end: Position(end) }, vec![record.clone()]);
            let back = unpack(&pack(&batch).unwrap()).unwrap();
            assert_eq!(told(&back), told(&batch));
            assert_eq!(back.records()[0].payload, record.payload);
            let mut events = back.events();
            let Some(Ok(Part::Otlp { request: found, .. })) = events.next_part() else { panic!() };
            assert_eq!(found == request, first == 5);
        }
    }

    proptest! {
        /// Whatever part of the records a batch has: it comes back with its id and its events, and no request comes along
        /// that it has nothing of.
        #[test]
        fn a_batch_comes_back_as_it_was(first in 0_u64..31, count in 1_u64..31, every in 1_u64..4) {
            let batch = batch(first, (first + count).min(31));
            let mut selection = Selection::none_of(batch.span());
            for at in (first..batch.span().end.0).filter(|at| at % every == 0) {
                selection.insert(Span { first: Position(at), end: Position(at + 1) });
            }
            let Some(batch) = batch.select(selection) else { return Ok(()) };
            let back = unpack(&pack(&batch).unwrap()).unwrap();
            prop_assert_eq!(back.id(), batch.id());
            prop_assert_eq!(told(&back), told(&batch));
            let held: u64 = back.records().iter().map(|r| u64::from(r.count)).sum();
            prop_assert!(held < batch.span().count() + 2 * 10);
            prop_assert!(back.records().iter().all(|r| r.written_at == Timestamp::from_nanos(9)));
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
