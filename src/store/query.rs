//! One page of events: where it begins, what belongs in it, where it ends.
//!
//! A page is a walk along an index from the place the cursor names (keyset pagination): its cost is that
//! of the events it looks at, wherever in the store they lie. Nothing is counted and nothing is skipped over.

use std::time::Duration;

use forebay_actors::event::{Event, EventId, Timestamp, write_json};
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::time::Instant;

use super::{Cursor, Order, QueryError, needle::Needle};

/// Events a page may have.
pub const PAGE_EVENTS_MAX: usize = 1000;

/// Bytes of text after which a page ends early: what one answer may take of the memory.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Milliseconds a search for a text may take before its page ends early.
pub const SCAN_MS_MAX: u64 = 50;

/// The search looks at the clock once in so many events. Every page gets this far, so paging always ends.
const EVENTS_PER_LOOK: usize = 64;

/// Which events, in which order.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Of this service only.
    pub service: Option<String>,
    /// At this time or later.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
    /// Only messages that contain this text. The letters of ASCII match in either case, and where the text
    /// has others, all letters do.
    pub q: Option<String>,
    /// Events in the page, 1 to [`PAGE_EVENTS_MAX`].
    pub limit: usize,
    /// Behind this place, which must come from a page in the same order.
    pub cursor: Option<Cursor>,
    /// By time; events of one time in the order they were stored, or its reverse.
    pub order: Order,
}

/// Some events, and where they end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The events, in the order asked for.
    pub events: Vec<StoredEvent>,
    /// Where the next page begins; `None` where nothing lies behind this one. With a text to search for, what
    /// lies behind need not match.
    pub next_cursor: Option<Cursor>,
    /// The page has fewer events than asked for though more may match: it ended because the search took its
    /// time, or the events their room. Ask on with `next_cursor`.
    pub partial: bool,
}

/// An event as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The client's own id, or the one it was given on arrival.
    pub event_id: String,
    /// When it happened.
    pub timestamp: Timestamp,
    /// Who speaks.
    pub service: String,
    /// What is said.
    pub message: String,
    /// The text of a JSON object; `{}` where the client sent none.
    pub metadata: String,
    /// When Forebay accepted it.
    pub ingested_at: Timestamp,
}

/// What the walk of a query has to keep to.
struct Walk {
    sql: &'static str,
    /// The first place, itself included.
    start: (i64, i64),
    /// The last time, itself included.
    last_time: i64,
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT event_id, timestamp, service, message, metadata, ingested_at, id FROM events ", $rest)
    };
}

// The index is named, because a plan by SQLite's guess would be a sort of the whole store on the day it guesses
// otherwise. Comparing rows of values lets the walk begin at one place in the index, also among many events of one
// time. SQLite's planner takes the id for a part of that place only where the comparison names a collation, though
// numbers have none; a test holds it to the plan.
const NEWEST: &str = select!(
    "INDEXED BY events_by_time WHERE (timestamp, id) <= (?1, ?2 COLLATE BINARY) AND timestamp >= ?3
     ORDER BY timestamp DESC, id DESC"
);
const OLDEST: &str = select!(
    "INDEXED BY events_by_time WHERE (timestamp, id) >= (?1, ?2 COLLATE BINARY) AND timestamp <= ?3
     ORDER BY timestamp, id"
);
const NEWEST_OF_SERVICE: &str = select!(
    "INDEXED BY events_by_service
     WHERE service = ?4 AND (timestamp, id) <= (?1, ?2 COLLATE BINARY) AND timestamp >= ?3
     ORDER BY timestamp DESC, id DESC"
);
const OLDEST_OF_SERVICE: &str = select!(
    "INDEXED BY events_by_service
     WHERE service = ?4 AND (timestamp, id) >= (?1, ?2 COLLATE BINARY) AND timestamp <= ?3
     ORDER BY timestamp, id"
);
const BY_ID: &str = select!("WHERE event_id = ?1");

// === impl Query ===

impl Query {
    pub(super) fn check(&self) -> Result<(), QueryError> {
        if self.limit == 0 || self.limit > PAGE_EVENTS_MAX {
            return Err(QueryError::Limit(self.limit));
        }
        match self.cursor {
            Some(Cursor { order, .. }) if order != self.order => {
                Err(QueryError::CursorOrder { cursor: order, query: self.order })
            }
            _ => Ok(()),
        }
    }

