//! Forgetting: the oldest events go, a slice at a time.

use std::collections::HashMap;

use forebay_actors::event::Timestamp;
use rusqlite::{Connection, Transaction};

use super::{Writer, schema::minute_of, write::begin};
use crate::store::StoreError;

const DELETE: &str = "
    DELETE FROM events WHERE id IN (
        SELECT id FROM events INDEXED BY events_by_time WHERE timestamp < ?1 ORDER BY timestamp, id LIMIT ?2
    ) RETURNING timestamp, service";

const UNCOUNT: &str = "UPDATE event_counts SET events = events - ?3 WHERE minute = ?1 AND service = ?2";

const FORGET_EMPTY: &str = "DELETE FROM event_counts WHERE minute = ?1 AND service = ?2 AND events <= 0";

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
        // The deletion stands either way. If this fails, the next slice tries again.
        let _ = give_back_pages(&self.connection);
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::fixture::{Store, batch, draft, time},
        *,
    };
    use crate::store::StatsQuery;

    /// The counts say what the events say.
    fn assert_counts_are_right(store: &Store) {
        let wrong: i64 = store
            .writer
            .connection
            .query_row(
                "SELECT COUNT(*) FROM (
                    SELECT timestamp / 60000000000 AS minute, service, COUNT(*) AS n FROM events GROUP BY 1, 2
                ) AS there FULL JOIN event_counts AS kept USING (minute, service)
                WHERE kept.events IS NOT there.n",
                (),
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(wrong, 0);
    }

    /// Slices go oldest first, however the events were stored, and stop at the cutoff; counts follow.
    #[test]
    fn the_oldest_go_first_and_the_counts_follow() {
        let mut store = Store::new();
        let ids: Vec<_> = (0..100).map(|i| (i * 37 % 100 * 7, format!("e{i}"))).collect();
        let drafts: Vec<_> =
            ids.iter().map(|(at, id)| draft(id, *at, if at % 2 == 0 { "a" } else { "b" })).collect();
        store.writer.insert(&batch(0, &drafts)).unwrap();
        assert_counts_are_right(&store);
        let mut left = 100;
        for expected in [16, 16, 16, 2, 0] {
            assert_eq!(store.writer.delete_before(time(350), 16).unwrap(), expected);
            left -= expected;
            assert_eq!(store.reader.count_total().unwrap(), left);
            assert_counts_are_right(&store);
        }
        let query = StatsQuery { bucket_seconds: 60, ..StatsQuery::default() };
        let rows = store.reader.stats(&query).unwrap();
        assert_eq!((rows[0].bucket_start, rows[0].events), (time(300), 2));
        assert_eq!(store.writer.delete_before(Timestamp::from_nanos(i64::MAX), 1000).unwrap(), left);
        let kept: i64 =
            store.writer.connection.query_row("SELECT COUNT(*) FROM event_counts", (), |r| r.get(0)).unwrap();
        assert_eq!(kept, 0, "a count of nothing is not kept");
    }

    /// An event that was forgotten and is delivered again is new.
    #[test]
    fn a_forgotten_event_is_new_again() {
        let mut store = Store::new();
        let events = batch(0, &[draft("a", 1, "s")]);
        store.writer.insert(&events).unwrap();
        store.writer.delete_before(time(2), 10).unwrap();
        assert_eq!(store.writer.insert(&events).unwrap().new, 1);
        assert_counts_are_right(&store);
    }

    /// Room of deleted events comes back: to new events, and in the end to the file system.
    #[test]
    fn room_comes_back() {
        let mut store = Store::new();
        let message = "x".repeat(4_000);
        let ids: Vec<_> = (0..1_000).map(|i| (i, format!("e{i}"))).collect();
        let mut drafts: Vec<_> = ids.iter().map(|(at, id)| draft(id, *at, "s")).collect();
        drafts.iter_mut().for_each(|draft| draft.message = &message);
        store.writer.insert(&batch(0, &drafts)).unwrap();
        let checkpoint = |store: &Store| {
            store.writer.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
            fs::metadata(store.path()).unwrap().len()
        };
        let full = checkpoint(&store);
        while store.writer.delete_before(time(900), 100).unwrap() > 0 {}
        let emptied = checkpoint(&store);
        assert!(emptied < full / 5, "{full} bytes became {emptied}");
        assert_eq!(store.reader.count_total().unwrap(), 100);
    }
}
