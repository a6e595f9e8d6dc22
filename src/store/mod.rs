//! The event stores: what answers `GET /events` and its statistics.
//!
//! A store is the far end of a sink: events come into it as batches, like into any other destination, and [`EventStore`] is
//! what can be asked about them. There are two, and a configuration has at most one of them ([`open`]): SQLite within the
//! data directory ([`embedded`]), and the table of a `postgres` sink with `store: true` ([`postgres`]). Questions, pages,
//! cursors and bounds are the same for both, so that a client does not notice which one answers.
//!
//! What bounds it: a page by [`PAGE_EVENTS_MAX`], [`PAGE_BYTES_MAX`] and [`SCAN_MS_MAX`], statistics by
//! [`STATS_ROWS_MAX`], forgetting by [`PURGE_SLICE_ROWS`]; what each store adds stands in its own module.

mod cursor;
pub mod embedded;
mod error;
mod needle;
pub mod postgres;
mod query;
mod stats;

use std::{path::Path, sync::Arc};

use forebay_actors::event::Timestamp;
use futures::future::BoxFuture;

pub use cursor::{Cursor, Order};
pub use embedded::{EmbeddedStore, Reader, SqliteDestination, Writer};
pub use error::{QueryError, StoreError};
pub use postgres::PostgresStore;
pub use query::{PAGE_BYTES_MAX, PAGE_EVENTS_MAX, Page, Query, SCAN_MS_MAX, SEARCH_CHARS_MAX, StoredEvent};
pub use stats::{STATS_ROWS_MAX, StatsBucket, StatsQuery};

use crate::{
    config::{Config, SinkKind},
    data_dir,
};

/// Rows that go in one slice of a purge: tens of milliseconds of a store's writer.
pub const PURGE_SLICE_ROWS: usize = 5_000;

/// What a question comes to.
pub type Answer<T> = BoxFuture<'static, Result<T, StoreError>>;

/// Answers questions about events, and forgets them. No call blocks; all may come at the same time, from any thread. A
/// question sees the store as it is at one instant, and one that nobody waits for any more may be dropped.
pub trait EventStore: Send + Sync {
    /// One page of events.
    fn page(&self, query: Query) -> Answer<Page>;

    /// The event of this id, if there is one. Where an id was stored more than once, it is the first.
    fn one(&self, event_id: String) -> Answer<Option<StoredEvent>>;

    /// How many events there are in each bucket of time. Buckets without events are left out.
    fn stats(&self, query: StatsQuery) -> Answer<Vec<StatsBucket>>;

    /// Forgets the oldest events before `cutoff`, a slice of about [`PURGE_SLICE_ROWS`] of them, and says how many went. To
    /// be called until none does, with a pause in which others write.
    fn purge(&self, cutoff: Timestamp) -> Answer<u64>;
}

/// The store of a configuration, if it has one. Opens and reaches nothing yet.
pub fn open(config: &Config, data_dir: &Path) -> Option<Arc<dyn EventStore>> {
    config.sinks.values().find_map(|sink| match &sink.kind {
        SinkKind::Store(_) => {
            Some(Arc::new(EmbeddedStore::new(data_dir::store(data_dir))) as Arc<dyn EventStore>)
        }
        SinkKind::Postgres(options) if options.store => {
            Some(Arc::new(PostgresStore::new(options, sink.concurrency.max)))
        }
        _ => None,
    })
}
