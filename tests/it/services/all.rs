//! Every kind of sink in one process, each with its real server.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::{
    cassandra::Cassandra,
    clickhouse::Clickhouse,
    nats::{self, Nats},
    postgres::Postgres,
    pushgateway,
    s3::bucket::{Bucket, Kind},
};
use crate::{
    otlp::{every_signal, gateway::Gateway},
    support::{
        binary::{Forebay, Place},
        http::{Connection, Destination, request},
        memory::assert_peak,
        testbed::incompressible,
        thorough, until,
    },
};

/// Characters of a message.
const MESSAGE_CHARS: usize = 1000;

/// Events of a request.
const REQUEST_EVENTS: usize = 100;

/// Clients that post at the same time.
const CLIENTS: usize = 4;

/// What the sinks deliver to. All of it ends with the value.
struct Servers {
    postgres: Postgres,
    clickhouse: [Clickhouse; 2],
    cassandra: Cassandra,
    bucket: Bucket,
    nats: Nats,
    pushgateway: pushgateway::Gateway,
    forebay: Gateway,
    http: Destination,
    files: TempDir,
}

impl Servers {
    fn start(test: &str) -> Option<Self> {
        Some(Self {
            postgres: Postgres::start(test)?,
            clickhouse: [Clickhouse::start(test)?, Clickhouse::start_current(test)?],
            cassandra: Cassandra::start(test)?,
            bucket: Bucket::start(Kind::Minio, test)?,
            nats: Nats::start(test)?,
            pushgateway: pushgateway::Gateway::start(test)?,
            forebay: Gateway::start(),
            http: Destination::start(),
            files: TempDir::with_prefix("forebay-it-").unwrap(),
        })
    }

    /// A sink of every kind, by name.
    fn sinks(&self) -> Vec<(&'static str, String)> {
        let file =
            |path: &Path| format!("{{ type: file, path: \"{}\" }}", path.join("events.ndjson").display());
        let to = |kind: &str, address| format!("{{ type: {kind}, endpoint: \"http://{address}\" }}");
        vec![
            ("store", "{ type: store }".to_owned()),
            ("postgres", self.postgres.sink("")),
            ("clickhouse", self.clickhouse[0].sink(", otel: events")),
            ("tables", self.clickhouse[1].sink(", otel: tables")),
            ("cassandra", self.cassandra.sink("memory", ", datacenter: datacenter1")),
            (
                "lines",
                self.bucket.sink(", key: \"lines/{stream}-{first}-{last}\", batch: { max_wait: 100ms }"),
            ),
            (
                "parquet",
                self.bucket.sink(
                    ", format: parquet, key: \"rows/{stream}-{first}-{last}\", batch: { max_wait: 100ms }",
                ),
            ),
            ("nats", self.nats.sink(nats::MADE)),
            ("pushgateway", self.pushgateway.sink("")),
            ("otlp", to("otlp", self.forebay.address)),
            ("forebay", to("forebay", self.forebay.process.ingest())),
            ("http", self.http.sink()),
            ("file", file(self.files.path())),
            ("blackhole", "{ type: blackhole }".to_owned()),
        ]
    }
}

/// So many requests of events that do not repeat what they say.
fn post(forebay: &Forebay, client: usize, requests: usize) {
    let mut connection: Connection = forebay.connect();
    for at in (client * requests..).take(requests) {
        let mut body = String::new();
        for index in (at * REQUEST_EVENTS..).take(REQUEST_EVENTS) {
            let from = index * 7 % (60_000 - MESSAGE_CHARS);
            let message = &incompressible(index)[from..from + MESSAGE_CHARS];
            let event =
                json!({"service": "api", "message": message, "metadata": {"index": index, "path": "/a/b"}});
            body.push_str(&event.to_string());
            body.push('\n');
        }
        until("it is taken", || {
            let headers = [("Content-Type", "application/x-ndjson")];
            let answer =
                connection.request("POST", "/events", &headers, body.as_bytes()).expect("it answers");
            if answer.status != 202 {
                answer.error(503, "overloaded");
            }
            answer.status == 202
        });
    }
}

/// Scenario: one process has a sink of every kind that there is, each with the server it is for, under load of events and of all
/// signals of OpenTelemetry.
/// Guarantee: all of it is delivered everywhere, none of it becomes a dead letter, and the process' memory stays below the sum
/// that it printed.
#[test]
fn p6_sinks_of_every_kind_stay_within_the_printed_sum() {
    let Some(servers) = Servers::start("p6_sinks_of_every_kind_stay_within_the_printed_sum") else { return };
    let sinks = servers.sinks();
    let place = sinks.iter().fold(Place::empty(), |place, (name, sink)| place.sink(name, sink));
    let mut forebay = place.start();
    let requests = thorough(25, 150);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let forebay = &forebay;
            scope.spawn(move || post(forebay, client, requests));
        }
        for round in 0..requests {
            for (signal, _, body) in every_signal("api", &round.to_string()) {
                let headers = [("Content-Type", "application/x-protobuf")];
                let path = format!("/v1/{signal}");
                request(forebay.otlp(), "POST", &path, &headers, &body).unwrap().ok(200);
            }
        }
    });
    let items = requests * every_signal("api", "0").iter().map(|(_, names, _)| names.len()).sum::<usize>();
    let events = (CLIENTS * requests * REQUEST_EVENTS + items) as f64;
    let metric = |name: &str, sink: &str| forebay.metric(name, &format!("sink=\"{sink}\""));
    for (name, _) in &sinks {
        until(&format!("{name} has everything: {}", forebay.get("/health").text()), || {
            // A Pushgateway takes metrics alone.
            let sent = metric("forebay_sink_sent_events_total", name);
            sent == events || *name == "pushgateway" && sent > 0.0
        });
        until("nothing waits for it", || metric("forebay_sink_lag_events", name) == 0.0);
        assert_eq!(metric("forebay_sink_dead_letters_total", name), 0.0, "{name}");
    }
    assert_eq!(servers.postgres.count() as f64, events);
    assert_peak(&forebay, &format!("{} sinks, {} events", sinks.len(), events));
    assert_eq!(forebay.stop(), Some(0));
}
