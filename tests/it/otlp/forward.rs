//! `type: otlp` against servers that refuse, wait, take a part, and speak something else.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use forebay_actors::otlp::wire::{put_bytes, put_varint};
use serde_json::{Value, json};

use super::protobuf;
use crate::support::{
    binary::{Forebay, Place},
    eventually,
    http::{Destination, request},
    otlp::{Answer, Receiver},
    until,
};

const PROTOCOLS: [&str; 2] = ["grpc", "http"];

#[track_caller]
fn post(forebay: &Forebay, signal: &str, body: &[u8]) {
    let headers = [("Content-Type", "application/x-protobuf")];
    request(forebay.otlp(), "POST", &format!("/v1/{signal}"), &headers, body).unwrap().ok(200);
}

/// Log records, a span and a data point with these texts.
fn post_every_signal(forebay: &Forebay) {
    post(forebay, "logs", &protobuf("s", &["log 1", "log 2"]));
    let json = |signal: &str, body: Value| {
        let headers = [("Content-Type", "application/json")];
        let path = format!("/v1/{signal}");
        request(forebay.otlp(), "POST", &path, &headers, body.to_string().as_bytes()).unwrap().ok(200);
    };
    let span = json!({"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "span 1"});
    json("traces", json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}));
    let point = json!({"timeUnixNano": "5", "asInt": "7"});
    let metric = json!({"name": "metric 1", "gauge": {"dataPoints": [point]}});
    json("metrics", json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}));
}

/// A `google.rpc.Status` with a RetryInfo.
fn retry_info(wait: Duration) -> Vec<u8> {
    let (mut delay, mut info, mut any, mut status) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    put_varint(&mut delay, 1 << 3);
    put_varint(&mut delay, wait.as_secs());
    put_varint(&mut delay, 2 << 3);
    put_varint(&mut delay, u64::from(wait.subsec_nanos()));
    put_bytes(&mut info, 1, &delay);
    put_bytes(&mut any, 1, b"type.googleapis.com/google.rpc.RetryInfo");
    put_bytes(&mut any, 2, &info);
    put_bytes(&mut status, 3, &any);
    status
}

/// A partial success: taken, but for so many records.
fn left_out(records: u64) -> Answer {
    let (mut inner, mut partial) = (Vec::new(), Vec::new());
    put_varint(&mut inner, 1 << 3);
    put_varint(&mut inner, records);
    put_bytes(&mut inner, 2, b"too old");
    put_bytes(&mut partial, 1, &inner);
    Answer::Taken(partial)
}

/// Scenario: requests of all signals, with a header and packed.
/// Guarantee: each arrives at its own method or path, with the header, as it was.
#[test]
fn every_signal_arrives_at_its_place() {
    for protocol in PROTOCOLS {
        for compression in ["none", "gzip"] {
            let receiver = Receiver::start();
            let more = format!(", compression: {compression}, headers: {{ x-scope: tenant-7 }}");
            let forebay = Place::empty().sink("up", &receiver.sink(protocol, &more)).start();
            post_every_signal(&forebay);
            until("all have arrived", || receiver.taken().len() == 4);
            let received = receiver.received();
            assert!(received.iter().all(|request| request.headers["x-scope"] == "tenant-7"));
            let mut texts = receiver.taken();
            texts.sort_unstable();
            assert_eq!(texts, ["log 1", "log 2", "metric 1", "span 1"]);
            let name = if protocol == "grpc" { "grpc-encoding" } else { "content-encoding" };
            assert!(
                received.iter().all(|r| r.headers.contains_key(name) == (compression == "gzip")),
                "{received:?}"
            );
            until("it is counted", || forebay.metric("forebay_sink_sent_events_total", "up") == 4.0);
        }
    }
}

