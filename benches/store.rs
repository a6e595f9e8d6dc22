//! The embedded store at size: how long `GET /events` and its statistics take over millions of rows.
//!
//! `cargo bench --bench store -- [ROWS]`, 10 million by default, which takes some minutes and 4 GB in the temporary
//! directory. Ends with an error where a question takes longer than [`ANSWER_MAX`].

#[path = "shared/batches.rs"]
mod batches;

use std::{process::ExitCode, time::Duration};

use batches::{PER_SECOND, SERVICES, batch, time};
use forebay::store::{Order, Query, Reader, StatsQuery, StoreError, Writer};
use tokio::time::Instant;

/// What `GET /events` promises over 10 million events.
const ANSWER_MAX: Duration = Duration::from_millis(100);

/// Rows of a transaction, as the sink has them by default.
const BATCH_ROWS: u64 = 5000;

/// How often each question is asked, each time elsewhere.
const ASKED: u64 = 30;

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
        writer.insert(&batch(first, BATCH_ROWS)).expect("a batch is stored");
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
