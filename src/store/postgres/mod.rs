//! The event store in PostgreSQL: the table that a `postgres` sink with `store: true` writes.
//!
//! - A question is one statement, or for a page with its count two at the same time, each in a read-only transaction of its
//!   own. Each walks an index from its place, as in the embedded store: by time `(timestamp, id)`, of one service
//!   `(service, timestamp)`, by id the one over `event_id`. The sink makes them.
//! - Times have microseconds here. What is finer is cut off in events and in questions alike, so that neighbouring ranges
//!   still have every event once.
//! - A server that is away, refuses or does not answer is [`StoreError::Unavailable`]; the next question tries again.
//! - Counts are counted, not kept: keeping them would be a row that every writer waits for.
//!
//! Limits: [`QUESTIONS_MAX`] sessions, [`STATEMENT_MAX`] for a statement, by the server itself, and [`QUESTION_MAX`] for
//! all of a question. Retention has a session of its own, for as long as it works.

mod pool;
mod purge;
mod question;

use std::{sync::Arc, time::Duration};

use forebay_actors::event::Timestamp;
use futures::{FutureExt as _, TryFutureExt as _, future::OptionFuture};
use tokio_postgres::error::SqlState;

use self::{
    pool::{Pool, Question},
    question::{Buckets, Count, One, Paging},
};
use super::{
    Answer, EventStore, Page, Query, QueryError, SCAN_MS_MAX, STATS_ROWS_MAX, StatsBucket, StatsQuery,
    StoreError, StoredEvent,
};
use crate::config::PostgresSink;

/// Sessions for questions at most, whatever `pool_max`: each may hold a page in memory.
pub const QUESTIONS_MAX: usize = 8;

/// Sessions beside those of questions and deliveries: one for a probe of the sink, or for retention.
pub const SESSIONS_BESIDE: usize = 1;

/// What a statement may take. A page takes milliseconds; it is for statistics over many events.
pub const STATEMENT_MAX: Duration = Duration::from_secs(2);

/// What a question may take from its session on, connecting included.
pub const QUESTION_MAX: Duration = Duration::from_secs(5);

/// The store as those see it who ask.
pub struct PostgresStore {
    pool: Arc<Pool>,
    scan_max: Duration,
}

// === impl PostgresStore ===

impl PostgresStore {
    /// The store in the table of a sink that has so many deliveries at the same time. Reaches nobody yet.
    pub fn new(options: &PostgresSink, concurrency: usize) -> Self {
        let sessions = questions_max(options.pool_max, concurrency);
        Self { pool: Arc::new(Pool::new(options, sessions)), scan_max: Duration::from_millis(SCAN_MS_MAX) }
    }

    /// The same with another time for a page that searches for a text.
    pub fn with_scan_max(self, scan_max: Duration) -> Self {
        Self { scan_max, ..self }
    }

    fn ask<Q: Question + Send + Sync + 'static>(&self, question: Q) -> Answer<Q::Answer>
    where
        Q::Answer: Default + Send,
    {
        let pool = self.pool.clone();
        async move { pool.ask(&question).await }.boxed()
    }
}

/// Sessions for questions to a pool of so many.
pub fn questions_max(pool_max: usize, concurrency: usize) -> usize {
    pool_max.saturating_sub(concurrency + SESSIONS_BESIDE).clamp(1, QUESTIONS_MAX)
}

impl EventStore for PostgresStore {
    fn page(&self, query: Query) -> Answer<Page> {
        if let Err(error) = query.check() {
            return async { Err(error.into()) }.boxed();
        }
        let query = query.in_micros();
        // Both at the same time, each in a session of its own; neither holds one while it waits for another.
        let counting =
            query.counting().map(|counting| self.ask(Count(counting)).map_ok(Some).or_else(no_count));
        let page = self.ask(Paging { query, scan_max: self.scan_max });
        async move {
            let (page, count) =
                futures::try_join!(page, OptionFuture::from(counting).map(Option::transpose))?;
            Ok(Page { count: count.flatten(), ..page })
        }
        .boxed()
    }

    fn one(&self, event_id: String) -> Answer<Option<StoredEvent>> {
        // PostgreSQL knows no text with a zero byte, so none has such an id.
        if event_id.contains('\0') {
            return async { Ok(None) }.boxed();
        }
        self.ask(One(event_id))
    }

    fn stats(&self, query: StatsQuery) -> Answer<Vec<StatsBucket>> {
        if let Err(error) = query.check() {
            return async { Err(error.into()) }.boxed();
        }
        let rows = self.ask(Buckets(query.in_micros()));
        async move {
            let rows = rows.await?;
            if rows.len() > STATS_ROWS_MAX { Err(QueryError::TooManyRows.into()) } else { Ok(rows) }
        }
        .boxed()
    }

    fn purge(&self, cutoff: Timestamp) -> Answer<u64> {
        let pool = self.pool.clone();
        async move { purge::slice(&pool, cutoff).await }.boxed()
    }
}

/// A count that takes too long is not known; the page does not fail for it.
async fn no_count(error: StoreError) -> Result<Option<u64>, StoreError> {
    match error {
        StoreError::Query(QueryError::TooManyEvents(_)) => Ok(None),
        error => Err(error),
    }
}

// === Times ===

impl Query {
    /// The same question of a store that keeps microseconds.
    fn in_micros(self) -> Self {
        Self { from: self.from.map(cut), to: self.to.map(cut), ..self }
    }
}

impl StatsQuery {
    fn in_micros(self) -> Self {
        Self { from: self.from.map(cut), to: self.to.map(cut), ..self }
    }
}

fn cut(time: Timestamp) -> Timestamp {
    Timestamp::from_nanos(time.nanos().div_euclid(1_000).saturating_mul(1_000))
}

// === Errors ===

/// Whether the table, or its schema, is not there.
fn is_missing(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code == Some(&SqlState::UNDEFINED_TABLE) || code == Some(&SqlState::INVALID_SCHEMA_NAME)
}

/// Whether the session ended, in silence or with a last word (57P: the server goes down, or somebody ended it).
fn is_lost(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| code.code().starts_with("57P") || code.code().starts_with("08"))
}

/// Whether the statement itself took too long; not the wait for a lock.
fn is_late(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a server takes connections and says nothing, and there is room for one question.
    /// Guarantee: who asks gets an error that may pass within the time for a question; who finds no session, sooner.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://u:secret@{}/d", silent.local_addr().unwrap());
        let store =
            PostgresStore::new(&PostgresSink { pool_max: 3, store: true, ..PostgresSink::to(url) }, 1);
        let began = tokio::time::Instant::now();
        let query = Query { limit: 1, ..Query::default() };
        let (first, second) = futures::join!(store.page(query), store.one("a".to_owned()));
        assert!(began.elapsed() <= QUESTION_MAX + Duration::from_secs(1), "{:?}", began.elapsed());
        for (error, words) in
            [(first.unwrap_err(), "no answer within 5s"), (second.unwrap_err(), "all 1 sessions")]
        {
            assert!(error.is_transient(), "{error}");
            assert!(error.to_string().contains(words) && !error.to_string().contains("secret"), "{error}");
        }
    }

    /// Questions have what deliveries and a probe leave of the pool, but never nothing and never more than there is memory for.
    #[test]
    fn sessions_are_shared_out() {
        for (pool_max, concurrency, questions) in [(20, 1, QUESTIONS_MAX), (6, 2, 3), (3, 1, 1), (1, 1, 1)] {
            assert_eq!(questions_max(pool_max, concurrency), questions);
        }
    }
}