/// Scenario: a sink is for the logs of one service; a request has records of two services, of which some are for it, and
/// others are of other signals.
/// Guarantee: requests with its own items alone arrive, and what was left out is counted.
#[test]
fn a_sink_gets_the_items_that_are_its_own() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        let when = ", when: { signal: logs, service: 'sh*', fields: { message: { ne: skip } } }";
        let forebay = Place::empty().sink("up", &receiver.sink(protocol, when)).start();
        post(&forebay, "logs", &[protobuf("shop", &["a", "skip", "b"]), protobuf("cart", &["c"])].concat());
        post_every_signal(&forebay);
        post(&forebay, "logs", &protobuf("shop", &["d"]));
        until("its own have arrived", || receiver.taken() == ["a", "b", "d"]);
        until("all are counted", || {
            let counted = |name: &str| forebay.metric(&format!("forebay_sink_{name}_events_total"), "up");
            (counted("sent"), counted("filtered")) == (3.0, 6.0)
        });
        let first = receiver.received()[0].texts();
        assert!(first == ["a", "b"] || first == ["a", "b", "d"], "{first:?}");
    }
}

/// Scenario: the server is overloaded and says for how long, over either protocol.
/// Guarantee: nothing is sent before that, and everything afterwards.
#[test]
fn waits_that_servers_ask_for_are_kept() {
    let wait = Duration::from_millis(700);
    for (protocol, answer, wait) in [
        ("grpc", Answer::Grpc(14, "overloaded", Some(retry_info(wait))), wait),
        ("grpc", Answer::Grpc(8, "too many", Some(retry_info(wait))), wait),
        ("http", Answer::Http(503, vec![("retry-after", "1")], Vec::new()), Duration::from_secs(1)),
        ("http", Answer::Http(429, vec![("content-type", "application/x-protobuf")], retry_info(wait)), wait),
    ] {
        let receiver = Receiver::start();
        receiver.answer_next([answer.clone()]);
        let forebay = Place::empty().sink("up", &receiver.sink(protocol, "")).start();
        post(&forebay, "logs", &protobuf("s", &["one"]));
        until("it is taken", || receiver.taken() == ["one"]);
        let received = receiver.received();
        assert_eq!(received.len(), 2, "{answer:?}");
        let waited = received[1].at.duration_since(received[0].at);
        assert!(waited >= wait, "{answer:?}: only {waited:?}");
        assert_eq!(forebay.metric("forebay_sink_errors_total", "throttled"), 1.0);
    }
}

/// Scenario: answers that the protocol wants tried again, without a wait.
/// Guarantee: they are, and nothing becomes a dead letter.
#[test]
fn failures_that_may_pass_are_tried_again() {
    for (protocol, answers) in [
        ("grpc", [1, 4, 10, 11, 14, 15].map(|code| Answer::Grpc(code, "later", None)).to_vec()),
        (
            "http",
            [429, 502, 503, 504].map(|status| Answer::Http(status, Vec::new(), b"later".to_vec())).to_vec(),
        ),
    ] {
        let receiver = Receiver::start();
        let count = answers.len();
        receiver.answer_next(answers);
        let forebay = Place::empty().sink("up", &receiver.sink(protocol, "")).start();
        post(&forebay, "logs", &protobuf("s", &["one", "two"]));
        until("they are taken", || receiver.taken() == ["one", "two"]);
        assert_eq!(receiver.received().len(), count + 1);
        assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    }
}

/// Scenario: a server takes a request and says that it left out two of its records.
/// Guarantee: that is counted, and not sent again.
#[test]
fn a_partial_success_is_counted_and_not_sent_again() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        receiver.answer_next([left_out(2)]);
        let forebay = Place::empty().sink("up", &receiver.sink(protocol, "")).start();
        post(&forebay, "logs", &protobuf("s", &["one", "two", "three"]));
        until("it is counted", || forebay.metric("forebay_sink_refused_events_total", "up") == 2.0);
        assert_eq!(forebay.metric("forebay_sink_sent_events_total", "up"), 1.0);
        post(&forebay, "logs", &protobuf("s", &["four"]));
        until("the next arrives", || receiver.taken().len() == 4);
        assert_eq!(receiver.received().len(), 2, "nothing came again");
        forebay.says("too old");
    }
}

