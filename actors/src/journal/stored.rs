//! The bytes of a record on disk.
//!
//! ```text
//! stored  = header body                          cut into chunks of at most CHUNK_BYTES_MAX
//! header  = magic "FBR1" | position u64 | codec u8 | count u32 | written_at i64 ns | raw bytes u32
//!           | body bytes u32 | crc32 u32
//! further = magic "FBRc" | key                   before every chunk but the first
//! key     = position of the first event u64 | chunk u16           (all numbers big-endian)
//! ```
//! The checksum covers the header before it and the body, so a flipped bit anywhere is found. Magic and position
//! make a record and its chunks recognisable without sled; the magic's last letter is the version.

use std::borrow::Cow;

use super::CHUNK_BYTES_MAX;
use crate::{
    event::Timestamp,
    record::{Position, Record},
};

/// What all magics begin with.
pub(super) const MAGIC: &[u8; 3] = b"FBR";
const VERSION: u8 = b'1';
const FURTHER: &[u8; 4] = b"FBRc";
pub(super) const HEADER_BYTES: usize = 37;
const CRC_AT: usize = HEADER_BYTES - 4;

/// A body is never larger than this uncompressed: the largest request there can be, far above any default.
const RAW_BYTES_MAX: usize = 1 << 30;

/// What a byte of lz4 can become at most: a length goes on in bytes that stand for 255 each.
const LZ4_RATIO_MAX: usize = 255;

/// How a body is compressed; its byte in the header.
const CODEC_NONE: u8 = 0;
const CODEC_LZ4: u8 = 1;

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

    /// Bytes of the record.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
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

    /// The place after the record's last event.
    pub(super) fn end(&self) -> Position {
        self.first.plus(u64::from(self.count))
    }

    /// Bytes of header and body.
    pub(super) fn stored_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes
    }
}

/// The stored form of a record, in `out`. Compression is kept only where it helps.
pub(super) fn encode<'a>(record: &Record, out: &'a mut Vec<u8>) -> &'a [u8] {
    let raw = &record.payload;
    let needed = HEADER_BYTES + lz4_flex::block::get_maximum_output_size(raw.len());
    if out.len() < needed {
        out.resize(needed, 0);
    }
    let packed = lz4_flex::block::compress_into(raw, &mut out[HEADER_BYTES..])
        .expect("the output has the size that lz4 asks for");
    let (codec, body_bytes) = if packed < raw.len() {
        (CODEC_LZ4, packed)
    } else {
        out[HEADER_BYTES..HEADER_BYTES + raw.len()].copy_from_slice(raw);
        (CODEC_NONE, raw.len())
    };
    let out = &mut out[..HEADER_BYTES + body_bytes];
    let bytes = |n: usize| u32::try_from(n).expect("a record is far below 4 GiB").to_be_bytes();
    let fields: [&[u8]; 8] = [
        MAGIC,
        &[VERSION],
        &record.first.0.to_be_bytes(),
        &[codec],
        &record.count.to_be_bytes(),
        &record.written_at.nanos().to_be_bytes(),
        &bytes(raw.len()),
        &bytes(body_bytes),
    ];
    out[..CRC_AT].copy_from_slice(&fields.concat());
    let crc = checksum(out);
    out[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
    out
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
    let header = Header::parse(stored)?;
    let body = stored.get(HEADER_BYTES..HEADER_BYTES + header.body_bytes)?;
    if header.first != first || checksum(&stored[..HEADER_BYTES + header.body_bytes]) != header.crc {
        return None;
    }
    let payload = match header.codec {
        CODEC_NONE => body.to_vec(),
        CODEC_LZ4 => {
            // The size the header names is believed only now that the checksum is, and only where lz4 could reach it.
            if header.raw_bytes > body.len() * LZ4_RATIO_MAX {
                return None;
            }
            let mut raw = vec![0; header.raw_bytes];
            let written = lz4_flex::block::decompress_into(body, &mut raw).ok()?;
            (written == header.raw_bytes).then_some(raw)?
        }
        _ => return None,
    };
    Some(Record { first, count: header.count, written_at: header.written_at, payload: payload.into() })
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
