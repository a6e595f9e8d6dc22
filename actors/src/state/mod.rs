//! The small database beside the journal: cursors and dead letters.
//!
//! Its values are small on purpose. sled writes a page of over 128 KiB to a file that it never syncs; a page holds
//! up to 17 values, so none here is over [`VALUE_BYTES_MAX`].

mod cursors;
mod dead_letters;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

pub use cursors::{Cursor, Cursors, WhenFull};
pub use dead_letters::{DeadLetter, DeadLetters, Reason, Totals};

/// Bytes of one value.
pub const VALUE_BYTES_MAX: usize = 4 * 1024;

/// What sled may cache of it.
const CACHE_BYTES: u64 = 2 * 1024 * 1024;

/// The open database. One process at a time.
#[derive(Debug)]
pub struct StateDb {
    dir: PathBuf,
    db: sled::Db,
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
}

impl StateDb {
    /// Opens the database in `dir`, or makes one.
    ///
    /// # Errors
    /// Where the directory cannot be written, is in use by another process, or holds something else.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let failed = |reason: String| StateError::Store { path: dir.into(), reason };
        let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open().map_err(|e| failed(e.to_string()))?;
        let log = File::options().write(true).open(dir.join("db")).map_err(|e| failed(e.to_string()))?;
        Ok(Self { dir: dir.into(), db, log })
    }

    /// Everything written so far is on the device afterwards. Blocks.
    fn sync(&self) -> Result<(), StateError> {
        self.db.flush().map_err(|e| self.failed(e))?;
        self.log.sync_data().map_err(|e| self.failed(e))
    }

    fn tree(&self, name: &str) -> Result<sled::Tree, StateError> {
        self.db.open_tree(name).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: impl std::fmt::Display) -> StateError {
        StateError::Store { path: self.dir.clone(), reason: error.to_string() }
    }
}
