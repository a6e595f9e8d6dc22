//! Pages from SQLite: the statements, and the walk along them.

use std::time::Duration;

use forebay_actors::event::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::store::{
    Order, Page, Query, StoredEvent,
    query::{Filling, Walk},
};

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

/// The page of a query that has been checked; a search for a text ends after about `scan_max`.
pub(super) fn page(connection: &Connection, query: &Query, scan_max: Duration) -> rusqlite::Result<Page> {
    let Some(Walk { start: (time, id), last_time }) = query.walk() else { return Ok(Page::default()) };
    let sql = match (query.order, &query.service) {
        (Order::Newest, None) => NEWEST,
        (Order::Oldest, None) => OLDEST,
        (Order::Newest, Some(_)) => NEWEST_OF_SERVICE,
        (Order::Oldest, Some(_)) => OLDEST_OF_SERVICE,
    };
    let mut statement = connection.prepare(sql)?;
    let mut rows = match &query.service {
        Some(service) => statement.query((time, id, last_time, service))?,
        None => statement.query((time, id, last_time))?,
    };
    let mut filling = Filling::of(query, scan_max);
    while let Some(row) = rows.next()? {
        if filling.is_done() {
            break;
        }
        let place = (row.get(1)?, row.get(6)?);
        filling.look(place, row.get_ref(3)?.as_str()?, || stored_event(row))?;
    }
    Ok(filling.finish())
}

/// The event of this id.
pub(super) fn event_of_id(connection: &Connection, event_id: &str) -> rusqlite::Result<Option<StoredEvent>> {
    connection.query_row(BY_ID, [event_id], stored_event).optional()
}

fn stored_event(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    Ok(StoredEvent {
        event_id: row.get(0)?,
        timestamp: Timestamp::from_nanos(row.get(1)?),
        service: row.get(2)?,
        message: row.get(3)?,
        metadata: row.get(4)?,
        ingested_at: Timestamp::from_nanos(row.get(5)?),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::fixture::Store, *};

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
