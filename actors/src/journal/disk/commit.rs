//! How a commit comes onto the device, in two halves: it is appended, then synced and shown to readers. One commit
//! appends while the one before it is on its way to the device; their order stays.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{SledJournal, shelf::Readable};
use crate::{
    durable,
    event::Stamped,
    journal::{
        Durability, GENERATION_BYTES, JournalError, RECORD_BYTES,
        generation::Generation,
        inspect::Entry,
        records, stored,
        witness::{WITNESS, Witness},
    },
    record::{Position, Record},
};

/// The append half of a commit.
pub(super) struct Writer {
    pub(super) target: Arc<Target>,
    /// The position after the last event appended, which is not yet the head.
    appended: Position,
    stored_bytes: u64,
    /// Where records get their stored form.
    scratch: Vec<u8>,
}

/// The generation that is written, as far as the sync half of a commit needs it.
pub(super) struct Target {
    pub(super) generation: Arc<Generation>,
    /// Not synced while all is well: it is a witness, not a log.
    witness: fs::File,
    /// Something of it could not be made durable: nothing more is written here.
    failed: AtomicBool,
}

impl Target {
    /// Whether nothing more may be written here, because something before it may be missing.
    fn is_over(&self) -> bool {
        self.failed.load(Ordering::Acquire) || self.generation.is_unsynced()
    }

    /// What of the commit that was refused has come into the log all the same is never to be read: the log ends at the head.
    /// Nobody else may be publishing.
    pub(super) fn end_at(&self, head: Position) {
        self.failed.store(true, Ordering::Release);
        // A few bytes in the place of others, which most file systems take also on a full device.
        let noted = self.witness.write_all_at(&Witness::End(head).bytes(), 0);
        if let Err(error) = noted.and_then(|()| self.witness.sync_data()) {
            tracing::error!(%error, "where the log ends could not be noted; what was refused may be there after a restart");
        }
    }
}

/// Runs its closure when it is dropped.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

impl SledJournal {
    pub(super) fn append_and_publish(&self, blocks: &[Stamped]) -> Result<Vec<Arc<Record>>, JournalError> {
        let mut slot = self.writer();
        loop {
            // Taken out: after an error or a panic of sled the next commit begins a new generation.
            let mut writer = self.next_writer(slot.take())?;
            let target = writer.target.clone();
            // Also where sled panics.
            let refused = OnDrop(|| {
                // The commit before may still succeed.
                let _turn = self.turn();
                target.end_at(self.head());
            });
            let records = self.append(&mut writer, blocks)?;
            std::mem::forget(refused);
            let stored_bytes = writer.stored_bytes;
            let _turn = self.turn();
            if target.is_over() {
                // By the commit before, or a sync: what was appended behind it begins a new generation instead, if there can be one.
                target.end_at(self.head());
                continue;
            }
            *slot = Some(writer);
            drop(slot);
            return self.publish(&target, &records, stored_bytes).map(|()| records);
        }
    }

    /// The writer to append to, which is a new generation's where the last one is full or failed.
    fn next_writer(&self, last: Option<Writer>) -> Result<Writer, JournalError> {
        if let Some(writer) = last.filter(|writer| !writer.target.is_over())
            && writer.stored_bytes < self.generation_bytes
            && !self.is_swollen(&writer)
        {
            return Ok(writer);
        }
        // Where the next generation begins is known when the commit before is done.
        let _turn = self.turn();
        // What was taken into the last one and not synced is not for this commit to fail for.
        if matches!(self.durability, Durability::Interval(_))
            && let Err(error) = self.sync_written(true)
        {
            tracing::error!(%error, "a generation could not be synced; what it has taken may not outlive a crash before it is delivered");
        }
        self.begin_generation(self.head())
    }

    /// Whether the log is much larger than what was stored in it. sled writes the list of its trees anew with each tree, and very
    /// small records take very many: their log grows with the square of their number, and nothing of it becomes free before the
    /// generation goes.
    fn is_swollen(&self, writer: &Writer) -> bool {
        let usual = self.generation_bytes.max(GENERATION_BYTES);
        writer.target.generation.disk_bytes() > usual.saturating_mul(2)
    }

