//! A gateway that takes less, later, or not this.

use serde_json::{Value, json};

use super::{Gateway, event, post, post_otlp, settled, sink, stored};
use crate::{
    otlp::protobuf,
    support::{
        binary::{Forebay, Place},
        device::Device,
        eventually,
        testbed::incompressible,
        until,
    },
};

fn letters(place: &Place) -> Vec<Value> {
    let listed = place.run(&["dead-letter", "list", "up"]).ok();
    listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An event and a log record of so many bytes.
fn post_large(edge: &Forebay, bytes: usize) {
    let text = &incompressible(bytes)[..bytes];
    let mut large = event("large");
    large["message"] = text.into();
    post(edge, &[event("a"), large, event("b")]);
    post_otlp(edge, "logs", &protobuf("web", &["c", text, "d"]));
}

/// Scenario: an event and a log record are larger than the gateway takes, among others that are not.
/// Guarantee: these two become dead letters alone, with the gateway's own words; the others are there, and nothing is sent
/// again for their sake. Once the gateway takes them, they are replayed with the ids and times that they had.
#[test]
fn invalid_events_become_dead_letters_alone() {
    let mut gateway = Gateway::start_with(&["http: max_event_bytes: 2KiB"]);
    let place = Place::new().sink("up", &gateway.sink(", batch: { max_wait: 200ms }"));
    let edge = place.start();
    post_large(&edge, 5_000);
    settled(&edge, &gateway.process);
    until("two are given up on", || edge.metric("forebay_sink_dead_letters_total", "up") == 2.0);
    let found = letters(&place);
    assert_eq!(found.len(), 2, "{found:?}");
    for letter in &found {
        let error = letter["error"].as_str().unwrap();
        assert!(error.contains("are allowed (http.max_event_bytes)"), "{letter}");
        assert_eq!((&letter["reason"], &letter["events"]), (&json!("rejected"), &json!(1)));
    }
    assert_eq!(edge.metric("forebay_sink_sent_events_total", "up"), 4.0);
    assert_eq!(edge.metric("forebay_sink_retries_total", "up"), 0.0);
    assert_eq!(gateway.process.metric("forebay_receiver_events_total", ""), 4.0);

    gateway.process.kill();
    let sections = vec![gateway.sections[0].clone()];
    gateway.start_again_with(sections);
    let replayed = eventually("they are replayed", || {
        let run = place.run(&["dead-letter", "replay", "up"]);
        (run.code == Some(0)).then_some(run.stdout)
    });
    until("they are stored", || gateway.process.counted() == 6);
    assert_eq!(stored(&gateway.process), stored(&edge), "{replayed}");
}

/// Scenario: the gateway takes far smaller batches than the edge makes, and one event is larger than that.
/// Guarantee: batches go in parts, and each event is taken once; the large one is a dead letter with the gateway's words. Killed
/// in between, the edge comes to the same parts.
#[test]
fn batches_that_are_too_large_go_in_parts() {
    let mut gateway =
        Gateway::start_with(&["ingest: { grpc: { listen: \"127.0.0.1:0\" }, max_batch_bytes: 20KiB }"]);
    let place = Place::empty().sink("up", &gateway.sink(", compression: none, batch: { max_wait: 100ms }"));
    let mut edge = place.start();
    let text = incompressible(100_000);
    let (mut posted, mut large) = (0, 0);
    for round in 0..4 {
        let events = |count: usize| -> Vec<Value> {
            let of = |index: usize| {
                let mut event = event(&format!("e{round}-{index}"));
                event["message"] = text[index * 100..index * 100 + 900].into();
                event
            };
            (0..count).map(of).collect()
        };
        let mut events = events(200);
        if round == 1 {
            events[77]["message"] = text[..40_000].into();
            large += 1;
        }
        post(&edge, &events);
        posted += events.len();
        if round % 2 == 1 {
            let so_far = gateway.process.metric("forebay_receiver_events_total", "");
            until("some parts are taken", || {
                gateway.process.metric("forebay_receiver_events_total", "") > so_far
                    || edge.metric("forebay_sink_lag_events", "up") == 0.0
            });
            edge.kill();
            edge = place.start();
        }
    }
    settled(&edge, &gateway.process);
    let found = letters(&place);
    assert_eq!(found.len(), large, "{found:?}");
    assert!(found[0]["error"].as_str().unwrap().contains("ingest.max_batch_bytes"), "{found:?}");
    until("all others are stored", || gateway.process.counted() == (posted - large) as u64);
    assert_eq!(gateway.taken(), (posted - large) as u64, "nothing was taken twice");
}

/// Scenario: the gateway lets in one batch a second, and says when to come again.
/// Guarantee: the edge waits as it is asked to, and everything arrives, once.
#[test]
fn a_gateway_that_asks_for_patience_gets_it() {
    let mut gateway = Gateway::start_with(&["limits: { ingest: { per_client_per_second: 1, burst: 1 } }"]);
    let edge = Place::empty().sink("up", &gateway.sink("")).start();
    for id in ["a", "b", "c"] {
        post(&edge, &[event(id)]);
        until("it is on its way", || edge.metric("forebay_sink_lag_events", "up") <= 1.0);
    }
    settled(&edge, &gateway.process);
    assert!(edge.metric("forebay_sink_errors_total", "throttled") >= 1.0);
    // With a back-off of 20 ms, whoever does not wait tries far more often in two seconds.
    assert!(edge.metric("forebay_sink_retries_total", "up") < 10.0);
    assert_eq!(edge.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    assert_eq!(gateway.taken(), 3);
}

/// Scenario: the journal of the gateway is full, because its own destination is away; later there is room again.
/// Guarantee: the edge waits, says so, and everything arrives once.
#[test]
fn a_full_gateway_is_waited_for() {
    let mut place = Place::new()
        .section("buffer: { durability: memory, max_bytes: 512KiB, memory_events_max: 100000 }")
        .sink("away", "{ type: blackhole, rate_events_per_second: 1, batch: { max_events: 1 } }");
    let gateway = place.start();
    let edge = Place::empty().sink("up", &sink(gateway.ingest(), ", batch: { max_events: 20 }")).start();
    let text = incompressible(60_000);
    let mut posted = 0;
    until("the gateway is full", || {
        let mut large = event(&format!("e{posted}"));
        large["message"] = text[..50_000].into();
        post(&edge, &[large]);
        posted += 1;
        edge.metric("forebay_sink_errors_total", "throttled") >= 1.0
    });
    until("the sink says so", || edge.get("/health").text().contains("UNAVAILABLE"));
    place.set_sink("away", None);
    place.write();
    gateway.signal("HUP");
    until("all are stored", || gateway.counted() == posted);
    until("the edge knows", || edge.metric("forebay_sink_lag_events", "up") == 0.0);
    assert_eq!(edge.metric("forebay_sink_dead_letters_total", "up"), 0.0);
}

/// Scenario: the device of the gateway is full to the last byte; later it has room again.
/// Guarantee: the edge waits, and says why; nothing is restarted, and everything arrives once.
#[test]
fn a_gateway_on_a_full_device_is_waited_for() {
    let below = Place::new();
    let test = "a_gateway_on_a_full_device_is_waited_for";
    let Some(device) = Device::tmpfs(below.file("device"), 96, test) else { return };
    let gateway = Place::new().with_data_dir(device.path.join("data")).start();
    let edge = Place::empty().sink("up", &sink(gateway.ingest(), ", batch: { max_events: 20 }")).start();
    post(&edge, &[event("first")]);
    until("the first is stored", || gateway.counted() == 1);
    let ballast = device.fill();
    let mut posted = 1;
    until("the device is full", || {
        let mut large = event(&format!("e{posted}"));
        large["message"] = incompressible(posted as usize)[..50_000].into();
        post(&edge, &[large]);
        posted += 1;
        edge.metric("forebay_sink_errors_total", "up") >= 1.0
    });
    until("the sink says so", || {
        edge.get("/health").text().contains("no space is left on the device of the journal")
    });
    std::fs::remove_file(ballast).unwrap();
    until("all are stored", || gateway.counted() == posted);
    until("the edge knows", || edge.metric("forebay_sink_lag_events", "up") == 0.0);
    assert_eq!(edge.metric("forebay_sink_dead_letters_total", "up"), 0.0);
}

/// Scenario: a data directory is copied, and two edges that have the same identity deliver to one gateway.
/// Guarantee: what the second has is not taken for what the first had: it waits and says what is the matter, and without the
/// copied identity everything arrives.
#[test]
fn a_copied_identity_is_told_apart() {
    let gateway = Gateway::start();
    let first = Place::empty().sink("up", &gateway.sink(""));
    let second = Place::empty().sink("up", &gateway.sink(""));
    drop(first.start());
    std::fs::create_dir_all(second.data_dir()).unwrap();
    std::fs::copy(first.data_dir().join("ID"), second.data_dir().join("ID")).unwrap();
    let one = first.start();
    post(&one, &[event("one")]);
    settled(&one, &gateway.process);
    let mut two = second.start();
    post(&two, &[event("two")]);
    until("it says so", || two.get("/health").text().contains("copy of one that is in use"));
    two.kill();
    std::fs::remove_file(second.data_dir().join("ID")).unwrap();
    let _two = second.start();
    until("both are there", || gateway.process.counted() == 2);
}

/// Scenario: nobody is there; and somebody who speaks something else.
/// Guarantee: the sink and `validate` say which.
#[test]
fn who_is_not_there_is_said() {
    let other = crate::support::http::Destination::start();
    let nobody = ([127, 0, 0, 1], crate::support::free_port()).into();
    for (address, words) in [(nobody, "Connection refused"), (other.address, "is another port meant?")] {
        let place = Place::empty().sink("up", &sink(address, ""));
        let edge = place.start();
        post(&edge, &[event("a")]);
        until(&format!("it says {words}"), || edge.get("/health").text().contains(words));
        let said = place.run(&["validate"]).failed(1);
        assert!(said.contains(words) && said.contains("FAIL  sink up      forebay  NO         ?"), "{said}");
    }
}
