//! The file: its tables, its version, and how a connection to it is set up.
//!
//! `event_counts` is what `events` would answer to `GROUP BY minute, service`. Both change in one
//! transaction, always, so that statistics over any number of events read a few thousand rows.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::{data_dir, store::StoreError};

/// Page cache of the writer in KiB: room for the pages a batch changes, so that none is written twice.
pub const WRITER_CACHE_KIB: u32 = 8 * 1024;

/// Page cache of one reading connection in KiB. The system's own cache stands behind it.
pub const READER_CACHE_KIB: u32 = 2 * 1024;

/// Bytes of the `-wal` file after which the writer waits for readers to leave it, and empties it.
pub const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of the log after which its pages go into the database, as far as readers allow.
const CHECKPOINT_BYTES: i64 = 16 * 1024 * 1024;

/// One page. 8 KiB holds some 20 events, which halves the tree's upkeep against 4 KiB; larger pages would write
/// more for every event whose id or time is not near its neighbours'.
const PAGE_BYTES: i64 = 8 * 1024;

/// How long a connection waits for another one's lock.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// What leads from one version of the schema to the next; the first makes an empty file version 1.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        event_id TEXT NOT NULL UNIQUE,
        timestamp INTEGER NOT NULL,
        service TEXT NOT NULL,
        message TEXT NOT NULL,
        metadata TEXT NOT NULL,
        ingested_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX events_by_service ON events (service, timestamp);
    CREATE INDEX events_by_time ON events (timestamp);
    CREATE TABLE event_counts (
        minute INTEGER NOT NULL,
        service TEXT NOT NULL,
        events INTEGER NOT NULL,
        PRIMARY KEY (minute, service)
    ) STRICT, WITHOUT ROWID;
"];

/// Nanoseconds in a minute, the grain of `event_counts`.
pub(super) const MINUTE_NANOS: i64 = 60_000_000_000;

/// The minute an instant lies in, counted from the Unix epoch.
pub(super) const fn minute_of(nanos: i64) -> i64 {
    nanos.div_euclid(MINUTE_NANOS)
}

/// Opens the database for writing; makes it, its directory and its tables where they are missing.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    let at = StoreError::at(path);
    if let Some(directory) = path.parent() {
        data_dir::create(directory)
            .map_err(|source| StoreError::Io { path: directory.to_owned(), source })?;
    }
    let mut connection = Connection::open(path).map_err(at)?;
    set_up_writer(&connection).map_err(at)?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

/// Opens the database for reading; `None` where it, or its first version, has not been made yet.
pub(super) fn open_reader(path: &Path) -> Result<Option<Connection>, StoreError> {
    let at = StoreError::at(path);
    let exists = path.try_exists().map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    if !exists {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(at)?;
    set_up_reader(&connection).map_err(at)?;
    match known_version(&connection, path)? {
        0 => Ok(None),
        _ => Ok(Some(connection)),
    }
}

/// As [`open_reader`], and makes no file beside it. A reader of a database that nobody has open would make its log and the memory
/// shared with writers, and leave them there.
pub(super) fn open_from_outside(path: &Path) -> Result<Option<Connection>, StoreError> {
    // Whoever has it open has a log beside it, and so has what a crash left: then a reader finds all it needs.
    let log = path.with_extension("db-wal");
    let is_there =
        |path: &Path| path.try_exists().map_err(|source| StoreError::Io { path: path.to_owned(), source });
    if is_there(&log)? || !is_there(path)? {
        return open_reader(path);
    }
    let at = StoreError::at(path);
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(untouched(path), flags).map_err(at)?;
    set_up_reader(&connection).map_err(at)?;
    match known_version(&connection, path)? {
        0 => Ok(None),
        _ => Ok(Some(connection)),
    }
}

/// The URI of a file that SQLite is to take for one that nobody changes.
fn untouched(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                uri.push(char::from(*byte))
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri + "?immutable=1"
}

fn set_up_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WAIT)?;
    // The first two are fixed by the first page ever written, so they come first. With incremental
    // auto_vacuum, retention can give pages back to the file system a slice at a time, where a full VACUUM would
    // need as much room again as the store takes.
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // FULL syncs the log at every commit. NORMAL would not, and a power loss could take back the last commits;
    // but the journal's cursor has moved past a batch as soon as its commit returned, so nobody would ever
    // deliver those events again: they would be lost.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_BYTES / PAGE_BYTES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_MAX.cast_signed() / 2)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    bound_memory(connection, WRITER_CACHE_KIB)
}

