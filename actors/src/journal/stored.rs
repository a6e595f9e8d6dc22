//! The bytes of a record on disk.
//!
//! ```text
//! stored  = header body                          cut into chunks of at most CHUNK_BYTES_MAX
//! header  = magic "FBR1" | position u64 | codec u8 | count u32 | written_at i64 ns | raw bytes u32
//!           | body bytes u32 | crc32 u32
//! further = magic "FBRc" | key                   before every chunk but the first
//! key     = position of the first event u64 | chunk u16           (all numbers big-endian)
//! body    = the payload                                           codec 0
//!         | the payload, compressed                               codec 1
//!         | (block header, bytes of what follows u32, the block's events, compressed)*     codec 2
//! ```
//! Blocks that were compressed on arrival are stored so: their headers were not known then. All compression is lz4's block
//! format.
//!
//! The checksum covers the header before it and the body, so a flipped bit anywhere is found. Magic and position
//! make a record and its chunks recognisable without sled; the magic's last letter is the version.

use std::{borrow::Cow, fs::File, os::unix::fs::FileExt as _};

use super::{CHUNK_BYTES_MAX, Drafted, RECORD_BYTES};
use crate::{
    event::{Stamped, Timestamp, block},
    lz4,
    record::{Position, Record},
    spare::SparePool,
};

/// What all magics begin with.
pub(super) const MAGIC: &[u8; 3] = b"FBR";
const VERSION: u8 = b'1';
const FURTHER: &[u8; 4] = b"FBRc";
pub(super) const HEADER_BYTES: usize = 37;
const CRC_AT: usize = HEADER_BYTES - 4;

/// A body is never larger than this uncompressed: twice the largest request there can be, four times as large by its tenant's name (the
/// configuration's checks see to that).
const RAW_BYTES_MAX: usize = 1 << 30;

/// What a byte of lz4 can become at most: a length goes on in bytes that stand for 255 each.
const LZ4_RATIO_MAX: usize = 255;

/// Payloads from which on the room for them is used again.
const SPARED_FROM_BYTES: usize = RECORD_BYTES / 4;

/// How a body is compressed; its byte in the header.
const CODEC_NONE: u8 = 0;
const CODEC_LZ4: u8 = 1;
const CODEC_LZ4_BLOCKS: u8 = 2;

/// What stands before a block that was compressed on arrival: its header, and how long it is compressed.
const BLOCK_PREFIX_BYTES: usize = block::HEADER_BYTES + 4;

/// The key of one chunk.
pub(super) type Key = [u8; KEY_BYTES];
const KEY_BYTES: usize = 10;

/// Bytes before the body of a further chunk.
pub(super) const FURTHER_BYTES: usize = FURTHER.len() + KEY_BYTES;