/// Scenario: the server refuses single records for good, of every signal, and takes the others.
/// Guarantee: each becomes a dead letter with the server's words, and what was taken is not sent again for its sake. The
/// letters can be listed, shown, and replayed, with the process and without it, and then arrive as they were.
#[test]
fn refused_records_become_dead_letters_that_can_be_replayed() {
    for (protocol, answer) in [
        ("grpc", Answer::Grpc(3, "the field is bad", None)),
        ("http", Answer::Http(400, vec![("content-type", "text/plain")], b"the field is bad".to_vec())),
    ] {
        let receiver = Receiver::start();
        let refused = ["log 2", "span 1", "metric 1"];
        receiver.judge(move |request| {
            let is_bad = request.texts().iter().any(|text| refused.contains(&&**text));
            is_bad.then(|| answer.clone())
        });
        let place = Place::empty().sink("up", &receiver.sink(protocol, ""));
        let mut forebay = place.start();
        post_every_signal(&forebay);
        until("three are given up on", || forebay.metric("forebay_sink_dead_letters_total", "up") == 3.0);
        assert_eq!(receiver.taken(), ["log 1"]);

        let listed = place.run(&["dead-letter", "list", "up"]).ok();
        let letters: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(letters.len(), 3);
        for letter in &letters {
            assert!(letter["error"].as_str().unwrap().contains("the field is bad"), "{letter}");
            assert_eq!((&letter["reason"], &letter["events"]), (&json!("rejected"), &json!(1)));
            assert_eq!(letter["status"], if protocol == "grpc" { 3 } else { 400 });
        }
        let show = |letter: &Value| -> Value {
            let id = letter["id"].to_string();
            serde_json::from_str(&place.run(&["dead-letter", "show", "up", &id]).ok()).unwrap()
        };
        let mut shown: Vec<_> = letters.iter().map(|letter| show(letter)["event"].clone()).collect();
        shown.sort_by_key(|event| event["message"].to_string());
        assert_eq!(
            shown.iter().map(|event| &event["message"]).collect::<Vec<_>>(),
            ["log 2", "metric 1", "span 1"]
        );
        assert_eq!(shown[1]["metadata"]["asInt"], 7);
        assert_eq!(shown[2]["metadata"]["traceId"], "5b8efff798038103d269b633813fc60c");

        let kept: Value =
            serde_json::from_str(&place.run(&["dead-letter", "replay", "up"]).failed(1)).unwrap();
        assert_eq!(kept["kept"].as_array().unwrap().len(), 3, "what is refused again is kept");
        receiver.judge(|_| None);
        let first = letters[0]["id"].to_string();
        let done: Value =
            serde_json::from_str(&place.run(&["dead-letter", "replay", "up", &first]).ok()).unwrap();
        assert_eq!(done["delivered"], 1);
        assert_eq!(forebay.stop(), Some(0));
        let done: Value = serde_json::from_str(&place.run(&["dead-letter", "replay", "up"]).ok()).unwrap();
        assert_eq!((&done["delivered"], &done["kept"]), (&json!(2), &json!([])));
        let mut taken = receiver.taken();
        taken.sort_unstable();
        assert_eq!(taken, ["log 1", "log 2", "metric 1", "span 1"], "{protocol}: each once");
    }
}

/// Scenario: a dead letter is replayed, and then the past, to a server that takes the request and says that it left the record
/// out.
/// Guarantee: the letter stays, with the reason, and the exit status says so; neither counts the record as delivered. The letter
/// was removed as if it had been.
#[test]
fn r0582_a_letter_that_was_left_out_by_partial_success_was_removed() {
    let receiver = Receiver::start();
    receiver.judge(|_| Some(Answer::Grpc(3, "the field is bad", None)));
    let place =
        Place::empty().section("retention: { journal_keep: 1h }").sink("up", &receiver.sink("grpc", ""));
    let forebay = place.start();
    post(&forebay, "logs", &protobuf("s", &["one"]));
    until("it is given up on", || forebay.metric("forebay_sink_dead_letters_total", "up") == 1.0);

    receiver.judge(|_| Some(left_out(1)));
    let replay = ["dead-letter", "replay", "up"];
    let said: Value = serde_json::from_str(&place.run(&replay).failed(1)).unwrap();
    assert_eq!(said["delivered"], 0);
    assert!(said["kept"][0]["error"].as_str().unwrap().contains("partial success"), "{said}");
    let all = ["replay", "--sink", "up", "--from", "2020-01-01T00:00:00Z", "--to", "2200-01-01T00:00:00Z"];
    let past = place.run(&all).ok();
    assert!(past.contains("0 delivered, 1 refused"), "{past}");

    receiver.judge(|_| None);
    let said: Value = serde_json::from_str(&place.run(&replay).ok()).unwrap();
    assert_eq!((&said["delivered"], &said["kept"]), (&json!(1), &json!([])), "it was still there");
}

