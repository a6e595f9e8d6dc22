//! The stored form of records, for those that keep records elsewhere ([`holding`](crate::holding)), and for the fuzz targets:
//! they reach it through a whole journal, too, but thousands of times slower, and never past its checksum.

use super::stored;
use crate::record::{Position, Record};

/// Header and body of a record.
pub fn encode(record: &Record) -> Vec<u8> {
    stored::encode(record, &[], &mut Vec::new()).to_vec()
}

/// The place of the record that begins here, and its bytes, as its header says; `None` where there is no header.
pub fn header(stored: &[u8]) -> Option<(Position, usize)> {
    stored::Header::parse(stored).map(|header| (header.first, header.stored_bytes()))
}

/// The record at `first` again; `None` where the bytes are not what [`encode`] made.
pub fn decode(first: Position, stored: &[u8]) -> Option<Record> {
    stored::decode(first, stored)
}

/// Makes header and checksum right for whatever stands there, so that what lies behind them is reached.
pub fn seal(stored: &mut [u8]) {
    stored::seal(stored);
}
