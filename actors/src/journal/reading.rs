//! One reading of a generation: chunks become records, and what is missing becomes a piece of its own.

use std::{fs, path::Path, sync::Arc};

use super::{Piece, log::Log, stored};
use crate::record::{Position, Record, Span};

/// The directory beside the generations where damaged bytes are kept.
pub(super) const QUARANTINE: &str = "quarantine";

/// Puts chunks together to records, and notices what is missing.
pub(super) struct Reading<'a> {
    /// The generation's.
    dir: &'a Path,
    /// What there is besides, where the log was found damaged.
    salvage: Option<&'a Log>,
    pieces: Vec<Piece>,
    at: Position,
    end: Position,
    /// Payload still wanted.
    bytes_max: usize,
    partial: Option<Partial>,
}

struct Partial {
    first: Position,
    stored_bytes: usize,
    stored: Vec<u8>,
    chunk: u16,
}

impl<'a> Reading<'a> {
    /// A reading of the span that wants so many bytes of payload.
    pub(super) fn new(dir: &'a Path, salvage: Option<&'a Log>, span: Span, bytes_max: usize) -> Self {
        Self { dir, salvage, pieces: Vec::new(), at: span.first, end: span.end, bytes_max, partial: None }
    }

    pub(super) fn is_done(&self) -> bool {
        self.bytes_max == 0 || self.at >= self.end
    }

    /// Takes the next chunk. `Err(None)` ends the tree early: there is enough.
    pub(super) fn feed(
        &mut self,
        entry: sled::Result<(sled::IVec, sled::IVec)>,
    ) -> Result<(), Option<sled::Error>> {
        let (key, value) = entry.map_err(Some)?;
        match (stored::parse_key(&key), self.partial.take()) {
            (Some((first, 0)), _) => match stored::Header::parse(&value) {
                Some(header) if header.stored_bytes() > value.len() => {
                    let stored_bytes = header.stored_bytes();
                    self.partial = Some(Partial { first, stored_bytes, stored: value.to_vec(), chunk: 0 });
                }
                _ => self.stored(first, &value),
            },
            (Some((first, chunk)), Some(mut partial))
                if partial.first == first && partial.chunk + 1 == chunk =>
            {
                partial.stored.extend_from_slice(&value);
                partial.chunk = chunk;
                if partial.stored.len() >= partial.stored_bytes {
                    self.stored(first, &partial.stored);
                } else {
                    self.partial = Some(partial);
                }
            }
            // A chunk without its beginning: the gap shows at the next whole record.
            _ => {}
        }
        if self.is_done() { Err(None) } else { Ok(()) }
    }

    /// Takes a whole record as stored.
    pub(super) fn stored(&mut self, first: Position, bytes: &[u8]) {
        if first >= self.end {
            return;
        }
        match stored::decode(first, bytes) {
            Some(record) if record.end() > self.at => {
                self.gap_until(record.first);
                if !self.is_done() {
                    self.push(record);
                }
            }
            Some(_) => {}
            None => self.quarantine(first, bytes),
        }
    }

    fn push(&mut self, record: Record) {
        self.at = record.end();
        self.bytes_max = self.bytes_max.saturating_sub(record.payload.len());
        self.pieces.push(Piece::Record(Arc::new(record)));
    }

    /// Accounts for positions that sled does not list: salvaged where the bytes are still there.
    fn gap_until(&mut self, end: Position) {
        if end <= self.at {
            return;
        }
        if let Some(salvage) = self.salvage {
            for record in salvage.records(Span { first: self.at, end }) {
                self.damaged_until(record.first);
                if !self.is_done() && record.end() > self.at {
                    self.push(record);
                }
            }
        }
        // What was salvaged may be enough for this reading; then the rest of the gap is the next one's.
        if !self.is_done() {
            self.damaged_until(end);
        }
    }

    fn damaged_until(&mut self, end: Position) {
        if end > self.at && !self.is_done() {
            self.pieces.push(Piece::Damaged(Span { first: self.at, end }));
            self.at = end;
        }
    }

    /// What was found; what was not is damaged.
    pub(super) fn finish(mut self) -> Vec<Piece> {
        if !self.is_done() {
            self.gap_until(self.end);
        }
        self.pieces
    }

    /// Keeps the bytes of a record that cannot be read, for whoever wants to look; once for each record.
    fn quarantine(&self, first: Position, bytes: &[u8]) {
        let path = self.dir.with_file_name(QUARANTINE).join(format!("{first}.record"));
        if path.exists() {
            return;
        }
        tracing::error!(position = %first, kept = %path.display(), "a record is damaged; reading goes on behind it");
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
        if let Err(error) = written {
            tracing::error!(%error, path = %path.display(), "the damaged record could not be put aside");
        }
    }
}
