//! One page of events: where it begins, what belongs in it, where it ends. The same for every store.
//!
//! A page is a walk along an index from the place the cursor names (keyset pagination): its cost is that
//! of the events it looks at, wherever in the store they lie. Nothing is skipped over.

use std::time::Duration;

use forebay_actors::event::{Event, EventId, Timestamp, write_json};
use tokio::time::Instant;

use super::{Cursor, Order, QueryError, StatsQuery, needle::Needle};

/// Events a page may have.
pub const PAGE_EVENTS_MAX: usize = 1000;

/// Bytes of text after which a page ends early: what one answer may take of the memory.
pub const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Milliseconds a search for a text may take before its page ends early.
pub const SCAN_MS_MAX: u64 = 50;

/// Characters of the text that is searched for: a part of a message that somebody remembers.
pub const SEARCH_CHARS_MAX: usize = 256;

/// The search looks at the clock once in so many events. Every page gets this far, or as far as the bytes below, so paging
/// always ends.
const EVENTS_PER_LOOK: usize = 64;

/// And once in so many bytes of messages: a few may be as large as thousands of others.
const BYTES_PER_LOOK: usize = 1024 * 1024;

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
    /// has others, all letters do. Up to [`SEARCH_CHARS_MAX`] characters; an empty one is none.
    pub q: Option<String>,
    /// Events in the page, 1 to [`PAGE_EVENTS_MAX`].
    pub limit: usize,
    /// Behind this place, which must come from a page in the same order.
    pub cursor: Option<Cursor>,
    /// By time; events of one time in the order they were stored, or its reverse.
    pub order: Order,
    /// Whether to count all events that match `service`, `from` and `to`, too.
    pub count: bool,
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
    /// All events that match, whatever the page; `None` where nobody asked, where a text is searched for, and where
    /// counting takes longer than the store gives it.
    pub count: Option<u64>,
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

/// What a walk has to keep to.
pub(super) struct Walk {
    /// The first place, itself included.
    pub(super) start: (i64, i64),
    /// The last time, itself included.
    pub(super) last_time: i64,
}

/// A page that is being filled, event by event along a walk.
pub(super) struct Filling<'a> {
    query: &'a Query,
    needle: Option<Needle>,
    scan_max: Duration,
    started: Instant,
    /// Events and bytes of messages that were searched since the last look at the clock.
    events_searched: usize,
    bytes_searched: usize,
    bytes: usize,
    reached: Option<Cursor>,
    page: Page,
}

// === impl Query ===

impl Query {
    pub(super) fn check(&self) -> Result<(), QueryError> {
        if self.limit == 0 || self.limit > PAGE_EVENTS_MAX {
            return Err(QueryError::Limit(self.limit));
        }
        let chars = self.q.as_ref().map_or(0, |q| q.chars().count());
        if chars > SEARCH_CHARS_MAX {
            return Err(QueryError::Text(chars));
        }
        match self.cursor {
            Some(Cursor { order, .. }) if order != self.order => {
                Err(QueryError::CursorOrder { cursor: order, query: self.order })
            }
            _ => Ok(()),
        }
    }

    /// The walk from the cursor on; `None` where no time is left between `from` and `to`.
    pub(super) fn walk(&self) -> Option<Walk> {
        self.walk_behind(self.cursor.as_ref())
    }

    pub(super) fn walk_behind(&self, cursor: Option<&Cursor>) -> Option<Walk> {
        let first = self.from.map_or(i64::MIN, Timestamp::nanos);
        let last = self.to.map_or(Some(i64::MAX), |to| to.nanos().checked_sub(1))?;
        // A stored id is 1 or more, so the steps to its neighbours cannot leave the range of numbers; they
        // saturate because a cursor is a client's text in the end.
        let walk = match self.order {
            Order::Newest => {
                let behind = cursor.map_or((i64::MAX, i64::MAX), |c| (c.timestamp, c.id.saturating_sub(1)));
                Walk { start: behind.min((last, i64::MAX)), last_time: first }
            }
            Order::Oldest => {
                let behind = cursor.map_or((i64::MIN, i64::MIN), |c| (c.timestamp, c.id.saturating_add(1)));
                Walk { start: behind.max((first, i64::MIN)), last_time: last }
            }
        };
        (first <= last).then_some(walk)
    }

    /// Whether a text is searched for.
    pub(super) fn is_search(&self) -> bool {
        self.q.as_ref().is_some_and(|q| !q.is_empty())
    }

    /// The count that goes with the page, as a question of its own; `None` where there is none.
    pub(super) fn counting(&self) -> Option<StatsQuery> {
        let (from, to, service) = (self.from, self.to, self.service.clone());
        (self.count && !self.is_search()).then(|| StatsQuery {
            from,
            to,
            service,
            ..StatsQuery::of_all_time()
        })
    }
}

