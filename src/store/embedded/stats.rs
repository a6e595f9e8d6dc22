//! Counts from SQLite, as the writer keeps them.
//!
//! Whole minutes come from `event_counts`. A `from` or `to` within a minute cuts it; the events of at
//! most two such minutes are counted on the index.

use std::{collections::BTreeMap, mem, ops::RangeInclusive, path::Path};

use forebay_actors::event::Timestamp;
use rusqlite::{Connection, Params, Row};

use super::schema::{MINUTE_NANOS, minute_of};
use crate::store::{
    QueryError, STATS_ROWS_MAX, StatsBucket, StatsQuery, StoreError, stats::SECONDS_PER_MINUTE,
};

/// Adds up counts, which must come in the order of their minutes.
struct Buckets<'a> {
    query: &'a StatsQuery,
    path: &'a Path,
    /// One transaction, so that pieces of minutes and the minutes between them are of one state of the store.
    snapshot: &'a Connection,
    rows: Vec<StatsBucket>,
    /// The bucket being added up, by its number since the epoch.
    current: Option<i64>,
    all: u64,
    by_service: BTreeMap<String, u64>,
}

/// Whole minutes and, before and behind them, pieces of one; a piece is a range of times in it.
#[derive(Debug, Default, PartialEq)]
struct Pieces {
    head: Option<RangeInclusive<i64>>,
    minutes: Option<RangeInclusive<i64>>,
    tail: Option<RangeInclusive<i64>>,
}

const COUNTS: &str = "
    SELECT minute, service, events FROM event_counts WHERE minute BETWEEN ?1 AND ?2 ORDER BY minute";
const COUNTS_OF_ALL: &str = "
    SELECT minute, '', SUM(events) FROM event_counts WHERE minute BETWEEN ?1 AND ?2
    GROUP BY minute ORDER BY minute";
const COUNTS_OF_SERVICE: &str = "
    SELECT minute, service, events FROM event_counts
    WHERE minute BETWEEN ?1 AND ?2 AND service = ?3 ORDER BY minute";

/// The services of the minute are known, and on (service, timestamp) the index alone answers for each.
const PIECE: &str = "
    SELECT ?1, service, (
        SELECT COUNT(*) FROM events INDEXED BY events_by_service
        WHERE events.service = event_counts.service AND timestamp BETWEEN ?2 AND ?3
    ) FROM event_counts WHERE minute = ?1 AND (?4 IS NULL OR service = ?4)";

/// Counts the events of a query that has been checked.
pub(super) fn buckets(
    connection: &Connection,
    path: &Path,
    query: &StatsQuery,
) -> Result<Vec<StatsBucket>, StoreError> {
    let snapshot = connection.unchecked_transaction().map_err(StoreError::at(path))?;
    let (current, rows, by_service) = (None, Vec::new(), BTreeMap::new());
    let mut buckets = Buckets { query, path, snapshot: &snapshot, rows, current, all: 0, by_service };
    let pieces = query.pieces();
    pieces.head.map_or(Ok(()), |times| buckets.add_piece(times))?;
    pieces.minutes.map_or(Ok(()), |minutes| buckets.add_minutes(minutes))?;
    pieces.tail.map_or(Ok(()), |times| buckets.add_piece(times))?;
    buckets.close_bucket()?;
    Ok(buckets.rows)
}

/// Counts all events.
pub(super) fn count_total(connection: &Connection) -> rusqlite::Result<u64> {
    let sum: i64 =
        connection.query_row("SELECT COALESCE(SUM(events), 0) FROM event_counts", (), |row| row.get(0))?;
    Ok(sum.cast_unsigned())
}

/// How many events match, whatever their bucket.
pub(super) fn count(connection: &Connection, path: &Path, query: &StatsQuery) -> Result<u64, StoreError> {
    Ok(buckets(connection, path, query)?.iter().map(|bucket| bucket.events).sum())
}

// === impl StatsQuery ===

impl StatsQuery {
    fn bucket_minutes(&self) -> i64 {
        i64::from(self.bucket_seconds / SECONDS_PER_MINUTE)
    }

