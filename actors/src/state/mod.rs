//! The small database beside the journal: cursors, dead letters, and the books of what is held elsewhere.
//!
//! Its values are small on purpose. sled writes a page of over 128 KiB to a file that it never syncs; a page holds
//! up to 17 values, so none here is over [`VALUE_BYTES_MAX`].

mod books;
mod cursors;
mod dead_letters;
mod held;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

pub use books::{Books, HELD_BATCHES_MAX, HeldTotals, Note, Stage, Sums};
pub use cursors::{Cursor, Cursors, WhenFull};
pub use dead_letters::{DeadLetter, DeadLetters, Reason, Totals};
pub use held::HeldBatches;

use crate::{closing::Closing, durable};

/// Bytes of one value.
pub const VALUE_BYTES_MAX: usize = 4 * 1024;

/// What sled may cache of it.
const CACHE_BYTES: u64 = 2 * 1024 * 1024;

/// The database. One process at a time, one operation at a time.
#[derive(Debug)]
pub struct StateDb {
    dir: PathBuf,
    /// `None` after a failure: sled answers every later call with its first I/O error, so it is opened afresh.
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    db: Closing<sled::Db>,
    /// A handle on sled's own log, for a sync that survives a power loss.
    log: File,
}

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// sled or the file system failed.
    #[error("{path}: {reason}")]
    Store {
        /// The database's directory.
        path: PathBuf,
        /// What was said.
        reason: String,
    },
    /// The dead letters have reached their cap.
    #[error(
        "the dead letters have reached {bytes_max} bytes: replay or drop some (`forebay dead-letter list`)"
    )]
    DeadLettersFull {
        /// The cap.
        bytes_max: u64,
    },
    /// As many batches are held for a sink as there may be.
    #[error(
        "{batches_max} batches are held for this sink, the most there may be: further ones wait in the journal"
    )]
    HeldFull {
        /// The cap.
        batches_max: u64,
    },
    /// The servers that several processes have their books on.
    #[error("{server}: {reason}")]
    Server {
        /// Where they are.
        server: String,
        /// What was said.
        reason: String,
    },
}

impl StateDb {
    /// Opens the database in `dir`, or makes one.
    ///
    /// # Errors
    /// Where the directory cannot be written, is in use by another process, or holds something else.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let state = Self { dir: dir.into(), open: Mutex::new(None) };
        state.with(|_| Ok(()))?;
        Ok(state)
    }

    /// Does something with the database; after a failure the next call opens it again.
    fn with<T>(&self, work: impl FnOnce(&Open) -> Result<T, StateError>) -> Result<T, StateError> {
        let mut guard = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match guard.take() {
            Some(open) => open,
            None => self.open_sled()?,
        };
        let done = work(&open)?;
        *guard = Some(open);
        Ok(done)
    }

    fn open_sled(&self) -> Result<Open, StateError> {
        let config = sled::Config::new().path(&self.dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = durable::open(&config, &self.dir).map_err(|e| self.failed(e))?;
        durable::sync_names(&self.dir).map_err(|e| self.failed(e))?;
        let log = File::options().write(true).open(self.dir.join("db")).map_err(|e| self.failed(e))?;
        Ok(Open { db: Closing::new(db), log })
    }

    fn failed(&self, error: impl std::fmt::Display) -> StateError {
        StateError::Store { path: self.dir.clone(), reason: error.to_string() }
    }

    /// Everything written so far is on the device afterwards. Blocks.
    fn sync(&self, open: &Open) -> Result<(), StateError> {
        open.db.flush().map_err(|e| self.failed(e))?;
        open.log.sync_data().map_err(|e| self.failed(e))
    }

    fn tree(&self, open: &Open, name: &str) -> Result<sled::Tree, StateError> {
        open.db.open_tree(name).map_err(|e| self.failed(e))
    }
}