    /// `None` where no time is left between `from` and `to`.
    fn walk(&self) -> Option<Walk> {
        let first = self.from.map_or(i64::MIN, Timestamp::nanos);
        let last = self.to.map_or(Some(i64::MAX), |to| to.nanos().checked_sub(1))?;
        let cursor = self.cursor.as_ref();
        // A stored id is 1 or more, so the steps to its neighbours cannot leave the range of numbers; they
        // saturate because a cursor is a client's text in the end.
        let walk = match self.order {
            Order::Newest => {
                let behind = cursor.map_or((i64::MAX, i64::MAX), |c| (c.timestamp, c.id.saturating_sub(1)));
                let sql = if self.service.is_some() { NEWEST_OF_SERVICE } else { NEWEST };
                Walk { sql, start: behind.min((last, i64::MAX)), last_time: first }
            }
            Order::Oldest => {
                let behind = cursor.map_or((i64::MIN, i64::MIN), |c| (c.timestamp, c.id.saturating_add(1)));
                let sql = if self.service.is_some() { OLDEST_OF_SERVICE } else { OLDEST };
                Walk { sql, start: behind.max((first, i64::MIN)), last_time: last }
            }
        };
        (first <= last).then_some(walk)
    }
}

/// The page of a query that has been checked; a search for a text ends after about `scan_max`.
pub(super) fn page(connection: &Connection, query: &Query, scan_max: Duration) -> rusqlite::Result<Page> {
    let mut page = Page::default();
    let Some(Walk { sql, start: (time, id), last_time }) = query.walk() else { return Ok(page) };
    let needle = query.q.as_deref().filter(|q| !q.is_empty()).map(Needle::new);
    let started = Instant::now();
    let is_late = |looked_at: usize| {
        needle.is_some()
            && looked_at > 0
            && looked_at.is_multiple_of(EVENTS_PER_LOOK)
            && started.elapsed() >= scan_max
    };

    let mut statement = connection.prepare(sql)?;
    let mut rows = match &query.service {
        Some(service) => statement.query((time, id, last_time, service))?,
        None => statement.query((time, id, last_time))?,
    };
    let (mut looked_at, mut bytes, mut reached) = (0, 0, None);
    // Whether the page is full is asked only once there is a further event: without one, there is no next page.
    while let Some(row) = rows.next()? {
        if page.events.len() == query.limit || bytes >= PAGE_BYTES_MAX || is_late(looked_at) {
            page.partial = page.events.len() < query.limit;
            page.next_cursor = reached;
            break;
        }
        let message = row.get_ref(3)?.as_str()?;
        if needle.as_ref().is_none_or(|needle| needle.is_in(message)) {
            let event = StoredEvent::from_row(row)?;
            bytes += event.text_bytes();
            page.events.push(event);
        }
        reached = Some(Cursor { order: query.order, timestamp: row.get(1)?, id: row.get(6)? });
        looked_at += 1;
    }
    Ok(page)
}

/// The event of this id.
pub(super) fn event_of_id(connection: &Connection, event_id: &str) -> rusqlite::Result<Option<StoredEvent>> {
    connection.query_row(BY_ID, [event_id], StoredEvent::from_row).optional()
}

// === impl StoredEvent ===

