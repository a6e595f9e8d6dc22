//! OTLP/HTTP, row by row of what a server has to do.

use std::io::Write as _;

use forebay_actors::otlp::wire::{Fields, Value as Wire, put_bytes};
use serde_json::{Value, json};

use super::{messages::example, protobuf, stored};
use crate::support::{
    binary::{Forebay, Place},
    http::{Connection, Destination, Response, request},
};

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

#[track_caller]
fn post(forebay: &Forebay, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    request(forebay.otlp(), "POST", path, headers, body).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The code and message of a `google.rpc.Status` in protobuf.
fn status(body: &[u8]) -> (u64, String) {
    let (mut code, mut message) = (0, String::new());
    for field in Fields::of(body) {
        match field.unwrap() {
            field if field.number == 1 => {
                if let Wire::Varint(number) = field.value {
                    code = number;
                }
            }
            field if field.number == 2 => {
                if let Wire::Bytes(text) = field.value {
                    message = String::from_utf8(text.to_vec()).unwrap();
                }
            }
            _ => {}
        }
    }
    (code, message)
}

/// Rows 1 and 2: protobuf and JSON, with parameters of the media type, plain, gzip and zstd; a success says nothing.
#[test]
fn every_encoding_is_taken_and_answered_in_kind() {
    let forebay = Place::new().start();
    let body = protobuf("enc", &["one", "two"]);
    let json = json!({"resourceLogs": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "enc"}}]},
        "scopeLogs": [{"logRecords": [{"body": {"stringValue": "three"}}, {"body": {"stringValue": "four"}}]}],
    }]});
    let json = json.to_string().into_bytes();
    type Packing = fn(&[u8]) -> Vec<u8>;
    let packings: [(&str, Packing); 3] = [
        ("identity", |bytes| bytes.to_vec()),
        ("gzip", gzip),
        ("zstd", |bytes| zstd::encode_all(bytes, 3).unwrap()),
    ];
    for (coding, pack) in packings {
        for (media_type, body, answer) in [
            (PROTOBUF, &body, &b""[..]),
            ("application/x-protobuf; charset=utf-8", &body, b""),
            (JSON, &json, b"{}"),
            ("Application/JSON;charset=UTF-8", &json, b"{}"),
        ] {
            let headers = [("Content-Type", media_type), ("Content-Encoding", coding)];
            let response = post(&forebay, "/v1/logs", &headers, &pack(body)).ok(200);
            assert_eq!(response.body, answer, "{media_type} {coding}");
            assert!(media_type.to_lowercase().starts_with(response.header("content-type").unwrap()));
        }
    }
    let events = stored(&forebay, "enc", 24);
    assert_eq!(events[0]["message"], "one");
    assert_eq!(events[0]["timestamp"], "2018-12-13T14:51:00.300Z");
    for path in ["/v1/logs", "/v1/metrics", "/v1/traces"] {
        assert_eq!(
            post(&forebay, path, &[("Content-Type", PROTOBUF)], b"").ok(200).body,
            b"",
            "an empty request"
        );
        assert_eq!(post(&forebay, path, &[("Content-Type", JSON)], b"{}").ok(200).body, b"{}");
    }
}

/// An answer that has something to say is packed for whoever takes it so.
#[test]
fn accept_encoding_is_honoured() {
    let forebay = Place::new().start();
    let headers = [("Content-Type", JSON), ("Accept-Encoding", "deflate, gzip;q=0.8")];
    let response = post(&forebay, "/v1/logs", &headers, b"not json").ok(400);
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    let unpacked = std::io::read_to_string(flate2::read::GzDecoder::new(&response.body[..])).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&unpacked).unwrap()["code"], 3);
    let headers = [("Content-Type", JSON), ("Accept-Encoding", "gzip;q=0")];
    assert_eq!(post(&forebay, "/v1/logs", &headers, b"not json").header("content-encoding"), None);
}

/// Row 3: what is wrong with one record costs that record.
#[test]
fn records_are_refused_on_their_own() {
    let forebay = Place::new().http("max_event_bytes: 1KiB").start();
    let long = "x".repeat(2000);
    let body = protobuf("partial", &["good", &long, "also good"]);
    let response = post(&forebay, "/v1/logs", &[("Content-Type", PROTOBUF)], &body).ok(200);
    let partial = Fields::of(&response.body).next().unwrap().unwrap();
    let Wire::Bytes(partial) = partial.value else { panic!("a message") };
    let (rejected, message) = status(partial);
    assert_eq!(rejected, 1, "as rejected_log_records, which has the place that a status has its code");
    assert!(message.contains("1 of 3") && message.contains("max_event_bytes"), "{message}");

    let span = |id: &str| json!({"traceId": "5b8efff798038103d269b633813fc60c", "spanId": id, "name": "s"});
    let body =
        json!({"resourceSpans": [{"scopeSpans": [{"spans": [span("eee19b7ec3c1b174"), span("eee1")]}]}]});
    let response =
        post(&forebay, "/v1/traces", &[("Content-Type", JSON)], body.to_string().as_bytes()).ok(200);
    let partial = &response.json()["partialSuccess"];
    assert_eq!(partial["rejectedSpans"], "1");
    assert!(partial["errorMessage"].as_str().unwrap().contains("span id"), "{partial}");

    let messages: Vec<_> =
        stored(&forebay, "partial", 2).into_iter().map(|event| event["message"].clone()).collect();
    assert_eq!(messages, ["good", "also good"]);
    assert_eq!(stored(&forebay, "unknown_service", 1)[0]["message"], "s");
    assert_eq!(forebay.metric("forebay_receiver_rejected_total", "invalid_event"), 2.0);
}

