//! The tables of OpenTelemetry, in the current engine; Debian's server is too old for them, and says so.

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use serde_json::{Value, json};

use super::{super::complains, Clickhouse};
use crate::support::{
    binary::{Forebay, Place},
    data_dir,
    http::request,
    skipped, thorough, until,
    wire::{Cut, Wire},
};

const TABLES: [&str; 7] = [
    "otel_logs",
    "otel_traces",
    "otel_metrics_gauge",
    "otel_metrics_sum",
    "otel_metrics_histogram",
    "otel_metrics_exponential_histogram",
    "otel_metrics_summary",
];

impl Clickhouse {
    /// The rows of a table as objects, in the order given.
    fn rows(&self, table: &str, order: &str) -> Vec<Value> {
        let rows = self.sql(&format!("SELECT * FROM {table} ORDER BY {order} FORMAT JSONEachRow"));
        rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    fn number(&self, sql: &str) -> u64 {
        // Before the first batch there is no table.
        self.try_sql(sql).1.trim().parse().unwrap_or(0)
    }

    fn count_of(&self, table: &str) -> u64 {
        self.number(&format!("SELECT count() FROM {table}"))
    }
}

#[track_caller]
fn post_otlp(forebay: &Forebay, signal: &str, body: &Value) {
    let headers = [("Content-Type", "application/json")];
    let target = format!("/v1/{signal}");
    let answer = request(forebay.otlp(), "POST", &target, &headers, body.to_string().as_bytes()).unwrap();
    assert_eq!(answer.ok(200).json(), json!({}));
}

fn attributes(pairs: &[(&str, Value)]) -> Value {
    pairs.iter().map(|(key, value)| json!({"key": key, "value": value})).collect()
}

/// Logs of the service `api`, each with its name as the body.
fn logs(names: impl IntoIterator<Item = String>, time: impl Fn(usize) -> u64) -> Value {
    let records = names.into_iter().enumerate().map(|(index, name)| {
        json!({"timeUnixNano": time(index).to_string(), "severityNumber": 9, "body": {"stringValue": name}})
    });
    let resource = json!({"attributes": attributes(&[("service.name", json!({"stringValue": "api"}))])});
    json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records.collect::<Vec<_>>()}]}]})
}

/// A gauge with a point for each name, which is its attribute `name`.
fn gauge(names: impl IntoIterator<Item = String>) -> Value {
    let points = names.into_iter().enumerate().map(|(index, name)| {
        json!({"timeUnixNano": "1778051289123456789", "asInt": index.to_string(),
            "attributes": attributes(&[("name", json!({"stringValue": name}))])})
    });
    let gauge = json!({"name": "g", "gauge": {"dataPoints": points.collect::<Vec<_>>()}});
    json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [gauge]}]}]})
}

/// A second of 2026.
const MAY_NANOS: u64 = 1_778_051_289_123_456_789;