// === impl Filling ===

impl<'a> Filling<'a> {
    /// Of a query that has been checked; a search for a text ends after about `scan_max`.
    pub(super) fn of(query: &'a Query, scan_max: Duration) -> Self {
        let needle = query.q.as_deref().filter(|q| !q.is_empty()).map(Needle::new);
        Self {
            query,
            needle,
            scan_max,
            started: Instant::now(),
            events_searched: 0,
            bytes_searched: 0,
            bytes: 0,
            reached: None,
            page: Page::default(),
        }
    }

    /// Whether the page ends here. It is asked only once there is a further event: without one, there is no next page.
    pub(super) fn is_done(&mut self) -> bool {
        let is_full = self.page.events.len() == self.query.limit;
        let is_done = is_full || self.bytes >= PAGE_BYTES_MAX || self.is_late();
        if is_done {
            self.page.partial = !is_full;
            self.page.next_cursor = self.reached;
        }
        is_done
    }

    /// Whether so much was searched that [`Filling::is_done`] is going to look at the clock: some milliseconds of work.
    pub(super) fn has_searched_much(&self) -> bool {
        self.events_searched >= EVENTS_PER_LOOK || self.bytes_searched >= BYTES_PER_LOOK
    }

    fn is_late(&mut self) -> bool {
        if !self.has_searched_much() {
            return false;
        }
        (self.events_searched, self.bytes_searched) = (0, 0);
        self.started.elapsed() >= self.scan_max
    }

    /// Looks at the event at this place; it is read as a whole only where it belongs in the page.
    pub(super) fn look<E>(
        &mut self,
        (timestamp, id): (i64, i64),
        message: &str,
        event: impl FnOnce() -> Result<StoredEvent, E>,
    ) -> Result<(), E> {
        let is_match = self.needle.as_mut().is_none_or(|needle| {
            self.events_searched += 1;
            self.bytes_searched += message.len();
            needle.is_in(message)
        });
        if is_match {
            let event = event()?;
            self.bytes += event.text_bytes();
            self.page.events.push(event);
        }
        self.reached = Some(Cursor { order: self.query.order, timestamp, id });
        Ok(())
    }

    /// The place of the last event that was looked at.
    pub(super) fn reached(&self) -> Option<&Cursor> {
        self.reached.as_ref()
    }

    /// The page, where no further event was left or [`Filling::is_done`] said so.
    pub(super) fn finish(self) -> Page {
        self.page
    }
}

// === impl StoredEvent ===

impl StoredEvent {
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
    use super::*;

    fn search(text: &str) -> Query {
        Query { q: Some(text.to_owned()), limit: 10, ..Query::default() }
    }

    /// Scenario: a search comes to large messages, and to a text so long that comparing it takes its time.
    /// Guarantee: it looks at its clock by the bytes that it has searched, too, and such a text is refused. It had searched 64 of
    /// the largest messages, for minutes, before it looked the first time.
    #[test]
    fn r0298_a_search_did_not_look_at_its_clock() {
        let query = search("nowhere");
        let mut filling = Filling::of(&query, Duration::ZERO);
        let message = "x".repeat(BYTES_PER_LOOK / 2);
        for id in 0..2 {
            assert!(!filling.is_done(), "after {id}");
            filling.look::<QueryError>((0, id), &message, || unreachable!("it is not in it")).unwrap();
        }
        assert!(filling.is_done());
        let page = filling.finish();
        assert!(page.partial && page.next_cursor.is_some_and(|cursor| cursor.id == 1), "{page:?}");

        assert_eq!(search(&"\u{e4}".repeat(SEARCH_CHARS_MAX)).check(), Ok(()));
        let error = search(&"x".repeat(SEARCH_CHARS_MAX + 1)).check().unwrap_err();
        assert_eq!(error.to_string(), "q has 257 characters: up to 256 are searched for");
    }

    /// Without a text there is nothing that takes long.
    #[test]
    fn only_a_search_looks_at_its_clock() {
        let query = Query { limit: PAGE_EVENTS_MAX, ..Query::default() };
        let mut filling = Filling::of(&query, Duration::ZERO);
        let zero = Timestamp::from_nanos(0);
        let event = StoredEvent {
            event_id: "e".to_owned(),
            timestamp: zero,
            service: "s".to_owned(),
            message: "m".to_owned(),
            metadata: "{}".to_owned(),
            ingested_at: zero,
        };
        for id in 0..2 * EVENTS_PER_LOOK as i64 {
            assert!(!filling.is_done(), "after {id}");
            filling.look::<QueryError>((0, id), "m", || Ok(event.clone())).unwrap();
        }
        assert!(!filling.is_done() && !filling.has_searched_much());
    }
}