/// Row 4: every error is a `google.rpc.Status` in the request's encoding.
#[test]
fn every_error_is_a_status_in_the_requests_encoding() {
    let forebay = Place::new().start();
    let big = vec![0; 100];
    for (method, path, media_type, coding, body, expected, code) in [
        ("POST", "/v1/logs", PROTOBUF, "identity", &b"\xff\xff"[..], 400, 3),
        ("POST", "/v1/logs", JSON, "identity", b"{\"resourceLogs\":3}", 400, 3),
        ("POST", "/v1/logs", PROTOBUF, "gzip", b"not gzip", 400, 3),
        ("POST", "/v1/nothing", PROTOBUF, "identity", b"", 404, 5),
        ("POST", "/v1/nothing", JSON, "identity", b"", 404, 5),
        ("GET", "/v1/logs", JSON, "identity", b"", 405, 12),
        ("PUT", "/v1/traces", PROTOBUF, "identity", b"", 405, 12),
        ("POST", "/v1/logs", PROTOBUF, "br", &big, 415, 3),
        ("POST", "/v1/logs", "text/plain", "identity", b"", 415, 3),
    ] {
        let headers = [("Content-Type", media_type), ("Content-Encoding", coding)];
        let response = request(forebay.otlp(), method, path, &headers, body).unwrap();
        let what = format!("{method} {path} {media_type} {coding}");
        assert_eq!(response.status, expected, "{what}: {}", response.text());
        if media_type == PROTOBUF {
            let (found, message) = status(&response.body);
            assert_eq!((found, response.header("content-type")), (code, Some(PROTOBUF)), "{what}");
            assert!(message.len() > 10, "{what}: {message}");
        } else {
            let json = response.json();
            assert_eq!(
                (&json["code"], response.header("content-type")),
                (&json!(code), Some(JSON)),
                "{what}"
            );
            assert!(json["message"].as_str().unwrap().len() > 10, "{what}: {json}");
        }
        assert_eq!(response.header("allow"), (expected == 405).then_some("POST"), "{what}");
    }
    let undecodable =
        post(&forebay, "/v1/logs", &[("Content-Type", JSON)], b"{\"resourceLogs\":[{\"scopeLogs\":1}]}");
    let details = &undecodable.json()["details"][0];
    assert_eq!(details["@type"], "type.googleapis.com/google.rpc.BadRequest");
    let description = details["fieldViolations"][0]["description"].as_str().unwrap();
    assert!(description.contains("`scopeLogs`") && description.contains("line 1"), "{description}");
    let undecodable =
        post(&forebay, "/v1/logs", &[("Content-Type", PROTOBUF)], &protobuf("s", &["text"])[..20]);
    assert!(String::from_utf8_lossy(&undecodable.body).contains("google.rpc.BadRequest"));
    assert!(status(&undecodable.body).1.contains("at byte"), "{:?}", status(&undecodable.body));
}

