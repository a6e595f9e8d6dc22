//! `type: file`: appends NDJSON to a file, and rotates it.
//!
//! Promises:
//! - Delivered means synced: the batch is on the disk, and so is the file's name.
//! - No broken line stays. A batch that could not be written whole is cut off again, and what a crash left
//!   behind the last line break is cut off when the file is opened.
//! - A rotated file is never overwritten, and compressing one never delays a delivery.
//! - One writer: a lock on `<path>.lock` keeps out a second process and another path to the same file. Within a process
//!   the destinations of a path take turns: the sink's, those of replays, and the sink's own predecessor while it still
//!   finishes a write.
//!
//! A file is rotated between two batches, so one larger than `rotate_bytes` gets a file of its own, and a
//! file that grows too old is rotated by the next batch. A file that someone moved or removed is begun anew.

mod held;
mod rotation;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt,
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use forebay_actors::{
    destination::{Delivery, DeliveryError, Destination, Receipt},
    event::Timestamp,
    holding::Holding,
    record::Batch,
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use tokio::sync::OwnedMutexGuard;

pub use self::writer::Writers;
use self::{
    held::HeldFiles,
    rotation::Rotated,
    writer::{Current, State, Writer},
};
use super::{Framing, WallClock, blocking, encode_batch, io_failure, unbuildable};
use crate::config::FileSink;

/// How every line begins that this destination writes. A last line that begins otherwise is not ours to cut.
const LINE_START: &[u8] = b"{\"event_id\":";

/// Bytes read at a time when looking for the last line break.
const SEARCH_BYTES: u64 = 64 * 1024;

/// Appends batches to a file.
pub struct FileDestination {
    shared: Arc<Shared>,
    held: HeldFiles,
}

/// What deliveries and the care for rotated files have in common, on their blocking threads.
struct Shared {
    options: FileSink,
    clock: WallClock,
    rotated: Rotated,
    writer: Arc<Writer>,
    /// Whether a thread that is yet to tidy has been asked for.
    tidy_asked: AtomicBool,
    /// Whether the destination is gone, so that what is left on blocking threads should end.
    closed: AtomicBool,
}

// === impl FileDestination ===

impl FileDestination {
    /// A destination that has not opened its file yet, and takes turns with the others of these writers.
    ///
    /// # Errors
    /// [`Cause::Build`](forebay_actors::destination::Cause::Build) where the path names no file.
    pub fn new(options: &FileSink, clock: WallClock, writers: &Writers) -> Result<Self, DeliveryError> {
        let rotated = Rotated::of(&options.path)
            .ok_or_else(|| unbuildable(format!("path: {} names no file", options.path.display())))?;
        let shared = Shared {
            options: options.clone(),
            clock,
            rotated,
            writer: writers.of(&options.path),
            tidy_asked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        };
        let held = HeldFiles::beside(&options.path, "");
        Ok(Self { shared: Arc::new(shared), held })
    }

    /// The same with what it holds for others told from what another data directory has it hold.
    pub fn of_stream(mut self, stream: &str) -> Self {
        self.held = HeldFiles::beside(&self.shared.options.path, stream);
        self
    }
}

impl Drop for FileDestination {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for FileDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDestination").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Destination for FileDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let shared = self.shared.clone();
        async move {
            let body = blocking(move || encode_batch(&batch, Framing::Lines)).await?;
            let state = shared.writer.state.clone().lock_owned().await;
            blocking(move || {
                shared.append(state, &body)?;
                Ok(Receipt::of(body.len() as u64))
            })
            .await
        }
        .boxed_local()
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let shared = self.shared.clone();
        blocking(move || shared.check()).boxed_local()
    }

    fn holding(&self) -> Option<&dyn Holding> {
        Some(&self.held)
    }
}

// === impl Shared ===

