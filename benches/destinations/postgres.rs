//! PostgreSQL: the sink beside `psql`'s COPY, into the same table with the same indexes.

use std::{path::PathBuf, process::Command, sync::Arc};

use forebay::{config::PostgresSink, destination::postgres::PostgresDestination};
use forebay_actors::record::Batch;

use super::{Target, compare, service::Service};

const COLUMNS: &str = "event_id, timestamp, service, message, metadata, ingested_at";

struct Postgres(Service);

/// Whether both ways reach what is wanted of them.
pub async fn measure(batches: &[Arc<Batch>]) -> bool {
    let Some(server) = Service::start("postgres", 1).map(Postgres) else { return true };
    let mut reached = true;
    for (idempotent, wanted) in [(false, 0.70), (true, 0.40)] {
        server.sql(&["DROP TABLE IF EXISTS events"]);
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", server.0.ports[0]);
        let sink = PostgresDestination::new(&PostgresSink { idempotent, ..PostgresSink::to(url) });
        let sink = sink.expect("the options are right");
        let what = format!("postgres, idempotent: {idempotent}");
        reached &= compare(&what, wanted, &server, &sink, batches).await;
    }
    reached
}

impl Postgres {
    /// In the server's own directory: it writes the file itself.
    fn file(&self) -> PathBuf {
        self.0.dir.path().join("data/rows")
    }

    fn sql(&self, statements: &[&str]) -> String {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-A", "-t", "-q", "-h", "127.0.0.1", "-U", "postgres"]);
        psql.args(["-p", &self.0.ports[0].to_string()]);
        for sql in statements {
            // Each in a transaction of its own.
            psql.args(["-c", sql]);
        }
        let ran = psql.arg("postgres").output().expect("psql is installed with the server");
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }
}

impl Target for Postgres {
    fn empty(&self) {
        self.sql(&["TRUNCATE events", "CHECKPOINT"]);
    }

    fn count(&self) -> u64 {
        self.sql(&["SELECT count(*) FROM events"]).parse().expect("a number")
    }

    fn save(&self) {
        self.sql(&[&format!("COPY events ({COLUMNS}) TO '{}' BINARY", self.file().display())]);
    }

    fn load(&self) {
        self.sql(&[&format!("\\copy events ({COLUMNS}) FROM '{}' BINARY", self.file().display())]);
    }
}
