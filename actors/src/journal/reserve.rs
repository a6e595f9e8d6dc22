//! Space that events never get.
//!
//! A journal that has filled its own device is emptied by deliveries. But these take space themselves: to open an old
//! generation, to save cursors, to note dead letters. So a file holds some; it is given up when a commit finds the
//! device full, and until it can be made again no commit is tried.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use fs2::FileExt as _;

use super::JournalError;

/// What is held: twice what the opening of a generation and the saving of cursors were seen to take.
const RESERVE_BYTES: u64 = 8 * 1024 * 1024;

/// What has to be free besides before commits are tried again: the first of them would fail otherwise.
const RESUME_BYTES: u64 = crate::buffer::COMMIT_BYTES as u64;

/// A file that takes up space.
pub(super) struct Reserve {
    path: PathBuf,
    is_held: AtomicBool,
    /// Held while the file is made or removed.
    changing: Mutex<()>,
}

impl Reserve {
    /// A reserve in the file at `path`, held if there is space for it.
    pub(super) fn new(path: PathBuf) -> Self {
        let reserve = Self { path, is_held: AtomicBool::new(false), changing: Mutex::default() };
        if reserve.hold().is_err() {
            tracing::error!(reserve = %reserve.path.display(), "no space is left to reserve; events are refused until there is");
        }
        reserve
    }

    /// Makes sure that the space is held.
    ///
    /// # Errors
    /// [`JournalError::Full`] where it cannot be.
    pub(super) fn hold(&self) -> Result<(), JournalError> {
        if self.is_held.load(Ordering::Acquire) {
            return Ok(());
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = fs::metadata(&self.path).is_ok_and(|file| file.len() == RESERVE_BYTES);
        let made = if is_there { Ok(()) } else { self.make() };
        match made {
            Err(error) if is_full(&error) => return Err(JournalError::io(&self.path, error)),
            // A file system that cannot reserve space: then there is no reserve, as there was none before.
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "no space can be reserved")
            }
            Ok(()) => {}
        }
        self.is_held.store(true, Ordering::Release);
        Ok(())
    }

    fn make(&self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(&self.path);
        if fs2::available_space(dir)? < RESERVE_BYTES + RESUME_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        File::create(&self.path)?.allocate(RESERVE_BYTES).inspect_err(|_| {
            // Half a reserve would be taken for a whole one.
            let _ = fs::remove_file(&self.path);
        })
    }

    /// Gives the space to whoever makes room.
    pub(super) fn release(&self) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_held.swap(false, Ordering::AcqRel)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the space that was reserved cannot be given up");
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
