//! What the programs under `tests/clients` send with the SDKs of their languages, item by item.

use serde_json::{Value, json};

/// Two spans, eight log records, six data points.
pub const ITEMS: usize = 16;

const TRACE: &str = "0102030405060708090a0b0c0d0e0f10";
const REMOTE_SPAN: &str = "1112131415161718";
const UNICODE: &str = "Grüße, 世界 🌍 \"quoted\"\n\ttab";
const LARGEST: i64 = 9_007_199_254_740_991;

/// What is recorded into both histograms.
const RECORDED: [f64; 5] = [0.05, 0.5, 0.5, 5.0, 50.0];

/// Wants every item with all that was said in it; `ids` are what the program printed.
#[track_caller]
pub fn check(events: &[Value], ids: &Value) {
    let of = |signal: &str| -> Vec<&Value> {
        events.iter().filter(|event| event["metadata"]["signal"] == signal).collect()
    };
    check_spans(&of("traces"), ids);
    check_logs(&of("logs"), ids);
    check_metrics(&of("metrics"));
    for event in events {
        let metadata = &event["metadata"];
        assert_eq!(metadata["scope"]["name"], "library", "{event}");
        assert_eq!(metadata["scope"]["version"], "1.2.3", "{event}");
        assert_eq!(metadata["resource"]["attributes"]["place"], "Zürich", "{event}");
    }
}

fn attributes() -> Value {
    json!({
        "text": UNICODE, "text.empty": "", "yes": true, "no": false, "zero": 0, "large": LARGEST, "negative": -42,
        "double": 0.1, "double.large": 1e300, "texts": ["a", "ü", ""], "flags": [true, false],
        "integers": [1, -2, 3], "doubles": [0.5, -1.25], "none.of.them": [],
    })
}

/// The members that are wanted are there, with these values.
#[track_caller]
fn has(found: &Value, wanted: Value) {
    for (name, value) in wanted.as_object().expect("an object") {
        assert_eq!(&found[name], value, "{name} of {found:#}");
    }
}

#[track_caller]
fn named<'e>(events: &[&'e Value], message: &str) -> &'e Value {
    events
        .iter()
        .find(|event| event["message"] == message)
        .unwrap_or_else(|| panic!("{message}: {events:#?}"))
}

fn check_spans(spans: &[&Value], ids: &Value) {
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let server = named(spans, "GET /grüße");
    assert_eq!(server["timestamp"], "2023-11-14T22:13:20.123456789Z");
    let server = &server["metadata"];
    let (start, end) = ("1700000000123456789", "1700000001123456790");
    has(
        server,
        json!({
            "traceId": TRACE, "spanId": ids["server"], "parentSpanId": REMOTE_SPAN, "traceState": "vendor=value",
            "kind": 2, "startTimeUnixNano": start, "endTimeUnixNano": end, "attributes": attributes(),
            "status": {"code": 1},
        }),
    );
    assert_eq!(server["links"].as_array().map(Vec::len), Some(1), "{server:#}");
    has(&server["links"][0], json!({"traceId": TRACE, "spanId": REMOTE_SPAN, "attributes": {"link": 7}}));
    // Not every SDK sends the state of a link.
    assert_eq!(server["links"][0]["traceState"], ids["link_state"]);

    let client = &named(spans, "SELECT")["metadata"];
    has(
        client,
        json!({
            "traceId": TRACE, "spanId": ids["client"], "parentSpanId": ids["server"], "kind": 3,
            "startTimeUnixNano": "1700000000123456790", "endTimeUnixNano": "1700000000123456792",
            "status": {"code": 2, "message": "it did not answer"},
        }),
    );
    let event = json!({
        "name": "exception", "timeUnixNano": "1700000000123456791", "attributes": {"text": UNICODE, "at": 3},
    });
    assert_eq!(client["events"].as_array().map(Vec::len), Some(1), "{client:#}");
    has(&client["events"][0], event);
}

