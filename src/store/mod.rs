//! The embedded event store: one SQLite file that answers `GET /events` and its statistics.
//!
//! It owns `events.db` (with its `-wal` and `-shm` beside it). One [`Writer`] at a time writes, many
//! [`Reader`]s read, and neither waits for the other: the file is in WAL mode. Everything here blocks, so it
//! runs on blocking threads; only [`SqliteDestination`] is asynchronous, for the sink that feeds the store.
//!
//! What bounds it: an event is kept once ([`Writer::insert`] knows it by its id), a page by
//! [`PAGE_EVENTS_MAX`], [`PAGE_BYTES_MAX`] and [`SCAN_MS_MAX`], statistics by [`STATS_ROWS_MAX`], connections by
//! [`READERS_MAX`], memory by a page cache for each connection ([`WRITER_CACHE_KIB`], [`READER_CACHE_KIB`]; nothing
//! is mapped), the log beside the file by [`WAL_BYTES_MAX`] as soon as no reader stands in it.

mod cursor;
mod destination;
mod error;
#[cfg(test)]
mod fixture;
mod needle;
mod query;
mod read;
mod retention;
mod schema;
mod stats;
mod write;

pub use cursor::{Cursor, Order};
pub use destination::SqliteDestination;
pub use error::{QueryError, StoreError};
pub use query::{PAGE_BYTES_MAX, PAGE_EVENTS_MAX, Page, Query, SCAN_MS_MAX, StoredEvent};
pub use read::{READERS_MAX, Reader};
pub use schema::{READER_CACHE_KIB, WAL_BYTES_MAX, WRITER_CACHE_KIB};
pub use stats::{STATS_ROWS_MAX, StatsBucket, StatsQuery};
pub use write::{Inserted, Writer};
