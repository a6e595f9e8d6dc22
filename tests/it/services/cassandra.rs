//! `type: cassandra` against a real server of one node: the binary delivers, the driver asks what is there.

mod faults;
mod held;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures::TryStreamExt as _;
use scylla::{
    client::session_builder::SessionBuilder,
    value::{CqlValue, Row},
};
use serde_json::{Value, json};

use super::{Service, load, post};
use crate::support::{
    binary::{Forebay, Place},
    http::request,
    thorough, until,
};

pub(super) struct Cassandra(Service);

impl Cassandra {
    pub(super) fn start(test: &str) -> Option<Self> {
        Service::start("cassandra", test).map(Self)
    }

    /// One that several tests have at the same time, each a keyspace of its own: a start takes seconds.
    fn shared(test: &str) -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Cassandra>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let found = shared.upgrade().or_else(|| Self::start(test).map(Arc::new))?;
        *shared = Arc::downgrade(&found);
        Some(found)
    }

    /// Kills it, or starts it again.
    pub(super) fn toggle(&mut self, is_down: bool) {
        if is_down { self.0.down("kill") } else { self.0.up() }
    }

    pub(super) fn sink(&self, keyspace: &str, keys: &str) -> String {
        self.sink_at(self.0.port, keyspace, keys)
    }

    fn sink_at(&self, port: u16, keyspace: &str, keys: &str) -> String {
        let patience = "retry: { backoff_min: 50ms, backoff_max: 200ms }, breaker: { failures: 1000 }";
        format!(
            "{{ type: cassandra, hosts: [\"127.0.0.1:{port}\"], keyspace: {keyspace}, {patience}{keys} }}"
        )
    }

    /// What the server answers to a statement.
    #[track_caller]
    pub(super) fn cql(&self, cql: &str) -> Vec<Row> {
        self.try_cql(cql).unwrap()
    }

    fn try_cql(&self, cql: &str) -> Result<Vec<Row>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let session = SessionBuilder::new();
            let session = session
                .known_node(format!("127.0.0.1:{}", self.0.port))
                // A server without users takes any.
                .user("cassandra", "cassandra")
                .fetch_schema_metadata(false);
            let session = session.build().await.map_err(|error| error.to_string())?;
            if !cql.starts_with("SELECT") {
                let done = session.query_unpaged(cql, ()).await;
                return done.map(|_| Vec::new()).map_err(|error| error.to_string());
            }
            // Page by page: they may be hundreds of thousands.
            let pages = session.query_iter(cql, ()).await.map_err(|error| error.to_string())?;
            let rows = pages.rows_stream::<Row>().unwrap();
            rows.try_collect().await.map_err(|error| error.to_string())
        })
    }

    /// The ids of the events that are there.
    fn ids(&self, keyspace: &str) -> Vec<String> {
        // Before the first batch there is no table.
        let rows = self.try_cql(&format!("SELECT event_id FROM {keyspace}.events")).unwrap_or_default();
        rows.iter().map(|row| text(&row.columns[0])).collect()
    }

    #[track_caller]
    fn wait_for(&self, keyspace: &str, count: usize) {
        until("the rows are there", || self.ids(keyspace).len() >= count);
        assert_eq!(self.ids(keyspace).len(), count);
    }
}

pub(super) fn text(value: &Option<CqlValue>) -> String {
    value.as_ref().and_then(CqlValue::as_text).cloned().unwrap_or_default()
}

fn millis(value: &Option<CqlValue>) -> i64 {
    value.as_ref().unwrap().as_cql_timestamp().unwrap().0
}

fn bigint(value: &Option<CqlValue>) -> i64 {
    value.as_ref().unwrap().as_bigint().unwrap()
}

/// Waits until the sink has delivered so many events in this life of the process.
#[track_caller]
fn delivered(forebay: &Forebay, events: usize) {
    until(&format!("all is delivered: {}", forebay.get("/health").text()), || {
        forebay.metric("forebay_sink_sent_events_total", "db") >= events as f64
    });
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

#[track_caller]
fn export(forebay: &Forebay, signal: &str, request_of: &Value) {
    let (path, body) = (format!("/v1/{signal}"), request_of.to_string());
    let headers = [("Content-Type", "application/json")];
    request(forebay.otlp(), "POST", &path, &headers, body.as_bytes()).unwrap().ok(200);
}

fn attributes(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(key, value)| json!({"key": key, "value": {"stringValue": value}})).collect()
}

const NANOS: i64 = 1_778_051_289_123_456_789;

