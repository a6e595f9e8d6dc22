//! Destinations against the real servers, each beside the server's own bulk load of the same rows in the same run.
//!
//! `cargo bench --bench destinations -- [ROWS] [NAME]...`, 300,000 rows and every server by default. A server that is not
//! installed is left out, by name.

#[path = "../shared/batches.rs"]
mod batches;
mod cassandra;
mod clickhouse;
mod jetstream;
mod nats;
mod postgres;
mod s3;
mod service;

use std::{process::ExitCode, sync::Arc, time::Duration};

use batches::batch;
use forebay::config::{BatchConfig, ClickhouseSink};
use forebay_actors::{destination::Destination, record::Batch};
use tokio::time::Instant;

/// As most sinks have them by default.
const BATCH_ROWS: u64 = 5000;

/// Medians are taken over as many.
const ROUNDS: usize = 5;

/// A server that is loaded in turns, by a sink and by its own client.
trait Target {
    /// Empties the table, and lets the server come to rest.
    fn empty(&self);

    /// Rows in the table.
    fn count(&self) -> u64;

    /// Keeps the rows in a file, as its own client reads them.
    fn save(&self);

    /// Loads that file.
    fn load(&self);
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let rows = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(300_000_u64);
    let mut names = arguments.iter().filter(|argument| argument.parse::<u64>().is_err()).peekable();
    let is_all = names.peek().is_none();
    let names: Vec<_> = names.collect();
    let is_wanted = |name: &str| is_all || names.iter().any(|wanted| *wanted == name);
    let batches = |each: u64| -> Vec<_> {
        (0..rows).step_by(each as usize).map(|first| Arc::new(batch(first, each.min(rows - first)))).collect()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let reached = runtime.block_on(async {
        let large = ClickhouseSink::batch_default(&BatchConfig::default()).max_events as u64;
        let postgres = !is_wanted("postgres") || postgres::measure(&batches(BATCH_ROWS)).await;
        let clickhouse = !is_wanted("clickhouse") || clickhouse::measure(&batches(large)).await;
        let cassandra = !is_wanted("cassandra") || cassandra::measure(&batches(BATCH_ROWS)).await;
        let nats = !is_wanted("nats") || nats::measure(&batches(BATCH_ROWS)).await;
        let jetstream = !is_wanted("jetstream") || jetstream::measure().await;
        let s3 = !is_wanted("s3") || s3::measure(rows).await;
        postgres && clickhouse && cassandra && nats && jetstream && s3
    });
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether the median of the sink's rate is at least this part of the median of the client's.
async fn compare(
    what: &str,
    wanted: f64,
    target: &impl Target,
    sink: &impl Destination,
    batches: &[Arc<Batch>],
) -> bool {
    let rows: u64 = batches.iter().map(|batch| batch.count()).sum();
    let (mut delivered, mut loaded) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let began = Instant::now();
        for batch in batches {
            sink.deliver(batch.clone()).await.expect("the server takes it");
        }
        let took = began.elapsed();
        assert_eq!(target.count(), rows);
        if round == 0 {
            // The first round makes the table and the file, and warms what is cold.
            target.save();
        } else {
            delivered.push(took);
            target.empty();
            let began = Instant::now();
            target.load();
            loaded.push(began.elapsed());
            assert_eq!(target.count(), rows);
        }
        target.empty();
    }
    report(what, "the server's own client", wanted, rows, delivered, loaded)
}

/// Says what was measured of the sink and of the other way, and whether the sink reaches this part of it.
fn report(
    what: &str,
    other: &str,
    wanted: f64,
    rows: u64,
    delivered: Vec<Duration>,
    loaded: Vec<Duration>,
) -> bool {
    let per_second = |took: Duration| rows as f64 / took.as_secs_f64();
    let (delivered, loaded) = (per_second(median(delivered)), per_second(median(loaded)));
    let ratio = delivered / loaded;
    println!(
        "{what}: {delivered:.0} rows/s, {other} {loaded:.0} rows/s: {:.0} %, {:.0} % are wanted \
         (medians of {ROUNDS} rounds of {rows} rows)",
        ratio * 100.0,
        wanted * 100.0
    );
    ratio >= wanted
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}
