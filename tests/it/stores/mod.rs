//! What the event stores promise to those who ask, the same for each of them: checks over the trait that both implement.
//! They run here on the embedded store, and in `services/postgres/store.rs` on a table of a real server. Each store is fed
//! as its sink feeds it.

mod forgetting;
mod pages;
mod statistics;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay::store::{EmbeddedStore, EventStore, Page, Query, SqliteDestination, StoreError, StoredEvent};
use forebay_actors::{
    destination::Destination,
    event::{BlockBuilder, Draft, Stamp, Timestamp},
    record::{Batch, Position, Record, Span},
};
use tokio::{runtime::Runtime, task::LocalSet};
use uuid::Uuid;

/// A check of a store in which nothing is stored.
pub type Check = fn(&Subject);

/// The checks by name, each of them also a test of the embedded store.
macro_rules! checks {
    ($($module:ident::$name:ident),* $(,)?) => {
        pub const CHECKS: &[(&str, Check)] = &[$((stringify!($name), $module::$name as Check)),*];

        mod embedded {
            $(
                #[test]
                fn $name() {
                    super::$module::$name(&super::Subject::embedded());
                }
            )*
        }
    };
}

checks!(
    pages::paging_returns_every_event_once_in_order,
    pages::paging_stands_fast_while_the_store_changes,
    pages::a_cursor_means_that_there_is_more,
    pages::a_search_out_of_time_goes_on_with_the_next_page,
    pages::a_text_is_found_in_either_case,
    pages::a_page_is_bounded_in_bytes,
    pages::a_count_is_of_all_that_matches,
    pages::wrong_pages_are_refused,
    pages::an_event_is_found_by_its_id,
    statistics::buckets_hold_their_events,
    statistics::bounds_are_exact_wherever_they_lie,
    statistics::the_ends_of_time_are_counted,
    statistics::wrong_statistics_are_refused,
    forgetting::the_oldest_go_first_a_slice_at_a_time,
    forgetting::nothing_is_forgotten_of_what_is_not_there,
);

/// A store, and who feeds it.
pub struct Subject {
    destination: Box<dyn Destination>,
    store: Arc<dyn EventStore>,
    /// The same store, with no time for a search.
    impatient: Arc<dyn EventStore>,
    runtime: Runtime,
    local: LocalSet,
    _home: Option<tempfile::TempDir>,
}

impl Subject {
    pub fn embedded() -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store/events.db");
        let store = |path: &Path| EmbeddedStore::new(path);
        let impatient = store(&path).with_scan_max(Duration::ZERO);
        let destination = Box::new(SqliteDestination::new(&path));
        Self { _home: Some(home), ..Self::of(destination, Arc::new(store(&path)), Arc::new(impatient)) }
    }

    pub fn of(
        destination: Box<dyn Destination>,
        store: Arc<dyn EventStore>,
        impatient: Arc<dyn EventStore>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { destination, store, impatient, runtime, local: LocalSet::new(), _home: None }
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.local.block_on(&self.runtime, future)
    }

    /// Delivers a batch that begins at this place of the journal.
    #[track_caller]
    pub fn deliver(&self, first: u64, drafts: &[Draft<'_>]) {
        self.wait(self.destination.deliver(batch(first, drafts))).unwrap();
    }

    pub fn page(&self, query: &Query) -> Result<Page, StoreError> {
        self.wait(self.store.page(query.clone()))
    }

    /// A page of a search that has no time.
    pub fn page_at_once(&self, query: &Query) -> Page {
        self.wait(self.impatient.page(query.clone())).unwrap()
    }

    pub fn one(&self, id: &str) -> Option<StoredEvent> {
        self.wait(self.store.one(id.to_owned())).unwrap()
    }

    pub fn stats(
        &self,
        query: &forebay::store::StatsQuery,
    ) -> Result<Vec<forebay::store::StatsBucket>, StoreError> {
        self.wait(self.store.stats(query.clone()))
    }

    /// Forgets a slice.
    #[track_caller]
    pub fn purge(&self, cutoff: Timestamp) -> u64 {
        self.wait(self.store.purge(cutoff)).unwrap()
    }

    /// All pages of a query, one after the other.
    pub fn walk(&self, query: &Query) -> Vec<StoredEvent> {
        let mut query = query.clone();
        let mut events = Vec::new();
        loop {
            let page = self.page(&query).unwrap();
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

/// A batch of one record.
fn batch(first: u64, drafts: &[Draft<'_>]) -> Arc<Batch> {
    let mut builder = BlockBuilder::default();
    drafts.iter().for_each(|draft| builder.push(draft));
    let stamp = Stamp { first_id: Uuid::nil(), ingested_at: time(1_000_000) };
    let blocks = builder.finish().into_iter().map(|block| block.stamped(stamp).bytes().to_vec());
    let payload = Bytes::from(blocks.collect::<Vec<_>>().concat());
    let (first, count) = (Position(first), u32::try_from(drafts.len()).unwrap());
    let record = Arc::new(Record { first, count, written_at: time(1_000_000), payload });
    let span = Span { first, end: first.plus(drafts.len() as u64) };
    Arc::new(Batch::new(span, vec![record]))
}