/// Unicode, quotes, no metadata, a message of a megabyte, times to the nanosecond and before 1970, packed or not: what the
/// server reads is what was sent, each in the partition of its service and hour. A log record is an event like others.
#[test]
fn every_field_of_an_event_comes_back_from_cassandra() {
    let Some(cassandra) = Cassandra::shared("every_field_of_an_event_comes_back_from_cassandra") else {
        return;
    };
    let metadata = json!({"a": [1, 2.5, null, {"ü": "\u{1F600} \"quoted\" \\ back\tslash"}], "zero": "\0"});
    let events = [
        json!({"event_id": "a", "service": "api", "message": "Grüße, 世界 \u{1F600}\n'quoted' \0",
            "metadata": metadata, "timestamp": "2026-05-06T07:08:09.123456789Z"}),
        json!({"event_id": "b", "service": "ü", "message": "", "timestamp": "1815-12-10T00:00:00.000000001Z"}),
        json!({"event_id": "c", "service": "long", "message": "x€".repeat(256 * 1024),
            "timestamp": "2261-01-01T00:00:00Z"}),
    ];
    let log = json!({"resourceLogs": [{"resource": {"attributes": attributes(&[("service.name", "shop")])},
        "scopeLogs": [{"logRecords": [{"timeUnixNano": NANOS.to_string(), "body": {"stringValue": "sold"},
            "severityText": "INFO", "attributes": attributes(&[("order", "7")])}]}]}]});
    for compression in ["none", "lz4"] {
        let keyspace = format!("fields_{compression}");
        let sink =
            cassandra.sink(&keyspace, &format!(", compression: {compression}, datacenter: datacenter1"));
        let forebay = Place::empty().sink("db", &sink).start();
        post(&forebay, &events);
        export(&forebay, "logs", &log);
        delivered(&forebay, 4);
        let rows = cassandra.cql(&format!(
            "SELECT event_id, service, message, metadata, timestamp, timestamp_nanos, time_bucket, ingested_at \
             FROM {keyspace}.events"
        ));
        assert_eq!(rows.len(), 4);
        let of = |service: &str| {
            &rows.iter().find(|row| text(&row.columns[1]) == service).expect("each has its service").columns
        };
        for expected in &events {
            let row = of(expected["service"].as_str().unwrap());
            assert_eq!(
                [text(&row[0]), text(&row[2])],
                ["event_id", "message"].map(|key| expected[key].as_str().unwrap())
            );
            let metadata: Option<Value> =
                row[3].as_ref().map(|_| serde_json::from_str(&text(&row[3])).unwrap());
            assert_eq!(metadata.as_ref(), expected.get("metadata"));
            assert!(millis(&row[7]) > 1_700_000_000_000);
        }
        let times = |service| {
            let row = of(service);
            (millis(&row[4]), bigint(&row[5]), millis(&row[6]))
        };
        assert_eq!(times("api"), (1_778_051_289_123, NANOS, 1_778_050_800_000));
        assert_eq!(times("ü"), (-4_861_728_000_000, -4_861_727_999_999_999_999, -4_861_728_000_000));
        assert_eq!(times("shop"), times("api"));
        let log: Value = serde_json::from_str(&text(&of("shop")[3])).unwrap();
        assert_eq!((&log["severityText"], &log["attributes"]["order"]), (&json!("INFO"), &json!("7")));
    }
    let tables = cassandra.cql(
        "SELECT table_name, default_time_to_live FROM system_schema.tables WHERE keyspace_name = 'fields_lz4'",
    );
    let ttl: Vec<_> = tables
        .iter()
        .map(|row| (text(&row.columns[0]), row.columns[1].as_ref().unwrap().as_int().unwrap()))
        .collect();
    let day = 24 * 3600;
    assert_eq!(
        ttl,
        [("events".into(), 30 * day), ("metrics".into(), 30 * day), ("traces_overflow".into(), 7 * day)]
    );
}

