//! Requests that nobody should send: what is refused gets an error that says what and where, what is taken comes back as it
//! was. Where the protocol is silent, what a Collector takes is taken.

use forebay_actors::otlp::wire::{put_bytes, put_varint};
use serde_json::{Value, json};

use super::{protobuf, stored};
use crate::support::{
    binary::{Forebay, Place},
    http::{Response, request},
};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

#[track_caller]
fn post(forebay: &Forebay, path: &str, media_type: &str, body: &[u8]) -> Response {
    request(forebay.otlp(), "POST", path, &[("Content-Type", media_type)], body).unwrap()
}

/// Posts JSON that has to be taken as a whole.
#[track_caller]
fn take(forebay: &Forebay, path: &str, body: &Value) {
    let response = post(forebay, path, JSON, body.to_string().as_bytes()).ok(200);
    assert_eq!(response.text(), "{}", "nothing of it is refused");
}

fn resource(service: &str) -> Value {
    json!({"attributes": [{"key": "service.name", "value": {"stringValue": service}}]})
}

fn log(service: &str, record: &Value) -> Value {
    json!({"resourceLogs": [{"resource": resource(service), "scopeLogs": [{"logRecords": [record]}]}]})
}

fn metric(service: &str, metric: &Value) -> Value {
    json!({"resourceMetrics": [{"resource": resource(service), "scopeMetrics": [{"metrics": [metric]}]}]})
}

fn spans(service: &str, spans: &Value) -> Value {
    json!({"resourceSpans": [{"resource": resource(service), "scopeSpans": [{"spans": spans}]}]})
}

/// A field of bytes.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, number, bytes);
    out
}

/// A request cut off at any byte is refused with the place; nothing of it is kept, and the whole one is taken afterwards.
#[test]
fn truncated_requests_are_refused_with_their_place() {
    let forebay = Place::new().start();
    let whole = protobuf("cut", &["one", "two"]);
    for cut in 1..whole.len() {
        let response = post(&forebay, "/v1/logs", PROTOBUF, &whole[..cut]).ok(400);
        assert!(response.text().contains("at byte"), "{cut}: {}", response.text());
    }
    let text = log("cut", &json!({"body": {"stringValue": "three"}})).to_string();
    for cut in 1..text.len() {
        let response = post(&forebay, "/v1/logs", JSON, &text.as_bytes()[..cut]).ok(400);
        let message = response.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("line 1 column"), "{cut}: {message}");
    }
    post(&forebay, "/v1/logs", PROTOBUF, &whole).ok(200);
    assert_eq!(stored(&forebay, "cut", 2)[1]["message"], "two");
}

