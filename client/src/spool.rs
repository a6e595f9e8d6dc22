//! The spool: a small queue on this machine's disk for batches that the server did not take.
//!
//! A directory of segment files, used by one client at a time. A segment is eight bytes of magic and then records; a record
//! is its length, the CRC-32 of its bytes, the CRC-32 of these two (each four bytes, little-endian) and the bytes: one JSON
//! text, a batch.
//!
//! **Who syncs, and when.** [`Spool::append`] writes a record and calls `fdatasync` before it returns; only then is a receipt
//! told that its events are spooled. A segment that is new is synced with its directory before its first record is
//! acknowledged. It is one sync for each batch, on the blocking thread of whoever gave the batch up. Removing is not synced: what
//! comes back after a power loss is delivered again, under the same ids.
//!
//! **Limits.** The files together have at most `bytes_max`; a batch that does not fit is not taken. A segment has at most an
//! eighth of that, so that room comes back in steps. A start begins a new segment and never appends to an old one.
//!
//! **Damage.** The end that was half-written when a process or machine died was never acknowledged, and is cut at the start.
//! Anything else that cannot be read is put aside as `….damaged`, beside the segments, and said in the log.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

const MAGIC: &[u8; 8] = b"FBSPOOL1";

/// Length and checksums.
const HEADER_BYTES: u64 = 12;

const EXTENSION: &str = "spool";

/// Bounds of a segment's size.
const SEGMENT_BYTES_MIN: u64 = 4 * 1024;
const SEGMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A spool that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file system said no.
    #[error("the spool's {}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Somebody else works in it.
    #[error("the spool in {} is used by another client; every client needs a directory of its own", .0.display())]
    Locked(PathBuf),
    /// There is no room.
    #[error("the spool is full: {bytes} of {bytes_max} bytes")]
    Full {
        /// Bytes it has.
        bytes: u64,
        /// Bytes it may have.
        bytes_max: u64,
    },
}

/// The queue. Every method blocks on the disk.
pub(crate) struct Spool {
    dir: PathBuf,
    bytes_max: u64,
    /// Locked until it is released or dropped.
    lock: File,
    state: Mutex<State>,
    /// Bytes of the files, for whoever must not wait for the disk.
    used: AtomicU64,
}

struct State {
    /// Oldest first; the newest is the one `writer` writes.
    segments: VecDeque<Segment>,
    writer: Option<File>,
    next: u64,
    /// The directory belongs to somebody else now.
    released: bool,
}

impl State {
    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end).sum()
    }
}

struct Segment {
    number: u64,
    /// Up to here it holds whole records.
    end: u64,
    /// Up to here they are delivered.
    read: u64,
}

/// A record, and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    segment: u64,
    end: u64,
    pub bytes: Vec<u8>,
}