pub(super) fn key(first: Position, chunk: u16) -> Key {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&first.0.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

pub(super) fn parse_key(bytes: &[u8]) -> Option<(Position, u16)> {
    let (first, chunk) = bytes.split_first_chunk::<8>()?;
    Some((Position(u64::from_be_bytes(*first)), u16::from_be_bytes(chunk.try_into().ok()?)))
}

/// A stored record as the values that are kept of it.
pub(super) fn chunks(first: Position, stored: &[u8]) -> impl Iterator<Item = (Key, Cow<'_, [u8]>)> {
    let (beginning, rest) = stored.split_at(stored.len().min(CHUNK_BYTES_MAX));
    let further = rest.chunks(CHUNK_BYTES_MAX - FURTHER_BYTES).zip(1..).map(move |(body, chunk)| {
        let key = key(first, chunk);
        (key, Cow::Owned([&FURTHER[..], &key, body].concat()))
    });
    std::iter::once((key(first, 0), Cow::Borrowed(beginning))).chain(further)
}

/// What a value adds to its record.
pub(super) fn part(key: Key, value: &[u8]) -> &[u8] {
    match parse_further(value) {
        Some(found) if found == key => &value[FURTHER_BYTES..],
        _ => value,
    }
}

/// The key of a further chunk, where its bytes begin so.
pub(super) fn parse_further(bytes: &[u8]) -> Option<Key> {
    bytes.strip_prefix(FURTHER)?.first_chunk().copied()
}

/// Where a record lies in a log.
pub(super) struct Place {
    beginning: u64,
    bytes: usize,
    /// Where the bodies of its further chunks are.
    further: Vec<u64>,
}

impl Place {
    /// The place of a record that is one chunk.
    pub(super) fn of_one_chunk(header: &Header, beginning: u64) -> Self {
        Self { beginning, bytes: header.stored_bytes(), further: Vec::new() }
    }

    /// The place of the record whose first chunk is at `beginning`; `None` where a further chunk is missing. `further_at`
    /// says where the first thing from an offset on is that looks like the chunk of a key: the real one comes behind the
    /// chunk before it, and what looks like one within that is what an event says.
    pub(super) fn find(
        header: &Header,
        beginning: u64,
        further_at: impl Fn(Key, u64) -> Option<u64>,
    ) -> Option<Self> {
        let bytes = header.stored_bytes();
        let mut place = Self { beginning, bytes, further: Vec::new() };
        let count = bytes.saturating_sub(CHUNK_BYTES_MAX).div_ceil(CHUNK_BYTES_MAX - FURTHER_BYTES);
        for chunk in 1..=u16::try_from(count).ok()? {
            let behind = place.parts().last().map_or(beginning, |(offset, length)| offset + length as u64);
            place.further.push(further_at(key(header.first, chunk), behind)? + FURTHER_BYTES as u64);
        }
        Some(place)
    }

    /// Reads the record into room for it; `None` where the log does not have all of it.
    pub(super) fn read<'a>(&self, log: &File, room: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        // Not cleared: all of it is written over.
        room.resize(self.bytes, 0);
        let mut filled = 0;
        for (offset, length) in self.parts() {
            log.read_exact_at(&mut room[filled..filled + length], offset).ok()?;
            filled += length;
        }
        Some(room)
    }

    /// Its parts in order: offsets and lengths.
    pub(super) fn parts(&self) -> impl Iterator<Item = (u64, usize)> {
        let first = self.bytes.min(CHUNK_BYTES_MAX);
        let mut rest = self.bytes - first;
        let further = self.further.iter().map(move |offset| {
            let bytes = rest.min(CHUNK_BYTES_MAX - FURTHER_BYTES);
            rest -= bytes;
            (*offset, bytes)
        });
        std::iter::once((self.beginning, first)).chain(further)
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) first: Position,
    codec: u8,
    count: u32,
    written_at: Timestamp,
    raw_bytes: usize,
    body_bytes: usize,
    crc: u32,
}

impl Header {
    /// `None` where the bytes are no header of this version.
    pub(super) fn parse(stored: &[u8]) -> Option<Self> {
        let (version, mut at) = stored.get(..HEADER_BYTES)?.strip_prefix(MAGIC)?.split_first()?;
        let mut number = |width: usize| {
            let (bytes, rest) = at.split_at(width);
            at = rest;
            bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let header = Self {
            first: Position(number(8)),
            codec: number(1) as u8,
            count: number(4) as u32,
            written_at: Timestamp::from_nanos(number(8) as i64),
            raw_bytes: number(4) as usize,
            body_bytes: number(4) as usize,
            crc: number(4) as u32,
        };
        (*version == VERSION && header.raw_bytes <= RAW_BYTES_MAX && header.count > 0).then_some(header)
    }

    /// Writes it before the body that stands in `out`, with the checksum of both.
    fn seal(self, out: &mut [u8]) -> &[u8] {
        let out = &mut out[..self.stored_bytes()];
        let bytes = |n: usize| u32::try_from(n).expect("a record is far below 4 GiB").to_be_bytes();
        let fields: [&[u8]; 8] = [
            MAGIC,
            &[VERSION],
            &self.first.0.to_be_bytes(),
            &[self.codec],
            &self.count.to_be_bytes(),
            &self.written_at.nanos().to_be_bytes(),
            &bytes(self.raw_bytes),
            &bytes(self.body_bytes),
        ];
        out[..CRC_AT].copy_from_slice(&fields.concat());
        let crc = checksum(out);
        out[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// The place after the record's last event.
    pub(super) fn end(&self) -> Position {
        self.first.plus(u64::from(self.count))
    }

    /// Whether the record is one value.
    pub(super) fn is_one_chunk(&self) -> bool {
        self.stored_bytes() <= CHUNK_BYTES_MAX
    }

    /// Bytes of header and body.
    pub(super) fn stored_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes
    }
}

/// The stored form of a record, in `out`. It is compressed where that makes it smaller.
pub(super) fn encode<'a>(record: &Record, out: &'a mut Vec<u8>) -> &'a [u8] {
    let (codec, body_bytes) = write_whole(&record.payload, out);
    let Record { first, count, written_at, ref payload } = *record;
    Header { first, codec, count, written_at, raw_bytes: payload.len(), body_bytes, crc: 0 }.seal(out)
}

