//! One generation: a small sled database in a directory of its own.
//!
//! sled rewrites a leaf when its tenth change comes, writes the result, which with values of 100 KiB is far
//! over its inline limit, to a `blobs/` file that it never syncs, and reuses the segments where the values
//! stood: an event that was synced would hang on a file that was not. So every tree here gets at most
//! [`GROUP_CHUNKS_MAX`] values and is then left alone: nothing is ever rewritten, every value stays where it
//! was synced, and the write amplification is 1.1 instead of 3.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::Duration,
};

use super::{
    CHUNK_BYTES_MAX, JournalError, Piece,
    log::Log,
    reading::{QUARANTINE, Reading},
    stored,
};
use crate::{
    closing::Closing,
    record::{Position, Record, Span},
};

/// Values a tree gets: sled consolidates a leaf at its tenth change (`PAGE_CONSOLIDATION_THRESHOLD`), and the
/// tree's creation is one.
const GROUP_CHUNKS_MAX: usize = 8;

/// sled's unit of writing. Larger than its default of 512 KiB, because a commit that passes from one to the next wakes
/// sled's seven I/O threads once more.
const SEGMENT_BYTES: usize = 2 * 1024 * 1024;

/// What sled may cache. It keeps a page that is being read, however small this is.
const CACHE_BYTES: u64 = 1024 * 1024;

/// A generation that was closed a moment ago may still be locked: a thread of sled's lets go of it a little later.
const LOCKED_TRIES_MAX: usize = 1000;

/// One tree: a run of chunks.
struct Group {
    first: stored::Key,
    chunks: usize,
    tree: sled::Tree,
}

/// An open generation. Written by one thread at a time, read by many.
pub(super) struct Generation {
    dir: PathBuf,
    db: Closing<sled::Db>,
    /// A handle on sled's own log, for a sync that survives a power loss: `flush` only starts the writing.
    log: File,
    groups: Closing<RwLock<Vec<Group>>>,
    /// What there is besides sled, where the log was found damaged.
    salvage: Option<Log>,
}

/// What stands at the end of a generation.
pub(super) enum Tail {
    /// No record at all.
    Empty,
    /// The place after the last whole record.
    At(Position),
    /// The last record, which begins here, is damaged: where it ended is not known.
    Damaged(Position),
}

impl Generation {
    /// Makes an empty generation in `dir`, to be written.
    pub(super) fn create(dir: &Path) -> Result<Self, JournalError> {
        Self::open_sled(dir, None)
    }

    /// Opens a generation that was written before, to be read. It should hold the records of `span`.
    pub(super) fn open(dir: &Path, span: Span) -> Result<Self, JournalError> {
        let path = dir.join("db");
        let log = Log::scan(&path).map_err(|e| JournalError::of_log(path, e))?;
        Self::open_scanned(dir, span, &log)
    }

    /// The same, with its log looked through before.
    pub(super) fn open_scanned(dir: &Path, span: Span, log: &Log) -> Result<Self, JournalError> {
        if log.is_whole(span) {
            return Self::open_sled(dir, None);
        }
        let path = dir.join("db");
        let copy = quarantined(dir, span);
        let salvage = Log::keep(&path, &copy).map_err(|e| JournalError::io(copy, e))?;
        Self::open_sled(dir, Some(salvage))
    }

    fn open_sled(dir: &Path, salvage: Option<Log>) -> Result<Self, JournalError> {
        let open = || {
            sled::Config::new()
                .path(dir)
                .segment_size(SEGMENT_BYTES)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(None)
                .mode(sled::Mode::HighThroughput)
                .open()
        };
        // sled answers some damage with an assertion instead of an error.
        let open = || {
            catch_unwind(open)
                .map_err(|_| JournalError::Damaged { path: dir.into(), reason: "sled panicked".into() })?
                .map_err(|e| JournalError::sled(dir, e))
        };
        let mut db = open();
        for _ in 0..LOCKED_TRIES_MAX {
            if !db.as_ref().is_err_and(is_locked) {
                break;
            }
            pause();
            db = open();
        }
        let db = Closing::new(db?);
        let path = dir.join("db");
        let log =
            File::options().read(true).write(true).open(&path).map_err(|e| JournalError::io(path, e))?;
        // A generation that is opened again is read, never appended to, so its trees count as full.
        let mut groups = Vec::new();
        for name in db.tree_names() {
            let Ok(first) = stored::Key::try_from(&name[..]) else { continue };
            let tree = db.open_tree(&name).map_err(|e| JournalError::sled(dir, e))?;
            groups.push(Group { first, chunks: GROUP_CHUNKS_MAX, tree });
        }
        groups.sort_by_key(|group| group.first);
        let groups = Closing::new(RwLock::new(groups));
        Ok(Self { dir: dir.into(), db, log, groups, salvage })
    }

