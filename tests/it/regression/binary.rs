//! Found with the real binary.

use serde_json::json;

use crate::support::{binary::Place, http::Destination, until};

/// A journal that was full stayed "not ready" until somebody posted; but who is not ready is sent nothing by a load
/// balancer, so it would have stayed so for ever. Readiness comes back alone.
#[test]
fn r0101_readiness_comes_back_without_a_post() {
    let destination = Destination::start();
    destination.answer(503);
    let place = Place::empty().sink("up", &destination.sink());
    let forebay = place.section("buffer: { durability: memory, max_bytes: 16KiB }").start();
    let event = json!({"service": "s", "message": "m".repeat(1_000)}).to_string();
    until("the journal is full", || forebay.post_json(&event).status == 503);
    forebay.get("/ready").error(503, "not_ready");
    destination.answer(200);
    until("it is ready", || forebay.get("/ready").status == 200);
    forebay.post_json(&event).ok(202);
}

/// `forebay_buffer_oldest_age_seconds` was promised and not there.
#[test]
fn r0102_the_age_of_the_oldest_event_is_shown() {
    let destination = Destination::start();
    destination.answer(503);
    let forebay = Place::empty().sink("up", &destination.sink()).start();
    forebay.post_json(r#"{"service":"s","message":"m"}"#).ok(202);
    until("it gets older", || forebay.metric("forebay_buffer_oldest_age_seconds", "") > 0.5);
    destination.answer(200);
    until("nothing is needed", || forebay.metric("forebay_buffer_oldest_age_seconds", "") == 0.0);
}

/// A signal that came while the process was starting ended it as if it had been killed; SIGHUP, too.
#[test]
fn r0103_a_signal_during_the_start_is_heard() {
    let place = Place::new();
    place.write();
    let lock = place.data_dir().join("LOCK");
    let mut forebay = place.spawn();
    until("it has begun to start", || lock.exists());
    forebay.signal("HUP");
    forebay.says("the configuration was read again");
    assert_eq!(forebay.stop(), Some(0));
}

/// Messages about a sink that is not configured showed the name's type instead of its name.
#[test]
fn r0104_a_sink_is_called_by_its_name() {
    let place = Place::new();
    place.write();
    let said = place.run(&["dead-letter", "replay", "nobody"]).failed(1);
    assert!(said.contains("there is no sink \"nobody\" in the configuration"), "{said}");
}

/// A client that began a chunked body and never ended it kept its connection for ever once it was answered, at whatever
/// path: a few thousand of these, and nobody else could connect.
#[test]
fn r0107_an_endless_body_ends_its_connection() {
    let forebay = Place::new().http("request_timeout: 200ms").start();
    for (head, status) in [
        ("POST /events", 408),
        ("GET /live", 200),
        ("POST /nothing", 404),
        ("DELETE /events", 405),
        ("POST /events?x=1", 400),
    ] {
        let mut connection = forebay.connect();
        let request = format!("{head} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{{\"ser");
        connection.write(request.as_bytes()).unwrap();
        assert_eq!(connection.response().unwrap().status, status, "{head}");
        assert!(connection.is_at_end(), "{head}");
    }
    // One that does end may go on.
    let mut connection = forebay.connect();
    for _ in 0..2 {
        let body = r#"{"service":"s","message":"m"}"#;
        let request = "POST /events HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
        connection.write(format!("{request}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes()).unwrap();
        connection.response().unwrap().ok(202);
    }
}

/// The clock behind `http.header_timeout` is half a second coarse: clients with a shorter time had none.
#[test]
fn r0108_a_short_header_timeout_is_no_shorter_than_it_says() {
    let forebay = Place::new().http("header_timeout: 200ms").start();
    let began = tokio::time::Instant::now();
    while began.elapsed() < std::time::Duration::from_secs(1) {
        forebay.get("/live").ok(200);
    }
}

/// A half of a surrogate pair in `metadata` was kept as it was written, and whoever read a page or a batch with it by a
/// strict parser could read none of it; in other fields the answer made no sense.
#[test]
fn r0109_half_a_character_is_refused() {
    let forebay = Place::new().start();
    for body in [
        r#"{"service":"s","message":"\ud800"}"#,
        r#"{"service":"s","message":"m","metadata":{"a":"\udc00"}}"#,
        r#"{"service":"s","message":"m","\ud800":1}"#,
    ] {
        let error = forebay.post_json(body).error(422, "invalid_event");
        assert!(error["message"].as_str().unwrap().contains("half of a character"), "{error}");
    }
    let whole = r#"{"service":"s","message":"m","event_id":"w","metadata":{"a":"\ud83d\ude00"}}"#;
    forebay.post_json(whole).ok(202);
    assert_eq!(forebay.stored("w")["metadata"]["a"], "\u{1f600}");
}

/// One client that was sending slowly took all of `shutdown_timeout`, so that nothing was left for delivering: the process
/// ended with 3 though its destination was well, and `durability: memory` lost events for it.
#[test]
fn r0110_a_slow_client_does_not_take_the_time_to_deliver() {
    let destination = Destination::start();
    let place = Place::empty().sink("up", &destination.sink());
    let place = place.section("batch: { max_wait: 1h }").section("shutdown_timeout: 4s");
    let mut forebay = place.start();
    let event = |id: &str| json!({"service": "s", "message": "m", "event_id": id}).to_string();
    forebay.post_json(event("one")).ok(202);
    until("the first goes at once", || destination.has("one"));
    forebay.post_json(event("two")).ok(202);
    let mut slow = forebay.connect();
    slow.write(b"POST /events HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n{").unwrap();
    // Its head is in: another connection's answer comes later.
    forebay.get("/live").ok(200);
    assert_eq!(forebay.stop(), Some(0));
    assert!(destination.has("two"));
}

/// A sink's first cursor was written some time after the start. A crash before that, and the sink was new once more: it
/// began behind what had been acknowledged meanwhile, and that was lost.
#[test]
fn r0111_a_crash_right_after_the_first_event_loses_nothing() {
    for _ in 0..5 {
        let destination = Destination::start();
        destination.answer(503);
        let place = Place::empty().sink("up", &destination.sink());
        let mut forebay = place.start();
        forebay.post_json(r#"{"service":"s","message":"m","event_id":"first"}"#).ok(202);
        forebay.kill();
        destination.answer(200);
        let _forebay = place.start();
        until("it comes", || destination.has("first"));
    }
}

/// Two letters the wrong way round in a short key were taken for another word, so nothing was proposed.
#[test]
fn r0105_swapped_letters_find_their_key() {
    let place = Place::empty().sink("up", "{ type: http, ulr: \"http://127.0.0.1:1/\" }");
    place.write();
    let said = place.run(&["validate", "--offline"]).failed(1);
    assert!(said.contains("sinks.up.ulr: is not a key of `sinks.up`; did you mean `url`?"), "{said}");
}

/// Scenario: `durability: memory` is set while a sink has not had everything of the journal on disk; then it has.
/// Guarantee: the process does not begin, and says what is left behind; afterwards it does. The events were forgotten without a
/// word, and others got their positions.
#[test]
fn r0392_a_journal_in_memory_forgot_the_one_on_disk() {
    let destination = Destination::start();
    destination.answer(503);
    let disk = Place::empty().sink("up", &destination.sink());
    let mut forebay = disk.start();
    forebay.post_json(r#"{"service":"s","message":"m","event_id":"on disk"}"#).ok(202);
    forebay.kill();
    let memory = Place::empty().with_data_dir(disk.data_dir().to_owned()).sink("up", &destination.sink());
    let memory = memory.section("buffer: { durability: memory }");
    memory.write();
    let mut refused = memory.spawn();
    assert_eq!(refused.wait().code(), Some(1));
    refused.says("1 events that the sink up has not had");

    destination.answer(200);
    let mut forebay = disk.start();
    until("it is delivered", || destination.has("on disk"));
    assert_eq!(forebay.stop(), Some(0));
    let forebay = memory.start();
    forebay.post_json(r#"{"service":"s","message":"m","event_id":"in memory"}"#).ok(202);
    until("it is delivered", || destination.has("in memory"));
}