/// Every kind of point is one row with all that it says; points of one time and metric that differ in an attribute or in the
/// value are rows of their own, and one that was exported twice is one row.
#[test]
fn every_point_is_a_row() {
    let Some(cassandra) = Cassandra::shared("every_point_is_a_row") else { return };
    let forebay = Place::empty().sink("db", &cassandra.sink("points", "")).start();
    let at = |cpu: &str, value: Value| {
        let mut point = json!({"timeUnixNano": NANOS.to_string(), "attributes": attributes(&[("cpu", cpu)])});
        point.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        point
    };
    let metrics = json!([
        {"name": "load", "unit": "1", "gauge": {"dataPoints": [
            at("0", json!({"asDouble": 0.25})), at("1", json!({"asDouble": 0.25})), at("1", json!({"asDouble": "NaN"})),
            at("1", json!({"asDouble": 0.25})),
        ]}},
        {"name": "bytes", "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [
            at("0", json!({"asInt": "9007199254740993"})),
        ]}},
        {"name": "latency", "histogram": {"aggregationTemporality": 1, "dataPoints": [
            at("0", json!({"count": "3", "sum": 4.5, "min": 1.0, "max": 2.0, "bucketCounts": ["1", "2"], "explicitBounds": [1.5]})),
        ]}},
        {"name": "sizes", "exponentialHistogram": {"aggregationTemporality": 1, "dataPoints": [
            at("0", json!({"count": "3", "scale": -1, "zeroCount": "1", "positive": {"offset": 2, "bucketCounts": ["2"]}})),
        ]}},
        {"name": "quantiles", "summary": {"dataPoints": [
            at("0", json!({"count": "2", "sum": 3.0, "quantileValues": [{"quantile": 0.5, "value": 1.5}]})),
        ]}},
    ]);
    let resource = |pairs: &[(&str, &str)]| json!({"attributes": attributes(pairs)});
    let here = resource(&[("service.name", "shop"), ("host.name", "ü-1"), ("tenant", "acme")]);
    let nowhere = resource(&[("service.name", "shop")]);
    let alone = json!([{"name": "load", "gauge": {"dataPoints": [{"timeUnixNano": "1", "asDouble": 1.0}]}}]);
    export(
        &forebay,
        "metrics",
        &json!({"resourceMetrics": [
            {"resource": here, "scopeMetrics": [{"metrics": metrics}]},
            {"resource": nowhere, "scopeMetrics": [{"metrics": alone}]},
        ]}),
    );
    delivered(&forebay, 9);
    let of = |node: &str, name: &str, day: &str| {
        cassandra.cql(&format!(
            "SELECT value, metadata, metric_type, customer_id, timestamp, timestamp_nanos FROM points.metrics \
             WHERE node_id = '{node}' AND metric_name = '{name}' AND time_bucket = '{day}'"
        ))
    };
    let today = |name: &str| of("ü-1", name, "2026-05-06");
    let said = |row: &Row| -> Value { serde_json::from_str(&text(&row.columns[1])).unwrap() };
    let value = |row: &Row| row.columns[0].as_ref().map(|value| value.as_double().unwrap());
    let load = today("load");
    let mut loads: Vec<_> = load
        .iter()
        .map(|row| {
            (said(row)["attributes"]["cpu"].as_str().unwrap().to_owned(), value(row).unwrap().to_string())
        })
        .collect();
    loads.sort();
    assert_eq!(
        loads,
        [("0", "0.25"), ("1", "0.25"), ("1", "NaN")].map(|(cpu, value)| (cpu.into(), value.into()))
    );
    for row in &load {
        assert_eq!([text(&row.columns[2]), text(&row.columns[3])], ["gauge", "acme"]);
        assert_eq!((millis(&row.columns[4]), bigint(&row.columns[5])), (1_778_051_289_123, NANOS));
        assert_eq!(said(row)["unit"], "1");
    }
    let [bytes] = &today("bytes")[..] else { panic!() };
    assert_eq!(
        (value(bytes), &said(bytes)["asInt"]),
        (Some(9007199254740992.0), &json!(9_007_199_254_740_993_i64))
    );
    for (name, kind, field, expected) in [
        ("latency", "histogram", "bucketCounts", json!([1, 2])),
        ("sizes", "exponentialHistogram", "positive", json!({"offset": 2, "bucketCounts": [2]})),
        ("quantiles", "summary", "quantileValues", json!([{"quantile": 0.5, "value": 1.5}])),
    ] {
        let [row] = &today(name)[..] else { panic!("{name}") };
        assert_eq!((value(row), text(&row.columns[2])), (None, kind.to_owned()));
        assert_eq!(
            (&said(row)[field], &said(row)["count"]),
            (&expected, &json!(if name == "quantiles" { 2 } else { 3 }))
        );
    }
    let [row] = &of("shop", "load", "1970-01-01")[..] else { panic!() };
    assert_eq!((value(row), &row.columns[3]), (Some(1.0), &None));
}

