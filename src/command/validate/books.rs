//! Whether what is held for sinks would be read back, by the books of a data directory in which no process runs.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_actors::{
    runtime::clock::seed,
    state::{HeldBatches, StateDb, StateError},
};

use crate::{config::Config, data_dir, pipeline};

/// Batches that would not be read back, in words. Changes nothing. Blocks.
///
/// # Errors
/// Where the books cannot be copied or read.
pub(super) fn misplaced(config: &Config) -> Result<Vec<String>, String> {
    let state = data_dir::state(&config.data_dir);
    if !state.join("db").exists() {
        return Ok(Vec::new());
    }
    let copy = Copied::of(&state)?;
    let words = |e: StateError| e.to_string();
    let books = HeldBatches::open(Arc::new(StateDb::open(&copy.0).map_err(words)?)).map_err(words)?;
    Ok(pipeline::misplaced(&books, config).map_err(words)?.iter().map(ToString::to_string).collect())
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
