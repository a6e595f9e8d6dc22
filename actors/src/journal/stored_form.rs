//! The stored form of records, for those that keep records elsewhere ([`holding`](crate::holding), a journal on other
//! machines), and for the fuzz targets: they reach it through a whole journal, too, but thousands of times slower, and never
//! past its checksum.

use super::{Drafted, records, stored};
use crate::{
    event::{Stamped, Timestamp},
    record::{Position, Record},
};

/// The blocks as records of at most `bytes_max`, unless a single block is larger: how many events each has, and its stored form
/// as if it began at the first position, for whoever does not know yet where it will be.
pub fn encode_all(blocks: &[Stamped], written_at: Timestamp, bytes_max: usize) -> Vec<(u32, Vec<u8>)> {
    let first = Position::default();
    let stored = |drafted: Drafted<'_>| {
        let (drafted, mut out) = (Drafted { first, ..drafted }, Vec::new());
        let bytes = match drafted.is_packed() {
            // Its payload is nobody's here: whoever delivers it reads it again.
            true => stored::encode_packed(&drafted, &mut out).len(),
            false => stored::encode(&drafted.record(), &mut out).len(),
        };
        out.truncate(bytes);
        (drafted.count(), out)
    };
    records(blocks, first, written_at, bytes_max).into_iter().map(stored).collect()
}

/// Header and body of a record.
pub fn encode(record: &Record) -> Vec<u8> {
    stored::encode(record, &mut Vec::new()).to_vec()
}

/// The place of the record that begins here, and its bytes, as its header says; `None` where there is no header.
pub fn header(stored: &[u8]) -> Option<(Position, usize)> {
    stored::Header::parse(stored).map(|header| (header.first, header.stored_bytes()))
}

/// The record at `first` again; `None` where the bytes are not what [`encode`] made.
pub fn decode(first: Position, stored: &[u8]) -> Option<Record> {
    stored::decode(first, stored)
}

/// What the stored form has at most beside the bytes of a record, which it never makes more.
pub const OVERHEAD_BYTES: usize = stored::HEADER_BYTES;

/// Makes header and checksum right for whatever stands there, so that what lies behind them is reached.
#[doc(hidden)]
pub fn seal(stored: &mut [u8]) {
    stored::seal(stored);
}
