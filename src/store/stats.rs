//! How many events in which bucket of time, from the counts the writer keeps.
//!
//! Whole minutes come from `event_counts`. A `from` or `to` within a minute cuts it; the events of at
//! most two such minutes are counted on the index.

use std::{collections::BTreeMap, ops::RangeInclusive};

use forebay_actors::event::Timestamp;
use rusqlite::{Connection, Transaction};

use super::{
    QueryError, StoreError,
    schema::{MINUTE_NANOS, minute_of},
};

/// Rows an answer may have.
pub const STATS_ROWS_MAX: usize = 10_000;

const SECONDS_PER_MINUTE: u32 = 60;

/// Which events to count, and how to group them.
#[derive(Debug, Clone, Default)]
pub struct StatsQuery {
    /// At this time or later.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
    /// The length of a bucket, a multiple of 60. Buckets begin at multiples of it since the Unix epoch.
    pub bucket_seconds: u32,
    /// Of this service only.
    pub service: Option<String>,
    /// A row for each service, instead of one for all of them.
    pub group_by_service: bool,
}

/// The events of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsBucket {
    /// When the bucket begins, though events before `from` are not counted.
    pub bucket_start: Timestamp,
    /// The service, where rows are by service.
    pub service: Option<String>,
    /// Events; at least one.
    pub events: u64,
}

/// Adds up counts that come in the order of their minutes.
struct Buckets<'a> {
    query: &'a StatsQuery,
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
    query: &StatsQuery,
    at: impl Fn(rusqlite::Error) -> StoreError + Copy,
) -> Result<Vec<StatsBucket>, StoreError> {
    let pieces = query.pieces();
    let mut buckets = Buckets::new(query);
    // One transaction, so that the pieces and the minutes between them are of one state of the store.
    let snapshot = connection.unchecked_transaction().map_err(at)?;
    if let Some(times) = pieces.head {
        buckets.add_piece(&snapshot, times, at)?;
    }
    if let Some(minutes) = pieces.minutes {
        buckets.add_minutes(&snapshot, minutes, at)?;
    }
    if let Some(times) = pieces.tail {
        buckets.add_piece(&snapshot, times, at)?;
    }
    buckets.finish()
}

/// Counts all events.
pub(super) fn count_total(connection: &Connection) -> rusqlite::Result<u64> {
    let sum: i64 =
        connection.query_row("SELECT COALESCE(SUM(events), 0) FROM event_counts", (), |row| row.get(0))?;
    Ok(sum.cast_unsigned())
}

// === impl StatsQuery ===

impl StatsQuery {
    pub(super) fn check(&self) -> Result<(), QueryError> {
        let is_whole = self.bucket_seconds > 0 && self.bucket_seconds.is_multiple_of(SECONDS_PER_MINUTE);
        if is_whole { Ok(()) } else { Err(QueryError::BucketSeconds(self.bucket_seconds)) }
    }

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

impl<'a> Buckets<'a> {
    fn new(query: &'a StatsQuery) -> Self {
        Self { query, rows: Vec::new(), current: None, all: 0, by_service: BTreeMap::new() }
    }

    fn add_minutes(
        &mut self,
        snapshot: &Transaction<'_>,
        minutes: RangeInclusive<i64>,
        at: impl Fn(rusqlite::Error) -> StoreError + Copy,
    ) -> Result<(), StoreError> {
        let (first, last) = minutes.into_inner();
        match &self.query.service {
            Some(service) => self.add(snapshot, COUNTS_OF_SERVICE, (first, last, service), at),
            None if self.query.group_by_service => self.add(snapshot, COUNTS, (first, last), at),
            None => self.add(snapshot, COUNTS_OF_ALL, (first, last), at),
        }
    }

    fn add_piece(
        &mut self,
        snapshot: &Transaction<'_>,
        times: RangeInclusive<i64>,
        at: impl Fn(rusqlite::Error) -> StoreError + Copy,
    ) -> Result<(), StoreError> {
        let (first, last) = times.into_inner();
        self.add(snapshot, PIECE, (minute_of(first), first, last, self.query.service.as_deref()), at)
    }

    /// Adds the rows (minute, service, events) of a statement.
    fn add(
        &mut self,
        snapshot: &Transaction<'_>,
        sql: &str,
        parameters: impl rusqlite::Params,
        at: impl Fn(rusqlite::Error) -> StoreError + Copy,
    ) -> Result<(), StoreError> {
        let mut statement = snapshot.prepare(sql).map_err(at)?;
        let mut rows = statement.query(parameters).map_err(at)?;
        while let Some(row) = rows.next().map_err(at)? {
            let events = row.get::<_, i64>(2).map_err(at)?.cast_unsigned();
            let bucket = row.get::<_, i64>(0).map_err(at)?.div_euclid(self.query.bucket_minutes());
            if self.current != Some(bucket) {
                self.close_bucket()?;
                self.current = Some(bucket);
            }
            if events == 0 {
                continue;
            }
            if self.query.group_by_service {
                let service = row.get_ref(1).and_then(|text| Ok(text.as_str()?)).map_err(at)?;
                self.add_to_service(service, events)?;
            } else {
                self.all += events;
            }
        }
        Ok(())
    }

    fn add_to_service(&mut self, service: &str, events: u64) -> Result<(), QueryError> {
        match self.by_service.get_mut(service) {
            Some(sum) => *sum += events,
            None if self.rows.len() + self.by_service.len() == STATS_ROWS_MAX => {
                return Err(QueryError::TooManyRows);
            }
            None => {
                self.by_service.insert(service.to_owned(), events);
            }
        }
        Ok(())
    }

    /// Makes rows of what was added up, if anything was.
    fn close_bucket(&mut self) -> Result<(), QueryError> {
        let Some(bucket) = self.current.take() else { return Ok(()) };
        let start = bucket.saturating_mul(self.query.bucket_minutes()).saturating_mul(MINUTE_NANOS);
        let bucket_start = Timestamp::from_nanos(start);
        for (service, events) in std::mem::take(&mut self.by_service) {
            self.rows.push(StatsBucket { bucket_start, service: Some(service), events });
        }
        if self.all > 0 {
            if self.rows.len() == STATS_ROWS_MAX {
                return Err(QueryError::TooManyRows);
            }
            let events = std::mem::take(&mut self.all);
            self.rows.push(StatsBucket { bucket_start, service: None, events });
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<StatsBucket>, StoreError> {
        self.close_bucket()?;
        Ok(self.rows)
    }
}
