//! The embedded event store: one SQLite file in the data directory.
//!
//! It owns `events.db` (with its `-wal` and `-shm` beside it). One [`Writer`] at a time writes, many
//! [`Reader`]s read, and neither waits for the other: the file is in WAL mode. Everything here blocks, so it
//! runs on blocking threads; [`SqliteDestination`] does so for the sink that feeds the store, [`EmbeddedStore`] for those
//! who ask.
//!
//! What bounds it: an event is kept once ([`Writer::insert`] knows it by its id), connections by [`READERS_MAX`], memory by
//! a page cache for each connection ([`WRITER_CACHE_KIB`], [`READER_CACHE_KIB`]; nothing is mapped), the log beside the file
//! by [`WAL_BYTES_MAX`] as soon as no reader stands in it.

mod destination;
#[cfg(test)]
mod fixture;
mod page;
mod read;
mod retention;
mod schema;
mod stats;
mod write;

use std::{path::PathBuf, time::Duration};

use forebay_actors::event::Timestamp;
use futures::FutureExt as _;
use tokio::task::spawn_blocking;

pub use destination::SqliteDestination;
pub use read::{READERS_MAX, Reader};
pub use schema::{READER_CACHE_KIB, WAL_BYTES_MAX, WRITER_CACHE_KIB};
pub use write::{Inserted, Writer};

use super::{
    Answer, EventStore, PURGE_SLICE_ROWS, Page, Query, SCAN_MS_MAX, StatsBucket, StatsQuery, StoreError,
    StoredEvent,
};

/// The store as those see it who ask. Until a writer has made the database, it is simply empty.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    reader: Reader,
    scan_max: Duration,
}

impl EmbeddedStore {
    /// The store in the database at `path`. Opens nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { reader: Reader::new(path), scan_max: Duration::from_millis(SCAN_MS_MAX) }
    }

    /// The same with another time for a page that searches for a text.
    pub fn with_scan_max(self, scan_max: Duration) -> Self {
        Self { scan_max, ..self }
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<T> {
        let reader = self.reader.clone();
        async move { spawn_blocking(move || question(&reader)).await.unwrap_or(Err(StoreError::NoAnswer)) }
            .boxed()
    }
}

impl EventStore for EmbeddedStore {
    fn page(&self, query: Query) -> Answer<Page> {
        let scan_max = self.scan_max;
        self.ask(move |reader| reader.page_within(&query, scan_max))
    }

    fn one(&self, event_id: String) -> Answer<Option<StoredEvent>> {
        self.ask(move |reader| reader.get(&event_id))
    }

    fn stats(&self, query: StatsQuery) -> Answer<Vec<StatsBucket>> {
        self.ask(move |reader| reader.stats(&query))
    }

    fn purge(&self, cutoff: Timestamp) -> Answer<u64> {
        self.ask(move |reader| Writer::open(reader.path())?.delete_before(cutoff, PURGE_SLICE_ROWS))
    }
}
