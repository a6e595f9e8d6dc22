//! Destinations against the real servers, each beside the server's own bulk load of the same rows in the same run.
//!
//! `cargo bench --bench destinations -- [ROWS]`, 300,000 by default. A server that is not installed is left out, by name.

#[path = "shared/batches.rs"]
mod batches;

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use batches::batch;
use forebay::{config::PostgresSink, destination::postgres::PostgresDestination};
use forebay_actors::{destination::Destination as _, record::Batch};
use tokio::time::Instant;

/// As a sink has them by default.
const BATCH_ROWS: u64 = 5000;

/// Medians are taken over as many.
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let rows = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(300_000_u64);
    let batches: Vec<_> =
        (0..rows).step_by(BATCH_ROWS as usize).map(|first| Arc::new(batch(first, BATCH_ROWS))).collect();
    let Some(postgres) = Postgres::start() else {
        println!("PostgreSQL is left out: `tests/services/postgres version` fails");
        return ExitCode::SUCCESS;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut reached = true;
    for (idempotent, wanted) in [(false, 0.70), (true, 0.40)] {
        let ratio = runtime.block_on(postgres.measure(idempotent, &batches));
        println!(
            "postgres, idempotent: {idempotent}: {:.0} % of COPY; {:.0} % are wanted",
            ratio * 100.0,
            wanted * 100.0
        );
        reached &= ratio >= wanted;
    }
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A server in a directory of its own.
struct Postgres {
    dir: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    fn start() -> Option<Self> {
        if !script().arg("version").output().is_ok_and(|output| output.status.success()) {
            return None;
        }
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("its owner is this");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port();
        let started = script().arg("start").arg(dir.path()).arg(port.to_string()).status();
        assert!(started.is_ok_and(|status| status.success()), "the server starts");
        Some(Self { dir, port })
    }

    /// The median of the sink's rate over the median of COPY's, into the same table with the same indexes.
    async fn measure(&self, idempotent: bool, batches: &[Arc<Batch>]) -> f64 {
        let rows: u64 = batches.iter().map(|batch| batch.count()).sum();
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.port);
        let destination = PostgresDestination::new(&PostgresSink { idempotent, ..PostgresSink::to(url) });
        let destination = destination.expect("the options are right");
        let file = self.dir.path().join("data").join("rows");
        let columns = "event_id, timestamp, service, message, metadata, ingested_at";
        self.sql("DROP TABLE IF EXISTS events");
        let (mut sunk, mut copied) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let began = Instant::now();
            for batch in batches {
                destination.deliver(batch.clone()).await.expect("the server takes it");
            }
            let sink = began.elapsed();
            assert_eq!(self.sql("SELECT count(*) FROM events"), rows.to_string());
            if round == 0 {
                // The first round makes the table and the file, and warms what is cold.
                self.sql(&format!("COPY events ({columns}) TO '{}' BINARY", file.display()));
                self.sql("TRUNCATE events");
                continue;
            }
            self.sql("TRUNCATE events; CHECKPOINT");
            let began = Instant::now();
            self.sql(&format!("\\copy events ({columns}) FROM '{}' BINARY", file.display()));
            let copy = began.elapsed();
            self.sql("TRUNCATE events; CHECKPOINT");
            sunk.push(sink);
            copied.push(copy);
        }
        let per_second = |took: Duration| rows as f64 / took.as_secs_f64();
        let (sink, copy) = (per_second(median(sunk)), per_second(median(copied)));
        println!(
            "  sink {sink:>9.0} rows/s, psql's COPY {copy:>9.0} rows/s, medians of {ROUNDS} rounds of {rows} rows"
        );
        sink / copy
    }

    fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &self.port.to_string(),
        ]);
        // Each part in a transaction of its own.
        for part in sql.split("; ") {
            psql.args(["-c", part]);
        }
        let ran = psql.arg("postgres").output().expect("psql is installed with the server");
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = script().arg("kill").arg(self.dir.path()).status();
    }
}

fn script() -> Command {
    let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/postgres");
    Command::new(script)
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}
