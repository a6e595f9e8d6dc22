//! Looking at a journal's directory from outside: which generations there are, and whether their records are whole.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{
    JournalError,
    closed::Closed,
    witness::{WITNESS, Witness},
};
use crate::{
    event::Timestamp,
    record::{Position, Span},
};

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

/// Whether a crash came while the generation was made, so that it never held anything: its log is missing, or neither the
/// witness nor any record is there.
pub(super) fn was_never_begun(generation: &Path, first: Position) -> bool {
    match Closed::look(generation, first) {
        Ok(log) => !generation.join(WITNESS).exists() && log.last_end().is_none(),
        Err(JournalError::Damaged { .. }) => {
            Witness::read(generation, first).is_none_or(|witness| witness.position() == first)
        }
        Err(_) => false,
    }
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
    verify_telling(dir, |_, _| ())
}

/// The same, and tells after each generation how many have been looked through, and of how many.
///
/// # Errors
/// As [`verify`].
pub fn verify_telling(dir: &Path, mut tell: impl FnMut(usize, usize)) -> Result<Verified, JournalError> {
    let entries = find_generations(dir)?;
    let mut verified = Verified { generations: entries.len(), ..Verified::default() };
    for (index, entry) in entries.iter().enumerate() {
        let generation = dir.join(format!("{:020}", entry.first.0));
        let next = entries.get(index + 1).map(|next| next.first);
        let witnessed = || Witness::read(&generation, entry.first).map(Witness::position);
        let end = next.or_else(witnessed).unwrap_or(entry.first);
        let span = Span { first: entry.first, end: end.max(entry.first) };
        let whole = match Closed::look(&generation, entry.first) {
            Err(JournalError::Damaged { .. }) => 0,
            log => log?.count_whole(span),
        };
        verified.events += whole;
        verified.damaged += span.count().saturating_sub(whole);
        verified.disk_bytes += entry.disk_bytes;
        tell(index + 1, entries.len());
    }
    Ok(verified)
}
