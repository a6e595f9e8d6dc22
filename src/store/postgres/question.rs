//! What can be asked: a page, one event, a count, counts over time.
//!
//! The planner has to find the index of each question by itself: there is no way to name one. So each is put in a way that
//! leaves it no other choice worth taking. A walk of one service compares whole rows of `(service, timestamp, id)` and is
//! in their order, instead of fixing the service: the index by time could not give that order, so that it does not wander
//! through the events of all others in the hope of meeting some of a service that fell silent long ago.

use std::{pin::pin, time::Duration};

use forebay_actors::event::Timestamp;
use futures::TryStreamExt as _;
use tokio_postgres::{
    Error, Row,
    types::{ToSql, Type},
};

use super::pool::{Question, Session};
use crate::{
    config::PostgresTable,
    destination::postgres::micros::Micros,
    store::{
        Order, Page, Query, STATS_ROWS_MAX, StatsBucket, StatsQuery, StoredEvent,
        query::{Filling, Walk},
    },
};

/// Events that a search asks for at once. The page may end within them, and the rest comes over the wire for nothing.
const SEARCHED_ROWS: i64 = 512;

/// The columns of an event, in the order that [`stored_event`] reads.
const EVENT: &str =
    "e.event_id, e.timestamp, e.service, e.message, e.metadata::text, e.ingested_at, e.id::bigint";

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A page of a query that has been checked.
pub(super) struct Paging {
    pub(super) query: Query,
    pub(super) scan_max: Duration,
}

/// An event by its id.
pub(super) struct One(pub(super) String);

/// How many events match.
pub(super) struct Count(pub(super) StatsQuery);

/// Counts over time; one row more than an answer may have where there are more.
pub(super) struct Buckets(pub(super) StatsQuery);

// === impl Question ===

impl Question for Paging {
    type Answer = Page;

    async fn ask(&self, session: &Session, table: &PostgresTable) -> Result<Page, Error> {
        let Self { query, scan_max } = self;
        let sql = walk(table, query.order, query.service.is_some());
        let rows_max = match query.is_search() {
            true => SEARCHED_ROWS,
            // With the one that says whether more lies behind the page.
            false => query.limit as i64 + 1,
        };
        let mut filling = Filling::of(query, *scan_max);
        let mut from_here = query.walk();
        while let Some(Walk { start: (time, id), last_time }) = from_here {
            let (time, last_time) = (Micros::from(nanos(time)), Micros::from(nanos(last_time)));
            let service = query.service.as_ref().map(|service| (service as _, Type::TEXT));
            let parameters: [Parameter<'_>; 4] = [
                (&time, Type::TIMESTAMPTZ),
                (&id, Type::INT8),
                (&last_time, Type::TIMESTAMPTZ),
                (&rows_max, Type::INT8),
            ];
            let parameters: Vec<_> = parameters.into_iter().chain(service).collect();
            let mut rows = pin!(session.client.query_typed_raw(&sql, parameters).await?);
            let mut came = 0;
            while let Some(row) = rows.try_next().await? {
                // Rows that are here already do not make it wait, and this thread has others to poll.
                if filling.has_searched_much() {
                    tokio::task::yield_now().await;
                }
                if filling.is_done() {
                    // The rest may be a page of the largest events there are.
                    if came + 1 < rows_max {
                        session.spend();
                    }
                    return Ok(filling.finish());
                }
                let place = (Timestamp::from(row.try_get::<_, Micros>(1)?).nanos(), row.try_get(6)?);
                filling.look(place, text(&row, 3)?, || stored_event(&row))?;
                came += 1;
            }
            from_here = (came == rows_max).then(|| query.walk_behind(filling.reached())).flatten();
        }
        Ok(filling.finish())
    }
}

impl Question for One {
    type Answer = Option<StoredEvent>;

    async fn ask(&self, session: &Session, table: &PostgresTable) -> Result<Self::Answer, Error> {
        // OFFSET 0 keeps the planner from looking through the table in the order of `id` for the first that fits.
        let sql = format!(
            "SELECT {EVENT} FROM (SELECT * FROM {table} WHERE event_id = $1 OFFSET 0) e ORDER BY e.id LIMIT 1"
        );
        let row = session.client.query_typed_opt(&sql, &[(&self.0, Type::TEXT)]).await?;
        row.as_ref().map(stored_event).transpose()
    }
}

impl Question for Count {
    type Answer = u64;
    const COUNTS: bool = true;

    async fn ask(&self, session: &Session, table: &PostgresTable) -> Result<u64, Error> {
        let Some((first, last)) = self.0.times() else { return Ok(0) };
        let service = self.0.service.as_ref().map(|service| (service as _, Type::TEXT));
        let of_service = if service.is_some() { "AND e.service = $3" } else { "" };
        let sql = format!("SELECT count(*) FROM {table} e WHERE e.timestamp BETWEEN $1 AND $2 {of_service}");
        let parameters: [Parameter<'_>; 2] = [(&first, Type::TIMESTAMPTZ), (&last, Type::TIMESTAMPTZ)];
        let parameters: Vec<_> = parameters.into_iter().chain(service).collect();
        let count: i64 = session.client.query_typed_one(&sql, &parameters).await?.try_get(0)?;
        Ok(count.cast_unsigned())
    }
}

impl Question for Buckets {
    type Answer = Vec<StatsBucket>;
    const COUNTS: bool = true;

