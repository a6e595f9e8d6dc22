//! Batches and databases for the tests of this module.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use forebay_actors::{
    event::{BlockBuilder, Draft, Stamp, Timestamp},
    record::{Batch, Position, Record, Span},
};
use uuid::Uuid;

use super::{Reader, Writer};
use crate::store::{Query, StoredEvent};

/// A directory that goes with it, a writer and a reader of a database in it.
pub struct Store {
    pub home: tempfile::TempDir,
    pub writer: Writer,
    pub reader: Reader,
}

impl Store {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store/events.db");
        Self { writer: Writer::open(&path).unwrap(), reader: Reader::new(&path), home }
    }

    pub fn path(&self) -> PathBuf {
        self.home.path().join("store/events.db")
    }

    /// All pages of a query, one after the other.
    pub fn walk(&self, query: &Query) -> Vec<StoredEvent> {
        let mut query = query.clone();
        let mut events = Vec::new();
        loop {
            let page = self.reader.page(&query).unwrap();
            assert!(page.events.len() <= query.limit);
            events.extend(page.events);
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                return events;
            }
        }
    }
}

pub fn time(seconds: i64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

/// An event that happened so many seconds after the epoch.
pub fn draft<'a>(id: &'a str, seconds: i64, service: &'a str) -> Draft<'a> {
    Draft { event_id: Some(id), timestamp: Some(time(seconds)), service, message: "m", metadata: None }
}

/// One batch of one record. Events without an id have ids that depend on nothing but `first`.
pub fn batch(first: u64, drafts: &[Draft<'_>]) -> Arc<Batch> {
    let mut builder = BlockBuilder::default();
    drafts.iter().for_each(|draft| builder.push(draft));
    let mut payload = Vec::new();
    let mut stamped = 0;
    for block in builder.finish() {
        let first_id = Uuid::from_u128(u128::from(first + stamped) << 32 | 0x7000 << 64);
        stamped += u64::from(block.count());
        let stamp = Stamp { first_id, ingested_at: time(1_000_000) };
        payload.extend_from_slice(block.stamped(stamp).bytes());
    }
    batch_of(first, drafts.len(), payload)
}

/// A batch whose record has these bytes, whatever they are.
pub fn batch_of(first: u64, count: usize, payload: Vec<u8>) -> Arc<Batch> {
    let first = Position(first);
    let record = Record {
        first,
        count: u32::try_from(count).unwrap(),
        written_at: time(1_000_000),
        payload: Bytes::from(payload),
    };
    let span = Span { first, end: first.plus(count as u64) };
    Arc::new(Batch::new(span, vec![Arc::new(record)]))
}
