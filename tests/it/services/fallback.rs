//! `fallback` between two Forebays: the edge's sink `up` delivers traces to a gateway that comes and goes, and `overflow` holds
//! what comes meanwhile. Both are killed with SIGKILL again and again.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::KeyValue,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;
use tempfile::TempDir;

use super::{
    cassandra::{self, Cassandra},
    s3::bucket::{Bucket, Kind},
};
use crate::{
    otlp::{gateway::Gateway, text},
    support::{
        binary::{Forebay, Place},
        http::Connection,
        thorough, until,
    },
};

const SPANS: usize = 5;

/// The names of the spans of a request, and the request.
fn spans(number: usize) -> (Vec<String>, Vec<u8>) {
    let names: Vec<_> = (0..SPANS).map(|span| format!("{number}-{span}")).collect();
    let span = |name: &String| Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: name.clone(),
        start_time_unix_nano: 1_544_712_660_000_000_000,
        end_time_unix_nano: 1_544_712_661_000_000_000,
        ..Span::default()
    };
    let service = KeyValue { key: "service.name".into(), value: text("edge"), ..KeyValue::default() };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: vec![service], ..Resource::default() }),
            scope_spans: vec![ScopeSpans {
                spans: names.iter().map(span).collect(),
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    (names, request.encode_to_vec())
}

/// Posts up to so many requests, fewer where the edge dies; the names of the spans that it said yes to.
fn post(edge: SocketAddr, numbers: &AtomicUsize, requests: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let Ok(mut connection) = Connection::open(edge) else { return acknowledged };
    for _ in 0..requests {
        let (names, body) = spans(numbers.fetch_add(1, Ordering::Relaxed));
        let headers = [("Content-Type", "application/x-protobuf")];
        match connection.request("POST", "/v1/traces", &headers, &body) {
            Ok(answer) if answer.status == 200 => acknowledged.extend(names),
            _ => break,
        }
    }
    acknowledged
}

fn held(edge: &Forebay) -> f64 {
    edge.metric("forebay_sink_held_events", "sink=\"up\"")
}

/// Scenario: round by round the gateway is killed, spans come, the edge is killed while more come and once more while it reads
/// back, and the gateway returns; what the holder goes through meanwhile is `trouble`.
/// Guarantee: every span that was acknowledged is in the gateway's store, and nothing stays held.
fn every_span_arrives(overflow: &str, holds: impl Fn() -> usize, mut trouble: impl FnMut(bool)) {
    let mut gateway = Gateway::start();
    let up = format!(
        "{{ type: otlp, endpoint: \"http://{}\", fallback: overflow, batch: {{ max_events: 20 }}, \
         retry: {{ backoff_min: 20ms, backoff_max: 100ms }}, breaker: {{ failures: 2, open_for: 200ms, successes: 1 }} }}",
        gateway.address
    );
    let place = Place::empty().sink("up", &up).sink("overflow", overflow);
    let mut edge = place.start();
    let (numbers, mut sent) = (AtomicUsize::new(0), BTreeSet::new());
    for round in 0..thorough(2, 8) {
        gateway.down();
        sent.extend(post(edge.otlp(), &numbers, 10));
        until("some is held", || held(&edge) > 0.0);
        until("the health says it of both", || {
            let sinks = edge.json("/health")["checks"]["sinks"].take();
            sinks["up"]["fallback"]["sink"] == "overflow"
                && sinks["overflow"]["state"] == "standby"
                && sinks["overflow"]["holds"]["up"]["held_events"].as_u64() > Some(0)
        });
        assert!(holds() > 0);
        trouble(true);
        let otlp = edge.otlp();
        sent.extend(std::thread::scope(|scope| {
            let posting = scope.spawn(|| post(otlp, &numbers, usize::MAX));
            let begun = numbers.load(Ordering::Relaxed);
            until("spans come", || numbers.load(Ordering::Relaxed) > begun + 20);
            edge.kill();
            posting.join().unwrap()
        }));
        trouble(false);
        edge = place.start();
        sent.extend(post(edge.otlp(), &numbers, 10));
        until("the journal waits for nothing", || edge.metric("forebay_sink_lag_events", "\"up\"") == 0.0);
        gateway.up();
        if round % 2 == 0 {
            until("it is read back", || edge.metric("forebay_sink_read_back_events_total", "up") > 0.0);
            edge.kill();
            edge = place.start();
        }
        sent.extend(post(edge.otlp(), &numbers, 5));
        until("all is delivered", || {
            held(&edge) == 0.0 && edge.metric("forebay_sink_lag_events", "\"up\"") == 0.0
        });
    }
    until("the holder holds nothing", || holds() == 0);
    until("the gateway has stored all", || {
        gateway.process.metric("forebay_sink_lag_events", "events") == 0.0
    });
    let events = gateway.process.all_events("service=edge&limit=1000");
    let found: BTreeSet<_> =
        events.iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect();
    let missing: Vec<_> = sent.difference(&found).collect();
    assert!(missing.is_empty(), "{} of {}: {missing:?}", missing.len(), sent.len());
    assert!(sent.len() > 100, "{}", sent.len());
    let given = edge.metric("forebay_sink_given_to_fallback_events_total", "overflow");
    eprintln!("{} spans acknowledged, {} stored; {given} held in the last life", sent.len(), events.len());
    assert_eq!(edge.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    until("the health says that nothing is held", || {
        edge.json("/health")["checks"]["sinks"]["overflow"]["holds"].is_null()
    });
}

/// Files below a directory.
fn files(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let count = |path: std::path::PathBuf| if path.is_dir() { files(&path) } else { 1 };
    entries.map(|entry| count(entry.unwrap().path())).sum()
}

#[test]
fn p2_every_span_arrives_by_way_of_files() {
    let dir = TempDir::with_prefix("forebay-it-").unwrap();
    let path = dir.path().join("overflow.ndjson");
    let overflow = format!("{{ type: file, path: \"{}\", only_as_fallback: true }}", path.display());
    every_span_arrives(&overflow, || files(&dir.path().join("overflow.ndjson.held")), |_| ());
}

#[test]
fn p2_every_span_arrives_by_way_of_a_directory() {
    let dir = TempDir::with_prefix("forebay-it-").unwrap();
    let url = format!("file://{}", dir.path().display());
    let overflow = format!("{{ type: s3, url: \"{url}\", only_as_fallback: true }}");
    every_span_arrives(&overflow, || files(&dir.path().join("held")), |_| ());
}

/// Here the holder itself is killed, too, and comes back.
fn every_span_arrives_by_way_of(kind: Kind, test: &str) {
    let Some(bucket) = Bucket::start(kind, test) else { return };
    let overflow = bucket.sink(", only_as_fallback: true");
    let bucket = std::cell::RefCell::new(bucket);
    let holds = || bucket.borrow().objects().keys().filter(|key| key.starts_with("a/b/held/")).count();
    every_span_arrives(&overflow, holds, |is_down| bucket.borrow_mut().toggle(is_down));
}

#[test]
fn p2_every_span_arrives_by_way_of_minio() {
    every_span_arrives_by_way_of(Kind::Minio, "p2_every_span_arrives_by_way_of_minio");
}

#[test]
fn p2_every_span_arrives_by_way_of_gcs() {
    every_span_arrives_by_way_of(Kind::Gcs, "p2_every_span_arrives_by_way_of_gcs");
}

#[test]
fn p2_every_span_arrives_by_way_of_azurite() {
    every_span_arrives_by_way_of(Kind::Azurite, "p2_every_span_arrives_by_way_of_azurite");
}

/// The same of Cassandra. What it holds is rows of `traces_overflow` at that time, too.
#[test]
fn p2_every_span_arrives_by_way_of_cassandra() {
    let Some(cassandra) = Cassandra::start("p2_every_span_arrives_by_way_of_cassandra") else { return };
    let overflow = cassandra.sink("otel_traces", ", datacenter: datacenter1, only_as_fallback: true");
    let cassandra = std::cell::RefCell::new(cassandra);
    let holds = || {
        let batches = "SELECT DISTINCT journal_id, sink, batch_id FROM otel_traces.held";
        let batches = cassandra.borrow().cql(batches);
        let of_up = |row: &scylla::value::Row| cassandra::text(&row.columns[1]) == "up";
        assert!(batches.iter().all(of_up));
        let rows = cassandra.borrow().cql("SELECT operation_name FROM otel_traces.traces_overflow");
        assert!(rows.len() >= batches.len() && !rows.is_empty());
        batches.len()
    };
    every_span_arrives(&overflow, holds, |is_down| cassandra.borrow_mut().toggle(is_down));
}

/// Scenario: batches are held when a configuration comes that would have them looked for elsewhere; later they are read back.
/// Guarantee: the reload is refused with the key, and nothing changes; `validate` says the same. Then it is taken.
#[test]
fn p10_a_holder_stays_where_it_is_while_it_holds() {
    let mut gateway = Gateway::start();
    let dir = TempDir::with_prefix("forebay-it-").unwrap();
    let file = |name: &str| {
        format!("{{ type: file, path: \"{}\", only_as_fallback: true }}", dir.path().join(name).display())
    };
    let up = format!(
        "{{ type: otlp, endpoint: \"http://{}\", fallback: overflow, retry: {{ backoff_min: 20ms }}, \
         breaker: {{ failures: 1, open_for: 100ms }} }}",
        gateway.address
    );
    let mut place = Place::new().sink("up", &up).sink("overflow", &file("one"));
    let mut edge = place.start();
    gateway.down();
    post(edge.otlp(), &AtomicUsize::new(0), 3);
    until("some is held", || held(&edge) > 0.0);
    place.set_sink("overflow", Some(&file("two")));
    place.write();
    let said = place.run(&["reload"]).failed(1);
    assert!(said.contains("sinks.overflow: ") && said.contains("are held by \"overflow\""), "{said}");
    let said = place.run(&["validate", "--offline"]).failed(1);
    assert!(said.contains("sinks.overflow: "), "{said}");
    // A process that starts with it leaves them alone, and says so.
    edge.kill();
    edge = place.start();
    edge.says("sinks.overflow: ");
    let said = place.run(&["validate", "--offline"]).failed(1);
    assert!(said.contains("sinks.overflow: "), "{said}");
    gateway.up();
    place.set_sink("overflow", Some(&file("one")));
    place.write();
    place.run(&["reload"]).ok();
    until("it is read back", || held(&edge) == 0.0);
    place.set_sink("overflow", Some(&file("two")));
    place.write();
    place.run(&["reload"]).ok();
    assert_eq!(edge.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    edge.stop();
    place.run(&["validate", "--offline"]).ok();
}