/// Values within each other, 1,000 deep, are refused in both encodings, whatever the level is made of; 40 deep they come
/// back.
#[test]
fn values_a_thousand_deep_are_refused() {
    let forebay = Place::new().start();
    let nested = |levels: usize, of: u32| {
        let mut value = field(1, b"core");
        for _ in 0..levels {
            let inner = if of == 5 {
                field(1, &value)
            } else {
                field(1, &[field(1, b"k"), field(2, &value)].concat())
            };
            value = field(of, &inner);
        }
        let resource =
            field(1, &field(1, &[field(1, b"service.name"), field(2, &field(1, b"deep"))].concat()));
        let records = field(2, &field(2, &field(5, &value)));
        field(1, &[resource, records].concat())
    };
    for of in [5, 6] {
        let error = post(&forebay, "/v1/logs", PROTOBUF, &nested(1000, of)).ok(400).text();
        assert!(error.contains("nest deeper than 100") && error.contains("at byte"), "{error}");
    }
    let groups = [vec![0x7b; 1000], vec![0x7c; 1000]].concat();
    let error = post(&forebay, "/v1/logs", PROTOBUF, &groups).ok(400).text();
    assert!(error.contains("nest deeper than 100"), "{error}");
    for (open, close) in [
        ("{\"arrayValue\":{\"values\":[", "]}}"),
        ("{\"kvlistValue\":{\"values\":[{\"key\":\"k\",\"value\":", "}]}}"),
    ] {
        let value = format!("{}{{}}{}", open.repeat(1000), close.repeat(1000));
        let text =
            format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{{\"body\":{value}}}]}}]}}]}}");
        let error = post(&forebay, "/v1/logs", JSON, text.as_bytes()).ok(400).json();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("nest deeper than") && message.contains("line 1 column"), "{message}");
    }
    // What nobody knows is passed over, however deep it is.
    let unknown = format!("{{\"unknown\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    post(&forebay, "/v1/logs", JSON, unknown.as_bytes()).ok(200);
    post(&forebay, "/v1/logs", PROTOBUF, &nested(40, 5)).ok(200);
    post(&forebay, "/v1/logs", PROTOBUF, &nested(30, 6)).ok(200);
    let events = stored(&forebay, "deep", 2);
    assert_eq!(events[0]["message"], format!("{}\"core\"{}", "[".repeat(40), "]".repeat(40)));
    assert_eq!(events[1]["message"], format!("{}\"core\"{}", "{\"k\":".repeat(30), "}".repeat(30)));
}

/// 10,000 attributes come back, every one; of several with one key the last.
#[test]
fn ten_thousand_attributes_come_back() {
    let forebay = Place::new().start();
    let attribute =
        |index: usize| json!({"key": format!("k{index}"), "value": {"intValue": index.to_string()}});
    let all: Vec<_> = (0..10_000).map(attribute).collect();
    take(&forebay, "/v1/logs", &log("many", &json!({"attributes": all})));
    let events = stored(&forebay, "many", 1);
    let attributes = events[0]["metadata"]["attributes"].as_object().unwrap();
    assert_eq!(attributes.len(), 10_000);
    assert!((0..10_000).all(|index| attributes[&format!("k{index}")] == index));

    let same: Vec<_> =
        (0..10_000).map(|index| json!({"key": "same", "value": {"intValue": index}})).collect();
    take(&forebay, "/v1/logs", &log("same", &json!({"attributes": same})));
    assert_eq!(stored(&forebay, "same", 1)[0]["metadata"]["attributes"], json!({"same": 9_999}));
    // A member of JSON that stands there twice: the last one, as for most of its readers.
    let twice = log("twice", &json!({"body": {"stringValue": "a"}})).to_string();
    let twice = twice.replace("\"stringValue\":\"a\"", "\"stringValue\":\"a\",\"stringValue\":\"b\"");
    post(&forebay, "/v1/logs", JSON, twice.as_bytes()).ok(200);
    assert_eq!(stored(&forebay, "twice", 1)[0]["message"], "b");
}

/// Ids that are all zeros or empty are none, and cost nothing else: a Collector takes them, too. Ids of a wrong length cost
/// the span that has them, because its decoder would refuse the whole request for them.
#[test]
fn ids_of_zeros_are_taken() {
    let forebay = Place::new().start();
    let (trace, span) = ("0".repeat(32), "0".repeat(16));
    let body = spans(
        "zero",
        &json!([
            {"name": "zeros", "traceId": trace, "spanId": span, "parentSpanId": span},
            {"name": "empty", "traceId": "", "spanId": ""},
            {"name": "absent"},
            {"name": "short parent", "traceId": trace, "spanId": span, "parentSpanId": "ab"},
            {"name": "long trace", "traceId": format!("{trace}00"), "spanId": span},
        ]),
    );
    let partial = post(&forebay, "/v1/traces", JSON, body.to_string().as_bytes()).ok(200).json();
    assert_eq!(partial["partialSuccess"]["rejectedSpans"], "2");
    let message = partial["partialSuccess"]["errorMessage"].as_str().unwrap();
    assert!(message.contains("at 3: its parent span id has 1 bytes instead of 8"), "{message}");
    take(&forebay, "/v1/logs", &log("zero", &json!({"traceId": trace, "spanId": span})));
    let events = stored(&forebay, "zero", 4);
    let zeros = events.iter().find(|event| event["message"] == "zeros").unwrap();
    assert_eq!((&zeros["metadata"]["traceId"], &zeros["metadata"]["spanId"]), (&json!(trace), &json!(span)));
    assert!(events.iter().any(|event| event["message"] == "absent"));
}

/// A time of 0 says that there is none: the event has that of its arrival. One that is behind what a timestamp can be is
/// kept as it was sent.
#[test]
fn times_at_both_ends_are_taken() {
    let forebay = Place::new().start();
    let most = i64::MAX.to_string();
    take(&forebay, "/v1/logs", &log("zero", &json!({"timeUnixNano": "0", "observedTimeUnixNano": 0})));
    take(&forebay, "/v1/logs", &log("observed", &json!({"observedTimeUnixNano": "1544712660300000000"})));
    take(&forebay, "/v1/logs", &log("most", &json!({"timeUnixNano": most})));
    take(&forebay, "/v1/logs", &log("far", &json!({"timeUnixNano": u64::MAX})));
    let point = json!({"name": "m", "gauge": {"dataPoints": [{"timeUnixNano": u64::MAX, "asInt": 1}]}});
    take(&forebay, "/v1/metrics", &metric("far-point", &point));
    let span = json!([{"name": "s", "startTimeUnixNano": u64::MAX, "endTimeUnixNano": "1"}]);
    take(&forebay, "/v1/traces", &spans("far-span", &span));

    let one = |service: &str| stored(&forebay, service, 1).remove(0);
    let is_arrival = |event: &Value| event["timestamp"] == event["ingested_at"];
    assert!(is_arrival(&one("zero")));
    assert_eq!(one("observed")["timestamp"], "2018-12-13T14:51:00.300Z");
    let last = one("most")["timestamp"].as_str().unwrap().to_owned();
    assert!(last.starts_with("2262-04-11T23:47:16.854775"), "{last}");
    for service in ["far", "far-point"] {
        let event = one(service);
        assert!(is_arrival(&event), "{event}");
        assert_eq!(event["metadata"]["timeUnixNano"], u64::MAX.to_string(), "{service}");
    }
    let span = one("far-span");
    assert_eq!(span["metadata"]["startTimeUnixNano"], u64::MAX.to_string());
    let post = |time: &str| {
        let text =
            log("s", &json!({})).to_string().replace("[{}]", &format!("[{{\"timeUnixNano\":{time}}}]"));
        post(&forebay, "/v1/logs", JSON, text.as_bytes()).ok(400).text()
    };
    for time in ["18446744073709551616", "-1", "\"1e3\"", "1.5"] {
        assert!(post(time).contains("`timeUnixNano`"), "{time}");
    }
}

/// Numbers that are none and histograms that do not add up are what was measured: they come back as they are.
#[test]
fn measurements_that_make_no_sense_come_back() {
    let forebay = Place::new().start();
    let gauge = |values: &[Value]| {
        let points: Vec<_> =
            values.iter().map(|value| json!({"timeUnixNano": "1", "asDouble": value})).collect();
        json!({"name": "g", "gauge": {"dataPoints": points}})
    };
    let values = [json!("NaN"), json!("Infinity"), json!("-Infinity"), json!(-0.0), json!(5e-324)];
    take(&forebay, "/v1/metrics", &metric("gauge", &gauge(&values)));
    let found: Vec<_> =
        stored(&forebay, "gauge", 5).iter().map(|event| event["metadata"]["asDouble"].clone()).collect();
    assert_eq!(found, values);

    let point = json!({
        "timeUnixNano": "1", "count": "3", "sum": "NaN", "bucketCounts": ["1", "0", "18446744073709551615", "7"],
        "explicitBounds": [5.0, 1.0], "min": 9.0, "max": -9.0,
    });
    let histogram = json!({"name": "h", "histogram": {"aggregationTemporality": 7, "dataPoints": [point]}});
    take(&forebay, "/v1/metrics", &metric("histogram", &histogram));
    let event = stored(&forebay, "histogram", 1).remove(0);
    let metadata = &event["metadata"];
    assert_eq!(metadata["bucketCounts"], json!([1, 0, u64::MAX, 7]));
    assert_eq!(
        (&metadata["count"], &metadata["sum"], &metadata["max"]),
        (&json!(3), &json!("NaN"), &json!(-9.0))
    );
    assert_eq!(metadata["aggregationTemporality"], 7);
}

/// What is no gRPC of ours is told so: another encoding of messages, gRPC for browsers, and media types of nobody.
#[test]
fn unknown_media_types_are_named() {
    let forebay = Place::new().start();
    const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    for media_type in
        ["text/plain", "application/grpcweb", "application/x-protobuf-but-not", "", ";", "application/json5"]
    {
        let response = post(&forebay, "/v1/logs", media_type, b"{}").ok(415);
        let message = response.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("application/x-protobuf and application/json"), "{media_type}: {message}");
    }
    for media_type in ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"] {
        let response = post(&forebay, EXPORT, media_type, b"\0\0\0\0\0").ok(404);
        assert_eq!(
            response.json()["code"],
            5,
            "{media_type}: another protocol than gRPC has no answer in its form"
        );
    }
    for (media_type, status) in [
        ("application/grpc+json", "3"),
        ("application/grpc+thrift", "3"),
        ("application/grpc", "0"),
        ("application/grpc+proto", "0"),
        ("application/grpc;x=y", "0"),
    ] {
        // Over HTTP/1.1, where an error's trailers are headers.
        let response = post(&forebay, EXPORT, media_type, b"\0\0\0\0\0").ok(200);
        let found = response.header("grpc-status");
        assert_eq!(found.unwrap_or("0"), status, "{media_type}: {:?}", response.headers);
    }
}

/// A varint that never ends, a length behind the end, a field that is no field: each says where.
#[test]
fn bytes_that_are_no_protobuf_have_a_place() {
    let forebay = Place::new().start();
    let mut length = vec![0x0a];
    put_varint(&mut length, u64::MAX);
    for (body, reason) in [
        (vec![0xff; 20], "longer than 64 bits"),
        (length, "behind the end"),
        (vec![0x00, 0x01], "out of range"),
        (vec![0x0f], "wire type"),
        (vec![0x0c], "did not begin"),
        (vec![0x08, 0x01], "another way"),
    ] {
        let error = post(&forebay, "/v1/metrics", PROTOBUF, &body).ok(400).text();
        assert!(error.contains(reason) && error.contains("at byte"), "{reason}: {error}");
    }
    assert!(forebay.all_events("").is_empty(), "nothing of all this was kept");
}