/// The same of a record whose blocks were compressed on arrival.
///
/// # Panics
/// Where one of them was not.
pub(super) fn encode_packed<'a>(drafted: &Drafted<'_>, out: &'a mut Vec<u8>) -> &'a [u8] {
    let body_bytes = write_blocks(drafted.blocks, out);
    let header = Header {
        first: drafted.first,
        codec: CODEC_LZ4_BLOCKS,
        count: drafted.count(),
        written_at: drafted.written_at,
        raw_bytes: drafted.raw_bytes(),
        body_bytes,
        crc: 0,
    };
    header.seal(out)
}

/// Room for so many bytes behind the header; what is left there from the record before is not cleared.
fn body_of(out: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if out.len() < HEADER_BYTES + bytes {
        out.resize(HEADER_BYTES + bytes, 0);
    }
    &mut out[HEADER_BYTES..HEADER_BYTES + bytes]
}

/// Writes the payload as one body; its codec and its bytes.
fn write_whole(raw: &[u8], out: &mut Vec<u8>) -> (u8, usize) {
    let body = body_of(out, lz4::packed_bytes_max(raw.len()));
    let packed = lz4::compress_into(raw, body);
    if packed < raw.len() {
        return (CODEC_LZ4, packed);
    }
    body[..raw.len()].copy_from_slice(raw);
    (CODEC_NONE, raw.len())
}

/// Writes blocks behind each other, as they were compressed; their bytes.
fn write_blocks(blocks: &[Stamped], out: &mut Vec<u8>) -> usize {
    let packed = |block: &Stamped| block.packed().expect("it was compressed on arrival").clone();
    let bytes = blocks.iter().map(|block| BLOCK_PREFIX_BYTES + packed(block).len()).sum();
    // Nothing is cleared that is written over at once.
    out.clear();
    out.reserve(HEADER_BYTES + bytes);
    out.resize(HEADER_BYTES, 0);
    for block in blocks {
        let events = packed(block);
        let length = u32::try_from(events.len()).expect("a record is far below 4 GiB").to_be_bytes();
        let header = &block.bytes()[..block::HEADER_BYTES];
        [header, &length, &events].iter().for_each(|part| out.extend_from_slice(part));
    }
    bytes
}

/// Whether the bytes are those of a whole record.
pub(super) fn is_whole(stored: &[u8]) -> bool {
    let header = Header::parse(stored);
    header.is_some_and(|header| {
        stored.get(..header.stored_bytes()).is_some_and(|stored| checksum(stored) == header.crc)
    })
}

/// The record again; `None` where the bytes are not what [`encode`] made.
pub(super) fn decode(first: Position, stored: &[u8]) -> Option<Record> {
    decode_into(first, stored, &SparePool::new(0, 0))
}

