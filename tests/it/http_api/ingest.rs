//! Good events, in every form they may come in.

use std::io::Write as _;

use serde_json::{Value, json};

use super::{array, event};
use crate::support::{
    binary::{Forebay, Place},
    until,
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One event is answered with its id, and comes back by it with every field that was sent; fields that Forebay does
/// not know are kept under `metadata`.
#[test]
fn one_event_comes_back_field_for_field() {
    let forebay = Place::new().start();
    let body = r#"{"service":"shop \"1\"","message":"sold\n\u0000\ud83d\ude00","timestamp":"2015-05-17T12:05:03.25+02:00",
        "metadata":{"n":12345678901234567890,"f":1.50,"deep":{"a":[1,null,true]}},"level":"warn","tags":["a"]}"#;
    let answer = forebay.post_json(body).ok(202);
    let Value::Object(answer) = answer.json() else { panic!("an object") };
    assert_eq!(answer.keys().collect::<Vec<_>>(), ["event_id"]);
    let id = answer["event_id"].as_str().unwrap();
    assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 7, "ids that are given are UUIDv7");
    let stored = forebay.stored(id);
    assert_eq!(stored["event_id"], id);
    assert_eq!(stored["service"], "shop \"1\"");
    assert_eq!(stored["message"], "sold\n\u{0}\u{1f600}");
    assert_eq!(stored["timestamp"], "2015-05-17T10:05:03.250Z", "UTC is kept");
    assert_eq!(
        stored["metadata"],
        json!({"n": 12345678901234567890_u64, "f": 1.5, "deep": {"a": [1, null, true]}, "level": "warn", "tags": ["a"]})
    );
    assert!(stored["ingested_at"].as_str().unwrap().ends_with('Z'));

    let id = forebay.post_json(r#"{"service":"s","message":""}"#).ok(202).json()["event_id"].take();
    let stored = forebay.stored(id.as_str().unwrap());
    assert_eq!(stored["timestamp"], stored["ingested_at"], "without a time it is that of its arrival");
    assert_eq!(stored["metadata"], json!({}));

    let id = forebay.post_json(r#"{"service":"s","message":"m","timestamp":1431857103250}"#).ok(202).json();
    let stored = forebay.stored(id["event_id"].as_str().unwrap());
    assert_eq!(stored["timestamp"], "2015-05-17T10:05:03.250Z", "milliseconds since the epoch");
}

/// Arrays and NDJSON are answered with counts and ids in their order; `?ids=false` leaves the ids out.
#[test]
fn many_events_are_answered_with_their_ids() {
    let forebay = Place::new().start();
    let answer = forebay.post_json(array(&["a1", "a2"])).ok(202).json();
    assert_eq!(answer, json!({"accepted": 2, "event_ids": ["a1", "a2"], "rejected": []}));

    let lines = format!("{}\r\n\n  {}\n", event("l1"), event("l2"));
    let answer = forebay.post_lines(&lines).ok(202).json();
    assert_eq!(answer, json!({"accepted": 2, "event_ids": ["l1", "l2"], "rejected": []}));

    let one_line = forebay.post_lines(event("l3").to_string()).ok(202).json();
    assert_eq!(
        one_line,
        json!({"accepted": 1, "event_ids": ["l3"], "rejected": []}),
        "many, though it is one"
    );

    let json = [("Content-Type", "application/json; charset=utf-8")];
    let answer = forebay.post("/events?ids=false", &json, array(&["n1"]).as_bytes()).ok(202).json();
    assert_eq!(answer, json!({"accepted": 1, "rejected": []}));

    let answer = forebay.post_json("[]").ok(202).json();
    assert_eq!(answer, json!({"accepted": 0, "event_ids": [], "rejected": []}));

    // Without a content type it is JSON.
    forebay.post("/events", &[], event("bare").to_string().as_bytes()).ok(202);
    for id in ["a1", "a2", "l1", "l2", "l3", "n1", "bare"] {
        forebay.stored(id);
    }
}

/// Bodies may be packed by gzip (several members included) and zstd, and may come in chunks.
#[test]
fn bodies_may_be_packed_and_chunked() {
    let forebay = Place::new().start();
    let post = |coding: &str, body: &[u8]| {
        forebay.post(
            "/events",
            &[("Content-Type", "application/x-ndjson"), ("Content-Encoding", coding)],
            body,
        )
    };
    let (one, two) = (format!("{}\n", event("g1")), format!("{}\n", event("g2")));
    post("gzip", &[gzip(one.as_bytes()), gzip(two.as_bytes())].concat()).ok(202);
    let long: String = (0..2_000).map(|i| format!("{}\n", event(&format!("z{i}")))).collect();
    let packed = zstd::encode_all(long.as_bytes(), 3).unwrap();
    assert_eq!(post("zstd", &packed).ok(202).json()["accepted"], 2_000);
    post("identity", event("i1").to_string().as_bytes()).ok(202);

    let mut connection = forebay.connect();
    connection.write(b"POST /events HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    for part in event("c1").to_string().as_bytes().chunks(7) {
        connection.write(format!("{:x}\r\n", part.len()).as_bytes()).unwrap();
        connection.write(&[part, b"\r\n"].concat()).unwrap();
    }
    connection.write(b"0\r\n\r\n").unwrap();
    connection.response().unwrap().ok(202);
    for id in ["g1", "g2", "z0", "z1999", "i1", "c1"] {
        forebay.stored(id);
    }
}

/// A wrong event among right ones costs itself: it is named by its index, and the others are accepted.
#[test]
fn wrong_events_are_rejected_by_index() {
    let forebay = Place::new().start();
    let body = format!(r#"[{}, {{"service":"s"}}, 7, {}]"#, event("r0"), event("r3"));
    let answer = forebay.post_json(body).ok(202).json();
    assert_eq!(answer["accepted"], 2);
    assert_eq!(answer["event_ids"], json!(["r0", "r3"]));
    let rejected = answer["rejected"].as_array().unwrap();
    assert_eq!(rejected.iter().map(|r| r["index"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(rejected[0]["error"], "message: it is required");

    let (first, last) = (event("r4").to_string(), event("r5").to_string());
    let lines = [first.as_bytes(), b"\n{\"service\":\n\xff\xfe\n", last.as_bytes()].concat();
    let answer = forebay.post_lines(lines).ok(202).json();
    assert_eq!(answer["accepted"], 2);
    assert!(answer["rejected"][0]["error"].as_str().unwrap().starts_with("line 2, column 11"), "{answer}");
    assert_eq!(answer["rejected"][1], json!({"index": 2, "error": "line 3: not UTF-8"}));

    let answer =
        forebay.post("/events?ids=false", &[], br#"[{"service":"s","message":"m"}, 1]"#).ok(202).json();
    assert_eq!(answer["rejected"][0]["index"], 1, "what is wrong is told without ids, too");

    let error = forebay.post_json(r#"[{"service":"s"}, null]"#).error(400, "invalid_events");
    assert_eq!(error["details"]["rejected"].as_array().unwrap().len(), 2);
    for id in ["r0", "r3", "r4", "r5"] {
        forebay.stored(id);
    }
    until("five events are counted", || forebay.counted() == 5);
}

/// A message of 1 MB comes back whole; an event over `http.max_event_bytes` is rejected alone.
#[test]
fn a_message_of_a_megabyte_comes_back_whole() {
    let forebay = Place::new().http("max_event_bytes: 1MiB").start();
    let message: String = (0..100_000).map(|i| format!("{:09}\u{e9}", i % 999_983)).collect();
    let long = &message[..1_000_000];
    let sent = forebay.post_json(json!({"service": "s", "message": long, "event_id": "long"}).to_string());
    assert_eq!(sent.ok(202).json()["event_id"], "long");
    assert!(forebay.stored("long")["message"] == long, "it is not the same");
    let body = json!([{"service": "s", "message": message}, event("short")]).to_string();
    let answer = forebay.post_json(body).ok(202).json();
    assert_eq!(answer["accepted"], 1);
    assert!(answer["rejected"][0]["error"].as_str().unwrap().contains("http.max_event_bytes"), "{answer}");
}

/// The same `event_id` again is accepted again, but is one row, and the first one stays.
#[test]
fn the_same_id_again_is_one_row() {
    let forebay = Place::new().start();
    forebay.post_json(array(&["same", "same", "other"])).ok(202);
    forebay.post_json(r#"{"service":"api","message":"later","event_id":"same"}"#).ok(202);
    forebay.post_json(event("last").to_string()).ok(202);
    forebay.stored("last");
    assert_eq!(forebay.all_events("").len(), 3);
    assert_eq!(forebay.counted(), 3);
    assert_eq!(forebay.stored("same")["message"], "this is same");
}

/// A client's id may have any characters; it is found by its percent-encoded form.
#[test]
fn ids_may_have_any_characters() {
    let forebay: Forebay = Place::new().start();
    for (id, path) in [("a b", "a%20b"), ("a/b", "a%2Fb"), ("100%", "100%25"), ("\u{e9}?#", "%C3%A9%3F%23")] {
        forebay.post_json(event(id).to_string()).ok(202);
        assert_eq!(forebay.stored(path)["event_id"], id);
    }
    let error = forebay.get("/events/no-such-id").error(404, "event_not_found");
    assert!(error["message"].as_str().unwrap().contains("no-such-id"));
}