/// A span is a row that holds it as a request of its own, which Forebay itself takes again; spans that share their ids and
/// differ are rows of their own, one that was exported twice is one row.
#[test]
fn every_span_is_a_row_that_can_be_sent_on() {
    let Some(cassandra) = Cassandra::shared("every_span_is_a_row_that_can_be_sent_on") else { return };
    let forebay = Place::empty().sink("db", &cassandra.sink("spans", "")).start();
    let (trace_id, span_id) = ("0102030405060708090a0b0c0d0e0f10", "00000000000000ff");
    let span = |name: &str, kind: u8| {
        json!({"traceId": trace_id, "spanId": span_id, "name": name, "kind": kind, "startTimeUnixNano": NANOS.to_string(),
            "endTimeUnixNano": (NANOS + 1).to_string(), "attributes": attributes(&[("ü", "\u{1F600}")]),
            "events": [{"timeUnixNano": NANOS.to_string(), "name": "e"}], "status": {"code": 2, "message": "no"}})
    };
    let nameless = json!({"name": "nameless", "startTimeUnixNano": NANOS.to_string()});
    let spans = [span("pay", 2), span("pay", 3), span("pay", 2), nameless];
    let alone = |span: &Value| {
        json!({"resourceSpans": [{"resource": {"attributes": attributes(&[("service.name", "shop")])}, "schemaUrl": "u1",
            "scopeSpans": [{"scope": {"name": "s"}, "schemaUrl": "u2", "spans": [span]}]}]})
    };
    let mut all = alone(&spans[0]);
    all["resourceSpans"][0]["scopeSpans"][0]["spans"] = Value::from(spans.to_vec());
    export(&forebay, "traces", &all);
    delivered(&forebay, 4);
    let of = |trace_id: &str| {
        cassandra.cql(&format!(
            "SELECT span_id, timestamp, timestamp_nanos, service_name, operation_name, trace_data \
             FROM spans.traces_overflow WHERE trace_id = '{trace_id}'"
        ))
    };
    let rows = of(trace_id);
    assert_eq!(rows.len(), 2);
    let data = |row: &Row| -> Value { serde_json::from_str(&text(&row.columns[5])).unwrap() };
    for row in &rows {
        assert_eq!([0, 3, 4].map(|at| text(&row.columns[at])), [span_id, "shop", "pay"]);
        assert_eq!((millis(&row.columns[1]), bigint(&row.columns[2])), (1_778_051_289_123, NANOS));
        assert!(spans[..2].iter().any(|span| alone(span) == data(row)), "{}", data(row));
    }
    let [row] = &of("00000000000000000000000000000000")[..] else { panic!() };
    assert_eq!(text(&row.columns[4]), "nameless");
    export(&forebay, "traces", &data(&rows[0]));
    delivered(&forebay, 5);
    assert_eq!(of(trace_id).len(), 2, "it is the row that is there");
}

/// Scenario: the process and the server are killed again and again under load.
/// Guarantee: every acknowledged event is one row.
#[test]
fn p3_kills_on_both_sides_lose_and_double_nothing_in_cassandra() {
    let test = "p3_kills_on_both_sides_lose_and_double_nothing_in_cassandra";
    let Some(mut cassandra) = Cassandra::start(test) else { return };
    let place =
        Place::empty().sink("db", &cassandra.sink("kills", ", batch: { max_events: 2000, max_wait: 100ms }"));
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut acknowledged = BTreeSet::new();
    for round in 0..thorough(3, 12) {
        let mut forebay = place.start();
        let address = forebay.address;
        ended.store(false, Ordering::Relaxed);
        acknowledged.extend(std::thread::scope(|scope| {
            let load = scope.spawn(|| load(address, &posts, &ended));
            let sent = || forebay.metric("forebay_sink_sent_events_total", "db");
            until("events arrive under load", || sent() > 2_000.0);
            if round % 2 == 0 {
                cassandra.0.down("kill");
                until("the sink has seen it", || forebay.metric("forebay_sink_errors_total", "db") > 0.0);
            }
            forebay.kill();
            ended.store(true, Ordering::Relaxed);
            load.join().unwrap()
        }));
        if round % 2 == 0 {
            cassandra.0.up();
        }
    }
    let forebay = place.start();
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
    let rows = cassandra.ids("kills");
    let found: BTreeSet<_> = rows.iter().cloned().collect();
    assert_eq!(found.len(), rows.len(), "one event, one row");
    let lost: Vec<_> = acknowledged.difference(&found).take(5).collect();
    assert!(lost.is_empty(), "{lost:?} of {} are lost", acknowledged.len());
}