/// The same with its payload in a buffer of the pool, where it is large enough for one.
pub(super) fn decode_into(first: Position, stored: &[u8], spare: &SparePool) -> Option<Record> {
    let header = Header::parse(stored)?;
    let body = stored.get(HEADER_BYTES..HEADER_BYTES + header.body_bytes)?;
    if header.first != first || checksum(&stored[..HEADER_BYTES + header.body_bytes]) != header.crc {
        return None;
    }
    // A small payload would keep a large buffer that nobody counts.
    let none = SparePool::new(0, 0);
    let spare = if header.raw_bytes < SPARED_FROM_BYTES { &none } else { spare };
    let payload = match header.codec {
        CODEC_NONE => {
            let mut raw = spare.take_filled(body.len());
            raw.copy_from_slice(body);
            raw
        }
        // The size the header names is believed only now that the checksum is, and only where lz4 could reach it.
        CODEC_LZ4 | CODEC_LZ4_BLOCKS if header.raw_bytes > body.len() * LZ4_RATIO_MAX => return None,
        CODEC_LZ4 => {
            let mut raw = spare.take_filled(header.raw_bytes);
            lz4::decompress_into(body, &mut raw)?;
            raw
        }
        CODEC_LZ4_BLOCKS => {
            let mut raw = spare.take_filled(header.raw_bytes);
            read_blocks(body, &mut raw)?;
            raw
        }
        _ => return None,
    };
    let payload = spare.bytes(payload);
    Some(Record { first, count: header.count, written_at: header.written_at, payload })
}