impl StoredEvent {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            event_id: row.get(0)?,
            timestamp: Timestamp::from_nanos(row.get(1)?),
            service: row.get(2)?,
            message: row.get(3)?,
            metadata: row.get(4)?,
            ingested_at: Timestamp::from_nanos(row.get(5)?),
        })
    }

    fn text_bytes(&self) -> usize {
        self.event_id.len() + self.service.len() + self.message.len() + self.metadata.len()
    }

    /// The event as every other part of Forebay sees one.
    pub fn as_event(&self) -> Event<'_> {
        Event {
            event_id: EventId::Given(&self.event_id),
            timestamp: self.timestamp,
            service: &self.service,
            message: &self.message,
            metadata: Some(&self.metadata),
            ingested_at: self.ingested_at,
        }
    }

    /// Appends the event as one JSON object without a line break.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        write_json(&self.as_event(), out);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use forebay_actors::event::Draft;

    use super::{
        super::{
            StoreError,
            fixture::{Store, batch, draft, time},
        },
        *,
    };

    fn query(order: Order, limit: usize) -> Query {
        Query { order, limit, ..Query::default() }
    }

    /// Events of three services; up to seven of each share a time, and they come in no order of time.
    fn many(store: &mut Store, count: usize) -> Vec<(i64, String, String)> {
        let events: Vec<_> = (0..count)
            .map(|i| ((i * 31 % (count / 7 + 1)) as i64, format!("e{i:04}"), format!("s{}", i % 3)))
            .collect();
        for (i, part) in events.chunks(50).enumerate() {
            let drafts: Vec<_> = part.iter().map(|(at, id, service)| draft(id, *at, service)).collect();
            store.writer.insert(&batch(i as u64 * 50, &drafts)).unwrap();
        }
        events
    }

    /// Whatever the order, the limit and the filters, paging returns exactly the events that match, each once,
    /// in order, also where many have the same time.
    #[test]
    fn paging_returns_every_event_once_in_order() {
        let mut store = Store::new();
        let mut expected = many(&mut store, 300);
        // Stored one after the other, events of one time stand in the order of their ids here.
        expected.sort();
        for (order, limit) in
            [(Order::Oldest, 1), (Order::Oldest, 7), (Order::Newest, 2), (Order::Newest, 300)]
        {
            for service in [None, Some("s1"), Some("none")] {
                for (from, to) in [(None, None), (Some(3), Some(20)), (None, Some(20)), (Some(20), None)] {
                    let is_in = |event: &&(i64, String, String)| {
                        from.is_none_or(|from| event.0 >= from)
                            && to.is_none_or(|to| event.0 < to)
                            && service.is_none_or(|service| event.2 == service)
                    };
                    let mut ids: Vec<_> = expected.iter().filter(is_in).map(|e| e.1.clone()).collect();
                    if order == Order::Newest {
                        ids.reverse();
                    }
                    let service = service.map(str::to_owned);
                    let (from, to) = (from.map(time), to.map(time));
                    let found = store.walk(&Query { service, from, to, ..query(order, limit) });
                    let found: Vec<_> = found.into_iter().map(|e| e.event_id).collect();
                    assert_eq!(found, ids, "{order} {limit} {from:?} {to:?}");
                }
            }
        }
    }

    /// Scenario: between two pages events arrive, before, behind and at the place reached, and events already
    /// read are deleted. Those that were there at the start are still all returned, and none twice.
    #[test]
    fn paging_stands_fast_while_the_store_changes() {
        for order in [Order::Newest, Order::Oldest] {
            let mut store = Store::new();
            let there: HashSet<_> = many(&mut store, 200).into_iter().map(|e| e.1).collect();
            let mut query = query(order, 9);
            let mut seen = Vec::new();
            for round in 0.. {
                let page = store.reader.page(&query).unwrap();
                seen.extend(page.events.iter().map(|e| e.event_id.clone()));
                query.cursor = page.next_cursor;
                if query.cursor.is_none() || round > 100 {
                    break;
                }
                let at = page.events.last().unwrap().timestamp.nanos() / 1_000_000_000;
                let ids: Vec<_> = (0..3).map(|i| format!("new{round:03}{i}")).collect();
                let drafts =
                    [draft(&ids[0], at - 1, "s0"), draft(&ids[1], at, "s0"), draft(&ids[2], at + 1, "s0")];
                store.writer.insert(&batch(10_000 + round, &drafts)).unwrap();
                if order == Order::Oldest {
                    store.writer.delete_before(time(at), 100).unwrap();
                }
            }
            let distinct: HashSet<_> = seen.iter().cloned().collect();
            assert_eq!(distinct.len(), seen.len(), "an event came twice");
            assert!(distinct.is_superset(&there), "an event was passed over");
        }
    }

    /// The last page has no cursor, also where it is full: a cursor promises that something lies behind it.
    #[test]
    fn a_cursor_means_that_there_is_more() {
        let mut store = Store::new();
        assert_eq!(store.reader.page(&query(Order::Newest, 5)).unwrap(), Page::default());
        many(&mut store, 10);
        let first = store.reader.page(&query(Order::Newest, 5)).unwrap();
        assert!(!first.partial);
        let last = Query { cursor: first.next_cursor, ..query(Order::Newest, 5) };
        let last = store.reader.page(&last).unwrap();
        assert_eq!((last.events.len(), last.next_cursor, last.partial), (5, None, false));
    }

    /// A search that is out of time at once still goes on by some events a page, says that it is partial, and
    /// finds everything in the end.
    #[test]
    fn a_search_out_of_time_goes_on_with_the_next_page() {
        let mut store = Store::new();
        let ids: Vec<_> = (0..300).map(|i| format!("e{i:03}")).collect();
        let mut drafts: Vec<_> = ids.iter().zip(0..).map(|(id, at)| draft(id, at, "s")).collect();
        drafts[0].message = "a NEEDLE in the hay";
        drafts[150].message = "needle";
        store.writer.insert(&batch(0, &drafts)).unwrap();
        let mut query = Query { q: Some("Needle".into()), ..query(Order::Newest, 10) };
        let (mut found, mut pages) = (Vec::new(), 0);
        loop {
            let page = store.reader.page_within(&query, Duration::ZERO).unwrap();
            assert_eq!(page.partial, page.next_cursor.is_some());
            found.extend(page.events.into_iter().map(|e| e.event_id));
            pages += 1;
            query.cursor = page.next_cursor;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!((found, pages), (vec!["e150".to_owned(), "e000".to_owned()], 5));
    }

    /// Events so large that a few fill an answer make short pages, none of which is empty.
    #[test]
    fn a_page_is_bounded_in_bytes() {
        let mut store = Store::new();
        let message = "x".repeat(PAGE_BYTES_MAX / 2);
        for i in 0..5 {
            let id = format!("e{i}");
            let event = Draft { message: &message, ..draft(&id, 1, "s") };
            store.writer.insert(&batch(i, &[event])).unwrap();
        }
        let page = store.reader.page(&query(Order::Oldest, 100)).unwrap();
        assert_eq!((page.events.len(), page.partial), (2, true));
        assert_eq!(store.walk(&query(Order::Oldest, 100)).len(), 5);
    }

    /// A wrong question is told what is wrong with it.
    #[test]
    fn wrong_questions_are_refused() {
        let mut store = Store::new();
        many(&mut store, 10);
        let refused = |query: &Query| match store.reader.page(query).unwrap_err() {
            StoreError::Query(error) => error,
            other => panic!("{other}"),
        };
        assert_eq!(refused(&query(Order::Newest, 0)), QueryError::Limit(0));
        assert_eq!(refused(&query(Order::Newest, 1001)), QueryError::Limit(1001));
        let cursor = store.reader.page(&query(Order::Newest, 1)).unwrap().next_cursor;
        let error = refused(&Query { cursor, ..query(Order::Oldest, 1) });
        assert_eq!(error, QueryError::CursorOrder { cursor: Order::Newest, query: Order::Oldest });
        let empty = Query { from: Some(time(5)), to: Some(time(5)), ..query(Order::Newest, 1) };
        assert_eq!(store.reader.page(&empty).unwrap(), Page::default());
        let before_time = Query { to: Some(Timestamp::from_nanos(i64::MIN)), ..query(Order::Newest, 1) };
        assert_eq!(store.reader.page(&before_time).unwrap(), Page::default());
    }

    /// Every walk begins by a search in its index, with both parts of the place, and sorts nothing.
    #[test]
    fn walks_follow_an_index_from_their_place() {
        let store = Store::new();
        for (sql, expected) in [
            (NEWEST, "INDEX events_by_time (timestamp>? AND (timestamp,rowid)<(?,?))"),
            (OLDEST, "INDEX events_by_time ((timestamp,rowid)>(?,?) AND timestamp<?)"),
            (
                NEWEST_OF_SERVICE,
                "INDEX events_by_service (service=? AND timestamp>? AND (timestamp,rowid)<(?,?))",
            ),
            (
                OLDEST_OF_SERVICE,
                "INDEX events_by_service (service=? AND (timestamp,rowid)>(?,?) AND timestamp<?)",
            ),
        ] {
            let mut statement =
                store.writer.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let mut plan = Vec::new();
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next().unwrap() {
                plan.push(row.get::<_, String>(3).unwrap());
            }
            assert!(plan.len() == 1 && plan[0].ends_with(expected), "{plan:?}, not {expected}");
        }
    }
}
