//! Input that is wrong: what the answer is, and that nothing of it is kept.

use serde_json::{Value, json};

use super::{array, event};
use crate::support::binary::Place;

/// Wrong types are answered with every field that is wrong, each with what would be right.
#[test]
fn wrong_types_name_every_field() {
    let forebay = Place::new().start();
    let body = r#"{"service": 5, "timestamp": "noon", "metadata": [1], "event_id": ""}"#;
    let error = forebay.post_json(body).error(422, "invalid_event");
    let fields = error["details"]["fields"].as_array().unwrap();
    let names: Vec<_> = fields.iter().map(|field| field["field"].as_str().unwrap()).collect();
    assert_eq!(names, ["service", "timestamp", "metadata", "event_id", "message"]);
    assert_eq!(fields[0]["error"], "a string is needed, this is a number");

    for (body, field) in [
        (json!({"service": "", "message": "m"}), "service"),
        (json!({"service": "s".repeat(257), "message": "m"}), "service"),
        (json!({"service": "s", "message": null}), "message"),
        (json!({"service": "s", "message": "m", "event_id": "i".repeat(300)}), "event_id"),
        (json!({"service": "s", "message": "m", "event_id": 7}), "event_id"),
        (json!({"service": "s", "message": "m", "metadata": "text"}), "metadata"),
        (json!({"service": "s", "message": "m", "timestamp": true}), "timestamp"),
        (json!({"service": "s", "message": "m", "timestamp": "2015-05-17 10:05"}), "timestamp"),
        // Out of what can be kept, as text, as milliseconds and as a fraction.
        (json!({"service": "s", "message": "m", "timestamp": "9999-12-31T23:59:59Z"}), "timestamp"),
        (json!({"service": "s", "message": "m", "timestamp": "0001-01-01T00:00:00Z"}), "timestamp"),
        (json!({"service": "s", "message": "m", "timestamp": i64::MAX}), "timestamp"),
        (json!({"service": "s", "message": "m", "timestamp": 1e300}), "timestamp"),
    ] {
        let error = forebay.post_json(body.to_string()).error(422, "invalid_event");
        assert_eq!(error["details"]["fields"][0]["field"], field, "{error}");
    }
    for body in ["\"text\"", "7", "null", "true"] {
        forebay.post_json(body).error(422, "invalid_event");
    }
    // What is allowed to the letter.
    forebay.post_json(json!({"service": "\u{e9}".repeat(256), "message": "m"}).to_string()).ok(202);
    forebay
        .post_json(r#"{"service":"s","message":"m","metadata":null,"timestamp":null,"event_id":null}"#)
        .ok(202);
}

/// Malformed JSON is answered with its line and column, in one event as in an array.
#[test]
fn malformed_json_says_where() {
    let forebay = Place::new().start();
    let error = forebay.post_json("[{\"service\":\"s\",\n \"message\" \"m\"}]").error(400, "malformed_json");
    assert_eq!(error["details"], json!({"line": 2, "column": 12}));
    for body in [
        r#"{"service":"s","message":NaN}"#,
        r#"{"service":"s","message":"m","metadata":{"a":Infinity}}"#,
        r#"{"service":"s","message":"m","metadata":{"a":01}}"#,
        r#"{"service":"s","message":"m"} x"#,
        r#"{"service":"s","message":"m""#,
        "{\"service\":\"s\",\"message\":\"a\nb\"}",
        "]",
    ] {
        let error = forebay.post_json(body).error(400, "malformed_json");
        assert_eq!(error["details"]["line"].as_u64().map(|line| line > 0), Some(true), "{body}: {error}");
    }
    forebay.post_json("").error(400, "empty_body");
    forebay.post_json(" \n").error(400, "empty_body");
    forebay.post_lines("\n\n").error(400, "empty_body");
    let error = forebay.post_json(b"{\"service\":\"\xff\"}").error(400, "invalid_utf8");
    assert_eq!(error["details"]["byte"], 12);
    assert!(forebay.all_events("").is_empty(), "nothing of all this was kept");
}

/// 64 levels of metadata are taken, 65 are not; a body of a million brackets is answered like any other.
#[test]
fn deeper_than_64_levels_is_refused() {
    let forebay = Place::new().start();
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"service":"s","message":"m","event_id":"d{levels}","metadata":{{"a":{open}{close}}}}}"#)
    };
    forebay.post_json(nested(64)).ok(202);
    let error = forebay.post_json(nested(65)).error(422, "invalid_event");
    assert_eq!(error["details"]["fields"][0]["field"], "metadata");
    forebay.post_json(nested(100_000)).error(422, "invalid_event");
    let body = format!("[{}, {}]", nested(65), event("beside"));
    assert_eq!(forebay.post_json(body).ok(202).json()["accepted"], 1);
    forebay.post_json("[".repeat(1_000_000)).error(400, "malformed_json");
    forebay.post_json("{\"a\":".repeat(1_000_000)).error(400, "malformed_json");
    forebay.stored("beside");
    let stored = forebay.get("/events/d64").ok(200);
    assert!(stored.text().contains(&"[".repeat(63)));
}

