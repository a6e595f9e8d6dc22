//! Finds records in the raw bytes of a generation.
//!
//! When sled opens a log it believes it up to the first damaged message and wipes the rest, so one flipped bit
//! would cost every record behind it. Therefore a generation is looked through before sled may open it: each
//! record begins with a magic and its own position and ends under its own checksum. Where one is missing, the
//! file is copied to the quarantine first, and what sled does not list is read from the copy. Only a record of
//! several chunks (over 112 KiB stored) cannot be read that way.

use std::{collections::BTreeMap, fs, fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::{CHUNK_BYTES_MAX, stored};
use crate::record::{Position, Record, Span};

/// Bytes looked through at a time.
const WINDOW_BYTES: usize = 1024 * 1024;

/// A raw log, and where whole records lie in it.
pub(super) struct Salvage {
    file: File,
    records: BTreeMap<Position, Found>,
}

struct Found {
    offset: u64,
    end: Position,
}

impl Salvage {
    /// Looks through the log at `path`. `None` where it holds every record of the span; else a copy of it, made
    /// at `copy` if there is none yet.
    pub(super) fn of_damaged(path: &Path, span: Span, copy: &Path) -> io::Result<Option<Self>> {
        let scanned = Self::scan(File::open(path)?)?;
        if scanned.is_whole(span) {
            return Ok(None);
        }
        if !copy.exists() {
            copy.parent().map_or(Ok(()), fs::create_dir_all)?;
            let partial = copy.with_extension("partial");
            fs::copy(path, &partial)?;
            fs::rename(&partial, copy)?;
        }
        tracing::error!(log = %path.display(), kept = %copy.display(), "a generation is damaged; all that is whole in it is kept");
        Self::scan(File::open(copy)?).map(Some)
    }

    /// The events of the span that the log at `path` holds whole. Only reads.
    pub(super) fn count_whole(path: &Path, span: Span) -> io::Result<u64> {
        let scanned = Self::scan(File::open(path)?)?;
        let events = |(first, found): (&Position, &Found)| found.end.min(span.end).since(*first);
        Ok(scanned.records.range(span.first..span.end).map(events).sum())
    }

    fn scan(file: File) -> io::Result<Self> {
        let mut records = BTreeMap::new();
        let mut window = vec![0; WINDOW_BYTES + CHUNK_BYTES_MAX];
        let mut start = 0;
        // What looks like a record within a whole one is what an event says: clients may write what they like.
        let mut end_of_whole = 0;
        loop {
            let read = read_at(&file, &mut window, start)?;
            let last = read < window.len();
            for at in memchr::memmem::find_iter(&window[..read], stored::MAGIC) {
                let offset = start + at as u64;
                // What begins behind the window is seen whole in the next, if there is one.
                if (last || at < WINDOW_BYTES)
                    && offset >= end_of_whole
                    && let Some(header) = stored::Header::check(&window[at..read])
                {
                    if header.stored_bytes() <= CHUNK_BYTES_MAX {
                        end_of_whole = offset + header.stored_bytes() as u64;
                    }
                    records.insert(header.first, Found { offset, end: header.end() });
                }
            }
            if last {
                return Ok(Self { file, records });
            }
            start += WINDOW_BYTES as u64;
        }
    }

    fn is_whole(&self, span: Span) -> bool {
        let follow = |at: Position, (first, found): (&Position, &Found)| (*first == at).then_some(found.end);
        let mut at = span.first;
        for record in self.records.range(span.first..span.end) {
            match follow(at, record) {
                Some(end) => at = end,
                None => return false,
            }
        }
        at >= span.end
    }

    /// The whole records that begin in the span, in order.
    pub(super) fn records(&self, from: Position, end: Position) -> impl Iterator<Item = Record> + '_ {
        // The record that holds `from` may begin before it.
        let begin = self.records.range(..=from).next_back().map_or(from, |(first, _)| *first);
        self.records.range(begin..end).filter_map(|(first, found)| {
            let mut bytes = vec![0; CHUNK_BYTES_MAX];
            let read = read_at(&self.file, &mut bytes, found.offset).ok()?;
            stored::decode(*first, &bytes[..read])
        })
    }
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