/// The OTLP schema's own examples: every table is there from the first batch on, and every field of every example in its column.
#[test]
fn otel_examples_come_back_field_for_field() {
    let test = "otel_examples_come_back_field_for_field";
    let dir = data_dir().join("otlp");
    if !dir.exists() {
        let why = format!("{} is not there", dir.display());
        assert!(std::env::var_os("CI").is_none() || !data_dir().exists(), "{why}");
        return skipped(test, &why);
    }
    let Some(clickhouse) = Clickhouse::start_current(test) else { return };
    let forebay = Place::empty().sink("db", &clickhouse.sink("")).start();
    for (name, signal) in [("logs", "logs"), ("events", "logs"), ("metrics", "metrics"), ("trace", "traces")]
    {
        let example = fs::read_to_string(dir.join(name).with_extension("json")).unwrap();
        post_otlp(&forebay, signal, &serde_json::from_str(&example).unwrap());
    }
    until("it is acknowledged", || forebay.metric("forebay_buffer_events", "") == 0.0);
    let events: Value = serde_json::from_str(&fs::read_to_string(dir.join("events.json")).unwrap()).unwrap();
    let events = events["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().len();
    let counts = TABLES.map(|table| clickhouse.count_of(table));
    assert_eq!(counts, [1 + events as u64, 1, 1, 1, 1, 1, 0]);
    let scope = json!({"my.scope.attribute": "some scope attribute"});
    let logs = clickhouse.rows("otel_logs", "Body = 'Example log record' DESC");
    assert_eq!(
        logs[0],
        json!({
            "Timestamp": "2018-12-13 14:51:00.300000000", "ObservedTimestamp": "2018-12-13 14:51:00.300000000",
            "TraceId": "5b8efff798038103d269b633813fc60c", "SpanId": "eee19b7ec3c1b174", "TraceFlags": 0,
            "SeverityText": "Information", "SeverityNumber": 10, "ServiceName": "my.service",
            "Body": "Example log record", "ResourceSchemaUrl": "", "ScopeSchemaUrl": "",
            "ResourceAttributes": {"service.name": "my.service"}, "ScopeName": "my.library", "ScopeVersion": "1.0.0",
            "ScopeAttributes": scope, "EventName": "", "OtherFields": {},
            "LogAttributes": {"string.attribute": "some string", "boolean.attribute": "true", "int.attribute": "10",
                "double.attribute": "637.704", "array.attribute": "[\"many\",\"values\"]",
                "map.attribute": "{\"some.map.key\":\"some value\"}"},
        })
    );
    assert_eq!(
        clickhouse.rows("otel_traces", "TraceId")[0],
        json!({
            "Timestamp": "2018-12-13 14:51:00.000000000", "TraceId": "5b8efff798038103d269b633813fc60c",
            "SpanId": "eee19b7ec3c1b174", "ParentSpanId": "eee19b7ec3c1b173", "TraceState": "",
            "SpanName": "I'm a server span", "SpanKind": "Server", "ServiceName": "my.service",
            "ResourceAttributes": {"service.name": "my.service"}, "ScopeName": "my.library", "ScopeVersion": "1.0.0",
            "SpanAttributes": {"my.span.attr": "some value"}, "Duration": 1_000_000_000, "StatusCode": "Unset",
            "StatusMessage": "", "Events.Timestamp": [], "Events.Name": [], "Events.Attributes": [],
            "Links.TraceId": [], "Links.SpanId": [], "Links.TraceState": [], "Links.Attributes": [], "Links.Flags": [],
            "Flags": 0, "ResourceSchemaUrl": "", "ScopeSchemaUrl": "", "ScopeAttributes": scope, "OtherFields": {},
        })
    );
    let times = clickhouse.sql("SELECT TraceId, Start, End FROM otel_traces_trace_id_ts FORMAT TabSeparated");
    assert_eq!(times, "5b8efff798038103d269b633813fc60c\t2018-12-13 14:51:00\t2018-12-13 14:51:00");
    let point = |name: &str, what: &str, attribute: &str, start: &str, more: Value| {
        let mut row = json!({
            "ResourceAttributes": {"service.name": "my.service"}, "ResourceSchemaUrl": "", "ScopeName": "my.library",
            "ScopeVersion": "1.0.0", "ScopeAttributes": scope, "ScopeDroppedAttrCount": 0, "ScopeSchemaUrl": "",
            "ServiceName": "my.service", "MetricName": name, "MetricDescription": format!("I am {what}"),
            "MetricUnit": "1", "Attributes": {attribute: "some value"}, "StartTimeUnix": start,
            "TimeUnix": "2018-12-13 14:51:00.300000000", "Flags": 0, "OtherFields": {},
        });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let exemplars = json!({"Exemplars.FilteredAttributes": [], "Exemplars.TimeUnix": [], "Exemplars.Value": [],
        "Exemplars.SpanId": [], "Exemplars.TraceId": [], "Exemplars.ValueInt": []});
    let with = |mut more: Value| {
        more.as_object_mut().unwrap().extend(exemplars.as_object().unwrap().clone());
        more
    };
    let (then, never) = ("2018-12-13 14:51:00.300000000", "1970-01-01 00:00:00.000000000");
    let wanted = [
        point("my.gauge", "a Gauge", "my.gauge.attr", never, with(json!({"Value": 10, "ValueInt": null}))),
        point(
            "my.counter",
            "a Counter",
            "my.counter.attr",
            then,
            with(json!({"Value": 5, "ValueInt": null, "AggregationTemporality": 1, "IsMonotonic": true})),
        ),
        point(
            "my.histogram",
            "a Histogram",
            "my.histogram.attr",
            then,
            with(
                json!({"Count": 2, "Sum": 2, "BucketCounts": [1, 1], "ExplicitBounds": [1], "Min": 0, "Max": 2,
                "AggregationTemporality": 1}),
            ),
        ),
        point(
            "my.exponential.histogram",
            "an Exponential Histogram",
            "my.exponential.histogram.attr",
            then,
            with(json!({"Count": 3, "Sum": 10, "Scale": 0, "ZeroCount": 1, "PositiveOffset": 1,
                "PositiveBucketCounts": [0, 2], "NegativeOffset": 0, "NegativeBucketCounts": [], "Min": 0, "Max": 5,
                "AggregationTemporality": 1, "ZeroThreshold": 0})),
        ),
    ];
    for (table, wanted) in TABLES[2..6].iter().zip(wanted) {
        assert_eq!(clickhouse.rows(table, "TimeUnix"), [wanted], "{table}");
    }
}

/// What the exporter's layout has no place for, or cannot hold: integers beyond a double, sums that are not there, exemplars,
/// dropped counts, flags, entities, unicode, a megabyte, a span that ends before it begins. Nothing of it is lost.
#[test]
fn otel_keeps_what_the_layout_has_no_place_for() {
    let Some(clickhouse) = Clickhouse::start_current("otel_keeps_what_the_layout_has_no_place_for") else {
        return;
    };
    let forebay = Place::empty().sink("db", &clickhouse.sink(", compression: zstd")).start();
    let name = attributes(&[("a", json!({"stringValue": "ü\u{1F600}"}))]);
    let exemplar = json!({"timeUnixNano": "1778051289123456789", "asInt": "9007199254740993", "traceId": "0102",
        "spanId": "0a0b0c0d0e0f0001", "filteredAttributes": name});
    let resource = json!({"attributes": attributes(&[("service.name", json!({"intValue": "7"}))]),
        "droppedAttributesCount": 3, "entityRefs": [{"type": "host", "idKeys": ["host.id"]}]});
    let scope = json!({"name": "s", "droppedAttributesCount": 4});
    let metrics = json!([
        {"name": "int", "metadata": attributes(&[("m", json!({"boolValue": true}))]), "gauge": {"dataPoints": [
            {"timeUnixNano": "1778051289123456789", "asInt": "9007199254740993", "exemplars": [exemplar]},
            {"timeUnixNano": "1778051289123456790", "flags": 1},
            {"timeUnixNano": "1778051289123456791", "asDouble": -0.5, "exemplars": [{"asDouble": 1.5}]},
        ]}},
        {"name": "sum", "sum": {"aggregationTemporality": 2, "dataPoints": [
            {"timeUnixNano": "18446744073709551615", "asInt": "-5"}]}},
        {"name": "histogram", "histogram": {"aggregationTemporality": 1, "dataPoints": [
            {"timeUnixNano": "1778051289123456789", "count": "18446744073709551615",
             "bucketCounts": ["18446744073709551615", "0"], "explicitBounds": [1e300], "exemplars": [exemplar]}]}},
        {"name": "exponential", "exponentialHistogram": {"dataPoints": [
            {"timeUnixNano": "1778051289123456789", "count": "1", "sum": -1, "scale": -3, "zeroThreshold": 0.25,
             "negative": {"offset": -7, "bucketCounts": ["1", "300"]}, "min": -2, "max": -1}]}},
        {"name": "summary", "summary": {"dataPoints": [
            {"timeUnixNano": "1778051289123456789", "count": "2", "sum": 3.5, "flags": 1,
             "quantileValues": [{"quantile": 0.5, "value": 1}, {"quantile": 0.99, "value": 2.5}]}]}},
    ]);
    post_otlp(
        &forebay,
        "metrics",
        &json!({"resourceMetrics": [{"resource": resource, "schemaUrl": "r", "scopeMetrics": [
            {"scope": scope, "schemaUrl": "s", "metrics": metrics}]}]}),
    );
    let event = json!({"timeUnixNano": "1778051289123456789", "name": "e", "attributes": name, "droppedAttributesCount": 2});
    let link = json!({"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "traceState": "x=1",
        "attributes": name, "flags": 256});
    let span = json!({"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "back", "kind": 9,
        "startTimeUnixNano": "1778051289123456789", "endTimeUnixNano": "1778051289123456788", "flags": 769,
        "events": [event, {"name": "f"}], "links": [link], "droppedLinksCount": 5,
        "status": {"code": 2, "message": "bad"}});
    post_otlp(
        &forebay,
        "traces",
        &json!({"resourceSpans": [{"scopeSpans": [{"scope": {"attributes": name}, "spans": [span]}]}]}),
    );
    let record = json!({"observedTimeUnixNano": "1778051289123456789", "flags": 257, "droppedAttributesCount": 1,
        "eventName": "login", "body": {"stringValue": "x€".repeat(256 * 1024)}});
    post_otlp(&forebay, "logs", &json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}));
    until("it is acknowledged", || forebay.metric("forebay_buffer_events", "") == 0.0);
    let others = |table: &str| {
        let rows = clickhouse.rows(table, table_time(table));
        rows.iter().map(|row| row["OtherFields"].clone()).collect::<Vec<_>>()
    };
    let around = json!({"resource.droppedAttributesCount": "3",
        "resource.entityRefs[0].type": "host", "resource.entityRefs[0].idKeys": "[\"host.id\"]"});
    let and = |more: Value| {
        let mut all = around.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let gauges = clickhouse.rows("otel_metrics_gauge", "TimeUnix");
    assert_eq!(gauges[0]["ValueInt"], 9_007_199_254_740_993_u64);
    assert_eq!(gauges[0]["Exemplars.ValueInt"], json!([9_007_199_254_740_993_u64]));
    assert_eq!(gauges[0]["Exemplars.TraceId"], json!(["0102"]));
    assert_eq!(gauges[0]["Exemplars.TimeUnix"], json!(["2026-05-06 07:08:09.123456789"]));
    assert_eq!(gauges[0]["Exemplars.FilteredAttributes"], json!([{"a": "ü\u{1F600}"}]));
    assert_eq!((&gauges[2]["Value"], &gauges[2]["ValueInt"]), (&json!(-0.5), &Value::Null));
    assert_eq!(
        (&gauges[2]["Exemplars.Value"], &gauges[2]["Exemplars.ValueInt"]),
        (&json!([1.5]), &json!([null]))
    );
    assert_eq!((&gauges[0]["ServiceName"], &gauges[0]["ScopeDroppedAttrCount"]), (&json!("7"), &json!(4)));
    assert_eq!((&gauges[0]["ResourceSchemaUrl"], &gauges[0]["ScopeSchemaUrl"]), (&json!("r"), &json!("s")));
    let metadata = and(json!({"metric.metadata": "{\"m\":true}"}));
    let mut without_value = metadata.clone();
    without_value["asDouble"] = "null".into();
    assert_eq!(others("otel_metrics_gauge"), [metadata.clone(), without_value, metadata]);
    let sum = &clickhouse.rows("otel_metrics_sum", "TimeUnix")[0];
    assert_eq!(
        (&sum["Value"], &sum["ValueInt"], &sum["TimeUnix"]),
        (&json!(-5), &json!(-5), &json!("2262-04-11 23:47:16.854775807"))
    );
    assert_eq!(others("otel_metrics_sum"), [and(json!({"timeUnixNano": "18446744073709551615"}))]);
    let histogram = &clickhouse.rows("otel_metrics_histogram", "TimeUnix")[0];
    assert_eq!((&histogram["Count"], &histogram["ExplicitBounds"]), (&json!(u64::MAX), &json!([1e300])));
    assert_eq!(histogram["BucketCounts"], json!([u64::MAX, 0]));
    assert_eq!(others("otel_metrics_histogram"), [and(json!({"sum": "null", "min": "null", "max": "null"}))]);
    let exponential = &clickhouse.rows("otel_metrics_exponential_histogram", "TimeUnix")[0];
    let fields =
        ["Scale", "NegativeOffset", "NegativeBucketCounts", "PositiveBucketCounts", "ZeroThreshold", "Min"];
    assert_eq!(
        fields.map(|field| exponential[field].clone()),
        [json!(-3), json!(-7), json!([1, 300]), json!([]), json!(0.25), json!(-2)]
    );
    assert_eq!(others("otel_metrics_exponential_histogram")[0], around);
    let summary = &clickhouse.rows("otel_metrics_summary", "TimeUnix")[0];
    assert_eq!(summary["ValueAtQuantiles.Quantile"], json!([0.5, 0.99]));
    assert_eq!((&summary["ValueAtQuantiles.Value"], &summary["Flags"]), (&json!([1, 2.5]), &json!(1)));
    assert_eq!(others("otel_metrics_summary")[0], around);
    let span = &clickhouse.rows("otel_traces", "Timestamp")[0];
    let fields =
        ["SpanKind", "StatusCode", "StatusMessage", "Duration", "Flags", "Links.Flags", "Links.TraceState"];
    assert_eq!(
        fields.map(|field| span[field].clone()),
        [json!("9"), json!("Error"), json!("bad"), json!(0), json!(769), json!([256]), json!(["x=1"])]
    );
    assert_eq!(span["Events.Name"], json!(["e", "f"]));
    assert_eq!(span["Events.Attributes"], json!([{"a": "ü\u{1F600}"}, {}]));
    assert_eq!(span["ScopeAttributes"], json!({"a": "ü\u{1F600}"}));
    assert_eq!(
        span["OtherFields"],
        json!({"endTimeUnixNano": "1778051289123456788", "droppedLinksCount": "5", "events[0].droppedAttributesCount": "2"})
    );
    let log = &clickhouse.rows("otel_logs", "Timestamp")[0];
    let fields = ["Timestamp", "ObservedTimestamp", "EventName", "TraceFlags"];
    let time = json!("2026-05-06 07:08:09.123456789");
    assert_eq!(fields.map(|field| log[field].clone()), [time.clone(), time, json!("login"), json!(1)]);
    assert_eq!(log["Body"].as_str().unwrap().len(), 4 * 256 * 1024);
    assert_eq!(log["OtherFields"], json!({"flags": "257", "droppedAttributesCount": "1"}));
}

fn table_time(table: &str) -> &'static str {
    if table.starts_with("otel_metrics") { "TimeUnix" } else { "Timestamp" }
}