/// Scenario: one batch has all signals; the server takes logs and spans, and refuses the metrics for good.
/// Guarantee: while the batch is halved around them, what was taken is not sent again.
#[test]
fn what_was_taken_of_a_batch_is_not_sent_again() {
    let receiver = Receiver::start();
    receiver.judge(|request| {
        let is_bad = request.texts().iter().any(|text| text == "metric 1");
        is_bad.then_some(Answer::Grpc(3, "no metrics", None))
    });
    let place = Place::empty().section("batch: { max_wait: 500ms }").sink("up", &receiver.sink("grpc", ""));
    let forebay = place.start();
    post(&forebay, "logs", &protobuf("s", &["zero"]));
    until("the first has gone", || receiver.taken().len() == 1);
    post_every_signal(&forebay);
    until("one is given up on", || forebay.metric("forebay_sink_dead_letters_total", "up") == 1.0);
    until("the others have arrived", || forebay.metric("forebay_sink_lag_events", "up") == 0.0);
    assert_eq!(receiver.taken(), ["zero", "log 1", "log 2", "span 1"]);
}

/// Scenario: one batch has all signals, and one call of it, whichever, meets a server that is about to end: it is told so, or is
/// answered without the status that ends a call of gRPC.
/// Guarantee: that call alone is made again, so that every item arrives, once.
#[test]
fn a_call_that_fails_among_others_is_made_again() {
    for (protocol, answer) in [
        ("grpc", Answer::Grpc(14, "the server is going away", None)),
        ("grpc", Answer::Http(200, vec![("content-type", "application/grpc")], vec![0; 5])),
        ("grpc", Answer::Http(200, Vec::new(), Vec::new())),
        ("http", Answer::Http(503, Vec::new(), Vec::new())),
    ] {
        let receiver = Receiver::start();
        let place =
            Place::empty().section("batch: { max_wait: 200ms }").sink("up", &receiver.sink(protocol, ""));
        let forebay = place.start();
        let mut expected = Vec::new();
        for failing in ["log 1", "span 1", "metric 1"] {
            let (once, has_failed) = (answer.clone(), AtomicBool::new(false));
            receiver.judge(move |request| {
                let is_it = request.texts().iter().any(|text| text == failing);
                (is_it && !has_failed.swap(true, Ordering::Relaxed)).then(|| once.clone())
            });
            post_every_signal(&forebay);
            until("all have arrived", || forebay.metric("forebay_buffer_events", "") == 0.0);
            expected.extend(["log 1", "log 2", "metric 1", "span 1"]);
            expected.sort_unstable();
            let mut taken = receiver.taken();
            taken.sort_unstable();
            assert_eq!(taken, expected, "{answer:?} to {failing}");
        }
        assert_eq!(forebay.metric("forebay_sink_retries_total", "up"), 3.0, "{answer:?}");
        assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    }
}

/// Scenario: the server takes less at a time than a batch has, and says so as different servers do.
/// Guarantee: everything arrives, in order, in smaller requests; only a record that alone is too large becomes a dead letter.
#[test]
fn what_is_too_large_goes_in_pieces() {
    let words =
        ["grpc: received message larger than max (9 vs. 4)", "Error, decoded message length too large"];
    for (protocol, answer) in [
        ("grpc", Answer::Grpc(8, words[0], None)),
        ("grpc", Answer::Grpc(11, words[1], None)),
        ("http", Answer::Http(413, Vec::new(), b"too large".to_vec())),
    ] {
        let receiver = Receiver::start();
        receiver.judge(move |request| (request.message.len() > 2000).then(|| answer.clone()));
        let forebay = Place::empty().sink("up", &receiver.sink(protocol, "")).start();
        let texts: Vec<String> = (0..100).map(|n| format!("record {n:03} {}", "x".repeat(60))).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        post(&forebay, "logs", &protobuf("s", &texts));
        let long = "y".repeat(3000);
        post(&forebay, "logs", &protobuf("s", &["before", &long, "behind"]));
        until("all have their outcome", || {
            receiver.taken().len() == 102 && forebay.metric("forebay_sink_dead_letters_total", "up") == 1.0
        });
        assert_eq!(receiver.taken(), [&texts[..], &["before", "behind"]].concat());
    }
}