fn set_up_reader(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_WAIT)?;
    bound_memory(connection, READER_CACHE_KIB)
}

/// A mapped file counts as resident memory without a bound of ours, and a failing disk kills the process.
fn bound_memory(connection: &Connection, cache_kib: u32) -> rusqlite::Result<()> {
    connection.pragma_update(None, "mmap_size", 0)?;
    // SQLite reads a negative size as KiB, a positive one as pages.
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let at = StoreError::at(path);
    let is_current = |version| version == MIGRATIONS.len();
    if is_current(known_version(connection, path)?) {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(at)?;
    // Read once more: another writer may have been first.
    for migration in &MIGRATIONS[known_version(&transaction, path)?..] {
        transaction.execute_batch(migration).map_err(at)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64).map_err(at)?;
    transaction.commit().map_err(at)
}

/// The file's version, 0 for a new file; an error where it is later than ours.
fn known_version(connection: &Connection, path: &Path) -> Result<usize, StoreError> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(StoreError::at(path))?;
    let known = MIGRATIONS.len();
    let newer = || StoreError::NewerVersion { path: path.to_owned(), found, known: known as i64 };
    usize::try_from(found).ok().filter(|version| *version <= known).ok_or_else(newer)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file of a later version is refused by name, by writers and readers, and is left as it was.
    #[test]
    fn a_newer_schema_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("events.db");
        let connection = open_writer(&path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        for error in [open_writer(&path).map(drop).unwrap_err(), open_reader(&path).map(drop).unwrap_err()] {
            assert!(matches!(error, StoreError::NewerVersion { found: 99, known: 1, .. }), "{error}");
            assert!(error.to_string().contains("events.db") && error.to_string().contains("99"), "{error}");
        }
    }

    /// What durability and memory rest on is really set, in a new file and in one that is opened again.
    #[test]
    fn connections_are_set_up_as_promised() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/er/events.db");
        for _ in 0..2 {
            let writer = open_writer(&path).unwrap();
            let value = |connection: &Connection, name: &str| {
                connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap()
            };
            assert_eq!(value(&writer, "synchronous"), 2);
            assert_eq!(value(&writer, "auto_vacuum"), 2);
            assert_eq!(value(&writer, "page_size"), 8192);
            assert_eq!(value(&writer, "cache_size"), -8192);
            let mode: String = writer.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
            assert_eq!(mode, "wal");
            let reader = open_reader(&path).unwrap().unwrap();
            assert_eq!(value(&reader, "cache_size"), -2048);
            assert!(reader.execute("DELETE FROM events", ()).is_err());
        }
    }

    /// Scenario: `forebay validate` counts the events of a store that no process has open, at a path with all that means something
    /// in a URI; then of one that is open.
    /// Guarantee: what lies in the directory is the same. A log and a file of shared memory were made, and stayed.
    #[test]
    fn r0265_counting_from_outside_left_files_beside_the_store() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("100% a?b#c/events.db");
        drop(open_writer(&path).unwrap());
        let names = || {
            let entries = fs::read_dir(path.parent().unwrap()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["events.db"]);
        let counted =
            || super::super::stats::count_total(&open_from_outside(&path).unwrap().unwrap()).unwrap();
        assert_eq!((counted(), names()), (0, vec!["events.db".into()]));
        let writer = open_writer(&path).unwrap();
        let insert = "INSERT INTO event_counts VALUES (0, 'web', 7)";
        writer.execute(insert, ()).unwrap();
        let open = names();
        assert_eq!((counted(), names()), (7, open));
        assert!(open_from_outside(&home.path().join("none.db")).unwrap().is_none());
    }

    /// A file that is no database, or cannot be opened, is told apart.
    #[test]
    fn errors_are_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("events.db");
        fs::write(&path, "certainly not a database ".repeat(1_000)).unwrap();
        let error = open_writer(&path).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }) && !error.is_transient(), "{error}");
        let error = open_writer(home.path()).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }) && error.is_transient(), "{error}");
    }
}
