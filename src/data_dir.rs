//! The directory where everything lives that has to survive, and the lock that keeps a second process out of it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use forebay_actors::{journal::RESERVE, runtime::clock::seed};
use tokio::time::Instant;

use crate::config::Backend;

/// How long a lock may outlive its process: what a busy machine takes to tear down some hundred MiB.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks at it.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The data directory, held by this process while the value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process works in it.
    #[error(
        "data_dir {path}: another forebay process is using it; stop that one, or give this one a directory of its own"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be made or written.
    #[error("data_dir {path}: {source}; a directory that this user may write to is needed")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its device has no space.
    #[error("data_dir {path}: no space is left on its device; make room, or set data_dir to another device")]
    Full {
        /// The directory.
        path: PathBuf,
    },
}

impl DataDir {
    /// Makes the directory if there is none, proves that it can be written, and locks it.
    ///
    /// # Errors
    /// As [`DataDirError`].
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        match Self::try_open(path) {
            // The journal has filled the device: what it holds back is for those who make room, who have to start first.
            Err(DataDirError::Full { .. }) if fs::remove_file(journal(path).join(RESERVE)).is_ok() => {
                Self::try_open(path)
            }
            opened => opened,
        }
    }

    fn try_open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                DataDirError::Full { path: path.into() }
            }
            _ => DataDirError::Unusable { path: path.into(), source },
        };
        create(path).map_err(failed)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("LOCK"))
            .map_err(failed)?;
        match take(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::InUse { path: path.into() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // An empty file needs no block of its own: only written bytes show whether there is space.
        fs::write(path.join("LOCK"), format!("{}\n", std::process::id())).map_err(failed)?;
        lock.sync_all().map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        if identity(&path, Backend::Disk).is_none() {
            fs::write(path.join("ID"), format!("{:016x}\n", seed())).map_err(failed)?;
            File::open(path.join("ID")).and_then(|id| id.sync_all()).map_err(failed)?;
        }
        // The names of what is made in it must survive a power loss as well as what is in them.
        for dir in [journal(&path), state(&path)] {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        for dir in [Some(&*path), path.parent()].into_iter().flatten() {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// Where it is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a directory and all that it is in. It is only there after a power loss once its parent has been synced.
pub fn create(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.try_exists()? {
        return Ok(());
    }
    let parent = directory.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create(parent)?;
    // Somebody else may have made it meanwhile, so this must not mind.
    fs::create_dir_all(directory)?;
    File::open(parent)?.sync_all()
}

/// Keeps every process out as long as the value lives, and changes nothing. `None` where no process has ever been there.
///
/// # Errors
/// [`DataDirError::InUse`] where one is there now.
pub fn hold_still(path: &Path) -> Result<Option<File>, DataDirError> {
    let unusable = |source| DataDirError::Unusable { path: path.into(), source };
    let lock = match File::open(path.join("LOCK")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error)),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path: path.into() }),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// Locks the file. Who held it may have gone, and the lock be there for a moment more: until all of a killed process is torn
/// down, or where it was just starting a program, until the copy of it is that program.
fn take(lock: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                // A spurious wake-up is one look more.
                std::thread::park_timeout(LOCK_PAUSE);
            }
            taken => return taken,
        }
    }
}

/// What tells the positions of this directory's journal from those of any other, as 16 hexadecimal digits. Made once; a
/// directory that was not opened yet has none. Where the journal is a stream, all who deliver from it have the same.
pub fn identity(data_dir: &Path, backend: Backend) -> Option<String> {
    let text = fs::read_to_string(data_dir.join(identity_file(backend))).ok()?;
    let text = text.trim();
    (text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text.to_owned())
}

fn identity_file(backend: Backend) -> &'static str {
    match backend {
        Backend::Disk => "ID",
        Backend::Jetstream => "ID.jetstream",
    }
}

/// Notes of which stream the positions are. What is delivered beside a running process, such as dead letters, asks here.
///
/// # Errors
/// Where it cannot be written.
pub fn note_stream(data_dir: &Path, stream: &str) -> io::Result<()> {
    if identity(data_dir, Backend::Jetstream).as_deref() == Some(stream) {
        return Ok(());
    }
    // Whole or not at all: half of one would be another's.
    let (file, new) = (data_dir.join(identity_file(Backend::Jetstream)), data_dir.join("ID.new"));
    fs::write(&new, format!("{stream}\n"))?;
    File::open(&new)?.sync_all()?;
    fs::rename(new, file)?;
    File::open(data_dir)?.sync_all()
}

/// Where the journal's generations are.
pub fn journal(data_dir: &Path) -> PathBuf {
    data_dir.join("journal")
}

/// Where damaged messages of a stream are kept.
pub fn quarantine(data_dir: &Path) -> PathBuf {
    data_dir.join("quarantine")
}

/// Where cursors and dead letters are.
pub fn state(data_dir: &Path) -> PathBuf {
    data_dir.join("state")
}

/// Where the embedded event store is.
pub fn store(data_dir: &Path) -> PathBuf {
    data_dir.join("store").join("events.db")
}

/// Where a running process takes commands.
pub fn control_socket(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second process is told what to do; when the first has gone it gets in.
    #[test]
    fn a_directory_is_held_by_one() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("a/b");
        let held = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err();
        assert!(error.to_string().contains("another forebay process"), "{error}");
        drop(held);
        DataDir::open(&path).unwrap();
    }

    /// Scenario: the holder is about to go when the next one comes, as when a service is restarted at once.
    /// Guarantee: the next one gets in.
    #[test]
    fn r0471_a_lock_that_was_just_let_go_refused_the_next_process() {
        let dir = tempfile::TempDir::new().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        // What a child of the holder has until it is another program.
        let copy = held._lock.try_clone().unwrap();
        drop(held);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| DataDir::open(dir.path()));
            std::thread::park_timeout(10 * LOCK_PAUSE);
            drop(copy);
            next.join().unwrap().unwrap();
        });
    }

    /// What cannot be a directory is named.
    #[test]
    fn a_file_is_no_directory() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::open(&file.join("data")).unwrap_err();
        assert!(error.to_string().contains("file/data"), "{error}");
    }
}