    /// Adds a record; durable only after [`Generation::sync`]. Returns its stored bytes. The scratch is for its stored
    /// form, and is left for the next.
    pub(super) fn append(&self, record: &Record, scratch: &mut Vec<u8>) -> Result<u64, JournalError> {
        let stored = stored::encode(record, scratch);
        for (chunk, bytes) in stored.chunks(CHUNK_BYTES_MAX).enumerate() {
            let key = stored::key(record.first, u16::try_from(chunk).expect("a record has few chunks"));
            let tree = self.group_for(key)?;
            tree.insert(key, bytes).map_err(|e| self.sled(e))?;
        }
        Ok(stored.len() as u64)
    }

    fn group_for(&self, key: stored::Key) -> Result<sled::Tree, JournalError> {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.last_mut().filter(|group| group.chunks < GROUP_CHUNKS_MAX) {
            group.chunks += 1;
            return Ok(group.tree.clone());
        }
        let tree = self.db.open_tree(key).map_err(|e| self.sled(e))?;
        groups.push(Group { first: key, chunks: 1, tree: tree.clone() });
        Ok(tree)
    }

    /// Everything appended so far is on the device afterwards.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.has_a_name()?;
        self.db.flush().map_err(|e| self.sled(e))?;
        self.log.sync_data().map_err(|e| JournalError::io(&self.dir, e))
    }

    /// Whether its log still has a name: the bytes of one that was deleted go with this process, however well they are
    /// synced.
    fn has_a_name(&self) -> Result<(), JournalError> {
        let failed = |e| JournalError::io(&self.dir, e);
        match self.log.metadata().map_err(failed)?.nlink() {
            0 => Err(failed(io::Error::new(
                io::ErrorKind::NotFound,
                "the log was deleted while it was written",
            ))),
            _ => Ok(()),
        }
    }

    /// Bytes its files take up on the device.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.log.metadata().map_or(0, |m| m.blocks() * 512)
    }

    /// Reads the pieces of the span until `bytes_max` of payload are there. Its end is where the next generation begins,
    /// or the head: what a failed commit left behind it does not count.
    pub(super) fn read(&self, span: Span, bytes_max: usize) -> Vec<Piece> {
        let mut reading = Reading::new(&self.dir, self.salvage.as_ref(), span, bytes_max);
        for tree in self.trees_from(span.first) {
            if reading.is_done() {
                break;
            }
            // The last record that begins at or before the span is the first one needed.
            let start = tree.range(..=stored::key(span.first, 0)).next_back().and_then(Result::ok);
            let lower = start.map_or(sled::IVec::from(&[]), |(key, _)| key);
            let feed = || tree.range(lower..).try_for_each(|entry| reading.feed(entry));
            // sled answers some damage with an assertion instead of an error. Either way the gap is noticed
            // when the next record, from the next tree, does not follow the last one.
            match catch_unwind(AssertUnwindSafe(feed)) {
                Ok(Ok(()) | Err(None)) => {}
                Ok(Err(Some(error))) => {
                    tracing::error!(generation = %self.dir.display(), %error, "records are unreadable");
                }
                Err(_) => tracing::error!(generation = %self.dir.display(), "sled panicked on a read"),
            }
        }
        reading.finish()
    }

    /// The trees that a reading from `from` has to look at, in order.
    fn trees_from(&self, from: Position) -> Vec<sled::Tree> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let mut start = groups.partition_point(|group| group.first <= stored::key(from, 0)).saturating_sub(1);
        // A tree whose first value is a further chunk goes on with a record of the tree before.
        while start > 0 && !matches!(stored::parse_key(&groups[start].first), Some((_, 0))) {
            start -= 1;
        }
        groups[start..].iter().map(|group| group.tree.clone()).collect()
    }

    /// Where the generation ends, by its own bytes.
    pub(super) fn tail(&self) -> Result<Tail, JournalError> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let mut chunks: Vec<sled::IVec> = Vec::new();
        for group in groups.iter().rev() {
            for entry in group.tree.iter().rev() {
                let (key, value) = entry.map_err(|e| self.sled(e))?;
                let Some((first, chunk)) = stored::parse_key(&key) else { continue };
                chunks.push(value);
                if chunk > 0 {
                    continue;
                }
                let stored: Vec<u8> = chunks.drain(..).rev().flat_map(|chunk| chunk.to_vec()).collect();
                match stored::Header::parse(&stored) {
                    // A crash came between its chunks: it was never acknowledged, and counts as absent.
                    Some(header) if header.stored_bytes() > stored.len() => {}
                    _ => {
                        let record = stored::decode(first, &stored);
                        return Ok(record.map_or(Tail::Damaged(first), |record| Tail::At(record.end())));
                    }
                }
            }
        }
        Ok(Tail::Empty)
    }

    fn sled(&self, error: sled::Error) -> JournalError {
        JournalError::sled(&self.dir, error)
    }
}

/// Where the log of a damaged generation is kept, as it was before sled opened it.
pub(super) fn quarantined(dir: &Path, span: Span) -> PathBuf {
    dir.with_file_name(QUARANTINE).join(format!("{:020}.db", span.first.0))
}

fn is_locked(error: &JournalError) -> bool {
    // sled has no kind for it, only words.
    matches!(error, JournalError::Io { source, .. } if source.to_string().contains("could not acquire lock"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "opening runs on a blocking thread, and sled has nothing to wait for"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}