impl Shared {
    fn append(self: &Arc<Self>, mut state: OwnedMutexGuard<State>, body: &[u8]) -> Result<(), DeliveryError> {
        let path = &self.options.path;
        let (mut current, mut len) = self.take_current(&mut state)?;
        let now = (self.clock)();
        if self.is_due(len, body.len() as u64, current.born, now) {
            drop(current);
            self.rotate(now)?;
            (current, len) = self.open()?;
        }
        if len == 0 {
            // A file is as old as its first event.
            current.born = now;
        }
        append_whole(&mut current.file, len, body).map_err(|e| io_failure(path, "write", &e))?;
        state.current = Some(current);
        Ok(())
    }

    /// Whether the file could be written. Changes nothing: another process may be writing it.
    fn check(&self) -> Result<(), DeliveryError> {
        let path = &self.options.path;
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                Err(io_failure(path, "write", &io::Error::from(io::ErrorKind::IsADirectory)))
            }
            Ok(_) => {
                File::options().append(true).open(path).map(drop).map_err(|e| io_failure(path, "write", &e))
            }
            Err(_) => {
                // It will be made, with the directories it lies in, as far as these can be.
                let there = path.ancestors().skip(1).find(|dir| !dir.as_os_str().is_empty() && dir.exists());
                match there.map(fs::metadata) {
                    Some(Ok(found)) if !found.is_dir() => {
                        Err(io_failure(path, "create", &io::Error::from(io::ErrorKind::NotADirectory)))
                    }
                    Some(Err(error)) => Err(io_failure(path, "create", &error)),
                    _ => Ok(()),
                }
            }
        }
    }

    /// The file to write and its length. Whoever fails does not put it back, so that it is opened and
    /// repaired again.
    fn take_current(self: &Arc<Self>, state: &mut State) -> Result<(Current, u64), DeliveryError> {
        if self.closed.load(Ordering::Relaxed) {
            // The sink has been rebuilt and will bring the batch again, through its new destination.
            let gone = io::Error::other("its destination is gone");
            return Err(io_failure(&self.options.path, "not written", &gone));
        }
        if self.writer.untidy.load(Ordering::Acquire) {
            // Who was to do it is gone, or has not begun.
            self.ask_to_tidy();
        }
        if let Some(current) = state.current.take()
            && let Some(len) = current.len_at(&self.options.path)
        {
            return Ok((current, len));
        }
        if state.lock.is_none() {
            self.create_directory()?;
            state.lock = Some(self.lock()?);
            self.ask_to_tidy();
        }
        self.open()
    }

    fn is_due(&self, len: u64, more: u64, born: Timestamp, now: Timestamp) -> bool {
        let full = self.options.rotate_bytes.is_some_and(|max| len + more > max);
        let old = self.options.rotate_every.is_some_and(|age| now.minus(age) >= born);
        len > 0 && (full || old)
    }

    fn rotate(self: &Arc<Self>, now: Timestamp) -> Result<(), DeliveryError> {
        let path = &self.options.path;
        let target = self.rotated.next(now).map_err(|e| io_failure(path, "rotate", &e))?;
        fs::rename(path, &target)
            .map_err(|e| io_failure(path, &format!("rotate to {}", target.display()), &e))?;
        self.ask_to_tidy();
        Ok(())
    }

    fn open(&self) -> Result<(Current, u64), DeliveryError> {
        let path = &self.options.path;
        let failure = |e: io::Error| io_failure(path, "open", &e);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failure)?;
        let metadata = file.metadata().map_err(failure)?;
        if !metadata.is_file() {
            return Err(failure(io::Error::other("it is not a regular file")));
        }
        let len = cut_torn_line(&mut file, metadata.len()).map_err(failure)?;
        if len < metadata.len() {
            let cut_bytes = metadata.len() - len;
            tracing::warn!(path = %path.display(), cut_bytes, "cut off the half line that a crash had left");
        }
        // A synced file whose name is lost in a power cut is lost all the same.
        sync_directory(self.rotated.directory()).map_err(failure)?;
        Ok((Current { file, born: born(&metadata).unwrap_or_else(|| (self.clock)()) }, len))
    }

    fn create_directory(&self) -> Result<(), DeliveryError> {
        let directory = self.rotated.directory();
        if directory.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(directory)
            .and_then(|()| directory.ancestors().skip(1).try_for_each(sync_directory))
            .map_err(|e| io_failure(directory, "create the directory", &e))
    }

    /// Takes the lock that keeps other writers out for as long as it is open. The lock has a file of its own,
    /// since the data file changes its name when it is rotated.
    fn lock(&self) -> Result<File, DeliveryError> {
        let path = suffixed(&self.options.path, ".lock");
        let failure = |e: io::Error| io_failure(&path, "lock", &e);
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failure)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(failure(io::Error::other("another sink or process is writing this file")))
            }
            // Some network file systems know no locks; the operator chose one all the same.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(file),
            Err(TryLockError::Error(e)) => Err(failure(e)),
        }
    }

    /// Has rotated files compressed and removed on a thread of its own. At most one runs, and one of each
    /// destination waits: it will see all files there are.
    fn ask_to_tidy(self: &Arc<Self>) {
        self.writer.untidy.store(true, Ordering::Release);
        if !self.tidy_asked.swap(true, Ordering::AcqRel) {
            let shared = self.clone();
            tokio::task::spawn_blocking(move || shared.tidy());
        }
    }

    fn tidy(&self) {
        let _alone = self.writer.tidying.lock().unwrap_or_else(PoisonError::into_inner);
        self.writer.untidy.store(false, Ordering::Release);
        self.tidy_asked.store(false, Ordering::Release);
        let (keep, compression) = (self.options.keep_files, self.options.compression);
        let tidied = self.rotated.tidy(keep, compression, &self.closed);
        if self.closed.load(Ordering::Relaxed) {
            // It may have stopped in the middle: the file's next delivery, whoever brings it, has it gone on with.
            self.writer.untidy.store(true, Ordering::Release);
        }
        if let Err(error) = tidied {
            // Nothing is lost by it, and the next rotation tries again.
            let path = self.options.path.display();
            tracing::warn!(%path, %error, "rotated files could not be compressed or removed");
        }
    }
}

