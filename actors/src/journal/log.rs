//! A generation's log as bytes: where whole records lie in it, without sled.
//!
//! When sled opens a log it believes it up to the first damaged message and wipes the rest, so one flipped bit
//! would cost every record behind it. Therefore a generation is looked through before sled may open it: each
//! record begins with a magic and its own position and ends under its own checksum. Where all are there, they are
//! read from here, which takes neither sled's memory nor its time. Where one is missing, the file is copied to the
//! quarantine first, and what sled does not list is read from the copy. Only a record of several chunks (over 112
//! KiB stored) needs sled.

use std::{collections::BTreeMap, fs, fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::{CHUNK_BYTES_MAX, stored};
use crate::record::{Position, Record, Span};

/// Bytes looked through at a time.
const WINDOW_BYTES: usize = 1024 * 1024;

/// A log, and where whole records lie in it.
pub(super) struct Log {
    file: File,
    records: BTreeMap<Position, Found>,
}

struct Found {
    offset: u64,
    end: Position,
    stored_bytes: usize,
}

impl Log {
    /// A copy of the damaged log at `path`, made at `copy` if there is none yet, before sled wipes it.
    pub(super) fn keep(path: &Path, copy: &Path) -> io::Result<Self> {
        if !copy.exists() {
            copy.parent().map_or(Ok(()), fs::create_dir_all)?;
            let partial = copy.with_extension("partial");
            fs::copy(path, &partial)?;
            fs::rename(&partial, copy)?;
        }
        tracing::error!(log = %path.display(), kept = %copy.display(), "a generation is damaged; all that is whole in it is kept");
        Self::scan(copy)
    }

    /// The events of the span that the log at `path` holds whole. Only reads.
    pub(super) fn count_whole(path: &Path, span: Span) -> io::Result<u64> {
        let scanned = Self::scan(path)?;
        let events = |(first, found): (&Position, &Found)| found.end.min(span.end).since(*first);
        Ok(scanned.records.range(span.first..span.end).map(events).sum())
    }

    /// Looks through the file at `path`.
    pub(super) fn scan(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut records = BTreeMap::new();
        let mut window = vec![0; WINDOW_BYTES + CHUNK_BYTES_MAX];
        let mut start = 0;
        loop {
            let read = read_at(&file, &mut window, start)?;
            let last = read < window.len();
            for at in memchr::memmem::find_iter(&window[..read], stored::MAGIC) {
                // What begins behind the window is seen whole in the next, if there is one.
                if (last || at < WINDOW_BYTES)
                    && let Some(header) = stored::Header::check(&window[at..read])
                {
                    let (offset, stored_bytes) = (start + at as u64, header.stored_bytes());
                    records.insert(header.first, Found { offset, end: header.end(), stored_bytes });
                }
            }
            if last {
                return Ok(Self { file, records });
            }
            start += WINDOW_BYTES as u64;
        }
    }

    /// Whether every record of the span is there.
    pub(super) fn is_whole(&self, span: Span) -> bool {
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

    /// Whether any record of the span is there.
    pub(super) fn has_any(&self, span: Span) -> bool {
        self.records.range(span.first..span.end).next().is_some()
    }

    /// Whether every record of the span is there and can be read from here.
    pub(super) fn is_readable(&self, span: Span) -> bool {
        let mut records = self.records.range(span.first..span.end);
        self.is_whole(span) && records.all(|(_, found)| found.stored_bytes <= CHUNK_BYTES_MAX)
    }

    /// The records that begin in the span, and the one that holds its first position, in order, as stored. One of
    /// several chunks is cut off behind its first.
    pub(super) fn stored(&self, span: Span) -> impl Iterator<Item = io::Result<(Position, Vec<u8>)>> + '_ {
        let begin = self.records.range(..=span.first).next_back().map_or(span.first, |(first, _)| *first);
        self.records.range(begin..span.end).map(|(first, found)| {
            let mut bytes = vec![0; found.stored_bytes.min(CHUNK_BYTES_MAX)];
            let read = read_at(&self.file, &mut bytes, found.offset)?;
            bytes.truncate(read);
            Ok((*first, bytes))
        })
    }

    /// Those of them that can be read.
    pub(super) fn records(&self, span: Span) -> impl Iterator<Item = Record> + '_ {
        self.stored(span)
            .filter_map(|found| found.ok().and_then(|(first, bytes)| stored::decode(first, &bytes)))
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
