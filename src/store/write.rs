//! The writer: a batch becomes rows, once, in one transaction.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    str,
};

use forebay_actors::{
    event::{Event, EventId},
    record::Batch,
};
use rusqlite::{Connection, Statement, Transaction, TransactionBehavior};

use super::{
    StoreError,
    schema::{self, WAL_BYTES_MAX, minute_of},
};

/// The one who writes. A second one (retention, say) may exist: each waits for the other's transaction.
#[derive(Debug)]
pub struct Writer {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    wal_path: PathBuf,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inserted {
    /// Events that were not there before.
    pub new: u64,
    /// Events whose id was there before, in the store or earlier in the batch; they changed nothing.
    pub duplicates: u64,
    /// Bytes of text and numbers of the new events.
    pub bytes: u64,
}

const INSERT: &str = "
    INSERT INTO events (event_id, timestamp, service, message, metadata, ingested_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (event_id) DO NOTHING";

const COUNT: &str = "
    INSERT INTO event_counts (minute, service, events) VALUES (?1, ?2, ?3)
    ON CONFLICT (minute, service) DO UPDATE SET events = events + excluded.events";

// === impl Writer ===

impl Writer {
    /// Opens the database at `path`; makes it and its directory where they are missing.
    ///
    /// # Errors
    /// [`StoreError::NewerVersion`] where a later Forebay has written it; otherwise what the disk or SQLite says.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = schema::open_writer(path)?;
        let mut wal_path = path.as_os_str().to_owned();
        wal_path.push("-wal");
        Ok(Self { connection, path: path.to_owned(), wal_path: wal_path.into() })
    }

    /// Stores the events of the batch that are not there yet: all of them, synced, or none.
    ///
    /// # Errors
    /// [`StoreError::Decode`] where a record is not what its format says; otherwise what the disk or SQLite
    /// says. Nothing of the batch is stored then.
    pub fn insert(&mut self, batch: &Batch) -> Result<Inserted, StoreError> {
        let at = StoreError::at(&self.path);
        let transaction = begin(&mut self.connection).map_err(at)?;
        let inserted = insert_events(&transaction, batch, at)?;
        transaction.commit().map_err(at)?;
        self.bound_wal();
        Ok(inserted)
    }

    /// Whether the database could be written now: it is, without changing anything.
    ///
    /// # Errors
    /// What an [`Writer::insert`] would meet before its first event.
    pub fn check(&mut self) -> Result<(), StoreError> {
        let at = StoreError::at(&self.path);
        let transaction = begin(&mut self.connection).map_err(at)?;
        transaction.query_row("SELECT EXISTS (SELECT 1 FROM events)", (), |_| Ok(())).map_err(at)?;
        transaction.rollback().map_err(at)
    }

    /// SQLite begins the log anew only when no reader stands in it, so readers that overlap without end would
    /// let it grow without end. Past the bound this waits for them; they read from the database from then on.
    pub(super) fn bound_wal(&self) {
        let is_long = fs::metadata(&self.wal_path).is_ok_and(|wal| wal.len() > WAL_BYTES_MAX);
        if is_long {
            // The commit stands either way. If this fails, the next commit meets the same and tries again.
            let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
        }
    }
}

/// Takes the write lock at the start: a transaction that began by reading would fail at its first write, without
/// waiting, where another writer came in between.
pub(super) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn insert_events(
    transaction: &Transaction<'_>,
    batch: &Batch,
    at: impl Fn(rusqlite::Error) -> StoreError + Copy,
) -> Result<Inserted, StoreError> {
    let mut insert = transaction.prepare(INSERT).map_err(at)?;
    let mut inserted = Inserted::default();
    let mut counts = HashMap::<(i64, &str), i64>::new();
    let mut id_text = Vec::new();
    for event in batch.events() {
        let event = event?;
        let id = id_str(&event.event_id, &mut id_text);
        let metadata = event.metadata.unwrap_or("{}");
        if insert_event(&mut insert, id, &event, metadata).map_err(at)? {
            *counts.entry((minute_of(event.timestamp.nanos()), event.service)).or_default() += 1;
            inserted.new += 1;
            let text_bytes = id.len() + event.service.len() + event.message.len() + metadata.len();
            inserted.bytes += (text_bytes + 2 * size_of::<i64>()) as u64;
        } else {
            inserted.duplicates += 1;
        }
    }
    let mut count = transaction.prepare(COUNT).map_err(at)?;
    for ((minute, service), events) in counts {
        count.execute((minute, service, events)).map_err(at)?;
    }
    Ok(inserted)
}

/// Whether the event was not there before.
fn insert_event(
    insert: &mut Statement<'_>,
    id: &str,
    event: &Event<'_>,
    metadata: &str,
) -> rusqlite::Result<bool> {
    let (timestamp, ingested_at) = (event.timestamp.nanos(), event.ingested_at.nanos());
    let changed = insert.execute((id, timestamp, event.service, event.message, metadata, ingested_at))?;
    Ok(changed == 1)
}

/// The id as text; an assigned one is written into `text`, whose room is used again for the next.
fn id_str<'a>(id: &EventId<'a>, text: &'a mut Vec<u8>) -> &'a str {
    match *id {
        EventId::Given(given) => given,
        assigned => {
            text.clear();
            assigned.write(text);
            str::from_utf8(text).expect("an id is written as text")
        }
    }
}