/// Scenario: the process is killed again and again while logs, metrics and events come together.
/// Guarantee: each that was acknowledged is one row of its table.
#[test]
fn p3_otel_items_are_one_row_each() {
    let Some(clickhouse) = Clickhouse::start_current("p3_otel_items_are_one_row_each") else { return };
    let place = Place::empty().sink("db", &clickhouse.sink(", batch: { max_events: 300, max_wait: 50ms }"));
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut acknowledged = Vec::new();
    for _ in 0..thorough(3, 20) {
        let mut forebay = place.start();
        let address = forebay.otlp();
        ended.store(false, Ordering::Relaxed);
        acknowledged.extend(thread::scope(|scope| {
            let load = scope.spawn(|| load(address, &posts, &ended));
            let before = clickhouse.count_of("otel_logs");
            until("rows arrive under load", || clickhouse.count_of("otel_logs") > before + 500);
            forebay.kill();
            ended.store(true, Ordering::Relaxed);
            load.join().unwrap()
        }));
    }
    let forebay = place.start();
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
    for (table, name) in [("otel_logs", "Body"), ("otel_metrics_gauge", "Attributes['name']")] {
        let rows = clickhouse.sql(&format!("SELECT {name} FROM {table} FORMAT TabSeparated"));
        let found: std::collections::BTreeSet<_> = rows.lines().collect();
        assert_eq!(found.len(), rows.lines().count(), "one item, one row of {table}");
        let lost: Vec<_> =
            acknowledged.iter().filter(|name| !found.contains(name.as_str())).take(5).collect();
        assert!(lost.is_empty(), "{lost:?} of {} are lost", acknowledged.len());
    }
}

