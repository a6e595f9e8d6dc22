//! The embedded store at size: how long `GET /events` and its statistics take over millions of rows.
//!
//! `cargo bench --bench store -- [ROWS]`, 10 million by default, which takes some minutes and 4 GB in the temporary
//! directory. Ends with an error where a question takes longer than [`ANSWER_MAX`].

use std::{process::ExitCode, time::Duration};

use forebay::store::{Order, Query, Reader, StatsQuery, StoreError, Writer};
use forebay_actors::{
    event::{BlockBuilder, Draft, Stamp, Timestamp},
    record::{Batch, Position, Record, Span},
};
use tokio::time::Instant;
use uuid::Uuid;

/// What `GET /events` promises over 10 million events.
const ANSWER_MAX: Duration = Duration::from_millis(100);

/// Rows of a transaction, as the sink has them by default.
const BATCH_ROWS: u64 = 5000;

const SERVICES: u64 = 40;

/// The first event's time.
const BEGIN_S: i64 = 1_767_000_000;

/// Events of one second.
const PER_SECOND: u64 = 50;

/// How often each question is asked, each time elsewhere.
const ASKED: u64 = 30;

fn time(seconds: u64) -> Timestamp {
    Timestamp::from_nanos((BEGIN_S + i64::try_from(seconds).expect("a few days")) * 1_000_000_000)
}

fn batch(first: u64) -> Batch {
    let mut builder = BlockBuilder::default();
    for row in first..first + BATCH_ROWS {
        let status = if row.is_multiple_of(17) { 500 } else { 200 };
        let metadata =
            format!("{{\"client\":\"192.0.2.{}\",\"status\":{status},\"bytes\":{}}}", row % 250, row % 9973);
        builder.push(&Draft {
            event_id: None,
            timestamp: Some(time(row / PER_SECOND)),
            service: &format!("service-{:02}", row % SERVICES),
            message: &format!("GET /item/{} HTTP/1.1", row % 100_003),
            metadata: Some(&metadata),
        });
    }
    let (mut payload, mut at) = (Vec::new(), first);
    for block in builder.finish() {
        // As the ids of a running process: they grow with time.
        let first_id = Uuid::from_u128(u128::from(at) << 32 | 0x7000 << 64);
        at += u64::from(block.count());
        let stamp = Stamp { first_id, ingested_at: time(at / PER_SECOND) };
        payload.extend_from_slice(block.stamped(stamp).bytes());
    }
    let count = u32::try_from(BATCH_ROWS).expect("a batch is small");
    let written_at = time(first / PER_SECOND);
    let record = Record { first: Position(first), count, written_at, payload: payload.into() };
    let span = Span { first: record.first, end: record.end() };
    Batch::new(span, vec![record.into()])
}

/// Asks a question in many places; prints its median and its worst time, and returns the worst.
fn ask(what: &str, mut question: impl FnMut(u64) -> Result<usize, StoreError>) -> Duration {
    let mut took = Vec::new();
    let mut rows = 0;
    for i in 0..ASKED {
        let began = Instant::now();
        rows = question(i).expect("the store answers");
        took.push(began.elapsed());
    }
    took.sort();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{what:<52} {rows:>6} rows  median {median:>9.2?}  worst {worst:>9.2?}");
    worst
}

fn main() -> ExitCode {
    let rows = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(10_000_000_u64);
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let path = dir.path().join("events.db");
    let mut writer = Writer::open(&path).expect("a store");
    let began = Instant::now();
    for first in (0..rows).step_by(usize::try_from(BATCH_ROWS).expect("a batch is small")) {
        writer.insert(&batch(first)).expect("a batch is stored");
    }
    let took = began.elapsed();
    println!("{rows} rows stored in {took:.1?}: {:.0} rows/s", rows as f64 / took.as_secs_f64());

    let seconds = rows / PER_SECOND;
    let reader = Reader::new(&path);
    let page = |query: Query| reader.page(&query).map(|page| page.events.len());
    let all = Query { limit: 1000, ..Query::default() };
    // Somewhere else each time.
    let place = |i: u64| seconds * (i + 1) / (ASKED + 1);
    let newest = ask("the newest page", |_| page(all.clone()));
    let oldest = ask("the oldest page", |_| page(Query { order: Order::Oldest, ..all.clone() }));
    let ranged = ask("a page in the middle of time", |i| {
        page(Query { from: Some(time(place(i))), to: Some(time(place(i) + 3600)), ..all.clone() })
    });
    let service = ask("a page of a service before a time", |i| {
        let service = Some(format!("service-{:02}", i % SERVICES));
        page(Query { service, to: Some(time(place(i))), ..all.clone() })
    });
    let mut cursor = None;
    let next = ask("the next page, again and again", |_| {
        let found = reader.page(&Query { cursor: cursor.take(), ..all.clone() })?;
        cursor = found.next_cursor;
        Ok(found.events.len())
    });
    let absent = ask("a page of a service that is not there", |_| {
        page(Query { service: Some("nobody".into()), ..all.clone() })
    });
    let searched =
        ask("a text that stands nowhere", |_| page(Query { q: Some("nowhere".into()), ..all.clone() }));
    let day = |i: u64| StatsQuery {
        from: Some(time(place(i))),
        to: Some(time(place(i) + 86_400)),
        bucket_seconds: 60,
        ..StatsQuery::default()
    };
    let minutes = ask("counts of a day by the minute", |i| reader.stats(&day(i)).map(|rows| rows.len()));
    let services = ask("counts of everything by the day and service", |_| {
        let query = StatsQuery { bucket_seconds: 86_400, group_by_service: true, ..StatsQuery::default() };
        reader.stats(&query).map(|rows| rows.len())
    });
    let worst =
        [newest, oldest, ranged, service, next, absent, searched, minutes, services].into_iter().max();
    match worst {
        Some(worst) if worst > ANSWER_MAX => {
            println!("the slowest took {worst:.1?}: more than {ANSWER_MAX:?}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
