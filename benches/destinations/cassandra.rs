//! Cassandra: the sink beside a bare loop of the same driver, with the same statement, into the same table.
//!
//! The loop has its rows as values of Rust, made before the clock starts, and sends them as whoever knows the table would:
//! those of a partition together, in unlogged batches, as many requests at a time as the sink.

use std::{collections::BTreeMap, sync::Arc};

use forebay::{config::CassandraSink, destination::cassandra::CassandraDestination};
use forebay_actors::{destination::Destination as _, record::Batch};
use futures::{StreamExt as _, stream};
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    statement::{
        batch::{Batch as Statements, BatchType},
        prepared::PreparedStatement,
    },
    value::CqlTimestamp,
};
use tokio::time::Instant;

use super::{ROUNDS, report, service::Service};

/// Of the rows of a partition that go together.
const TOGETHER: usize = 100;

type Row = (String, CqlTimestamp, CqlTimestamp, i64, String, String, Option<String>, CqlTimestamp);

/// Whether the sink reaches what is wanted of it.
pub async fn measure(batches: &[Arc<Batch>]) -> bool {
    // The compiler that a server of long standing has had time for.
    let Some(server) = Service::start_with("cassandra", 1, &[], &["-XX:TieredStopAtLevel=4"]) else {
        return true;
    };
    let host = format!("127.0.0.1:{}", server.ports[0]);
    let options = CassandraSink::to(host.clone(), "bench".to_owned());
    let sink = CassandraDestination::new(&options);
    let rows: u64 = batches.iter().map(|batch| batch.count()).sum();
    let mut prepared = None;
    let (mut delivered, mut looped) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let began = Instant::now();
        for batch in batches {
            sink.deliver(batch.clone()).await.expect("the server takes it");
        }
        let took = began.elapsed();
        // The first round makes the table, and warms what is cold.
        let (session, insert, values) = match prepared.take() {
            Some(prepared) => prepared,
            None => prepare(&host, batches).await,
        };
        assert_eq!(count(&session).await, rows);
        truncate(&session).await;
        let began = Instant::now();
        for values in &values {
            send(&session, &insert, values, options.requests_max).await;
        }
        if round > 0 {
            delivered.push(took);
            looped.push(began.elapsed());
        }
        assert_eq!(count(&session).await, rows);
        truncate(&session).await;
        prepared = Some((session, insert, values));
    }
    report("cassandra", "a bare loop of the driver", 0.80, rows, delivered, looped)
}

async fn prepare(host: &str, batches: &[Arc<Batch>]) -> (Session, PreparedStatement, Vec<Vec<Row>>) {
    let session = SessionBuilder::new().known_node(host).build().await.expect("it is there");
    let insert = session.prepare(
        "INSERT INTO bench.events (service, time_bucket, timestamp, timestamp_nanos, event_id, message, metadata, \
         ingested_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    );
    let insert = insert.await.expect("the sink has made the table");
    (session, insert, batches.iter().map(|batch| values(batch)).collect())
}

fn values(batch: &Batch) -> Vec<Row> {
    let (mut rows, mut events) = (Vec::new(), batch.events());
    while let Some(event) = events.next_event() {
        let event = event.expect("it was just encoded");
        let (millis, hour) = (event.timestamp.millis(), 3_600_000);
        rows.push((
            event.service.to_owned(),
            CqlTimestamp(millis.div_euclid(hour) * hour),
            CqlTimestamp(millis),
            event.timestamp.nanos(),
            event.event_id.to_string(),
            event.message.to_owned(),
            event.metadata.map(str::to_owned),
            CqlTimestamp(event.ingested_at.millis()),
        ));
    }
    rows
}

async fn send(session: &Session, insert: &PreparedStatement, rows: &[Row], at_once: usize) {
    let mut partitions = BTreeMap::<_, Vec<&Row>>::new();
    rows.iter().for_each(|row| partitions.entry((&row.0, row.1.0)).or_default().push(row));
    let together = partitions.values().flat_map(|rows| rows.chunks(TOGETHER));
    let mut sent = stream::iter(together.map(|rows| async move {
        let mut statements = Statements::new(BatchType::Unlogged);
        rows.iter().for_each(|_| statements.append_statement(insert.clone()));
        session.batch(&statements, rows).await.expect("the server takes it");
    }))
    .buffer_unordered(at_once);
    while sent.next().await.is_some() {}
}

async fn count(session: &Session) -> u64 {
    let answer =
        session.query_unpaged("SELECT COUNT(*) FROM bench.events", ()).await.expect("the table is there");
    let rows = answer.into_rows_result().expect("rows");
    let (count,) = rows.single_row::<(i64,)>().expect("a number");
    count as u64
}

async fn truncate(session: &Session) {
    session.query_unpaged("TRUNCATE bench.events", ()).await.expect("it may be emptied");
}
