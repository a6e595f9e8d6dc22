//! One page of events: where it begins, what belongs in it, where it ends.
//!
//! A page is a walk along an index from the place the cursor names (keyset pagination): its cost is that
//! of the events it looks at, wherever in the store they lie. Nothing is counted and nothing is skipped over.

use std::{str, time::Duration};

use forebay_actors::event::{Event, EventId, Timestamp, write_json};
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::time::Instant;

use super::{Cursor, Order, QueryError};

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

/// A text to look for, made ready for being compared with many messages.
enum Needle {
    /// Lower case.
    Ascii(Vec<u8>),
    /// Lower case, by Unicode's rules.
    Unicode(String),
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
// otherwise. Comparing rows of values lets the walk begin at one place in the index, also among events of one
// time.
const NEWEST: &str = select!(
    "INDEXED BY events_by_time WHERE (timestamp, id) <= (?1, ?2) AND timestamp >= ?3
     ORDER BY timestamp DESC, id DESC"
);
const OLDEST: &str = select!(
    "INDEXED BY events_by_time WHERE (timestamp, id) >= (?1, ?2) AND timestamp <= ?3 ORDER BY timestamp, id"
);
const NEWEST_OF_SERVICE: &str = select!(
    "INDEXED BY events_by_service WHERE service = ?4 AND (timestamp, id) <= (?1, ?2) AND timestamp >= ?3
     ORDER BY timestamp DESC, id DESC"
);
const OLDEST_OF_SERVICE: &str = select!(
    "INDEXED BY events_by_service WHERE service = ?4 AND (timestamp, id) >= (?1, ?2) AND timestamp <= ?3
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
        if needle.as_ref().map_or(Ok(true), |needle| needle.is_in(row))? {
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

// === impl Needle ===

impl Needle {
    fn new(text: &str) -> Self {
        if text.is_ascii() {
            Self::Ascii(text.to_ascii_lowercase().into_bytes())
        } else {
            Self::Unicode(text.to_lowercase())
        }
    }

    fn is_in(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        let message = row.get_ref(3)?;
        Ok(match self {
            // Bytes, not text: no character beyond ASCII has a byte of ASCII in it, and nothing is checked
            // or copied for messages that do not match.
            Self::Ascii(lower) => contains_ascii(message.as_bytes()?, lower),
            Self::Unicode(lower) => message.as_str()?.to_lowercase().contains(lower.as_str()),
        })
    }
}

/// Whether `lower`, which is not empty, stands in `text` in whatever case.
fn contains_ascii(text: &[u8], lower: &[u8]) -> bool {
    let (first, rest) = (lower[0], &lower[1..]);
    let upper = first.to_ascii_uppercase();
    let Some(starts) = text.len().checked_sub(rest.len()) else { return false };
    (0..starts).any(|at| {
        (text[at] == first || text[at] == upper)
            && text[at + 1..at + lower.len()].eq_ignore_ascii_case(rest)
    })
}
