//! The codec: a block is the events of one request, encoded once and never again.
//!
//! ```text
//! block  = header event*count
//! header = first_id: 16 bytes, ingested_at: i64 ns, count: u32, bytes of the events: u32   (big-endian)
//! event  = [event_id: str|nil, timestamp: i64 ns|nil, service: str, message: str, metadata: str|nil]
//! ```
//! An event is MessagePack, an array in field order. `nil` as an id means "the first id plus my index", as
//! a timestamp "when the block was ingested": so the ingress can encode before anyone has stamped.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Event, EventId, Timestamp};

/// Encoded bytes after which a request goes on in a further block: the raw size of a journal record, which
/// at the 3x that log-like JSON compresses gives the 80 to 112 KiB that sled stores fastest.
pub const BLOCK_BYTES: usize = 256 * 1024;

/// An event as an ingress encodes it: what the client sent, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft<'a> {
    /// The client's own id, if it sent one.
    #[serde(borrow)]
    pub event_id: Option<&'a str>,
    /// The client's own time, if it sent one.
    pub timestamp: Option<Timestamp>,
    /// 1 to 256 characters.
    pub service: &'a str,
    /// Any text.
    pub message: &'a str,
    /// The text of a JSON object.
    pub metadata: Option<&'a str>,
}

/// Encoded events that have no ids and no time of arrival yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    count: u32,
    /// Room for the header, then the events: stamping a block copies nothing.
    bytes: Vec<u8>,
}

/// What `Receiver` adds to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The id of the block's first event; the event at index `i` has this plus `i`.
    pub first_id: Uuid,
    /// When the block was accepted.
    pub ingested_at: Timestamp,
}

impl Stamp {
    /// The id given to the event at `index`, where the client sent none.
    pub fn id_at(&self, index: u32) -> Uuid {
        // Damaged bytes may say any first id.
        Uuid::from_u128(self.first_id.as_u128().wrapping_add(u128::from(index)))
    }
}

/// A block that has its ids and its time of arrival: what the journal takes.
#[derive(Debug, Clone)]
pub struct Stamped {
    count: u32,
    stamp: Stamp,
    /// Header and events.
    bytes: Bytes,
}

/// Bytes that are no block of this version.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The MessagePack is not what the format says.
    #[error("not a block of events: {0}")]
    MessagePack(#[from] rmp_serde::decode::Error),
    /// A header promises more than there is.
    #[error("a block of {wanted} bytes stands where {left} are left")]
    Truncated {
        /// Bytes the header promised.
        wanted: usize,
        /// Bytes there were.
        left: usize,
    },
}

const HEADER_BYTES: usize = 32;

// === impl Block ===

impl Block {
    /// Events in it.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Gives the block its ids and its time.
    pub fn stamped(mut self, stamp: Stamp) -> Stamped {
        let bytes = u32::try_from(self.bytes.len() - HEADER_BYTES).expect("a request is far below 4 GiB");
        let header: [&[u8]; 4] = [
            stamp.first_id.as_bytes(),
            &stamp.ingested_at.nanos().to_be_bytes(),
            &self.count.to_be_bytes(),
            &bytes.to_be_bytes(),
        ];
        self.bytes[..HEADER_BYTES].copy_from_slice(&header.concat());
        Stamped { count: self.count, stamp, bytes: self.bytes.into() }
    }
}

impl Stamped {
    /// Events in it.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Its ids and time.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Header and events: alone, the payload of a record.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// Builds the blocks of one request.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    blocks: Vec<Block>,
    /// Room for the header, then the events.
    bytes: Vec<u8>,
    count: u32,
    capacity: usize,
}

