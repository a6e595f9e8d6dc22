//! What arrives is what came in: field by field, with ids and times of arrival, and OpenTelemetry as its bytes.

use serde_json::json;

use super::{Gateway, post, post_otlp, settled, sink, stored};
use crate::{
    otlp::protobuf,
    support::{binary::Place, otlp::Receiver, until},
};

/// Spans and data points with these names, as JSON.
fn post_json(edge: &crate::support::binary::Forebay) {
    let post = |signal: &str, body: serde_json::Value| {
        let headers = [("Content-Type", "application/json")];
        let path = format!("/v1/{signal}");
        let body = body.to_string();
        crate::support::http::request(edge.otlp(), "POST", &path, &headers, body.as_bytes()).unwrap().ok(200);
    };
    let span = |name: &str| json!({"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": name});
    post("traces", json!({"resourceSpans": [{"scopeSpans": [{"spans": [span("span 1"), span("span 2")]}]}]}));
    let point = |value: &str| json!({"timeUnixNano": "5", "asInt": value});
    let metric = json!({"name": "metric 1", "gauge": {"dataPoints": [point("7"), point("8")]}});
    post("metrics", json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}));
}

/// Scenario: an edge, a gateway and a centre behind it. The edge gets events with and without ids, times and metadata, with
/// every kind of character, a large one, and OpenTelemetry of all signals.
/// Guarantee: the stores of the three are equal in every field, ids and times of arrival included, however it is compressed.
#[test]
fn every_store_on_the_way_has_the_same() {
    for compression in ["none", "gzip", "zstd"] {
        let centre = Gateway::start();
        let more = format!(", compression: {compression}");
        let gateway = Place::new().sink("up", &centre.sink(&more)).start();
        let edge = Place::new().sink("up", &sink(gateway.ingest(), &more)).start();
        let large: String = (0..1_000_000).map(|_| fastrand::alphanumeric()).collect();
        let events = [
            json!({"service": "s", "message": "no id, no time, no metadata"}),
            json!({"event_id": "mine", "service": "s", "message": "h\u{e9}llo \u{1f600} \"q\"\n\u{0}\u{7f}",
                   "timestamp": "1969-12-31T23:59:59.999999Z", "metadata": {}}),
            json!({"event_id": "\u{fc}\u{1f600}", "service": "\u{65e5}\u{672c}", "message": "",
                   "timestamp": "2026-01-31T08:00:00.123456789Z",
                   "metadata": {"n": 18446744073709551615_u64, "null": null, "deep": {"list": [true, 1.5, []]}}}),
            json!({"service": "s", "message": large, "unknown": "field"}),
        ];
        post(&edge, &events);
        post_otlp(&edge, "logs", &protobuf("web", &["log 1", "log 2", "log 3"]));
        post_json(&edge);
        post(&edge, &events[..1]);
        settled(&edge, &gateway);
        settled(&gateway, &centre.process);
        let own = stored(&edge);
        assert_eq!(own.len(), 12);
        assert_eq!(stored(&gateway), own, "{compression}");
        assert_eq!(stored(&centre.process), own, "{compression}");
    }
}

/// Scenario: behind the gateway stands a receiver of OpenTelemetry.
/// Guarantee: it gets the requests in the very bytes in which the edge got them, signal by signal.
#[test]
fn opentelemetry_arrives_as_the_bytes_that_came() {
    let receiver = Receiver::start();
    let gateway = Place::empty().sink("collector", &receiver.sink("grpc", "")).start();
    let edge = Place::empty().sink("up", &sink(gateway.ingest(), "")).start();
    let requests = [protobuf("web", &["one", "two"]), protobuf("shop", &["three"])];
    for request in &requests {
        post_otlp(&edge, "logs", request);
        until("it arrives", || receiver.taken().len() >= 2);
    }
    until("all arrive", || receiver.taken() == ["one", "two", "three"]);
    let bytes: Vec<_> = receiver.received().iter().flat_map(|request| request.message.clone()).collect();
    assert_eq!(bytes, requests.concat());
}

/// Scenario: events and requests that came in turns go in one batch.
/// Guarantee: the gateway takes them in that order.
#[test]
fn events_and_requests_keep_their_order() {
    let place = Place::empty().sink("file", "{ type: file, path: out.ndjson }");
    let gateway = place.start();
    let to = sink(gateway.ingest(), "");
    let edge = Place::empty().section("batch: { max_wait: 300ms }").sink("up", &to).start();
    let event = |message: &str| json!({"service": "s", "message": message});
    post(&edge, &[event("0")]);
    until("the first has gone", || edge.metric("forebay_sink_lag_events", "up") == 0.0);
    post(&edge, &[event("1"), event("2")]);
    post_otlp(&edge, "logs", &protobuf("s", &["3", "4"]));
    post(&edge, &[event("5")]);
    post_otlp(&edge, "logs", &protobuf("s", &["6"]));
    let messages = || -> Vec<String> {
        let text = std::fs::read_to_string(place.file("out.ndjson")).unwrap_or_default();
        let whole = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        whole.map(|event| event["message"].as_str().unwrap().to_owned()).collect()
    };
    until("all are there", || messages().len() == 7);
    assert_eq!(messages(), ["0", "1", "2", "3", "4", "5", "6"]);
    assert_eq!(edge.metric("forebay_sink_deliver_seconds_count", "up"), 2.0, "the last six went together");
}
