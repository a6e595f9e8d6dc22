//! The journal: the one durable copy of every accepted event, for all destinations.
//!
//! # Limits
//! - A value in sled is at most [`CHUNK_BYTES_MAX`]; larger records are stored in several.
//! - A generation holds about [`GENERATION_BYTES`]; it is removed whole, as a directory.
//! - At most [`OPEN_GENERATIONS_MAX`] old generations are open for reading at a time, and one more that could not be synced.
//!
//! # Invariants
//! - [`Journal::commit`] returns after the events are durable in the mode configured.
//! - Positions never repeat, not even after a crash that lost events of `interval` or `memory` mode.
//! - A reader sees only what was committed, in order; what cannot be read is a [`Piece::Damaged`] with its
//!   span, never a silent gap.

mod closed;
mod disk;
mod generation;
mod inspect;
mod memory;
#[cfg(test)]
mod model;
mod queue;
mod reserve;
mod stored;
pub mod stored_form;
#[cfg(test)]
mod tests;
mod witness;

use std::{path::PathBuf, sync::Arc, time::Duration};

pub use disk::{RESERVE, SPARE_BYTES_MAX, SledJournal};
pub use inspect::{Verified, verify, verify_telling};
pub use memory::MemoryJournal;
pub use queue::{Backlog, Queue};

use crate::{
    event::{Stamped, Timestamp},
    record::{Position, Record, Span},
};

/// Bytes of one value in sled. From a quarter of sled's segment (128 KiB) on, sled writes a value to a file of
/// its own, which it never syncs.
pub const CHUNK_BYTES_MAX: usize = 112 * 1024;

/// Uncompressed bytes of a record: at lz4's 3x on log-like JSON it is stored in one chunk.
pub const RECORD_BYTES: usize = crate::event::BLOCK_BYTES;

/// Stored bytes after which the next generation begins. sled keeps a part of one resident, whatever its cache is set to: at full load the
/// process has 84 MB at its peak with 8 MiB, 88 with 16 and 99 with 32, and takes in as many events. Making a generation takes 1 to
/// 3 ms, about ten times a second at a million events/s.
pub const GENERATION_BYTES: u64 = 8 * 1024 * 1024;

/// sled's unit of writing, and the size of its buffers. Larger than its default of 512 KiB, because a commit that passes from
/// one to the next wakes sled's seven I/O threads once more.
pub const SEGMENT_BYTES: usize = 2 * 1024 * 1024;

/// Old generations open for reading at the same time.
pub const OPEN_GENERATIONS_MAX: usize = 1;

/// Generations before the newest that are kept as they were written, because they could not be synced (`interval` only). Each
/// takes the memory of a sled, which a closed one does not.
pub const UNSYNCED_GENERATIONS_MAX: usize = 1;

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it is synced to the device.
    Fsync,
    /// When it is taken; it is written and synced at least this often. A crash loses at most the last interval.
    Interval(Duration),
    /// When it is in memory. A crash or a stop loses what was not delivered.
    Memory,
}

/// What a journal is asked to do by the actors.
pub trait Journal: Send + Sync + 'static {
    /// Makes the blocks durable, in order, as few records, and returns these; none where sinks take them from a
    /// [`Queue`], each in its own time.
    ///
    /// # Errors
    /// After an error nothing of the call is ever read back, and the next call starts afresh. What of it had reached the device may be
    /// there after a crash where not even that can be noted.
    fn commit(&self, blocks: &[Stamped]) -> Result<Vec<Arc<Record>>, JournalError>;

    /// Syncs what `Interval` mode has only written.
    ///
    /// # Errors
    /// Where the device refuses anything of it, now or, as long as that is kept open, before. What comes later goes elsewhere.
    fn sync(&self) -> Result<(), JournalError>;

    /// Does what [`read`](Self::read) would have to do first, and what others who read may have to wait for. What fails here
    /// is said there.
    fn prepare(&self, from: Position) {
        let _ = from;
    }

    /// Reads on from `from` until `bytes_max` of payload are there (one record at least), the head is reached, or what follows
    /// has to be prepared. Empty means: nothing there yet. A `from` before the tail starts at the tail.
    ///
    /// # Errors
    /// Only for what may pass (I/O); damage is an item of the answer.
    fn read(&self, from: Position, bytes_max: usize) -> Result<Vec<Piece>, JournalError>;

    /// From the oldest position kept to the one the next event gets.
    fn span(&self) -> Span;

    /// Removes what every event of lies before `upto` and was written before `written_before`, a
    /// generation at a time.
    ///
    /// # Errors
    /// Where the file system refuses; what was removed before stays removed.
    fn remove(&self, upto: Position, written_before: Timestamp) -> Result<Removed, JournalError>;

    /// The end of the oldest generation: what `drop_oldest` moves a cursor to. `None` where there is only
    /// the newest, which is never dropped.
    fn oldest_end(&self) -> Option<Position>;

    /// What it takes up.
    fn usage(&self) -> Usage;

    /// Whether a crash may take back what readers were shown. A sink then notes how far it goes before it goes there.
    fn may_forget(&self) -> bool {
        false
    }
}

