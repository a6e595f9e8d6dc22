//! The journal on sled: a row of generations, the newest of which is written.

mod commit;
mod shelf;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use self::{
    commit::Writer,
    shelf::{Readable, Shelf},
};
use super::{
    Durability, GENERATION_BYTES, Journal, JournalError, Piece, RECORD_BYTES, Removed, Usage,
    closed::{Closed, QUARANTINE},
    inspect::{find_generations, was_never_begun},
    reserve::Reserve,
    witness::Witness,
};
use crate::{
    durable,
    event::{Stamped, Timestamp},
    record::{Position, Record, Span},
    runtime::clock::Clock,
    spare::SparePool,
};

/// What the name of a generation begins with while it is removed.
const DISCARDED: &str = "discarded-";

/// The file in the journal's directory that holds space for what makes room on a full device. Whoever finds the device
/// full before there is a journal may remove it.
pub const RESERVE: &str = "reserve";

/// Payloads of records whose room is used again: as many as a batch of 5,000 events has of the benchmark's, whose room comes
/// back at once, and a few more.
const SPARE_PAYLOADS_MAX: usize = 8;

/// A payload is larger than a record should be by one event.
const SPARE_PAYLOAD_BYTES_MAX: usize = RECORD_BYTES / 4 * 5;

/// What of that room there is at most that holds nothing.
pub const SPARE_BYTES_MAX: usize = SPARE_PAYLOADS_MAX * SPARE_PAYLOAD_BYTES_MAX;

/// The sled journal in one directory. Opening reads one record, whatever the backlog.
pub struct SledJournal {
    dir: PathBuf,
    durability: Durability,
    generation_bytes: u64,
    clock: Clock,
    /// Held while a commit appends. `None` after a failed one: the next begins a new generation.
    writer: Mutex<Option<Writer>>,
    /// Held while a commit syncs and publishes, taken while `writer` is still held: commits stay in order, and one
    /// appends while the one before it is on its way to the device.
    turn: Mutex<()>,
    shelf: Mutex<Shelf>,
    /// Held while an old generation is opened or removed: never both, and one at a time.
    opening: Mutex<()>,
    /// The position the next event gets; readers go no further.
    head: AtomicU64,
    damaged: AtomicU64,
    reserve: Option<Reserve>,
    /// Room for what is read of old generations.
    spare: SparePool,
}

impl SledJournal {
    /// Opens the journal in `dir`, or makes one. No event gets a position before `floor`: the furthest any
    /// cursor has come, which in `interval` mode may be further than what a crash left.
    ///
    /// # Errors
    /// Where the directory cannot be read or written. Damage is no error: it is put aside and reported.
    pub fn open(
        dir: &Path,
        durability: Durability,
        floor: Position,
        clock: Clock,
    ) -> Result<Self, JournalError> {
        Self::with_generation_bytes(dir, durability, floor, clock, GENERATION_BYTES)
    }

    /// The same with generations of another size; for tests.
    ///
    /// # Errors
    /// As [`SledJournal::open`].
    pub fn with_generation_bytes(
        dir: &Path,
        durability: Durability,
        floor: Position,
        clock: Clock,
        generation_bytes: u64,
    ) -> Result<Self, JournalError> {
        fs::create_dir_all(dir).map_err(|e| JournalError::io(dir, e))?;
        let mut journal = Self {
            dir: dir.into(),
            durability,
            generation_bytes,
            clock,
            writer: Mutex::new(None),
            turn: Mutex::new(()),
            opening: Mutex::new(()),
            shelf: Mutex::new(Shelf::default()),
            head: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            reserve: None,
            spare: SparePool::new(SPARE_PAYLOADS_MAX, SPARE_PAYLOAD_BYTES_MAX),
        };
        journal.clear_discarded().map_err(|e| JournalError::io(dir, e))?;
        journal.shelf().entries = find_generations(dir)?.into();
        if journal.shelf().entries.is_empty() && floor > Position(0) {
            // The newest generation is always kept, so somebody else has removed it; or events were kept in memory.
            tracing::warn!(dir = %dir.display(), cursors = %floor, "the journal is gone; what was in it and not delivered is lost");
        }
        let head = journal.recover_head()?.max(floor);
        journal.head = AtomicU64::new(head.0);
        *journal.writer() = Some(journal.begin_generation(head)?);
        Ok(journal)
    }

    /// Keeps some space of the device from events, for those who make room; see [`RESERVE`].
    #[must_use]
    pub fn with_reserve(self) -> Self {
        let reserve = Some(Reserve::new(self.dir.join(RESERVE)));
        Self { reserve, ..self }
    }

