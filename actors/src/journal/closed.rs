//! A generation that is not written any more: read from its log, without sled.
//!
//! When sled opens a log it believes it up to the first damaged message and wipes the rest, so one flipped bit, also in
//! sled's own bytes, would cost every record behind it. But each record begins with a magic and its own position and ends
//! under its own checksum, and each further chunk says whose it is. So a log is looked through once, for all that is
//! whole in it, and never changed. Where something is missing it is also copied to the quarantine, for whoever wants to
//! look when the generation is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{JournalError, Piece, stored, witness::Witness};
use crate::record::{Position, Span};

/// The directory beside the generations where damaged bytes are kept.
pub(super) const QUARANTINE: &str = "quarantine";

/// Bytes looked through at a time.
const WINDOW_BYTES: usize = 1024 * 1024;

/// A log, and where whole records lie in it.
pub(super) struct Closed {
    path: PathBuf,
    file: File,
    records: BTreeMap<Position, Found>,
}

/// A whole record.
struct Found {
    end: Position,
    place: stored::Place,
}

impl Closed {
    /// Looks through the log of the generation in `dir`, and keeps a copy where it does not hold every record of the span.
    pub(super) fn open(dir: &Path, span: Span) -> Result<Self, JournalError> {
        let closed = Self::look(dir, span.first)?;
        if !closed.is_whole(span) {
            let quarantine = dir.with_file_name(QUARANTINE);
            closed.keep_copy(&quarantine, span.first).map_err(|e| JournalError::io(quarantine, e))?;
        }
        Ok(closed)
    }

    /// The same for a generation that begins at `first`, and changes nothing.
    pub(super) fn look(dir: &Path, first: Position) -> Result<Self, JournalError> {
        let path = dir.join("db");
        let scanned = File::open(&path).and_then(|file| Self::scan(&path, file));
        let mut closed = scanned.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => JournalError::Damaged { path, reason: "it is gone".into() },
            _ => JournalError::io(path, e),
        })?;
        if let Some(Witness::End(end)) = Witness::read(dir, first) {
            closed.records.split_off(&end);
        }
        Ok(closed)
    }

    fn scan(path: &Path, file: File) -> io::Result<Self> {
        let (mut beginnings, mut further) = (Vec::new(), BTreeSet::new());
        let mut window = vec![0; WINDOW_BYTES + stored::HEADER_BYTES];
        let mut start = 0;
        loop {
            let read = read_at(&file, &mut window, start)?;
            let last = read < window.len();
            for at in memchr::memmem::find_iter(&window[..read], stored::MAGIC) {
                // What begins behind the window is seen whole in the next, if there is one.
                if !last && at >= WINDOW_BYTES {
                    continue;
                }
                let (found, offset) = (&window[at..read], start + at as u64);
                if let Some(header) = stored::Header::parse(found) {
                    beginnings.push((header, offset));
                } else if let Some(key) = stored::parse_further(found) {
                    further.insert((key, offset));
                }
            }
            if last {
                break;
            }
            start += WINDOW_BYTES as u64;
        }
        let mut closed = Self { path: path.into(), file, records: BTreeMap::new() };
        // What looks like a record within a whole one is what an event says: clients may write what they like.
        let mut whole = BTreeMap::<u64, u64>::new();
        let is_within_one = |whole: &BTreeMap<u64, u64>, offset| {
            whole.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
        };
        for (header, offset) in beginnings {
            if is_within_one(&whole, offset) {
                continue;
            }
            let place = stored::Place::find(&header, offset, |key, from| {
                further.range((key, from)..=(key, u64::MAX)).next().map(|(_, offset)| *offset)
            });
            if let Some(place) =
                place.filter(|place| closed.bytes(place).is_some_and(|b| stored::is_whole(&b)))
            {
                whole.extend(place.parts().map(|(offset, length)| (offset, offset + length as u64)));
                closed.records.insert(header.first, Found { end: header.end(), place });
            }
        }
        Ok(closed)
    }

    /// `None` where the file does not have them.
    fn bytes(&self, place: &stored::Place) -> Option<Vec<u8>> {
        let mut bytes = vec![0; place.bytes()];
        let mut filled = 0;
        for (offset, length) in place.parts() {
            self.file.read_exact_at(&mut bytes[filled..filled + length], offset).ok()?;
            filled += length;
        }
        Some(bytes)
    }

    fn keep_copy(&self, quarantine: &Path, first: Position) -> io::Result<()> {
        let copy = quarantine.join(format!("{:020}.db", first.0));
        if !copy.exists() {
            fs::create_dir_all(quarantine)?;
            // It is not written any more, so another name for it is as good as a copy, and takes nothing of a full device.
            if fs::hard_link(&self.path, &copy).is_err() {
                let partial = copy.with_extension("partial");
                let copied = fs::copy(&self.path, &partial).and_then(|_| fs::rename(&partial, &copy));
                if copied.is_err() {
                    let _ = fs::remove_file(&partial);
                }
                copied?;
            }
        }
        tracing::error!(log = %self.path.display(), kept = %copy.display(), "a generation is damaged; all that is whole in it is read");
        Ok(())
    }

    fn is_whole(&self, span: Span) -> bool {
        self.end_from(span.first) >= span.end
    }

    /// How far its records go without a gap, from the place where one begins.
    pub(super) fn end_from(&self, first: Position) -> Position {
        let follow = |at: Position, (first, found): (&Position, &Found)| match *first == at {
            true => Ok(found.end),
            false => Err(at),
        };
        self.records.range(first..).try_fold(first, follow).unwrap_or_else(|at| at)
    }

    /// The end of the last whole record, whatever is missing before it.
    pub(super) fn last_end(&self) -> Option<Position> {
        self.records.values().map(|found| found.end).max()
    }

    /// The events of the span that are whole.
    pub(super) fn count_whole(&self, span: Span) -> u64 {
        if span.first >= span.end {
            return 0;
        }
        let events = |(first, found): (&Position, &Found)| found.end.min(span.end).since(*first);
        self.records.range(span.first..span.end).map(events).sum()
    }

    /// Reads pieces from `from` on, up to `end`, until `bytes_max` of payload are there.
    pub(super) fn read(&self, from: Position, end: Position, bytes_max: usize) -> Vec<Piece> {
        let (mut pieces, mut at, mut bytes) = (Vec::new(), from, 0);
        // The record that holds `from` may begin before it.
        let begin = self.records.range(..=from).next_back().map_or(from, |(first, _)| *first);
        for (first, found) in self.records.range(begin..end.max(begin)) {
            if at >= end || bytes >= bytes_max {
                return pieces;
            }
            // It was whole a moment ago: then it is a gap like any other.
            let record = self.bytes(&found.place).and_then(|stored| stored::decode(*first, &stored));
            let Some(record) = record.filter(|record| record.end() > at) else { continue };
            if record.first > at {
                pieces.push(Piece::Damaged(Span { first: at, end: record.first }));
            }
            at = record.end();
            bytes += record.payload.len();
            pieces.push(Piece::Record(Arc::new(record)));
        }
        if at < end && bytes < bytes_max {
            pieces.push(Piece::Damaged(Span { first: at, end }));
        }
        pieces
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