impl Spool {
    /// Opens the directory, makes it where it is not there, and looks through what is in it.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self, SpoolError> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        let lock_path = dir.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SpoolError::Locked(dir.to_owned())),
            Err(TryLockError::Error(error)) => return Err(at(&lock_path)(error)),
        }
        let (mut numbers, mut next) = (Vec::new(), 1);
        for entry in fs::read_dir(dir).map_err(at(dir))? {
            let path = entry.map_err(at(dir))?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let Some(number) = stem.and_then(|stem| stem.parse::<u64>().ok()) else { continue };
            // Those that were put aside count as well: a number is not used twice, or they would be overwritten.
            next = next.max(number + 1);
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        let mut segments = VecDeque::new();
        for number in &numbers {
            let path = path_of(dir, *number);
            let newest = Some(number) == numbers.last();
            if let Some(end) = recover(&path, newest).map_err(at(&path))? {
                segments.push_back(Segment { number: *number, end, read: MAGIC.len() as u64 });
            }
        }
        let state = State { segments, writer: None, next, released: false };
        let used = AtomicU64::new(state.bytes());
        Ok(Self { dir: dir.to_owned(), bytes_max, lock, state: Mutex::new(state), used })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of its files. Does not block.
    pub fn bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Puts a record at the end; it is on disk when this returns.
    pub fn append(&self, bytes: &[u8]) -> Result<(), SpoolError> {
        let state = &mut *self.state();
        let appended = self.append_to(state, bytes);
        self.used.store(state.bytes(), Ordering::Relaxed);
        appended
    }

    fn append_to(&self, state: &mut State, bytes: &[u8]) -> Result<(), SpoolError> {
        let used = state.bytes();
        let full = SpoolError::Full { bytes: used, bytes_max: self.bytes_max };
        let length = u32::try_from(bytes.len()).ok().filter(|_| !state.released);
        let Some(length) = length else { return Err(full) };
        let record_bytes = HEADER_BYTES + u64::from(length);
        let segment_bytes_max = (self.bytes_max / 8).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let fits = |segment: &Segment| segment.end + record_bytes <= segment_bytes_max;
        if state.writer.is_some() && !state.segments.back().is_some_and(fits) {
            state.writer = None;
        }
        let magic_bytes = if state.writer.is_some() { 0 } else { MAGIC.len() as u64 };
        if used + magic_bytes + record_bytes > self.bytes_max {
            return Err(full);
        }
        if state.writer.is_none() {
            self.begin(state)?;
        }
        let mut record = Vec::with_capacity(bytes.len() + HEADER_BYTES as usize);
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        record.extend_from_slice(&crc32fast::hash(&record).to_le_bytes());
        record.extend_from_slice(bytes);
        let (Some(writer), Some(segment)) = (&mut state.writer, state.segments.back_mut()) else {
            unreachable!("a writer's segment is the newest, and it was begun above");
        };
        match writer.write_all(&record).and_then(|()| writer.sync_data()) {
            Ok(()) => {
                segment.end += record_bytes;
                Ok(())
            }
            Err(error) => {
                let path = path_of(&self.dir, segment.number);
                // Where even that fails, the next start cuts it: it is at the end of a segment that nobody appends to.
                let _ = writer.set_len(segment.end);
                state.writer = None;
                Err(at(&path)(error))
            }
        }
    }

    fn begin(&self, state: &mut State) -> Result<(), SpoolError> {
        let path = path_of(&self.dir, state.next);
        let begun = || {
            let mut file = OpenOptions::new().create_new(true).append(true).open(&path)?;
            file.write_all(MAGIC)?;
            file.sync_all()?;
            sync_dir(&self.dir)?;
            Ok(file)
        };
        let number = state.next;
        // Also where it fails: a name that may be there is not tried again.
        state.next += 1;
        state.writer = Some(begun().map_err(|error| {
            let _ = fs::remove_file(&path);
            at(&path)(error)
        })?);
        let magic = MAGIC.len() as u64;
        state.segments.push_back(Segment { number, end: magic, read: magic });
        Ok(())
    }

    /// Gives the directory to the next client. Whoever has this one still finds it empty and full.
    pub fn release(&self) {
        let state = &mut *self.state();
        state.released = true;
        state.writer = None;
        // Where it cannot be unlocked it is when it is dropped.
        let _ = self.lock.unlock();
    }

    /// The oldest record that is not done yet.
    pub fn oldest(&self) -> Result<Option<Record>, SpoolError> {
        let state = &mut *self.state();
        let oldest = self.oldest_of(state);
        self.used.store(state.bytes(), Ordering::Relaxed);
        oldest
    }

    fn oldest_of(&self, state: &mut State) -> Result<Option<Record>, SpoolError> {
        while !state.released
            && let Some(segment) = state.segments.front()
        {
            let path = path_of(&self.dir, segment.number);
            if segment.read >= segment.end {
                if state.segments.len() == 1 {
                    // The writer's file is removed under it: the next append begins another.
                    state.writer = None;
                }
                fs::remove_file(&path).or_else(absent).map_err(at(&path))?;
                state.segments.pop_front();
                continue;
            }
            let mut file = File::open(&path).map_err(at(&path))?;
            file.seek(SeekFrom::Start(segment.read)).map_err(at(&path))?;
            if let Some(bytes) = read_record(&mut file, segment.end - segment.read).map_err(at(&path))? {
                let end = segment.read + HEADER_BYTES + bytes.len() as u64;
                return Ok(Some(Record { segment: segment.number, end, bytes }));
            }
            put_aside(&path, segment.read).map_err(at(&path))?;
            if state.segments.len() == 1 {
                state.writer = None;
            }
            state.segments.pop_front();
        }
        Ok(None)
    }

    /// The record has its outcome.
    pub fn done(&self, record: &Record) {
        let state = &mut *self.state();
        if let Some(segment) = state.segments.front_mut().filter(|front| front.number == record.segment) {
            segment.read = segment.read.max(record.end);
        }
    }
}

