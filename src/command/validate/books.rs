//! Whether what is held for sinks would be read back: by the books of a data directory in which no process runs, or by those that
//! several processes share.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_actors::{
    runtime::clock::seed,
    state::{Books, HeldBatches, StateDb, StateError},
};

use crate::{
    config::{Backend, Config},
    data_dir, pipeline, shared_journal,
};

/// Bytes of a state directory up to which it is copied. The books are small; dead letters are beside them.
const COPIED_BYTES_MAX: u64 = 256 << 20;

/// Batches that would not be read back, in words. Changes nothing. Blocks.
///
/// # Errors
/// Why it cannot be told: a process runs that does not answer, or the books cannot be copied or read.
pub(super) fn misplaced(config: &Config) -> Result<Vec<String>, String> {
    let words = |e: StateError| e.to_string();
    let tell = |books: &dyn Books| -> Result<Vec<String>, String> {
        Ok(pipeline::misplaced(books, config).map_err(words)?.iter().map(ToString::to_string).collect())
    };
    if config.buffer.backend == Backend::Jetstream {
        let (options, event_bytes_max) = (&config.buffer.jetstream, config.http.max_event_bytes);
        return shared_journal::with_books(options, event_bytes_max, tell)?.unwrap_or(Ok(Vec::new()));
    }
    let state = data_dir::state(&config.data_dir);
    if !state.join("db").exists() {
        return Ok(Vec::new());
    }
    let held_still = data_dir::hold_still(&config.data_dir).map_err(|e| e.to_string())?;
    let bytes = bytes_of(&state).map_err(|e| format!("{}: {e}", state.display()))?;
    if bytes > COPIED_BYTES_MAX {
        let (shown, mib) = (state.display(), bytes >> 20);
        return Err(format!(
            "{shown} has {mib} MiB, more than is copied for it; a running process would tell"
        ));
    }
    let copy = Copied::of(&state)?;
    drop(held_still);
    tell(&HeldBatches::open(Arc::new(StateDb::open(&copy.0).map_err(words)?)).map_err(words)?)
}

/// A copy of a directory, for this user alone, gone with the value. sled opens nothing without writing to it, and whatever it
/// opens it locks, so that a process could not start meanwhile.
struct Copied(PathBuf);

impl Copied {
    fn of(directory: &Path) -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("forebay-validate-{:016x}", seed()));
        let failed =
            |e: io::Error| format!("{} cannot be copied to {}: {e}", directory.display(), path.display());
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        let copied = Self(path.clone());
        copy(directory, &path).map_err(failed)?;
        Ok(copied)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // A thread of sled's may still be making a file. What stays behind is the temporary directory's.
        let _ = (0..3).any(|_| fs::remove_dir_all(&self.0).is_ok());
    }
}

fn bytes_of(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { bytes_of(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