/// Fills `room` with the payload that [`write_blocks`] wrote so; `None` where that is not just as much.
fn read_blocks(mut body: &[u8], mut room: &mut [u8]) -> Option<()> {
    while !body.is_empty() {
        let (header, rest) = body.split_at_checked(block::HEADER_BYTES)?;
        let (length, rest) = rest.split_first_chunk()?;
        let (packed, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        body = rest;
        room.split_off_mut(..header.len())?.copy_from_slice(header);
        let events = room.split_off_mut(..block::body_bytes(header))?;
        lz4::decompress_into(packed, events)?;
    }
    room.is_empty().then_some(())
}

/// Makes the magic, the length and the checksum those of a whole record; of no use where there is no room for a header.
pub(super) fn seal(stored: &mut [u8]) {
    let Some(body_bytes) = stored.len().checked_sub(HEADER_BYTES).and_then(|n| u32::try_from(n).ok()) else {
        return;
    };
    stored[..MAGIC.len()].copy_from_slice(MAGIC);
    stored[CRC_AT - 4..CRC_AT].copy_from_slice(&body_bytes.to_be_bytes());
    let crc = checksum(stored);
    stored[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
}

fn checksum(stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&stored[..CRC_AT]);
    hasher.update(&stored[HEADER_BYTES..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        event::{BlockBuilder, Draft, Stamp},
        journal::records,
    };

    fn record(payload: Vec<u8>) -> Record {
        let written_at = Timestamp::from_nanos(123);
        Record { first: Position(9), count: 3, written_at, payload: payload.into() }
    }

    /// What compresses best is still within what a header is believed.
    #[test]
    fn the_best_compression_is_believed() {
        for bytes in [1_000, 300_000, 3_000_000] {
            let record = record(vec![b'x'; bytes]);
            let stored = encode(&record, &mut Vec::new()).to_vec();
            assert!(stored.len() < bytes / 10);
            assert_eq!(decode(record.first, &stored).unwrap().payload, record.payload);
        }
    }

    const STAMP: Stamp = Stamp { first_id: uuid::Uuid::from_u128(1), ingested_at: Timestamp::from_nanos(3) };

    /// Blocks of so many events of so many bytes each, as `Buffer` hands them over.
    fn blocks(sizes: &[(usize, usize)]) -> Vec<Stamped> {
        let stamped = |(index, (events, bytes)): (usize, &(usize, usize))| {
            let mut builder = BlockBuilder::default();
            for event in 0..*events {
                let message = format!("{index} {event} {}", "a word or two ".repeat(bytes / 14));
                let message = message.as_str();
                builder.push(&Draft {
                    event_id: None,
                    timestamp: None,
                    service: "s",
                    message,
                    metadata: None,
                });
            }
            builder.finish().into_iter().map(|block| block.stamped(STAMP)).collect::<Vec<_>>()
        };
        sizes.iter().enumerate().flat_map(stamped).collect()
    }

    /// What was compressed on arrival is stored as it is, and comes back as the payload that sinks were shown; small blocks
    /// are compressed together.
    #[test]
    fn blocks_are_stored_as_they_were_compressed() {
        let blocks = blocks(&[(1, 100), (100, 1_000), (50, 1_000), (3, 10), (1, 40_000), (3_000, 100)]);
        let drafted = records(&blocks, Position(7), Timestamp::from_nanos(5), RECORD_BYTES);
        let packed: Vec<_> = drafted
            .iter()
            .map(|drafted| if drafted.is_packed() { drafted.blocks.len() } else { 0 })
            .collect();
        assert_eq!(packed, [0, 2, 0, 1, 1, 1], "blocks compressed on arrival, record by record");
        // Left over from a record before it, as in a journal.
        let mut out = vec![0xaa; 1000];
        let mut payloads = Vec::new();
        for drafted in &drafted {
            let record = drafted.record();
            let stored = match drafted.is_packed() {
                true => encode_packed(drafted, &mut out).to_vec(),
                false => encode(&record, &mut out).to_vec(),
            };
            assert!(record.payload.len() < 1_000 || stored.len() < record.payload.len() / 10);
            let back = decode(record.first, &stored).unwrap();
            assert_eq!((back.count, &back.payload), (record.count, &record.payload));
            payloads.extend_from_slice(&back.payload);
        }
        assert_eq!(payloads, blocks.iter().flat_map(|block| block.bytes().to_vec()).collect::<Vec<_>>());
    }

    /// Bytes under a right checksum that are no blocks are no record: whatever lengths they name, nothing is read past the end.
    #[test]
    fn blocks_of_wrong_lengths_are_no_record() {
        let blocks = blocks(&[(100, 1_000)]);
        let drafted = records(&blocks, Position(0), Timestamp::default(), RECORD_BYTES);
        let whole = encode_packed(&drafted[0], &mut Vec::new()).to_vec();
        assert!(decode(Position(0), &whole).is_some());
        for at in HEADER_BYTES + 28..HEADER_BYTES + BLOCK_PREFIX_BYTES {
            for value in [0, 1, 0x7f, 0xff] {
                let mut stored = whole.clone();
                stored[at] = value;
                seal(&mut stored);
                let back = decode(Position(0), &stored);
                assert!(back.is_none() || stored == whole, "byte {at} is {value}");
            }
        }
        for cut in [1, BLOCK_PREFIX_BYTES, whole.len() / 2] {
            let mut stored = whole[..whole.len() - cut].to_vec();
            seal(&mut stored);
            assert!(decode(Position(0), &stored).is_none(), "{cut} bytes are missing");
        }
    }

    proptest! {
        /// Any payload comes back as it was, compressible or not.
        #[test]
        fn records_round_trip(payload in proptest::collection::vec(any::<u8>(), 0..3000), times in 1_usize..50) {
            let record = record(payload.repeat(times));
            let back = decode(record.first, encode(&record, &mut Vec::new())).unwrap();
            prop_assert_eq!(back.payload, record.payload);
            prop_assert_eq!((back.count, back.written_at), (record.count, record.written_at));
        }

        /// A flipped bit is found wherever it is.
        #[test]
        fn a_flipped_bit_is_found(at in 0_usize..10_000, bit in 0_u8..8) {
            let mut stored = encode(&record(b"the same again and again".repeat(40)), &mut Vec::new()).to_vec();
            let at = at % stored.len();
            stored[at] ^= 1 << bit;
            prop_assert!(decode(Position(9), &stored).is_none());
        }
    }
}
