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

use memchr::memmem;

use super::{JournalError, Piece, stored, witness::Witness};
use crate::{
    record::{Position, Span},
    spare::SparePool,
};

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

/// What was found in a log so far.
#[derive(Default)]
struct Search {
    records: BTreeMap<Position, Found>,
    /// Where whole records begin and end. What looks like a record within one is what an event says: clients may write what
    /// they like.
    whole: BTreeMap<u64, u64>,
    /// What looks like a record of several chunks, and all that looks like a record behind it: it is not known yet what of that is
    /// within it.
    beginnings: Vec<(stored::Header, u64)>,
    /// What looks like a further chunk.
    further: BTreeSet<(stored::Key, u64)>,
}

impl Search {
    /// Looks through a piece of the log that begins at `start`. Returns where the next has to begin; `None` behind the last.
    fn look_through(&mut self, window: &[u8], start: u64, is_last: bool) -> Option<u64> {
        let mut at = 0;
        while let Some(found) = memmem::find(&window[at..], stored::MAGIC) {
            at += found;
            // What begins behind the window is seen whole in the next, if there is one.
            if !is_last && at >= WINDOW_BYTES {
                break;
            }
            let (bytes, offset) = (&window[at..], start + at as u64);
            at += 1;
            let Some(header) = stored::Header::parse(bytes) else {
                self.further.extend(stored::parse_further(bytes).map(|key| (key, offset)));
                continue;
            };
            if !header.is_one_chunk() || !self.beginnings.is_empty() {
                self.beginnings.push((header, offset));
            } else if header.stored_bytes() > bytes.len() && !is_last {
                // It is looked at when all of it is there.
                return Some(offset);
            } else if stored::is_whole(bytes) {
                self.add(&header, stored::Place::of_one_chunk(&header, offset));
                at += header.stored_bytes() - 1;
            }
        }
        (!is_last).then_some(start + at.max(WINDOW_BYTES) as u64)
    }

    /// Finds the chunks of records that have several.
    fn put_together(&mut self, file: &File) {
        let mut room = Vec::new();
        for (header, offset) in std::mem::take(&mut self.beginnings) {
            if self.whole.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end) {
                continue;
            }
            let place = stored::Place::find(&header, offset, |key, from| {
                self.further.range((key, from)..=(key, u64::MAX)).next().map(|(_, offset)| *offset)
            });
            if let Some(place) = place
                && place.read(file, &mut room).is_some_and(stored::is_whole)
            {
                self.add(&header, place);
            }
        }
    }

    /// Adds a record that is whole.
    fn add(&mut self, header: &stored::Header, place: stored::Place) {
        self.whole.extend(place.parts().map(|(offset, length)| (offset, offset + length as u64)));
        self.records.insert(header.first, Found { end: header.end(), place });
    }
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
        let mut search = Search::default();
        let mut window = vec![0; WINDOW_BYTES + stored::HEADER_BYTES];
        let mut start = 0;
        loop {
            let read = read_at(&file, &mut window, start)?;
            match search.look_through(&window[..read], start, read < window.len()) {
                Some(next) => start = next,
                None => break,
            }
        }
        search.put_together(&file);
        Ok(Self { path: path.into(), file, records: search.records })
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
    pub(super) fn read(
        &self,
        from: Position,
        end: Position,
        bytes_max: usize,
        spare: &SparePool,
    ) -> Vec<Piece> {
        let (mut pieces, mut at, mut bytes) = (Vec::new(), from, 0);
        let mut room = Vec::new();
        // The record that holds `from` may begin before it.
        let begin = self.records.range(..=from).next_back().map_or(from, |(first, _)| *first);
        for (first, found) in self.records.range(begin..end.max(begin)) {
            if at >= end || bytes >= bytes_max {
                return pieces;
            }
            // It was whole a moment ago: then it is a gap like any other.
            let stored = found.place.read(&self.file, &mut room);
            let record = stored.and_then(|stored| stored::decode_into(*first, stored, spare));
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
