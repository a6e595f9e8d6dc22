//! Forgetting: the oldest events go, a slice at a time.

use std::collections::HashMap;

use forebay_actors::event::Timestamp;
use rusqlite::{Connection, Transaction};

use super::{
    StoreError, Writer,
    schema::minute_of,
    write::begin,
};

const DELETE: &str = "
    DELETE FROM events WHERE id IN (
        SELECT id FROM events INDEXED BY events_by_time WHERE timestamp < ?1 ORDER BY timestamp, id LIMIT ?2
    ) RETURNING timestamp, service";

const UNCOUNT: &str =
    "UPDATE event_counts SET events = events - ?3 WHERE minute = ?1 AND service = ?2";

const FORGET_EMPTY: &str =
    "DELETE FROM event_counts WHERE minute = ?1 AND service = ?2 AND events <= 0";

/// The part of the file that free pages may be before some are given back. New events fill free pages
/// first, so a store that forgets as much as it takes in needs them; giving back moves pages, which is work.
const FREE_PAGES_KEPT_RATIO: i64 = 4;

/// Pages given back with one slice: 8 MiB, so that a slice stays short.
const PAGES_GIVEN_BACK_MAX: i64 = 1024;

// === impl Writer ===

impl Writer {
    /// Deletes the oldest events before `cutoff`, at most `slice_rows` of them, in one transaction. Returns how
    /// many went; fewer than `slice_rows` means that none is left. To be called until then, with a pause in which
    /// others write.
    ///
    /// Their room is used again by new events. Once a quarter of the file is free, each call also gives some
    /// of it back to the file system.
    ///
    /// # Errors
    /// What the disk or SQLite says. Nothing is deleted then.
    pub fn delete_before(&mut self, cutoff: Timestamp, slice_rows: usize) -> Result<u64, StoreError> {
        let at = StoreError::at(&self.path);
        let transaction = begin(&mut self.connection).map_err(at)?;
        let deleted = delete_events(&transaction, cutoff, slice_rows).map_err(at)?;
        transaction.commit().map_err(at)?;
        give_back_pages(&self.connection).map_err(at)?;
        self.bound_wal();
        Ok(deleted)
    }
}

fn delete_events(
    transaction: &Transaction<'_>,
    cutoff: Timestamp,
    slice_rows: usize,
) -> rusqlite::Result<u64> {
    let mut delete = transaction.prepare(DELETE)?;
    let mut rows = delete.query((cutoff.nanos(), i64::try_from(slice_rows).unwrap_or(i64::MAX)))?;
    let mut deleted = 0;
    let mut counts = HashMap::<(i64, String), i64>::new();
    while let Some(row) = rows.next()? {
        *counts.entry((minute_of(row.get(0)?), row.get(1)?)).or_default() += 1;
        deleted += 1;
    }
    let mut uncount = transaction.prepare(UNCOUNT)?;
    let mut forget_empty = transaction.prepare(FORGET_EMPTY)?;
    for ((minute, service), events) in &counts {
        uncount.execute((minute, service, events))?;
        forget_empty.execute((minute, service))?;
    }
    Ok(deleted)
}

fn give_back_pages(connection: &Connection) -> rusqlite::Result<()> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let free_pages = pragma("freelist_count")?;
    let spare_pages = free_pages - pragma("page_count")? / FREE_PAGES_KEPT_RATIO;
    if spare_pages > 0 {
        // The pragma gives back one page for each row it is asked for.
        let give_back = format!("PRAGMA incremental_vacuum({})", spare_pages.min(PAGES_GIVEN_BACK_MAX));
        let mut statement = connection.prepare(&give_back)?;
        let mut rows = statement.query(())?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}
