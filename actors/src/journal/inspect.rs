//! Looking at a journal's directory from outside: which generations there are, and whether their records are whole.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{JournalError, salvage::Salvage};
use crate::{
    event::Timestamp,
    record::{Position, Span},
};

/// The file in a generation that holds the position after its last event, 8 bytes big-endian.
pub(super) const WITNESS: &str = "head";

/// A generation, open or not.
pub(super) struct Entry {
    pub(super) first: Position,
    pub(super) disk_bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) last_write: Timestamp,
}

pub(super) fn find_generations(dir: &Path) -> Result<Vec<Entry>, JournalError> {
    let io = |e| JournalError::io(dir, e);
    let mut entries = Vec::new();
    for item in fs::read_dir(dir).map_err(io)? {
        let item = item.map_err(io)?;
        let name = item.file_name();
        let Some(first) = name.to_str().and_then(|name| name.parse().ok()).map(Position) else { continue };
        let log = fs::metadata(item.path().join("db")).ok();
        let disk_bytes = log.as_ref().map_or(0, |m| m.blocks() * 512);
        let last_write = Timestamp::from_nanos(log.map_or(0, |m| m.mtime()).saturating_mul(1_000_000_000));
        entries.push(Entry { first, disk_bytes, stored_bytes: disk_bytes, last_write });
    }
    entries.sort_by_key(|entry| entry.first);
    Ok(entries)
}

/// More positions than a generation can hold.
pub(super) const GENERATION_POSITIONS_MAX: u64 = 1 << 32;

/// The position after the last event of the generation that begins at `first`. `None` where the witness is missing or says
/// what cannot be: it is not synced, so after a power loss it may be anything, zeros most of all.
pub(super) fn read_witness(generation: &Path, first: Position) -> Option<Position> {
    let bytes = fs::read(generation.join(WITNESS)).ok()?;
    let head = Position(u64::from_be_bytes(bytes.try_into().ok()?));
    (first..=first.plus(GENERATION_POSITIONS_MAX)).contains(&head).then_some(head)
}

/// What a look at a journal found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Generations there are.
    pub generations: usize,
    /// Events that are whole.
    pub events: u64,
    /// Positions that should be there and are not whole.
    pub damaged: u64,
    /// Bytes of the files.
    pub disk_bytes: u64,
}

/// Looks through every record of the journal in `dir` and changes nothing, not even what opening it would mend. A
/// process that is writing to it may do so meanwhile.
///
/// # Errors
/// Where a file cannot be read.
pub fn verify(dir: &Path) -> Result<Verified, JournalError> {
    let entries = find_generations(dir)?;
    let mut verified = Verified { generations: entries.len(), ..Verified::default() };
    for (index, entry) in entries.iter().enumerate() {
        let generation = dir.join(format!("{:020}", entry.first.0));
        let next = entries.get(index + 1).map(|next| next.first);
        let end = next.or_else(|| read_witness(&generation, entry.first)).unwrap_or(entry.first);
        let span = Span { first: entry.first, end };
        let log = generation.join("db");
        let whole = Salvage::count_whole(&log, span).map_err(|e| JournalError::io(log, e))?;
        verified.events += whole;
        verified.damaged += span.count().saturating_sub(whole);
        verified.disk_bytes += entry.disk_bytes;
    }
    Ok(verified)
}