impl BlockBuilder {
    /// A builder that expects about `bytes` of encoded events.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { capacity: bytes.min(BLOCK_BYTES + BLOCK_BYTES / 8) + HEADER_BYTES, ..Self::default() }
    }

    /// Encodes one event; begins a further block where the current one is full.
    pub fn push(&mut self, draft: &Draft<'_>) {
        if self.bytes.is_empty() {
            self.bytes.reserve(self.capacity);
            self.bytes.resize(HEADER_BYTES, 0);
        }
        let start = self.bytes.len();
        rmp_serde::encode::write(&mut self.bytes, draft).expect("a Vec takes every event");
        if self.bytes.len() > BLOCK_BYTES && self.count > 0 {
            let tail = self.bytes.split_off(start);
            self.seal();
            self.bytes.reserve(self.capacity.max(HEADER_BYTES + tail.len()));
            self.bytes.resize(HEADER_BYTES, 0);
            self.bytes.extend_from_slice(&tail);
        }
        self.count += 1;
    }

    /// Events encoded so far.
    pub fn count(&self) -> usize {
        self.blocks.iter().map(|b| b.count as usize).sum::<usize>() + self.count as usize
    }

    /// The blocks; none where nothing was pushed.
    pub fn finish(mut self) -> Vec<Block> {
        self.seal();
        self.blocks
    }

    fn seal(&mut self) {
        if self.count > 0 {
            let bytes = std::mem::take(&mut self.bytes);
            self.blocks.push(Block { count: std::mem::take(&mut self.count), bytes });
        }
    }
}

/// One event with its id and times, as the payload of a record of its own.
pub fn encode_single(event: &Event<'_>) -> Vec<u8> {
    let (event_id, first_id) = match event.event_id {
        EventId::Given(text) => (Some(text), Uuid::nil()),
        EventId::Assigned(uuid) => (None, uuid),
    };
    let mut builder = BlockBuilder::default();
    builder.push(&Draft {
        event_id,
        timestamp: Some(event.timestamp),
        service: event.service,
        message: event.message,
        metadata: event.metadata,
    });
    let stamp = Stamp { first_id, ingested_at: event.ingested_at };
    builder.finish().into_iter().flat_map(|block| block.stamped(stamp).bytes).collect()
}

// === impl Events ===

/// Reads the events of a record's payload, block after block, borrowing from it.
#[derive(Debug)]
pub struct Events<'a> {
    /// What stands behind the current block.
    rest: &'a [u8],
    block: Decoder<'a>,
    stamp: Stamp,
    index: u32,
    count: u32,
}

type Decoder<'a> = rmp_serde::Deserializer<rmp_serde::decode::ReadRefReader<'a, [u8]>>;

impl<'a> Events<'a> {
    /// Over the payload of a record.
    pub fn new(payload: &'a [u8]) -> Self {
        let stamp = Stamp { first_id: Uuid::nil(), ingested_at: Timestamp::default() };
        Self { rest: payload, block: Decoder::from_read_ref(&[]), stamp, index: 0, count: 0 }
    }