/// Finds where the whole records of a segment end, and cuts or puts aside what is behind. Nothing where no record is left.
fn recover(path: &Path, newest: bool) -> io::Result<Option<u64>> {
    let length = fs::metadata(path)?.len();
    let mut file = io::BufReader::new(File::open(path)?);
    let mut magic = [0; MAGIC.len()];
    let mut end = 0;
    if length >= MAGIC.len() as u64 {
        file.read_exact(&mut magic)?;
        if magic == *MAGIC {
            end = magic.len() as u64;
            while let Some(bytes) = read_record(&mut file, length - end)? {
                end += HEADER_BYTES + bytes.len() as u64;
            }
        }
    }
    if end == length {
        let empty = end == MAGIC.len() as u64;
        return if empty { fs::remove_file(path).map(|()| None) } else { Ok(Some(end)) };
    }
    let torn = length < MAGIC.len() as u64 || (end > 0 && is_half_written(path, end)?);
    if newest && torn {
        tracing::info!(path = %path.display(), bytes = length - end, "the half-written end of the spool is cut");
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(end)?;
        file.sync_all()?;
    } else {
        put_aside(path, end)?;
    }
    if end <= MAGIC.len() as u64 {
        fs::remove_file(path).or_else(absent)?;
        return Ok(None);
    }
    Ok(Some(end))
}

/// Whether what stands here is the beginning of a record, and nothing else: then nobody was told that it is there.
fn is_half_written(path: &Path, from: u64) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    let Some((header, bytes)) = rest.split_first_chunk() else { return Ok(true) };
    Ok(Header::read(header).is_some_and(|header| bytes.len() < header.length as usize))
}

/// Copies everything from here on to a file beside, and cuts it off.
fn put_aside(path: &Path, from: u64) -> io::Result<()> {
    let aside = path.with_extension("damaged");
    tracing::error!(path = %path.display(), aside = %aside.display(), "part of the spool cannot be read and is put aside");
    let mut damaged = OpenOptions::new().read(true).write(true).open(path)?;
    damaged.seek(SeekFrom::Start(from))?;
    let mut copy = File::create(&aside)?;
    io::copy(&mut damaged, &mut copy)?;
    copy.sync_all()?;
    damaged.set_len(from)?;
    damaged.sync_all()
}

/// What stands before a record.
struct Header {
    length: u32,
    crc: u32,
}

impl Header {
    /// Nothing where it is damaged.
    fn read(header: &[u8; HEADER_BYTES as usize]) -> Option<Self> {
        let (words, _) = header.as_chunks();
        let [length, crc, own] = *words else { unreachable!("a header is three words") };
        let own = u32::from_le_bytes(own);
        let whole = crc32fast::hash(&header[..8]) == own;
        whole.then(|| Self { length: u32::from_le_bytes(length), crc: u32::from_le_bytes(crc) })
    }
}

/// The next record of at most `room` bytes; nothing where there is none that is whole.
fn read_record(from: &mut impl io::Read, room: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(room) = room.checked_sub(HEADER_BYTES) else { return Ok(None) };
    let mut header = [0; HEADER_BYTES as usize];
    from.read_exact(&mut header)?;
    let Some(header) = Header::read(&header).filter(|header| u64::from(header.length) <= room) else {
        return Ok(None);
    };
    let mut bytes = vec![0; header.length as usize];
    from.read_exact(&mut bytes)?;
    Ok((crc32fast::hash(&bytes) == header.crc).then_some(bytes))
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}.{EXTENSION}"))
}

/// A name is durable when its directory is synced; other systems than Unix do that by themselves, and refuse to be asked.
fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn at(path: &Path) -> impl Fn(io::Error) -> SpoolError {
    move |error| SpoolError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests;