/// Posts logs and then metrics of the same names until it is told to end; the names of which both were acknowledged.
fn load(address: std::net::SocketAddr, posts: &AtomicUsize, ended: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let post = posts.fetch_add(1, Ordering::Relaxed);
        let names: Vec<_> = (0..50).map(|item| format!("p{post}-{item}")).collect();
        let sends = [("logs", logs(names.clone(), |_| MAY_NANOS)), ("metrics", gauge(names.clone()))];
        let headers = [("Content-Type", "application/json")];
        let all = sends.iter().all(|(signal, body)| {
            let target = format!("/v1/{signal}");
            let answer = request(address, "POST", &target, &headers, body.to_string().as_bytes());
            answer.is_ok_and(|answer| answer.status == 200)
        });
        if all {
            acknowledged.extend(names);
        }
    }
    acknowledged
}

/// Scenario: one table refuses a batch, which is halved, after others have taken all of it.
/// Guarantee: those have every item once.
#[test]
fn otel_halving_doubles_nothing() {
    let Some(clickhouse) = Clickhouse::start_current("otel_halving_doubles_nothing") else { return };
    let forebay = Place::empty().sink("db", &clickhouse.sink(", batch: { max_wait: 1s }")).start();
    // So that what follows is one batch: the first item after a pause goes at once.
    post_otlp(&forebay, "logs", &logs(["first".to_owned()], |_| MAY_NANOS));
    let names = |from: usize| (from..from + 300).map(|name| format!("n{name}"));
    post_otlp(&forebay, "logs", &logs(names(0), |_| MAY_NANOS));
    // More days than the server takes in one insert.
    let day = |index: usize| MAY_NANOS - index as u64 * 86_400_000_000_000;
    let span = |index: usize| {
        json!({"traceId": format!("{:032x}", index + 1), "spanId": "eee19b7ec3c1b174", "name": "s",
            "startTimeUnixNano": day(index).to_string()})
    };
    let spans: Vec<_> = (0..300).map(span).collect();
    post_otlp(&forebay, "traces", &json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}));
    post_otlp(&forebay, "metrics", &gauge(names(0)));
    until("it is acknowledged", || forebay.metric("forebay_buffer_events", "") == 0.0);
    assert_eq!(
        ["otel_logs", "otel_traces", "otel_metrics_gauge"].map(|table| clickhouse.count_of(table)),
        [301, 300, 300]
    );
    assert_eq!(clickhouse.number("SELECT count(DISTINCT TraceId) FROM otel_traces"), 300);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
    assert!(forebay.metric("forebay_sink_errors_total", "rejected") > 0.0, "a batch was halved");
}

