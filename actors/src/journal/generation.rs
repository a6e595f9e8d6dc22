//! The generation that is written: a small sled database in a directory of its own.
//!
//! sled rewrites a leaf when its tenth change comes, writes the result, which with values of 100 KiB is far
//! over its inline limit, to a `blobs/` file that it never syncs, and reuses the segments where the values
//! stood: an event that was synced would hang on a file that was not. So every tree here gets at most
//! [`GROUP_CHUNKS_MAX`] values and is then left alone: nothing is ever rewritten, every value stays where it
//! was synced, and the write amplification is 1.1 instead of 3.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{JournalError, Piece, SEGMENT_BYTES, closed::QUARANTINE, stored};
use crate::{
    closing::Closing,
    durable,
    record::{Position, Record, Span},
};

/// Values a tree gets: sled consolidates a leaf at its tenth change (`PAGE_CONSOLIDATION_THRESHOLD`), and the
/// tree's creation is one.
const GROUP_CHUNKS_MAX: usize = 8;

/// What sled may cache. It keeps a page that is being read, however small this is.
const CACHE_BYTES: u64 = 1024 * 1024;

/// One tree: a run of chunks.
struct Group {
    first: stored::Key,
    chunks: usize,
    tree: sled::Tree,
}

/// The generation that is written, by one thread at a time, and read by many.
pub(super) struct Generation {
    dir: PathBuf,
    db: Closing<sled::Db>,
    /// A handle on sled's own log, for a sync that survives a power loss: `flush` only starts the writing.
    log: File,
    /// Held while it syncs: the system tells once of what it could not write, and one who syncs beside would not hear of it.
    syncing: Mutex<()>,
    /// A sync has failed. For the same reason the next might succeed without what that one has lost.
    unsynced: AtomicBool,
    groups: Closing<RwLock<Vec<Group>>>,
}

impl Generation {
    /// Makes an empty generation in `dir`, to be written. Its name and those of its files are the caller's to sync.
    pub(super) fn create(dir: &Path) -> Result<Self, JournalError> {
        let config = sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .mode(sled::Mode::HighThroughput);
        let db = durable::open(&config, dir).map_err(|e| JournalError::sled(dir, e))?;
        let db = Closing::new(db);
        let path = dir.join("db");
        let log =
            File::options().read(true).write(true).open(&path).map_err(|e| JournalError::io(path, e))?;
        Ok(Self {
            dir: dir.into(),
            db,
            log,
            syncing: Mutex::new(()),
            unsynced: AtomicBool::new(false),
            groups: Closing::new(RwLock::default()),
        })
    }

    /// Adds the record that begins at `first`, in its stored form; durable only after [`Generation::sync`]. Returns its
    /// stored bytes.
    pub(super) fn append(&self, first: Position, stored: &[u8]) -> Result<u64, JournalError> {
        for (key, value) in stored::chunks(first, stored) {
            let tree = self.group_for(key)?;
            tree.insert(key, &*value).map_err(|e| self.sled(e))?;
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
    ///
    /// # Errors
    /// Where something is not. So it is with every later call.
    pub(super) fn sync(&self) -> Result<(), JournalError> {
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_unsynced() {
            let lost = "a sync of it has failed before, and what that has lost no other brings back";
            return Err(JournalError::io(&self.dir, io::Error::other(lost)));
        }
        self.sync_log().inspect_err(|_| self.unsynced.store(true, Ordering::Release))
    }

    /// Whether something of it could not be synced. Nothing more should be appended: it would lie behind what may be missing.
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::Acquire)
    }

    /// What a sync that fails leaves.
    #[cfg(test)]
    pub(super) fn lose_a_sync(&self) {
        self.unsynced.store(true, Ordering::Release);
    }

    fn sync_log(&self) -> Result<(), JournalError> {
        self.has_a_name()?;
        // sled answers some failures with an assertion instead of an error.
        let flushed = catch_unwind(AssertUnwindSafe(|| self.db.flush()))
            .unwrap_or_else(|_| Err(sled::Error::ReportableBug("sled panicked".into())));
        // Also where it fails, which it then does for good: what it has written before is worth its sync.
        let synced = self.log.sync_data().map_err(|e| JournalError::io(&self.dir, e));
        flushed.map_err(|e| self.sled(e)).and(synced)
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

    /// Reads pieces from `from` on, up to `end`, until `bytes_max` of payload are there. `end` is where the
    /// next generation begins, or the head: what a failed commit left behind it does not count.
    pub(super) fn read(&self, from: Position, end: Position, bytes_max: usize) -> Vec<Piece> {
        let mut reading =
            Reading { generation: self, pieces: Vec::new(), at: from, end, bytes_max, partial: None };
        for tree in self.trees_from(from) {
            if reading.is_done() {
                break;
            }
            // The last record that begins at or before `from` is the first one needed.
            let start = tree.range(..=stored::key(from, 0)).next_back().and_then(Result::ok);
            let start = start.and_then(|(key, _)| stored::parse_key(&key));
            // What was found may be one of its further chunks.
            let lower = start.map_or_else(Vec::new, |(first, _)| stored::key(first, 0).to_vec());
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

    fn sled(&self, error: sled::Error) -> JournalError {
        JournalError::sled(&self.dir, error)
    }
}

/// Puts chunks together to records, and notices what is missing.
struct Reading<'a> {
    generation: &'a Generation,
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

impl Reading<'_> {
    fn is_done(&self) -> bool {
        self.bytes_max == 0 || self.at >= self.end
    }

    /// Takes the next chunk. `Err(None)` ends the tree early: there is enough.
    fn feed(&mut self, entry: sled::Result<(sled::IVec, sled::IVec)>) -> Result<(), Option<sled::Error>> {
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
                partial.stored.extend_from_slice(stored::part(stored::key(first, chunk), &value));
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

    fn stored(&mut self, first: Position, bytes: &[u8]) {
        if first >= self.end {
            return;
        }
        match stored::decode(first, bytes) {
            Some(record) if record.end() > self.at => {
                self.damaged_until(record.first);
                if !self.is_done() {
                    self.push(record);
                }
            }
            Some(_) => {}
            None => self.generation.quarantine(first, bytes),
        }
    }

    fn push(&mut self, record: Record) {
        self.at = record.end();
        self.bytes_max = self.bytes_max.saturating_sub(record.payload.len());
        self.pieces.push(Piece::Record(Arc::new(record)));
    }

    fn damaged_until(&mut self, end: Position) {
        if end > self.at && !self.is_done() {
            self.pieces.push(Piece::Damaged(Span { first: self.at, end }));
            self.at = end;
        }
    }

    fn finish(mut self) -> Vec<Piece> {
        if !self.is_done() {
            self.damaged_until(self.end);
        }
        self.pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the log's sync fails, which the system tells once, and the next would succeed.
    /// Guarantee: that one is not believed. It was, and what the first had lost counted as synced.
    #[test]
    fn r0590_a_second_sync_was_believed_for_the_first() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut generation = Generation::create(dir.path()).unwrap();
        generation.append(Position(0), b"a record").unwrap();
        generation.sync().unwrap();
        // No such file can be synced.
        let log = std::mem::replace(&mut generation.log, File::open("/dev/null").unwrap());
        assert!(generation.sync().is_err());
        generation.log = log;
        assert!(generation.sync_log().is_ok(), "what the next sync would have said");
        assert!(generation.sync().is_err());
        assert!(generation.is_unsynced());
    }
}
