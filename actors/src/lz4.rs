//! lz4's block format, by lz4's own library.
//!
//! `lz4_flex` is as fast only without its checks of every index, which cannot be had here: the client of Cassandra wants it with
//! them, and a build has one set of a crate's features. With them it compressed 120 KB of the benchmark's events at 706 MB/s
//! and brought them back at 2.5 GB/s, this, with all its effort, at 817 MB/s and 4.1 GB/s (medians, benches/README.md).

use lz4::block::{CompressionMode, compress_bound, compress_to_buffer, decompress_to_buffer};

/// How little effort lz4 makes, from 1 on. With 2 it takes a tenth less time than with 1, for 1.5 % more bytes of the benchmark's events
/// and 3 % more of real requests; beyond, it wins little and costs more (benches/README.md).
const ACCELERATION: i32 = 2;

/// Bytes that so many may become at most.
///
/// # Panics
/// For more than lz4 can compress, which is nearly 2 GiB, and far more than the configuration lets in as one piece.
pub fn packed_bytes_max(raw_bytes: usize) -> usize {
    compress_bound(raw_bytes).expect("what is compressed is far below 2 GiB")
}

/// Compresses into `out`, which has room for [`packed_bytes_max`]; how many bytes it became.
pub fn compress_into(raw: &[u8], out: &mut [u8]) -> usize {
    compress_to_buffer(raw, Some(CompressionMode::FAST(ACCELERATION)), false, out)
        .expect("there is room for the worst case")
}

/// Compresses; `None` where that does not make it smaller.
pub(crate) fn compress(raw: &[u8]) -> Option<Vec<u8>> {
    let mut packed = vec![0; packed_bytes_max(raw.len())];
    let bytes = compress_into(raw, &mut packed);
    packed.truncate(bytes);
    // The room for the worst case is given back.
    packed.shrink_to_fit();
    (packed.len() < raw.len()).then_some(packed)
}

/// Fills `raw` with what was compressed; `None` where that is damaged, or not just so many bytes.
pub fn decompress_into(packed: &[u8], raw: &mut [u8]) -> Option<()> {
    // The library counts both in 32 bits, and looks at one of them.
    i32::try_from(packed.len()).ok()?;
    let bytes = i32::try_from(raw.len()).ok()?;
    let written = decompress_to_buffer(packed, Some(bytes), raw).ok()?;
    (written == raw.len()).then_some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What becomes smaller is compressed, and comes back; what does not is left as it is.
    #[test]
    fn only_what_becomes_smaller_is_compressed() {
        let (text, noise) = ("the same again and again, ".repeat(50), uuid::Uuid::new_v4());
        let packed = compress(text.as_bytes()).unwrap();
        let mut raw = vec![0; text.len()];
        decompress_into(&packed, &mut raw).unwrap();
        assert_eq!(raw, text.as_bytes());
        assert!(decompress_into(&packed, &mut raw[1..]).is_none(), "there is no room for all of it");
        raw.push(0);
        assert!(decompress_into(&packed, &mut raw).is_none(), "it is not as much");
        assert_eq!(compress(noise.as_bytes()), None);
    }

    proptest! {
        /// Whatever is said to be compressed is brought back or refused, and nothing is written behind the room for it.
        #[test]
        fn any_bytes_are_brought_back_or_refused(packed in proptest::collection::vec(any::<u8>(), 0..300), room in 0_usize..2000) {
            let mut raw = vec![7; room + 64];
            let _ = decompress_into(&packed, &mut raw[..room]);
            prop_assert!(raw[room..].iter().all(|byte| *byte == 7));
        }
    }
}