/// Row 5: what may pass is 503 with `Retry-After`, never 500, and is taken when it has passed.
#[test]
fn a_full_journal_is_a_503_that_says_when_to_come_again() {
    let destination = Destination::start();
    destination.answer(500);
    let up = destination.sink();
    let place =
        Place::empty().sink("up", &up).section("buffer: { durability: memory, memory_events_max: 20 }");
    let forebay = place.start();
    let body = protobuf("full", &["m"; 8]);
    let headers = [("Content-Type", PROTOBUF)];
    let mut refused = None;
    for _ in 0..10 {
        let response = post(&forebay, "/v1/logs", &headers, &body);
        if response.status != 200 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("a buffer of 20 events is full at last").ok(503);
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(status(&refused.body).0, 14);
    assert!(String::from_utf8_lossy(&refused.body).contains("google.rpc.RetryInfo"));
    destination.answer(200);
    crate::support::until("there is room again", || {
        post(&forebay, "/v1/logs", &headers, &body).status == 200
    });
}

/// Row 5: over its rate a client gets 429 with `Retry-After`.
#[test]
fn a_rate_limit_is_a_429() {
    let forebay = Place::new().section("limits: { ingest: { global_per_second: 1 } }").start();
    let headers = [("Content-Type", JSON)];
    let answers: Vec<_> = (0..5).map(|_| post(&forebay, "/v1/logs", &headers, b"{}")).collect();
    let refused = answers.iter().find(|answer| answer.status != 200).expect("one of five is too many");
    assert_eq!((refused.status, &refused.json()["code"]), (429, &json!(8)));
    assert!(refused.header("retry-after").is_some());
}

/// Row 6: the limit of a body holds before and after unpacking, with and without a length.
#[test]
fn a_body_has_a_limit_whatever_its_packing() {
    let forebay = Place::new().section("otlp: { listen: \"127.0.0.1:0\", max_body_bytes: 10KiB }").start();
    let mut body = Vec::new();
    put_bytes(&mut body, 1000, &vec![0; 20_000]);
    let headers = [("Content-Type", PROTOBUF)];
    let plain = post(&forebay, "/v1/logs", &headers, &body).ok(413);
    assert!(status(&plain.body).1.contains("otlp.max_body_bytes"), "{:?}", status(&plain.body));
    assert_eq!(status(&plain.body).0, 8);
    let bomb = gzip(&vec![0; 50_000_000]);
    let headers = [("Content-Type", PROTOBUF), ("Content-Encoding", "gzip")];
    post(&forebay, "/v1/logs", &headers, &gzip(&body)).ok(413);
    assert!(bomb.len() > 10_240);
    post(&forebay, "/v1/logs", &headers, &bomb).ok(413);
    let mut connection = Connection::open(forebay.otlp()).unwrap();
    let head = "POST /v1/logs HTTP/1.1\r\nHost: t\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.write(head.as_bytes()).unwrap();
    for _ in 0..20 {
        // The server may have answered and closed before the last.
        let _ = connection.write(format!("400\r\n{}\r\n", "\0".repeat(1024)).as_bytes());
    }
    assert_eq!(connection.response().unwrap().status, 413);
}

/// Row 9: browsers are told who may send.
#[test]
fn browsers_are_told_who_may_send() {
    let cors =
        "cors: { allowed_origins: [\"https://app.example\"], allowed_headers: [x-tenant], max_age: 1h }";
    let forebay = Place::new().section(&format!("otlp: {{ listen: \"127.0.0.1:0\", {cors} }}")).start();
    let ask = |origin: &str| {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        request(forebay.otlp(), "OPTIONS", "/v1/traces", &headers, b"").unwrap().ok(204)
    };
    let allowed = ask("https://app.example");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(
        allowed.header("access-control-allow-headers"),
        Some("content-type, content-encoding, authorization, x-api-key, x-tenant")
    );
    assert_eq!(allowed.header("access-control-max-age"), Some("3600"));
    assert_eq!(ask("https://evil.example").header("access-control-allow-origin"), None);
    let headers = [("Origin", "https://app.example"), ("Content-Type", JSON)];
    let sent = post(&forebay, "/v1/traces", &headers, b"{}").ok(200);
    assert_eq!(sent.header("access-control-allow-origin"), Some("https://app.example"));
}

/// The published examples of every signal come back from the store.
#[test]
fn the_examples_arrive() {
    let forebay = Place::new().start();
    let headers = [("Content-Type", JSON)];
    for (name, path, count) in
        [("logs.json", "/v1/logs", 1), ("metrics.json", "/v1/metrics", 4), ("trace.json", "/v1/traces", 1)]
    {
        let Some(example) = example(name) else { return };
        let before = forebay.counted();
        post(&forebay, path, &headers, example.as_bytes()).ok(200);
        crate::support::until(&format!("{name} is stored"), || forebay.counted() == before + count);
    }
    let events = stored(&forebay, "my.service", 6);
    let log = events.iter().find(|event| event["metadata"]["signal"] == "logs").unwrap();
    assert_eq!(log["message"], "Example log record");
    assert_eq!(log["metadata"]["attributes"]["map.attribute"], json!({"some.map.key": "some value"}));
    let span = events.iter().find(|event| event["metadata"]["signal"] == "traces").unwrap();
    assert_eq!((&span["message"], &span["metadata"]["kind"]), (&json!("I'm a server span"), &json!(2)));
}

/// A success answer means durable: what was acknowledged is there after SIGKILL, in pieces where it was large.
#[test]
fn acknowledged_requests_survive_sigkill() {
    let place = Place::new();
    let mut forebay = place.start();
    let bodies: Vec<_> = (0..3000).map(|i| format!("{i:05} {}", "text ".repeat(60))).collect();
    let bodies: Vec<_> = bodies.iter().map(String::as_str).collect();
    let body = protobuf("crash", &bodies);
    assert!(body.len() > 3 * 256 * 1024, "{} bytes are one block", body.len());
    post(&forebay, "/v1/logs", &[("Content-Type", PROTOBUF)], &body).ok(200);
    forebay.kill();
    let forebay = place.start();
    let events = stored(&forebay, "crash", 3000);
    let found: Vec<_> = events.iter().map(|event| event["message"].as_str().unwrap()).collect();
    assert_eq!(found, bodies);
}