/// Scenario: connections break in the middle of inserts into several tables, and of the answers to them.
/// Guarantee: every item arrives, and is one row.
#[test]
fn p3_otel_cuts_lose_and_double_nothing() {
    let Some(clickhouse) = Clickhouse::start_current("p3_otel_cuts_lose_and_double_nothing") else { return };
    let cuts = thorough(10, 60);
    let plan = (1..=cuts).flat_map(|cut| [Cut::Asked(20_000 * cut / cuts), Cut::Answered(900 * cut / cuts)]);
    let wire = Wire::to(clickhouse.0.port, plan);
    let sink = clickhouse.sink(", batch: { max_wait: 20ms }");
    let sink = sink.replace(&format!(":{}\"", clickhouse.0.port), &format!(":{}\"", wire.port));
    let forebay = Place::empty().sink("db", &sink).start();
    let mut posted = 0;
    while wire.cuts_left() > 0 {
        let names = || (0..100).map(|name| format!("w{}", posted + name));
        post_otlp(&forebay, "logs", &logs(names(), |_| MAY_NANOS));
        post_otlp(&forebay, "metrics", &gauge(names()));
        posted += 100;
        until("rows come through", || forebay.metric("forebay_buffer_events", "") == 0.0);
    }
    assert!(forebay.metric("forebay_sink_retries_total", "db") > cuts as f64 / 2.0, "the wire broke");
    assert_eq!(["otel_logs", "otel_metrics_gauge"].map(|table| clickhouse.count_of(table)), [posted; 2]);
    assert_eq!(clickhouse.number("SELECT count(DISTINCT Body) FROM otel_logs"), posted);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// Tables of an operator's own, older or newer than ours, and others from one moment to the next: what they have is written by
/// their types, what they lack is not, and what cannot be written is waited for, by name.
#[test]
fn otel_tables_of_an_operators_own() {
    let Some(clickhouse) = Clickhouse::start_current("otel_tables_of_an_operators_own") else { return };
    // As an exporter of 2023 made it, and with a column of the operator's.
    clickhouse.sql(
        "CREATE TABLE otel_logs (Timestamp DateTime64(3), TraceFlags UInt32, SeverityNumber Int32, \
         ServiceName LowCardinality(String), Body Nullable(String), OtherFields Map(LowCardinality(String), String), \
         mine UInt8 DEFAULT 7) ENGINE = Log",
    );
    let forebay = Place::empty().sink("db", &clickhouse.sink(", manage_schema: false")).start();
    post_otlp(&forebay, "logs", &logs(["a".to_owned()], |_| MAY_NANOS));
    until("the row is there", || clickhouse.count_of("otel_logs") == 1);
    assert_eq!(
        clickhouse.rows("otel_logs", "Body")[0],
        json!({"Timestamp": "2026-05-06 07:08:09.123", "TraceFlags": 0, "SeverityNumber": 9, "ServiceName": "api", "Body": "a",
            "OtherFields": {"timeUnixNano": "1778051289123456789", "resource.attributes": "{\"service.name\":\"api\"}"},
            "mine": 7})
    );
    post_otlp(&forebay, "metrics", &gauge(["m".to_owned()]));
    complains(
        &forebay,
        "otel_metrics_gauge: the table is not there; manage_schema: true lets Forebay make it",
    );
    clickhouse.sql(
        "CREATE TABLE otel_metrics_gauge (MetricName String, TimeUnix DateTime, Value String) ENGINE = Log",
    );
    complains(&forebay, "Value is String, which cannot be written");
    clickhouse.sql("DROP TABLE otel_metrics_gauge");
    clickhouse.sql(
        "CREATE TABLE otel_metrics_gauge (MetricName String, TimeUnix DateTime, Value Float32) ENGINE = Log",
    );
    until("the point is there", || clickhouse.count_of("otel_metrics_gauge") == 1);
    assert_eq!(
        clickhouse.sql("SELECT * FROM otel_metrics_gauge FORMAT TabSeparated"),
        "g\t2026-05-06 07:08:09\t0"
    );
    // The table is another under way: it is looked at again.
    clickhouse.sql("DROP TABLE otel_logs");
    clickhouse.sql("CREATE TABLE otel_logs (Body String, Timestamp DateTime64(9)) ENGINE = Log");
    post_otlp(&forebay, "logs", &logs(["b".to_owned()], |_| MAY_NANOS));
    until("the row is there", || clickhouse.count_of("otel_logs") == 1);
    assert_eq!(
        clickhouse.sql("SELECT * FROM otel_logs FORMAT TabSeparated"),
        "b\t2026-05-06 07:08:09.123456789"
    );
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// Rows expire where the operator says so, in tables that are made.
#[test]
fn ttl_is_that_of_the_tables_that_are_made() {
    let Some(clickhouse) = Clickhouse::start_current("ttl_is_that_of_the_tables_that_are_made") else {
        return;
    };
    let forebay = Place::empty().sink("db", &clickhouse.sink(", ttl: 30d")).start();
    post_otlp(&forebay, "logs", &logs(["a".to_owned()], |_| 4_000_000_000_000_000_000));
    until("the row is there", || clickhouse.count_of("otel_logs") == 1);
    for table in TABLES.iter().chain(&["events", "otel_traces_trace_id_ts"]) {
        assert!(
            clickhouse.sql(&format!("SHOW CREATE TABLE {table}")).contains("toIntervalSecond(2592000)"),
            "{table}"
        );
    }
}

/// Debian's server has no type for attributes: it says so, and the items wait; as rows of events it takes them.
#[test]
fn an_old_server_has_no_tables_for_otel() {
    let Some(clickhouse) = Clickhouse::start("an_old_server_has_no_tables_for_otel") else { return };
    let mut place = Place::empty();
    place.set_sink("db", Some(&clickhouse.sink("")));
    let mut forebay = place.start();
    post_otlp(&forebay, "logs", &logs(["a".to_owned()], |_| MAY_NANOS));
    complains(
        &forebay,
        "too old for tables of OpenTelemetry (it knows no Map); otel: events writes its items to events",
    );
    forebay.kill();
    place.set_sink("db", Some(&clickhouse.sink(", otel: events")));
    let forebay = place.start();
    until("the row is there", || clickhouse.count_of("events") == 1);
    let row = clickhouse
        .sql("SELECT service, message, timestamp_nanos, metadata FROM events FORMAT TabSeparatedRaw");
    let metadata =
        "{\"signal\":\"logs\",\"severityNumber\":9,\"resource\":{\"attributes\":{\"service.name\":\"api\"}}}";
    assert_eq!(row, format!("api\ta\t{MAY_NANOS}\t{metadata}"));
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}