    /// The position after the last event, by the newest generation and its witness.
    fn recover_head(&self) -> Result<Position, JournalError> {
        let firsts: Vec<_> = self.shelf().entries.iter().map(|entry| entry.first).collect();
        let Some(&newest) = firsts.last() else { return Ok(Position(0)) };
        let dir = self.generation_dir(newest);
        if was_never_begun(&dir, newest) {
            self.forget(newest);
            self.discard(newest)?;
            return Ok(newest);
        }
        let witnessed = Witness::read(&dir, newest).map(Witness::position);
        let log = match Closed::look(&dir, newest) {
            Err(JournalError::Damaged { reason, .. }) => {
                self.set_aside(newest, &reason)?;
                return Ok(witnessed.unwrap_or(newest));
            }
            log => log?,
        };
        let logged = log.end_from(newest);
        let head = match witnessed {
            Some(witnessed) => {
                if logged < witnessed {
                    tracing::error!(dir = %self.dir.display(), %logged, %witnessed, "the end of the journal is damaged; what can be read is kept");
                }
                logged.max(witnessed)
            }
            // A power loss took the witness. What lies behind a gap may have been acknowledged, or not.
            None => log.last_end().unwrap_or(logged),
        };
        if head == newest {
            self.forget(newest);
            self.discard(newest)?;
        }
        Ok(head)
    }

    /// Moves a generation that cannot be opened out of the way; its span becomes a gap that readers report.
    fn set_aside(&self, first: Position, reason: &str) -> Result<(), JournalError> {
        let (from, quarantine) = (self.generation_dir(first), self.dir.join(QUARANTINE));
        self.is_there()?;
        let to = quarantine.join(format!("{:020}", first.0));
        fs::create_dir_all(&quarantine).map_err(|e| JournalError::io(&quarantine, e))?;
        match fs::rename(&from, &to) {
            // Somebody has removed it: nothing is left to keep.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(|e| JournalError::io(&from, e))?,
        }
        tracing::error!(generation = %from.display(), kept = %to.display(), reason, "a generation is damaged; reading goes on behind it");
        self.damaged.fetch_add(1, Ordering::Relaxed);
        self.forget(first);
        Ok(())
    }

