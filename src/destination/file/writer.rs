//! Who writes a file: one writer for each path of a process, whoever brings the batches.
//!
//! A sink and the replays beside it have a destination each, and so has what a restart of the sink left behind. They share
//! the writer, so that the lock on the file is taken once, one batch is written at a time, and a rotation is seen by all.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicBool},
};

use forebay_actors::event::Timestamp;

/// The writers of a process, by path. They live as long as a destination or one of its threads has them.
#[derive(Default)]
pub struct Writers(Mutex<HashMap<PathBuf, Weak<Writer>>>);

/// What all who write one file have in common.
#[derive(Default)]
pub(super) struct Writer {
    /// Asynchronous, so that whoever waits for it holds no thread and can be dropped.
    pub(super) state: Arc<tokio::sync::Mutex<State>>,
    /// Held by the one thread that tidies.
    pub(super) tidying: Mutex<()>,
    /// Whether rotated files may be waiting to be tidied, and nobody has begun.
    pub(super) untidy: AtomicBool,
}

#[derive(Default)]
pub(super) struct State {
    /// Held from the first delivery until the last destination and its last thread are done with the file.
    pub(super) lock: Option<File>,
    /// Absent before the first delivery and after a failed one: opening repairs what that left behind.
    pub(super) current: Option<Current>,
}

/// The file being written.
pub(super) struct Current {
    pub(super) file: File,
    pub(super) born: Timestamp,
}

// === impl Writers ===

impl Writers {
    /// The one of this path.
    pub(super) fn of(&self, path: &Path) -> Arc<Writer> {
        // As the configuration's check sees it: `./a` and `a` are one file. A link to it is another path, which the lock
        // keeps out.
        let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
        let mut writers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writers.retain(|_, writer| writer.strong_count() > 0);
        if let Some(writer) = writers.get(&path).and_then(Weak::upgrade) {
            return writer;
        }
        let writer = Arc::<Writer>::default();
        writers.insert(path, Arc::downgrade(&writer));
        writer
    }
}

// === impl Current ===

impl Current {
    /// The length of the file, if it is still the one at `path`.
    pub(super) fn len_at(&self, path: &Path) -> Option<u64> {
        let (own, there) = (self.file.metadata().ok()?, fs::metadata(path).ok()?);
        is_same_file(&own, &there).then_some(own.len())
    }
}

#[cfg(unix)]
fn is_same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Elsewhere an open file can be neither moved nor removed.
#[cfg(not(unix))]
fn is_same_file(_: &Metadata, _: &Metadata) -> bool {
    true
}