    /// Syncs everything that was appended, and closes what nothing is appended to any more: all but the newest, and that, too,
    /// where it `is_over`.
    ///
    /// # Errors
    /// The first of them. What could not be synced stays open for readers, because its log does not have everything, and is an
    /// error of every later call.
    pub(super) fn sync_written(&self, is_over: bool) -> Result<(), JournalError> {
        let (written, newest) = {
            let shelf = self.shelf();
            (shelf.written(), shelf.newest())
        };
        let mut synced = Ok(());
        for (first, generation) in written {
            match generation.sync() {
                Ok(()) if is_over || Some(first) != newest => self.shelf().close(first),
                Ok(()) => {}
                Err(error) if self.shelf().is_written(&generation) => synced = synced.and(Err(error)),
                // It was removed meanwhile.
                Err(_) => {}
            }
        }
        synced
    }

    fn append(&self, writer: &mut Writer, blocks: &[Stamped]) -> Result<Vec<Arc<Record>>, JournalError> {
        let records = records(blocks, writer.appended, self.clock.now(), RECORD_BYTES);
        let mut appended = Vec::with_capacity(records.len());
        for drafted in records {
            let record = drafted.record();
            let stored = match drafted.is_packed() {
                true => stored::encode_packed(&drafted, &mut writer.scratch),
                false => stored::encode(&record, &mut writer.scratch),
            };
            writer.stored_bytes += writer.target.generation.append(record.first, stored)?;
            writer.appended = record.end();
            appended.push(Arc::new(record));
        }
        Ok(appended)
    }

    /// Makes durable what was appended, and shows it to readers.
    fn publish(
        &self,
        target: &Target,
        records: &[Arc<Record>],
        stored_bytes: u64,
    ) -> Result<(), JournalError> {
        // Also where sled panics.
        let refused = OnDrop(|| target.end_at(self.head()));
        if self.durability == Durability::Fsync {
            target.generation.sync()?;
        }
        let head = records.last().map_or(self.head(), |last| last.end());
        target
            .witness
            .write_all_at(&Witness::Head(head).bytes(), 0)
            .map_err(|e| JournalError::io(&self.dir, e))?;
        if let Some(entry) = self.shelf().entries.back_mut() {
            entry.disk_bytes = target.generation.disk_bytes();
            entry.stored_bytes = stored_bytes;
            entry.last_write = records.last().map_or(entry.last_write, |last| last.written_at);
        }
        self.head.store(head.0, Ordering::Release);
        std::mem::forget(refused);
        Ok(())
    }

    pub(super) fn begin_generation(&self, first: Position) -> Result<Writer, JournalError> {
        let dir = self.generation_dir(first);
        // One of this name holds nothing that was ever committed: a commit into it failed.
        self.forget(first);
        self.discard(first)?;
        let generation = Arc::new(Generation::create(&dir)?);
        let path = dir.join(WITNESS);
        let witness = fs::File::create(&path)
            .and_then(|file| file.write_all_at(&Witness::Head(first).bytes(), 0).map(|()| file))
            .map_err(|e| JournalError::io(path, e))?;
        // Its own name must survive a power loss as well as its bytes, and the names of its files.
        for path in [&dir, &self.dir] {
            durable::sync(path).map_err(|e| JournalError::io(path, e))?;
        }
        let mut shelf = self.shelf();
        // The one before is closed: whoever lags opens it again, and nobody else pays for its memory. One that `interval` could
        // not sync is not.
        if !matches!(self.durability, Durability::Interval(_)) {
            shelf.close_newest();
        }
        let last_write = self.clock.now();
        shelf.entries.push_back(Entry { first, disk_bytes: 0, stored_bytes: 0, last_write });
        let closed = shelf.keep_open(first, Readable::Written(generation.clone()));
        let given_up = shelf.give_up_unsynced();
        // Closing them may take long.
        drop(shelf);
        drop(closed);
        if let Some((first, _)) = given_up {
            let generation = self.generation_dir(first);
            tracing::error!(generation = %generation.display(), "a generation could not be synced, and is closed: what its log does not have is lost");
        }
        let target = Arc::new(Target { generation, witness, failed: AtomicBool::new(false) });
        Ok(Writer { target, appended: first, stored_bytes: 0, scratch: Vec::new() })
    }
}
