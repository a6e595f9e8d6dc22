//! How the sled databases of this crate are opened, and what sled leaves to the file system's mercy made durable.
//!
//! sled syncs neither its settings (`conf`) nor the directory that its files have their names in. After a power loss a
//! log that was synced could then be nowhere, or be taken for one of another kind.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

/// A database that was closed a moment ago may still be locked: a thread of sled's lets go of it a little later.
const LOCKED_TRIES_MAX: usize = 1000;

/// Opens a database, also where one of this process has just been closed there.
pub(crate) fn open(config: &sled::Config) -> sled::Result<sled::Db> {
    // sled answers some damage with an assertion instead of an error.
    let open = || {
        catch_unwind(AssertUnwindSafe(|| config.open()))
            .unwrap_or_else(|_| Err(sled::Error::ReportableBug("sled panicked".into())))
    };
    let mut db = open();
    for _ in 0..LOCKED_TRIES_MAX {
        if !db.as_ref().is_err_and(is_locked) {
            break;
        }
        pause();
        db = open();
    }
    db
}

fn is_locked(error: &sled::Error) -> bool {
    // sled has no kind for it, only words.
    matches!(error, sled::Error::Io(source) if source.to_string().contains("could not acquire lock"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "opening runs on a blocking thread, and sled has nothing to wait for"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Makes what is in the files of a database that was just opened durable.
pub(crate) fn sync_files(dir: &Path) -> io::Result<()> {
    sync(&dir.join("conf"))?;
    sync(&dir.join("db"))
}

/// Makes a file, or the names in a directory, durable.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