    /// Removes a generation's directory, if there is one. It gets another name first, so that a crash leaves it whole or not
    /// at all under its own.
    fn discard(&self, first: Position) -> Result<(), JournalError> {
        let (from, to) = (self.generation_dir(first), self.dir.join(format!("{DISCARDED}{:020}", first.0)));
        // What is left there is of a removal that failed half-way.
        for step in [fs::remove_dir_all(&to), fs::rename(&from, &to), fs::remove_dir_all(&to)] {
            match step {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(JournalError::io(from, e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes what crashes left half removed.
    fn clear_discarded(&self) -> io::Result<()> {
        for item in fs::read_dir(&self.dir)? {
            let item = item?;
            if item.file_name().to_string_lossy().starts_with(DISCARDED) {
                fs::remove_dir_all(item.path())?;
            }
        }
        Ok(())
    }

    /// Whether the newest generation is where it was begun. Where it is not, what is missing elsewhere is not lost: the
    /// device may only have been unmounted.
    fn is_there(&self) -> Result<(), JournalError> {
        let Some(newest) = self.shelf().newest() else { return Ok(()) };
        let newest = self.generation_dir(newest);
        fs::metadata(&newest).map(drop).map_err(|e| JournalError::io(newest, e))
    }

    fn forget(&self, first: Position) {
        self.shelf().forget(first);
    }

    /// The generation that holds `from`, and its span; only the span of one that could not be opened and was put aside.
    fn generation_at(&self, from: Position) -> Result<Option<(Option<Readable>, Span)>, JournalError> {
        if let Some((span, Some(generation))) = self.find(from) {
            return Ok(Some((Some(generation), span)));
        }
        // Not under the shelf's lock: every commit takes that, and opening takes tens of milliseconds.
        let _opening = self.opening();
        match self.find(from) {
            None => Ok(None),
            // Another reader was faster.
            Some((span, Some(generation))) => Ok(Some((Some(generation), span))),
            Some((span, None)) => match self.open_closed(span) {
                Ok(generation) => Ok(Some((Some(generation), span))),
                // Here and now: who looks again later may find its neighbour in its place.
                Err(JournalError::Damaged { reason, .. }) => {
                    self.set_aside(span.first, &reason)?;
                    Ok(Some((None, span)))
                }
                Err(other) => Err(other),
            },
        }
    }

    /// Opens an old generation, and keeps it open. Only while `opening` is held.
    fn open_closed(&self, span: Span) -> Result<Readable, JournalError> {
        let generation = Readable::Closed(Arc::new(Closed::open(&self.generation_dir(span.first), span)?));
        let closed = self.shelf().keep_open(span.first, generation.clone());
        // Not in one statement: the lock would be held until its end.
        drop(closed);
        Ok(generation)
    }

    /// The span of the generation that holds `from`, and the generation if it is open.
    fn find(&self, from: Position) -> Option<(Span, Option<Readable>)> {
        let mut shelf = self.shelf();
        let index = shelf.entries.partition_point(|entry| entry.first <= from).saturating_sub(1);
        let first = shelf.entries.get(index)?.first;
        let end = shelf.entries.get(index + 1).map_or(self.head(), |next| next.first);
        let open =
            shelf.open.iter().position(|(open, _)| *open == first).and_then(|at| shelf.open.remove(at));
        if let Some(used) = &open {
            // The one that was used last is the last to be closed.
            shelf.open.push_back(used.clone());
        }
        Some((Span { first, end }, open.map(|(_, generation)| generation)))
    }

    /// The span of the generation that holds `from`, if it is not open.
    fn to_be_opened(&self, from: Position) -> Option<Span> {
        self.find(from).and_then(|(span, open)| open.is_none().then_some(span))
    }

    /// The position the next event gets.
    fn head(&self) -> Position {
        Position(self.head.load(Ordering::Acquire))
    }

    fn generation_dir(&self, first: Position) -> PathBuf {
        self.dir.join(format!("{:020}", first.0))
    }

    fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opening(&self) -> MutexGuard<'_, ()> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for SledJournal {
    fn commit(&self, blocks: &[Stamped]) -> Result<Vec<Arc<Record>>, JournalError> {
        self.reserve.as_ref().map_or(Ok(()), Reserve::hold)?;
        let committed = self.append_and_publish(blocks);
        if let (Some(reserve), Err(JournalError::Full { .. })) = (&self.reserve, &committed) {
            reserve.release();
        }
        durable::collect_garbage();
        committed
    }

    fn sync(&self) -> Result<(), JournalError> {
        self.sync_written(false)
    }

    fn prepare(&self, from: Position) {
        let from = from.max(self.span().first);
        if self.to_be_opened(from).is_some() {
            let _opening = self.opening();
            if let Some(span) = self.to_be_opened(from) {
                // One that cannot be opened is put aside by who reads it, and then accounts for it.
                let _ = self.open_closed(span);
            }
        }
    }

    fn read(&self, from: Position, bytes_max: usize) -> Result<Vec<Piece>, JournalError> {
        let mut from = from.max(self.span().first);
        let mut pieces = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max && from < self.span().end {
            if !pieces.is_empty() && self.to_be_opened(from).is_some() {
                break;
            }
            match self.generation_at(from)? {
                // It was removed meanwhile: this is the one behind it.
                Some((_, span)) if span.first > from => {
                    pieces.push(Piece::Removed(Span { first: from, end: span.first }));
                    from = span.first;
                }
                Some((Some(generation), span)) => {
                    let mut found = generation.read(from, span.end, bytes_max - bytes, &self.spare);
                    let payload = |piece: &Piece| match piece {
                        Piece::Record(record) => record.payload.len(),
                        Piece::Damaged(_) | Piece::Removed(_) => 0,
                    };
                    bytes += found.iter().map(payload).sum::<usize>();
                    let damaged = found.iter().filter(|piece| matches!(piece, Piece::Damaged(_))).count();
                    self.damaged.fetch_add(damaged as u64, Ordering::Relaxed);
                    let Some(last) = found.last() else { break };
                    from = last.end();
                    pieces.append(&mut found);
                }
                Some((None, span)) => {
                    pieces.push(Piece::Damaged(Span { first: from, end: span.end }));
                    from = span.end;
                }
                None => break,
            }
        }
        Ok(pieces)
    }

    fn span(&self) -> Span {
        let end = self.head();
        Span { first: self.shelf().entries.front().map_or(end, |entry| entry.first), end }
    }

    fn remove(&self, upto: Position, written_before: Timestamp) -> Result<Removed, JournalError> {
        let mut removed = Removed::default();
        loop {
            let _opening = self.opening();
            let mut shelf = self.shelf();
            let end = shelf.entries.get(1).map(|next| next.first);
            let oldest = shelf.entries.front().map(|entry| (entry.first, entry.last_write, entry.disk_bytes));
            let (Some(end), Some((first, last_write, bytes))) = (end, oldest) else { return Ok(removed) };
            if end > upto || last_write >= written_before {
                return Ok(removed);
            }
            shelf.forget(first);
            drop(shelf);
            self.discard(first)?;
            removed = removed.plus(Removed { parts: 1, bytes });
        }
    }

    fn oldest_end(&self) -> Option<Position> {
        self.shelf().entries.get(1).map(|next| next.first)
    }

    fn usage(&self) -> Usage {
        let shelf = self.shelf();
        Usage {
            disk_bytes: shelf.entries.iter().map(|entry| entry.disk_bytes).sum(),
            stored_bytes: shelf.entries.iter().map(|entry| entry.stored_bytes).sum(),
            generations: shelf.entries.len(),
            damaged: self.damaged.load(Ordering::Relaxed),
            backlog: None,
        }
    }

    fn may_forget(&self) -> bool {
        self.durability != Durability::Fsync
    }
}
