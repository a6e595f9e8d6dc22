//! Rows, compressed as the server unpacks them.
//!
//! `gzip` and `zstd` are encodings of HTTP. `lz4` is ClickHouse's own form, the one that its native protocol has and that
//! `decompress=1` announces: every server knows it, while lz4 as an encoding of HTTP came years later.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzEncoder;
use forebay_actors::{
    destination::{Cause, DeliveryError},
    lz4,
};

use crate::config::ClickhouseCompression;

/// Bytes of rows in a block: as many as the server's own clients take.
const BLOCK_BYTES: usize = 1024 * 1024;

/// Says that a block is lz4.
const LZ4: u8 = 0x82;

/// The method and two lengths.
const HEADER_BYTES: usize = 9;

const CHECKSUM_BYTES: usize = 16;

/// The rows as a body.
///
/// # Errors
/// Where a compressor fails, which is a bug of it or a lack of memory.
pub(super) fn packed(rows: Vec<u8>, compression: ClickhouseCompression) -> Result<Bytes, DeliveryError> {
    let failed = |why: String| {
        DeliveryError::transient(Cause::Encode, format!("the rows cannot be compressed: {why}"))
    };
    match compression {
        ClickhouseCompression::None => Ok(rows.into()),
        ClickhouseCompression::Gzip => {
            let mut gzip = GzEncoder::new(Vec::with_capacity(rows.len() / 4), flate2::Compression::fast());
            let done = gzip.write_all(&rows).and_then(|()| gzip.finish());
            done.map(Bytes::from).map_err(|error| failed(error.to_string()))
        }
        ClickhouseCompression::Zstd => {
            zstd::bulk::compress(&rows, 1).map(Bytes::from).map_err(|error| failed(error.to_string()))
        }
        ClickhouseCompression::Lz4 => Ok(blocks(&rows).into()),
    }
}

/// Each block is a checksum, the method, its length with these nine bytes, the length of its rows, and the compressed rows.
fn blocks(rows: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len() / 2 + CHECKSUM_BYTES + HEADER_BYTES);
    for rows in rows.chunks(BLOCK_BYTES) {
        let checksum = out.len();
        let header = checksum + CHECKSUM_BYTES;
        let body = header + HEADER_BYTES;
        out.resize(body + lz4::packed_bytes_max(rows.len()), 0);
        let packed = lz4::compress_into(rows, &mut out[body..]);
        out.truncate(body + packed);
        out[header] = LZ4;
        // A block is a mebibyte, so both lengths have room in 32 bits.
        out[header + 1..header + 5].copy_from_slice(&((HEADER_BYTES + packed) as u32).to_le_bytes());
        out[header + 5..body].copy_from_slice(&(rows.len() as u32).to_le_bytes());
        // The hash has its halves the other way round than the server writes them.
        let hash = cityhash_rs::cityhash_102_128(&out[header..]).rotate_left(64);
        out[checksum..header].copy_from_slice(&hash.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks are unpacked to what went in, by their own lengths, whatever the size.
    #[test]
    fn blocks_hold_the_rows() {
        for bytes in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES * 2 + 7] {
            let rows: Vec<u8> = (0..bytes).map(|byte| (byte / 7) as u8).collect();
            let (packed, mut unpacked) =
                (packed(rows.clone(), ClickhouseCompression::Lz4).unwrap(), Vec::new());
            let mut rest = &packed[..];
            while !rest.is_empty() {
                let number = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
                let (length, size) = (number(17), number(21));
                let mut block = vec![0; size];
                lz4::decompress_into(&rest[25..16 + length], &mut block).unwrap();
                unpacked.append(&mut block);
                rest = &rest[16 + length..];
            }
            assert!(unpacked == rows, "{bytes}");
        }
    }
}