fn check_logs(logs: &[&Value], ids: &Value) {
    assert_eq!(logs.len(), 8, "{logs:#?}");
    let structured = json!({"key": {"inner": UNICODE}}).to_string();
    // A body that is no text is told as JSON.
    let bodies = [UNICODE, "42", "0.5", "true", "\"AAH/\"", "[\"a\",1,[2.5]]", &structured, ""];
    for (number, (log, body)) in logs.iter().zip(bodies).enumerate() {
        assert_eq!(log["message"], body, "{log:#}");
        assert_eq!(log["timestamp"], format!("2023-11-14T22:13:20.{}Z", 123_456_789 + number));
        let observed = (1_700_000_000_123_457_789_u64 + number as u64).to_string();
        has(
            &log["metadata"],
            json!({
                "observedTimeUnixNano": observed, "severityNumber": 1 + 3 * number,
                "severityText": format!("level {number}"),
            }),
        );
    }
    let mut everything = attributes();
    everything["bytes"] = json!("AAH/");
    everything["map"] = json!({"inner": {"deep": [1, "two", null]}});
    has(
        &logs[0]["metadata"],
        json!({
            "traceId": TRACE, "spanId": ids["client"], "flags": 1, "eventName": "device.app.lifecycle",
            "attributes": everything,
        }),
    );
    for (number, log) in logs.iter().enumerate().skip(1) {
        has(&log["metadata"], json!({"attributes": {"number": number}, "traceId": null}));
    }
}

fn check_metrics(points: &[&Value]) {
    assert_eq!(points.len(), 6, "{points:#?}");
    let description = "Anfragen, größer als null";
    let requests = |code: u64| {
        points
            .iter()
            .map(|point| &point["metadata"])
            .find(|point| point["attributes"]["code"] == code)
            .unwrap()
    };
    let sum = json!({
        "type": "sum", "unit": "{request}", "description": description, "isMonotonic": true,
        "aggregationTemporality": 2,
    });
    for (code, value) in [(200, 3), (500, LARGEST)] {
        has(requests(code), sum.clone());
        has(requests(code), json!({"asInt": value}));
    }
    assert_eq!(requests(200)["attributes"], json!({"code": 200, "path": "/grüße"}));
    has(
        &named(points, "in.flight")["metadata"],
        json!({"type": "sum", "asInt": -2, "aggregationTemporality": 2}),
    );
    assert_ne!(named(points, "in.flight")["metadata"]["isMonotonic"], true);
    has(&named(points, "temperature")["metadata"], json!({"type": "gauge", "unit": "Cel", "asDouble": -0.5}));
    let summary = json!({"unit": "s", "count": 5, "sum": 56.05, "min": 0.05, "max": 50.0});
    let explicit = &named(points, "latency")["metadata"];
    has(explicit, summary.clone());
    has(
        explicit,
        json!({"type": "histogram", "bucketCounts": [1, 2, 1, 1], "explicitBounds": [0.1, 1.0, 10.0]}),
    );
    let exponential = &named(points, "latency.exponential")["metadata"];
    has(exponential, summary);
    assert_eq!(exponential["type"], "exponentialHistogram");
    check_exponential(exponential);
}

/// Each value counts in the bucket in which it falls by the scale that the SDK chose.
fn check_exponential(point: &Value) {
    let scale = point["scale"].as_i64().unwrap_or(0) as i32;
    let offset = point["positive"]["offset"].as_i64().unwrap_or(0);
    let counts = point["positive"]["bucketCounts"].as_array().expect("buckets");
    let mut expected = vec![0_u64; counts.len()];
    for value in RECORDED {
        let bucket = (value.log2() * f64::from(scale).exp2()).ceil() as i64 - 1 - offset;
        expected[usize::try_from(bucket).expect("a bucket at or above the offset")] += 1;
    }
    assert_eq!(point["positive"]["bucketCounts"], json!(expected), "{point:#}");
}
