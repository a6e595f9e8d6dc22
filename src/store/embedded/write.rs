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

use super::schema::{self, WAL_BYTES_MAX, minute_of};
use crate::store::StoreError;

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
    let mut counts = HashMap::<String, HashMap<i64, i64>>::new();
    let mut id_text = Vec::new();
    let mut events = batch.events();
    while let Some(event) = events.next_event() {
        let event = event?;
        let id = id_str(&event.event_id, &mut id_text);
        let metadata = event.metadata.unwrap_or("{}");
        if insert_event(&mut insert, id, &event, metadata).map_err(at)? {
            let minute = minute_of(event.timestamp.nanos());
            match counts.get_mut(event.service) {
                Some(minutes) => *minutes.entry(minute).or_default() += 1,
                None => drop(counts.insert(event.service.to_owned(), HashMap::from([(minute, 1)]))),
            }
            inserted.new += 1;
            let text_bytes = id.len() + event.service.len() + event.message.len() + metadata.len();
            inserted.bytes += (text_bytes + 2 * size_of::<i64>()) as u64;
        } else {
            inserted.duplicates += 1;
        }
    }
    let mut count = transaction.prepare(COUNT).map_err(at)?;
    for (service, minutes) in &counts {
        for (minute, events) in minutes {
            count.execute((minute, service, events)).map_err(at)?;
        }
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

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{Store, batch, batch_of, draft, time},
        *,
    };
    use crate::store::{Order, Query};

    fn query() -> Query {
        Query { limit: 100, order: Order::Oldest, ..Query::default() }
    }

    /// What went in comes out, field for field, with an id where the client sent none.
    #[test]
    fn events_are_stored_whole() {
        let mut store = Store::new();
        let mut mine = draft("mine", 5, "web");
        (mine.message, mine.metadata) = ("h\u{e9}\0llo", Some("{\"a\":[1,\"\u{20ac}\"]}"));
        let mut theirs = draft("", 6, "api");
        theirs.event_id = None;
        let inserted = store.writer.insert(&batch(0, &[mine, theirs])).unwrap();
        assert_eq!((inserted.new, inserted.duplicates), (2, 0));

        let stored = store.reader.get("mine").unwrap().unwrap();
        assert_eq!((stored.service.as_str(), stored.message.as_str()), ("web", "h\u{e9}\0llo"));
        assert_eq!(stored.metadata, "{\"a\":[1,\"\u{20ac}\"]}");
        assert_eq!((stored.timestamp, stored.ingested_at), (time(5), time(1_000_000)));
        let mut json = Vec::new();
        store.walk(&query())[1].write_json(&mut json);
        let json = String::from_utf8(json).unwrap();
        assert!(json.starts_with("{\"event_id\":\"00000000-0000-7000-"), "{json}");
        assert!(json.contains("\"metadata\":{},\"ingested_at\":\"1970-01-12T13:46:40Z\""), "{json}");
    }

    /// An event whose id is known changes nothing, in the same batch or a later one; its counts neither.
    #[test]
    fn an_event_is_stored_once() {
        let mut store = Store::new();
        let first = batch(0, &[draft("a", 1, "s"), draft("b", 2, "s"), draft("a", 3, "t")]);
        let inserted = store.writer.insert(&first).unwrap();
        assert_eq!((inserted.new, inserted.duplicates), (2, 1));
        let again = store.writer.insert(&first).unwrap();
        assert_eq!(again, Inserted { new: 0, duplicates: 3, bytes: 0 });
        let overlapping = batch(2, &[draft("b", 9, "s"), draft("c", 9, "s")]);
        assert_eq!(store.writer.insert(&overlapping).unwrap().new, 1);
        let ids: Vec<_> = store.walk(&query()).into_iter().map(|e| (e.event_id, e.timestamp)).collect();
        assert_eq!(ids, [("a".into(), time(1)), ("b".into(), time(2)), ("c".into(), time(9))]);
        assert_eq!(store.reader.count_total().unwrap(), 3);
    }

    /// A batch with a damaged record leaves nothing behind, and the writer goes on.
    #[test]
    fn a_damaged_batch_stores_nothing() {
        let mut store = Store::new();
        let whole = batch(0, &[draft("a", 1, "s"), draft("b", 2, "s")]);
        let payload = &whole.records()[0].payload;
        let error = store.writer.insert(&batch_of(0, 2, payload[..payload.len() - 1].to_vec())).unwrap_err();
        assert!(matches!(error, StoreError::Decode(_)) && !error.is_transient(), "{error}");
        assert_eq!(store.reader.count_total().unwrap(), 0);
        assert_eq!(store.writer.insert(&whole).unwrap().new, 2);
    }

    /// What was committed is there in files as a kill leaves them: copied while the writer has them open, so
    /// that nothing was closed or checkpointed.
    #[test]
    fn commits_outlive_a_crash() {
        let mut store = Store::new();
        store.writer.insert(&batch(0, &[draft("a", 1, "s"), draft("b", 2, "s")])).unwrap();
        let crashed = store.home.path().join("crashed");
        fs::create_dir(&crashed).unwrap();
        for name in ["events.db", "events.db-wal"] {
            fs::copy(store.path().with_file_name(name), crashed.join(name)).unwrap();
        }
        let path = crashed.join("events.db");
        let reader = super::super::Reader::new(&path);
        assert_eq!(reader.count_total().unwrap(), 2);
        let mut writer = Writer::open(&path).unwrap();
        let again = writer.insert(&batch(0, &[draft("b", 2, "s"), draft("c", 3, "s")])).unwrap();
        assert_eq!((again.new, again.duplicates), (1, 1));
        assert!(reader.get("c").unwrap().is_some());
    }

    /// The log is emptied once it is past its bound.
    #[test]
    fn a_long_log_is_emptied() {
        let store = Store::new();
        let grown = fs::OpenOptions::new().write(true).open(&store.writer.wal_path).unwrap();
        grown.set_len(WAL_BYTES_MAX + 1).unwrap();
        store.writer.bound_wal();
        assert_eq!(fs::metadata(&store.writer.wal_path).unwrap().len(), 0);
        store.writer.connection.execute_batch("SELECT 1 FROM events").unwrap();
    }

    /// A batch that meets another writer's lock waits, and says that it was busy when that takes too long.
    #[test]
    fn a_locked_database_is_busy() {
        let mut store = Store::new();
        let mut other = Writer::open(&store.path()).unwrap();
        let lock = begin(&mut other.connection).unwrap();
        store.writer.connection.busy_timeout(std::time::Duration::ZERO).unwrap();
        let error = store.writer.insert(&batch(0, &[draft("a", 1, "s")])).unwrap_err();
        assert!(matches!(error, StoreError::Busy { .. }) && error.is_transient(), "{error}");
        drop(lock);
        assert_eq!(store.writer.insert(&batch(0, &[draft("a", 1, "s")])).unwrap().new, 1);
    }

    /// A full disk is told apart, nothing is stored, and the writer goes on once there is room.
    #[test]
    fn a_full_disk_stores_nothing() {
        let mut store = Store::new();
        let long = "x".repeat(100_000);
        let mut big = draft("a", 1, "s");
        big.message = &long;
        let batch = batch(0, &[draft("b", 1, "s"), big]);
        // SQLite never goes below the pages in use, so this leaves no room for a further one.
        store.writer.connection.query_row("PRAGMA max_page_count = 1", (), |_| Ok(())).unwrap();
        let error = store.writer.insert(&batch).unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }) && error.is_transient(), "{error}");
        assert_eq!(store.reader.count_total().unwrap(), 0);
        store.writer.connection.query_row("PRAGMA max_page_count = 1000000", (), |_| Ok(())).unwrap();
        assert_eq!(store.writer.insert(&batch).unwrap().new, 2);
    }
}