    async fn ask(&self, session: &Session, table: &PostgresTable) -> Result<Self::Answer, Error> {
        let query = &self.0;
        let Some((first, last)) = query.times() else { return Ok(Vec::new()) };
        let service = query.service.as_ref().map(|service| (service as _, Type::TEXT));
        let of_service = if service.is_some() { "AND e.service = $5" } else { "" };
        let by_service = if query.group_by_service { ", e.service" } else { "" };
        let sql = format!(
            "SELECT date_bin($3 * interval '1 second', e.timestamp, $4) AS bucket, count(*) {by_service} \
             FROM {table} e WHERE e.timestamp BETWEEN $1 AND $2 {of_service} \
             GROUP BY bucket {by_service} LIMIT {rows_max}",
            rows_max = STATS_ROWS_MAX + 1
        );
        let seconds = f64::from(query.bucket_seconds);
        // A bucket's edge before all times: some servers are wrong about times before the one that is counted from.
        let (earliest, bucket) = (i64::MIN / 1_000, i64::from(query.bucket_seconds) * 1_000_000);
        let epoch = Micros::from(nanos(0)).0;
        let origin = Micros(epoch + earliest - earliest.rem_euclid(bucket));
        let parameters: [Parameter<'_>; 4] = [
            (&first, Type::TIMESTAMPTZ),
            (&last, Type::TIMESTAMPTZ),
            (&seconds, Type::FLOAT8),
            (&origin, Type::TIMESTAMPTZ),
        ];
        let parameters: Vec<_> = parameters.into_iter().chain(service).collect();
        let rows = session.client.query_typed(&sql, &parameters).await?;
        let bucket = |row: &Row| {
            Ok(StatsBucket {
                bucket_start: row.try_get::<_, Micros>(0)?.into(),
                service: query.group_by_service.then(|| text(row, 2).map(str::to_owned)).transpose()?,
                events: row.try_get::<_, i64>(1)?.cast_unsigned(),
            })
        };
        let mut buckets = rows.iter().map(bucket).collect::<Result<Vec<_>, Error>>()?;
        // Here rather than there, so that services stand in the order of their bytes whatever the server's language.
        buckets.sort_unstable_by(|a, b| (a.bucket_start, &a.service).cmp(&(b.bucket_start, &b.service)));
        Ok(buckets)
    }
}

// === Statements ===

/// Along an index: $1 and $2 the place to begin at, $3 the last time, $4 the rows, $5 the service.
fn walk(table: &PostgresTable, order: Order, is_of_service: bool) -> String {
    let (on, back, direction) = match order {
        Order::Newest => ("<=", ">=", "DESC"),
        Order::Oldest => (">=", "<=", "ASC"),
    };
    // Of a partitioned table, only a condition on the time alone leaves partitions out.
    let times = format!("e.timestamp {on} $1 AND e.timestamp {back} $3");
    if is_of_service {
        format!(
            "SELECT {EVENT} FROM {table} e WHERE (e.service, e.timestamp, e.id) {on} ($5, $1, $2) \
             AND (e.service, e.timestamp) {back} ($5, $3) AND {times} \
             ORDER BY e.service {direction}, e.timestamp {direction}, e.id {direction} LIMIT $4"
        )
    } else {
        format!(
            "SELECT {EVENT} FROM {table} e WHERE (e.timestamp, e.id) {on} ($1, $2) AND {times} \
             ORDER BY e.timestamp {direction}, e.id {direction} LIMIT $4"
        )
    }
}

/// Columns that Forebay fills may be empty in rows that others wrote.
fn stored_event(row: &Row) -> Result<StoredEvent, Error> {
    let timestamp = Timestamp::from(row.try_get::<_, Micros>(1)?);
    Ok(StoredEvent {
        event_id: text(row, 0)?.to_owned(),
        timestamp,
        service: text(row, 2)?.to_owned(),
        message: text(row, 3)?.to_owned(),
        metadata: row.try_get::<_, Option<&str>>(4)?.unwrap_or("{}").to_owned(),
        ingested_at: row.try_get::<_, Option<Micros>>(5)?.map_or(timestamp, Timestamp::from),
    })
}

fn text(row: &Row, column: usize) -> Result<&str, Error> {
    Ok(row.try_get::<_, Option<&str>>(column)?.unwrap_or_default())
}

fn nanos(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

// === impl StatsQuery ===

impl StatsQuery {
    /// The first and the last time that count; `None` where there is none between `from` and `to`.
    fn times(&self) -> Option<(Micros, Micros)> {
        let first = self.from.map_or(i64::MIN, Timestamp::nanos);
        let last = self.to.map_or(Some(i64::MAX), |to| to.nanos().checked_sub(1))?;
        (first <= last).then(|| (nanos(first).into(), nanos(last).into()))
    }
}