/// Numbers that no float holds stay as they were written; a number is never made into another one.
#[test]
fn huge_numbers_stay_as_they_are() {
    let forebay = Place::new().start();
    let metadata = r#"{"n":123456789012345678901234567890,"f":1.000000000000000000001,"e":1e400}"#;
    let body = format!(r#"{{"service":"s","message":"m","event_id":"huge","metadata":{metadata}}}"#);
    forebay.post_json(body).ok(202);
    crate::support::until("it is stored", || forebay.get("/events/huge").status == 200);
    assert!(forebay.get("/events/huge").text().contains(metadata));
}

/// Paths, methods, content types and parameters that are nothing get the one form of errors.
#[test]
fn unknown_paths_and_methods_are_answered() {
    let forebay = Place::new().start();
    for path in ["/", "/event", "/events/a/b", "/health/x", "/metrics/", "/%ff"] {
        forebay.get(path).error(404, "not_found");
    }
    let send = |method: &str, path: &str| {
        crate::support::http::request(forebay.address, method, path, &[], b"").unwrap()
    };
    for (method, path) in [
        ("DELETE", "/events"),
        ("PUT", "/events/abc"),
        ("POST", "/events/stats"),
        ("POST", "/health"),
        ("PATCH", "/metrics"),
        ("POST", "/ready"),
    ] {
        send(method, path).error(405, "method_not_allowed");
    }
    forebay.post("/events", &[("Content-Type", "text/plain")], b"x").error(415, "unsupported_media_type");
    forebay.post("/events", &[("Content-Type", "")], b"x").error(415, "unsupported_media_type");
    forebay.post("/events", &[("Content-Encoding", "br")], b"x").error(415, "unsupported_encoding");
    forebay.post("/events", &[("Content-Encoding", "gzip")], b"not gzip").error(400, "bad_compression");
    for query in ["?ids=maybe", "?id=true"] {
        forebay.post(&format!("/events{query}"), &[], b"[]").error(400, "invalid_parameter");
    }
}

/// A connection goes on after an error that its request caused; where it cannot, the server says so and closes.
#[test]
fn a_connection_goes_on_after_an_error() {
    let forebay = Place::new().http("max_body_bytes: 64KiB").http("max_event_bytes: 32KiB").start();
    let mut connection = forebay.connect();
    let requests: [(&str, &str, &[u8]); 9] = [
        ("POST", "/events", b"{"),
        ("POST", "/events", b"[{}]"),
        ("POST", "/events?ids=x", b"[]"),
        ("DELETE", "/events", b"a body that nobody reads"),
        ("POST", "/nothing", b"a body that nobody reads"),
        ("GET", "/nothing", b""),
        ("GET", "/events?limit=0", b""),
        ("POST", "/health", b"{}"),
        ("POST", "/events", &[b'x'; 70_000]),
    ];
    for (index, (method, path, body)) in requests.into_iter().enumerate() {
        let answer = connection.request(method, path, &[], body).unwrap();
        assert!((400..500).contains(&answer.status), "{method} {path}: {answer:?}");
        let error: Value = answer.json();
        assert!(error["error"]["code"].is_string(), "{error}");
        if answer.header("connection") == Some("close") {
            assert!(connection.is_at_end(), "it says close and does");
            connection = forebay.connect();
        }
        let id = format!("after-{index}");
        connection.request("POST", "/events", &[], array(&[&id]).as_bytes()).unwrap().ok(202);
    }
    forebay.stored("after-8");
}