// === Files ===

/// What appending needs of a file; a trait so that tests can let it fail.
trait Appendable {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

impl Appendable for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// Appends all of `body` to a file of `len` bytes and syncs it, or leaves nothing of it there. After a failed
/// sync nobody knows what the disk holds, so that is undone as well.
fn append_whole(file: &mut impl Appendable, len: u64, body: &[u8]) -> io::Result<()> {
    file.append(body).and_then(|()| file.sync()).inspect_err(|_| {
        // Where this fails too, the half line is cut off when the file is next opened.
        let _ = file.cut(len);
    })
}

/// Cuts off what stands behind the last line break, and returns the length that is left.
fn cut_torn_line(file: &mut File, len: u64) -> io::Result<u64> {
    let whole = end_of_lines(file, len)?;
    if whole == len {
        return Ok(len);
    }
    let mut start = vec![0; LINE_START.len().min((len - whole) as usize)];
    file.seek(SeekFrom::Start(whole))?;
    file.read_exact(&mut start)?;
    // Some file systems leave zeros where a crash came between making a file longer and filling it.
    if !LINE_START.starts_with(&start) && start[0] != 0 {
        return Err(io::Error::other("its last line is not an event of Forebay, and has no end"));
    }
    file.set_len(whole)?;
    file.sync_all()?;
    Ok(whole)
}

/// The place after the last line break of a file of `len` bytes; 0 where there is none.
fn end_of_lines(file: &mut File, len: u64) -> io::Result<u64> {
    let mut end = len;
    let mut chunk = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(SEARCH_BYTES);
        chunk.resize((end - start) as usize, 0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut chunk)?;
        if let Some(at) = chunk.iter().rposition(|b| *b == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// When a file that was there already was begun, as far as the file system knows.
fn born(metadata: &Metadata) -> Option<Timestamp> {
    let born: SystemTime = metadata.created().or_else(|_| metadata.modified()).ok()?;
    let nanos = born.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    i64::try_from(nanos).ok().map(Timestamp::from_nanos)
}

/// Makes names in a directory durable. Systems that cannot open directories need no such thing.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory).map_or(Ok(()), |d| d.sync_all())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    text.into()
}
