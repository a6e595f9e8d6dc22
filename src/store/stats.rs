//! How many events in which bucket of time, from the counts the writer keeps.
//!
//! Whole minutes come from `event_counts`. A `from` or `to` within a minute cuts it; the events of at
//! most two such minutes are counted on the index.

use std::{collections::BTreeMap, mem, ops::RangeInclusive, path::Path};

use forebay_actors::event::Timestamp;
use rusqlite::{Connection, Params, Row};

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

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{Store, batch, draft, time},
        *,
    };

    fn query(bucket_seconds: u32) -> StatsQuery {
        StatsQuery { bucket_seconds, ..StatsQuery::default() }
    }

    fn counts(store: &Store, query: &StatsQuery) -> Vec<(i64, Option<String>, u64)> {
        let rows = store.reader.stats(query).unwrap();
        rows.into_iter().map(|r| (r.bucket_start.nanos() / 1_000_000_000, r.service, r.events)).collect()
    }

    /// One event every ten seconds of two hours, by turns of two services, from before the epoch on.
    fn two_hours() -> Store {
        let mut store = Store::new();
        let ids: Vec<_> = (-360..360).map(|i| (i * 10, format!("e{i}"))).collect();
        let service = |at: i64| if at % 20 == 0 { "even" } else { "odd" };
        let drafts: Vec<_> = ids.iter().map(|(at, id)| draft(id, *at, service(*at))).collect();
        store.writer.insert(&batch(0, &drafts)).unwrap();
        store
    }

    /// Buckets begin at multiples of their length, before the epoch too, and hold what lies in them.
    #[test]
    fn buckets_hold_their_events() {
        let store = two_hours();
        assert_eq!(counts(&store, &query(3600)), [(-3600, None, 360), (0, None, 360)]);
        assert_eq!(counts(&store, &query(60)).len(), 120);
        let of_service = StatsQuery { service: Some("odd".into()), ..query(3600) };
        assert_eq!(counts(&store, &of_service), [(-3600, None, 180), (0, None, 180)]);
        let by_service = StatsQuery { group_by_service: true, ..query(86_400) };
        let (even, odd) = (Some("even".to_owned()), Some("odd".to_owned()));
        let expected =
            [(-86_400, even.clone(), 180), (-86_400, odd.clone(), 180), (0, even, 180), (0, odd, 180)];
        assert_eq!(counts(&store, &by_service), expected);
        assert_eq!(store.reader.count_total().unwrap(), 720);
    }

    /// For every pair of bounds, on a minute or not, in one minute or in two, with and without whole minutes
    /// between them, exactly the events from `from` to before `to` are counted.
    #[test]
    fn bounds_are_exact_wherever_they_lie() {
        let store = two_hours();
        let bounds =
            [-4000, -3600, -3595, -61, -60, -59, -50, 0, 1, 10, 11, 59, 60, 61, 119, 120, 3599, 5000];
        for (from, to) in bounds.iter().flat_map(|from| bounds.map(|to| (*from, to))) {
            for service in [None, Some("even")] {
                let step = if service.is_some() { 20 } else { 10 };
                let expected =
                    (-3600..3600).step_by(step).filter(|at| (from..to).contains(at)).count() as u64;
                for group_by_service in [false, true] {
                    let (from, to) = (Some(time(from)), Some(time(to)));
                    let service = service.map(str::to_owned);
                    let query = StatsQuery { from, to, bucket_seconds: 120, service, group_by_service };
                    let rows = store.reader.stats(&query).unwrap();
                    assert_eq!(rows.iter().map(|r| r.events).sum::<u64>(), expected, "{query:?}");
                    assert!(rows.iter().all(|r| r.events > 0 && r.service.is_some() == group_by_service));
                    assert!(rows.is_sorted_by_key(|r| (r.bucket_start, r.service.clone())));
                }
            }
        }
    }

    /// Events at the ends of time are counted, and bounds there overflow nothing.
    #[test]
    fn the_ends_of_time_are_counted() {
        let mut store = Store::new();
        let (first, last) = (Timestamp::from_nanos(i64::MIN), Timestamp::from_nanos(i64::MAX));
        let mut drafts = [draft("a", 0, "s"), draft("b", 0, "s"), draft("c", 0, "s")];
        (drafts[0].timestamp, drafts[2].timestamp) = (Some(first), Some(last));
        store.writer.insert(&batch(0, &drafts)).unwrap();
        let sum = |from, to| {
            let rows = store.reader.stats(&StatsQuery { from, to, ..query(604_800) }).unwrap();
            rows.iter().map(|r| r.events).sum::<u64>()
        };
        assert_eq!(sum(None, None), 3);
        assert_eq!(sum(Some(first), Some(last)), 2);
        assert_eq!(sum(Some(last), None), 1);
        assert_eq!(sum(None, Some(first)), 0);
        assert_eq!(sum(Some(time(1)), Some(time(0))), 0);
    }

    /// A bucket that counts cannot be added up to, and an answer past the limit, are refused by name.
    #[test]
    fn wrong_questions_are_refused() {
        let mut store = Store::new();
        for seconds in [0, 1, 90] {
            let error = store.reader.stats(&query(seconds)).unwrap_err();
            assert!(matches!(error, StoreError::Query(QueryError::BucketSeconds(s)) if s == seconds));
        }
        let ids: Vec<_> = (0..=STATS_ROWS_MAX as i64).map(|i| (i * 60, format!("e{i}"))).collect();
        let drafts: Vec<_> = ids.iter().map(|(at, id)| draft(id, *at, id)).collect();
        store.writer.insert(&batch(0, &drafts)).unwrap();
        for query in [query(60), StatsQuery { group_by_service: true, ..query(86_400) }] {
            let error = store.reader.stats(&query).unwrap_err();
            assert!(error.to_string().contains("10000 rows"), "{error}");
            let shorter = StatsQuery { to: Some(time(60 * STATS_ROWS_MAX as i64)), ..query };
            assert_eq!(store.reader.stats(&shorter).unwrap().len(), STATS_ROWS_MAX);
        }
    }
}
