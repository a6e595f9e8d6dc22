//! The codec: a block is the events of one request, encoded once and never again.
//!
//! ```text
//! block  = header (event*count | 0xc1 signal request | 0xc1 (signal + 16) first_id ingested_at request)
//! header = first_id: 16 bytes, ingested_at: i64 ns, count: u32, bytes of what follows: u32   (big-endian)
//! event  = [event_id: str|nil, timestamp: i64 ns|nil, service: str, message: str, metadata: str|nil, (ingested_at: i64 ns)?]
//! signal = logs 1, metrics 2, traces 3; request = an OpenTelemetry request, in protobuf, of `count` items
//! ```
//! An event is MessagePack, an array in field order. `nil` as an id means "the first id plus my index", as
//! a timestamp "when the block was ingested": so the ingress can encode before anyone has stamped. An event with a time of its
//! arrival is one that a relay handed on, and that time counts, not the block's; a request that a relay handed on has its
//! own first id and time behind the signal, and these count. 0xc1 is the one byte with which no MessagePack begins.

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use super::Timestamp;
use crate::{lz4, otlp::Signal};

/// Encoded bytes after which a request goes on in a further block: the raw size of a journal record, which
/// at the 3x that log-like JSON compresses gives the 80 to 112 KiB that sled stores fastest.
pub const BLOCK_BYTES: usize = 256 * 1024;

/// An event as an ingress encodes it: what the client sent, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Draft<'a> {
    /// The client's own id, if it sent one.
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

/// An event on its way, with the time at which the first relay of it accepted it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub(super) struct Relayed<'a>(
    #[cfg_attr(test, serde(borrow))] pub(super) Option<&'a str>,
    pub(super) Option<Timestamp>,
    pub(super) &'a str,
    pub(super) &'a str,
    pub(super) Option<&'a str>,
    #[cfg_attr(test, serde(default))] pub(super) Option<Timestamp>,
);

/// Bytes of events from which on a block is compressed by whoever encodes it, on one of many threads, instead of by the
/// journal, on its only one. Smaller blocks compress better together.
const PACK_FROM_BYTES: usize = 32 * 1024;

/// Encoded events that have no ids and no time of arrival yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    count: u32,
    /// The id of its first event, where it does not get one on arrival.
    first_id: Option<Uuid>,
    /// Room for the header, then the events: stamping a block copies nothing.
    bytes: Vec<u8>,
    /// The events compressed.
    packed: Option<Bytes>,
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
    packed: Option<Bytes>,
}

/// Bytes that are no block of this version.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The MessagePack is not what the format says.
    #[error("not a block of events: something else stands where an event should")]
    MessagePack,
    /// A text of an event is none.
    #[error("not a block of events: {0}")]
    Utf8(#[from] std::str::Utf8Error),
    /// A request of OpenTelemetry of no signal that there is, or with fewer items than its header says.
    #[error("not a request of OpenTelemetry of so many items")]
    Otlp,
    /// Read one by one, the events of a batch are too large for it: there is nothing wrong with a part of them.
    #[error("with all that stands around each of them they are too large to be read together")]
    Expanded,
    /// A header promises more than there is.
    #[error("a block of {wanted} bytes stands where {left} are left")]
    Truncated {
        /// Bytes the header promised.
        wanted: usize,
        /// Bytes there were.
        left: usize,
    },
}

/// Bytes of a block's header.
pub(crate) const HEADER_BYTES: usize = 32;

/// Bytes of the events behind this header.
///
/// # Panics
/// Where it has fewer bytes than a header.
pub(crate) fn body_bytes(header: &[u8]) -> usize {
    let bytes = header[..HEADER_BYTES].last_chunk().expect("a header is longer than that");
    u32::from_be_bytes(*bytes) as usize
}

/// The byte with which the request of OpenTelemetry begins.
pub(super) const OTLP: u8 = 0xc1;

/// Set in the byte of the signal where a relay handed the request on.
pub(super) const RELAYED: u8 = 0x10;

// === impl Block ===