    fn next_event(&mut self) -> Result<Option<Event<'a>>, DecodeError> {
        while self.index == self.count {
            if self.rest.is_empty() {
                return Ok(None);
            }
            self.next_block()?;
        }
        let draft = Draft::deserialize(&mut self.block)?;
        let event = Event {
            event_id: match draft.event_id {
                Some(text) => EventId::Given(text),
                None => EventId::Assigned(self.stamp.id_at(self.index)),
            },
            timestamp: draft.timestamp.unwrap_or(self.stamp.ingested_at),
            service: draft.service,
            message: draft.message,
            metadata: draft.metadata,
            ingested_at: self.stamp.ingested_at,
        };
        self.index += 1;
        Ok(Some(event))
    }

    fn next_block(&mut self) -> Result<(), DecodeError> {
        let first_id = Uuid::from_bytes(self.take()?);
        let ingested_at = Timestamp::from_nanos(i64::from_be_bytes(self.take()?));
        self.count = u32::from_be_bytes(self.take()?);
        let wanted = u32::from_be_bytes(self.take()?) as usize;
        let left = self.rest.len();
        let (block, rest) =
            self.rest.split_at_checked(wanted).ok_or(DecodeError::Truncated { wanted, left })?;
        (self.block, self.rest) = (Decoder::from_read_ref(block), rest);
        (self.stamp, self.index) = (Stamp { first_id, ingested_at }, 0);
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let truncated = DecodeError::Truncated { wanted: N, left: self.rest.len() };
        let (head, rest) = self.rest.split_first_chunk().ok_or(truncated)?;
        self.rest = rest;
        Ok(*head)
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, DecodeError>;

    /// After an error there is nothing more: where one event ends is where the next begins.
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_event();
        if next.is_err() {
            *self = Self::new(&[]);
        }
        next.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp { first_id: Uuid::from_u128(7), ingested_at: Timestamp::from_nanos(42) }
    }

    fn draft(message: &str) -> Draft<'_> {
        Draft { event_id: None, timestamp: None, service: "api", message, metadata: None }
    }

    fn payload(blocks: Vec<Block>) -> Vec<u8> {
        blocks.into_iter().flat_map(|block| block.stamped(stamp()).bytes).collect()
    }

    /// What was encoded is read back field for field, with ids and times filled in where the client sent none.
    #[test]
    fn events_round_trip() {
        let mut builder = BlockBuilder::default();
        builder.push(&Draft {
            event_id: Some("mine"),
            timestamp: Some(Timestamp::from_nanos(-1)),
            service: "web",
            message: "h\u{e9}llo",
            metadata: Some("{\"a\":1}"),
        });
        builder.push(&draft("second"));
        let bytes = payload(builder.finish());
        let events: Vec<_> = Events::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(events[0].event_id, EventId::Given("mine"));
        assert_eq!(events[0].timestamp, Timestamp::from_nanos(-1));
        assert_eq!((events[0].message, events[0].metadata), ("h\u{e9}llo", Some("{\"a\":1}")));
        assert_eq!(events[1].event_id, EventId::Assigned(Uuid::from_u128(8)));
        assert_eq!(events[1].timestamp, Timestamp::from_nanos(42));
        assert_eq!(events.len(), 2);
    }

    /// A request far larger than a record becomes several blocks, and no event is split over two.
    #[test]
    fn a_large_request_becomes_several_blocks() {
        let message = "x".repeat(100_000);
        let mut builder = BlockBuilder::default();
        (0..7).for_each(|_| builder.push(&draft(&message)));
        assert_eq!(builder.count(), 7);
        let blocks = builder.finish();
        assert_eq!(blocks.iter().map(Block::count).collect::<Vec<_>>(), [2, 2, 2, 1]);
        assert_eq!(Events::new(&payload(blocks)).filter(Result::is_ok).count(), 7);
    }

    /// Ids of a damaged header come round at the end of their range instead of a panic.
    #[test]
    fn r0324_ids_at_the_end_of_their_range_panicked() {
        let mut builder = BlockBuilder::default();
        (0..2).for_each(|_| builder.push(&draft("m")));
        let stamp = Stamp { first_id: Uuid::max(), ..stamp() };
        let bytes: Vec<u8> =
            builder.finish().into_iter().flat_map(|block| block.stamped(stamp).bytes).collect();
        let ids: Vec<_> = Events::new(&bytes).map(|event| event.unwrap().event_id).collect();
        assert_eq!(ids, [EventId::Assigned(Uuid::max()), EventId::Assigned(Uuid::nil())]);
    }

    /// Damaged bytes are an error and an end, never a panic or a loop.
    #[test]
    fn damaged_bytes_end_the_reading() {
        let mut builder = BlockBuilder::default();
        builder.push(&draft("whole"));
        let bytes = payload(builder.finish());
        for cut in 1..bytes.len() {
            let events: Vec<_> = Events::new(&bytes[..cut]).collect();
            assert!(events.len() == 1 && events[0].is_err(), "cut at {cut}: {events:?}");
        }
    }
}