/// Scenario: the token is wrong, or the address; then it is put right.
/// Guarantee: nothing becomes a dead letter; what is wrong is said; everything arrives afterwards.
#[test]
fn what_is_wrong_with_the_sender_waits() {
    for (protocol, answer) in [
        ("grpc", Answer::Grpc(16, "no token", None)),
        ("grpc", Answer::Grpc(12, "no such service", None)),
        ("http", Answer::Http(401, Vec::new(), b"no token".to_vec())),
        ("http", Answer::Http(404, Vec::new(), b"no token".to_vec())),
    ] {
        let receiver = Receiver::start();
        receiver.judge(move |_| Some(answer.clone()));
        let forebay = Place::empty().sink("up", &receiver.sink(protocol, "")).start();
        post(&forebay, "logs", &protobuf("s", &["one"]));
        until("it is refused", || {
            forebay.metric("forebay_sink_errors_total", "cause=\"refused\",sink=\"up\"") > 0.0
        });
        receiver.judge(|_| None);
        until("it arrives", || receiver.taken() == ["one"]);
        assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    }
}

/// Scenario: gRPC is sent to a server of HTTP/1.1, and to a port where nobody listens; HTTP to one that answers 404.
/// Guarantee: the health and `validate` say what is wrong, with the address and with what may be meant.
#[test]
fn a_wrong_endpoint_is_said_in_words() {
    let http = Destination::start();
    let nobody = ([127, 0, 0, 1], crate::support::free_port()).into();
    for (endpoint, expected) in
        [(http.address, "is `protocol: http` meant"), (nobody, "no connection: Connection refused")]
    {
        let sink =
            format!("{{ type: otlp, endpoint: \"http://{endpoint}\", retry: {{ backoff_min: 20ms }} }}");
        let place = Place::empty().sink("up", &sink);
        let forebay = place.start();
        post(&forebay, "logs", &protobuf("s", &["one"]));
        let health = eventually("the health says it", || {
            let text = forebay.get("/health").text();
            text.contains(expected).then_some(text)
        });
        assert!(health.contains(&endpoint.to_string()), "{health}");
        let said = place.run(&["validate"]).failed(1);
        assert!(said.contains(expected) && said.contains("sink up"), "{said}");
    }
    let receiver = Receiver::start();
    let place = Place::empty().sink("up", &receiver.sink("grpc", ""));
    assert!(place.write().is_file());
    let said = place.run(&["validate"]).ok();
    assert!(said.contains("ok    sink up      otlp  yes        yes"), "{said}");
    assert!(receiver.received().is_empty(), "a probe has no records");
}

/// Scenario: some of the same events came over HTTP, others as OpenTelemetry, in one batch.
/// Guarantee: one request of logs has them all, in the order in which they came.
#[test]
fn events_and_requests_share_a_call() {
    let receiver = Receiver::start();
    let forebay =
        Place::empty().section("batch: { max_wait: 300ms }").sink("up", &receiver.sink("grpc", "")).start();
    post(&forebay, "logs", &protobuf("s", &["zero"]));
    until("the first has gone", || receiver.taken().len() == 1);
    post(&forebay, "logs", &protobuf("s", &["one", "two"]));
    forebay
        .post_json(r#"[{"service": "s", "message": "three"}, {"service": "t", "message": "four"}]"#)
        .ok(202);
    post(&forebay, "logs", &protobuf("s", &["five"]));
    until("all have arrived", || receiver.taken().len() == 6);
    assert_eq!(receiver.taken(), ["zero", "one", "two", "three", "four", "five"]);
    assert_eq!(receiver.received().len(), 2, "the last five went together");
}