impl Block {
    /// An OpenTelemetry request of so many items, which must have been checked.
    pub fn otlp(signal: Signal, request: &[u8], count: u32) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 2 + request.len());
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(&[OTLP, signal as u8]);
        bytes.extend_from_slice(request);
        Self::of(count, bytes)
    }

    /// A block of so many events, which stand behind room for the header.
    fn of(count: u32, bytes: Vec<u8>) -> Self {
        let events = &bytes[HEADER_BYTES..];
        let packed = if events.len() >= PACK_FROM_BYTES { lz4::compress(events) } else { None };
        let packed = packed.map(Bytes::from);
        Self { count, first_id: None, bytes, packed }
    }

    /// The same of a request that a relay handed on: its items keep the ids and the time that they have from there, whatever
    /// the block is stamped with.
    pub fn relayed_otlp(signal: Signal, request: &[u8], count: u32, stamp: Stamp) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 26 + request.len());
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(&[OTLP, signal as u8 | RELAYED]);
        bytes.extend_from_slice(stamp.first_id.as_bytes());
        bytes.extend_from_slice(&stamp.ingested_at.nanos().to_be_bytes());
        bytes.extend_from_slice(request);
        Self::of(count, bytes)
    }

    /// One event alone.
    pub(super) fn of_one(relayed: &Relayed<'_>) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        write(&mut bytes, &relayed.draft(), relayed.5);
        Self::of(1, bytes)
    }

    /// Its encoded events: the same for the same events.
    pub fn events(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// The same block, of which the first event has this id, and those behind it the next ones; instead of ids that they would
    /// get on arrival.
    pub fn with_first_id(self, first_id: Uuid) -> Self {
        Self { first_id: Some(first_id), ..self }
    }

    /// The id of its first event, where it does not get one on arrival.
    pub fn first_id(&self) -> Option<Uuid> {
        self.first_id
    }

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
        Stamped { count: self.count, stamp, bytes: self.bytes.into(), packed: self.packed }
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

    /// Its events compressed by lz4, without the header; `None` where it is too small for that, or does not get smaller.
    pub fn packed(&self) -> Option<&Bytes> {
        self.packed.as_ref()
    }
}

impl Relayed<'_> {
    pub(super) fn draft(&self) -> Draft<'_> {
        let Self(event_id, timestamp, service, message, metadata, _) = *self;
        Draft { event_id, timestamp, service, message, metadata }
    }
}

fn write(out: &mut Vec<u8>, draft: &Draft<'_>, ingested_at: Option<Timestamp>) {
    let written = match ingested_at {
        None => rmp_serde::encode::write(out, draft),
        Some(_) => {
            let Draft { event_id, timestamp, service, message, metadata } = *draft;
            rmp_serde::encode::write(
                out,
                &Relayed(event_id, timestamp, service, message, metadata, ingested_at),
            )
        }
    };
    written.expect("a Vec takes every event");
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
        self.push_relayed(draft, None);
    }

    /// As [`push`](Self::push), for an event that a relay accepted before, at this time.
    pub fn push_relayed(&mut self, draft: &Draft<'_>, ingested_at: Option<Timestamp>) {
        if self.bytes.is_empty() {
            self.bytes.reserve(self.capacity);
            self.bytes.resize(HEADER_BYTES, 0);
        }
        let start = self.bytes.len();
        write(&mut self.bytes, draft, ingested_at);
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
            let mut bytes = std::mem::take(&mut self.bytes);
            // A block may wait long, and a request may be of very many: what was only expected, or taken by an event that
            // went into the next block, is given back.
            if bytes.capacity() / 2 > bytes.len() {
                bytes.shrink_to_fit();
            }
            self.blocks.push(Block::of(std::mem::take(&mut self.count), bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(message: &str) -> Draft<'_> {
        Draft { event_id: None, timestamp: None, service: "s", message, metadata: None }
    }

    /// Scenario: small events stand before and behind one that fills a block, of a request that was expected to be large.
    /// Guarantee: no block keeps much more room than it uses. A block of one small event kept that of a full one, or of the
    /// event for which there was no room in it.
    #[test]
    fn r0295_a_small_block_kept_the_room_of_a_large_one() {
        let large = "x".repeat(2 * BLOCK_BYTES);
        let mut builder = BlockBuilder::with_capacity(usize::MAX);
        for message in ["m", &large, "m"] {
            builder.push(&draft(message));
        }
        let blocks = builder.finish();
        assert_eq!(blocks.len(), 3);
        for block in blocks {
            let (room, used) = (block.bytes.capacity(), block.bytes.len());
            assert!(room / 2 <= used, "{room} bytes for {used}");
        }
    }
}