    fn pieces(&self) -> Pieces {
        let first = self.from.map_or(i64::MIN, Timestamp::nanos);
        let last = match self.to.map(|to| to.nanos().checked_sub(1)) {
            None => i64::MAX,
            Some(Some(last)) if last >= first => last,
            Some(_) => return Pieces::default(),
        };
        let (mut first_minute, mut last_minute) = (minute_of(first), minute_of(last));
        let cuts_head = first > *minute_span(first_minute).start();
        let cuts_tail = last < *minute_span(last_minute).end();
        if first_minute == last_minute && (cuts_head || cuts_tail) {
            return Pieces { head: Some(first..=last), ..Pieces::default() };
        }
        let head = cuts_head.then(|| first..=*minute_span(first_minute).end());
        let tail = cuts_tail.then(|| *minute_span(last_minute).start()..=last);
        first_minute += i64::from(cuts_head);
        last_minute -= i64::from(cuts_tail);
        let minutes = (first_minute <= last_minute).then_some(first_minute..=last_minute);
        Pieces { head, minutes, tail }
    }
}

/// The instants of a minute; those that can be kept, at the ends of time.
fn minute_span(minute: i64) -> RangeInclusive<i64> {
    let start = minute.saturating_mul(MINUTE_NANOS);
    let end = (minute + 1).checked_mul(MINUTE_NANOS).map_or(i64::MAX, |next| next - 1);
    start..=end
}

// === impl Buckets ===

impl Buckets<'_> {
    fn add_minutes(&mut self, minutes: RangeInclusive<i64>) -> Result<(), StoreError> {
        let (first, last) = minutes.into_inner();
        match &self.query.service {
            Some(service) => self.add(COUNTS_OF_SERVICE, (first, last, service)),
            None if self.query.group_by_service => self.add(COUNTS, (first, last)),
            None => self.add(COUNTS_OF_ALL, (first, last)),
        }
    }

    fn add_piece(&mut self, times: RangeInclusive<i64>) -> Result<(), StoreError> {
        let (first, last) = times.into_inner();
        self.add(PIECE, (minute_of(first), first, last, self.query.service.as_deref()))
    }

    /// Adds the rows (minute, service, events) of a statement.
    fn add(&mut self, sql: &str, parameters: impl Params) -> Result<(), StoreError> {
        let at = StoreError::at(self.path);
        let mut statement = self.snapshot.prepare(sql).map_err(at)?;
        let mut rows = statement.query(parameters).map_err(at)?;
        while let Some(row) = rows.next().map_err(at)? {
            let (minute, service, events) = count_of(row).map_err(at)?;
            let bucket = minute.div_euclid(self.query.bucket_minutes());
            if self.current != Some(bucket) {
                self.close_bucket()?;
                self.current = Some(bucket);
            }
            match self.by_service.get_mut(service) {
                _ if events == 0 => (),
                _ if !self.query.group_by_service => self.all += events,
                Some(sum) => *sum += events,
                None => {
                    self.by_service.insert(service.to_owned(), events);
                    self.bound_rows()?;
                }
            }
        }
        Ok(())
    }

    /// Makes rows of what was added up, if anything was.
    fn close_bucket(&mut self) -> Result<(), QueryError> {
        let Some(bucket) = self.current.take() else { return Ok(()) };
        let start = bucket.saturating_mul(self.query.bucket_minutes()).saturating_mul(MINUTE_NANOS);
        let bucket_start = Timestamp::from_nanos(start);
        for (service, events) in mem::take(&mut self.by_service) {
            self.rows.push(StatsBucket { bucket_start, service: Some(service), events });
        }
        if self.all > 0 {
            self.rows.push(StatsBucket { bucket_start, service: None, events: mem::take(&mut self.all) });
        }
        self.bound_rows()
    }

    fn bound_rows(&self) -> Result<(), QueryError> {
        if self.rows.len() + self.by_service.len() > STATS_ROWS_MAX {
            return Err(QueryError::TooManyRows);
        }
        Ok(())
    }
}

/// Minute, service and events of a row.
fn count_of<'a>(row: &'a Row<'_>) -> rusqlite::Result<(i64, &'a str, u64)> {
    Ok((row.get(0)?, row.get_ref(1)?.as_str()?, row.get::<_, i64>(2)?.cast_unsigned()))
}