/// One item of a reading.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Events.
    Record(Arc<Record>),
    /// Positions whose bytes are not what was written. They were put aside in the quarantine.
    Damaged(Span),
    /// Positions that were removed before this reader came. A journal does not return it; a reader notes it.
    Removed(Span),
}

impl Piece {
    /// Its first position.
    pub fn first(&self) -> Position {
        match self {
            Self::Record(record) => record.first,
            Self::Damaged(span) | Self::Removed(span) => span.first,
        }
    }

    /// The record, where it is one.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record) => Some(record),
            Self::Damaged(_) | Self::Removed(_) => None,
        }
    }

    /// The position after it.
    pub fn end(&self) -> Position {
        match self {
            Self::Record(record) => record.end(),
            Self::Damaged(span) | Self::Removed(span) => span.end,
        }
    }
}

/// What was removed from a journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Generations; in memory records, and of a shared stream messages.
    pub parts: u64,
    /// Bytes they took up; 0 where that is not known.
    pub bytes: u64,
}

impl Removed {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { parts: self.parts + other.parts, bytes: self.bytes + other.bytes }
    }
}

/// What a journal takes up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of its files as the file system counts them; of memory in `memory` mode.
    pub disk_bytes: u64,
    /// Bytes of records as stored, without what the store itself adds.
    pub stored_bytes: u64,
    /// Generations there are.
    pub generations: usize,
    /// Records found damaged since the start.
    pub damaged: u64,
    /// What is not delivered yet, where the journal itself knows that and no cursor does.
    pub backlog: Option<Backlog>,
}

/// Why the journal could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system has no space left.
    #[error("no space left on the device of {path}")]
    Full {
        /// The directory.
        path: PathBuf,
    },
    /// The store or the file system failed otherwise.
    #[error("{path}: {source}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It holds as much as it may.
    #[error("{place} is full")]
    AtItsCap {
        /// What is full.
        place: String,
    },
    /// The server that keeps it does not answer, or refuses.
    #[error("{server}: {reason}")]
    Server {
        /// Where it is.
        server: String,
        /// What happened.
        reason: String,
    },
    /// The store found its own bytes damaged.
    #[error("{path}: the store is damaged: {reason}")]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What the store said.
        reason: String,
    },
}

impl JournalError {
    fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Io { path, source },
        }
    }

    fn sled(path: impl Into<PathBuf>, error: sled::Error) -> Self {
        match error {
            sled::Error::Io(source) => Self::io(path, source),
            other => Self::Damaged { path: path.into(), reason: other.to_string() },
        }
    }
}

/// A record to be stored.
struct Drafted<'a> {
    first: Position,
    written_at: Timestamp,
    /// All of them compressed on arrival, or none.
    blocks: &'a [Stamped],
}

/// Groups stamped blocks into records of at most `bytes_max`, from `first` on; a single block may be larger. What was
/// compressed on arrival and what was not are records of their own.
fn records(blocks: &[Stamped], first: Position, written_at: Timestamp, bytes_max: usize) -> Vec<Drafted<'_>> {
    let (mut records, mut rest, mut first) = (Vec::new(), blocks, first);
    while let Some(block) = rest.first() {
        let is_packed = block.packed().is_some();
        let mut bytes = 0;
        let fits = |block: &&Stamped| {
            bytes += block.bytes().len();
            bytes <= bytes_max && block.packed().is_some() == is_packed
        };
        // It still has to go somewhere.
        let taken = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(taken);
        let drafted = Drafted { first, written_at, blocks: now };
        first = first.plus(u64::from(drafted.count()));
        records.push(drafted);
        rest = later;
    }
    records
}

// === impl Drafted ===

impl Drafted<'_> {
    fn count(&self) -> u32 {
        self.blocks.iter().map(Stamped::count).sum()
    }

    fn is_packed(&self) -> bool {
        self.blocks.iter().all(|block| block.packed().is_some())
    }

    /// Bytes of its payload.
    fn raw_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.bytes().len()).sum()
    }

    /// As sinks are shown it.
    fn record(&self) -> Record {
        let payload = match self.blocks {
            // A large request is a record as it is.
            [only] => only.bytes().clone(),
            many => {
                let mut payload = Vec::with_capacity(self.raw_bytes());
                many.iter().for_each(|block| payload.extend_from_slice(block.bytes()));
                payload.into()
            }
        };
        Record { first: self.first, count: self.count(), written_at: self.written_at, payload }
    }
}
