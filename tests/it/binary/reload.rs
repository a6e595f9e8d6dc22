//! SIGHUP and `forebay reload`.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    binary::{Forebay, Place},
    http::Destination,
    until,
};

fn post(forebay: &Forebay, id: &str) {
    let event = json!({"service": "s", "message": "m", "event_id": id});
    forebay.post_json(event.to_string()).ok(202);
}

fn reload(place: &Place) -> Value {
    place.write();
    serde_json::from_str(&place.run(&["reload"]).ok()).unwrap()
}

/// A sink that is added, changed or removed is replaced alone: the others are not restarted, what a changed sink has
/// not delivered it delivers under its new description, and one that is removed gets nothing any more.
#[test]
fn sinks_are_replaced_alone() {
    let (first, second) = (Destination::start(), Destination::start());
    let mut place = Place::new().sink("up", &first.sink());
    let forebay = place.start();
    post(&forebay, "one");
    until("it is delivered", || first.has("one"));

    place.set_sink("more", Some(&second.sink()));
    let changes = reload(&place);
    assert_eq!((&changes["sinks_added"], &changes["sinks_changed"]), (&json!(["more"]), &json!([])));
    post(&forebay, "two");
    until("both have it", || first.has("two") && second.has("two"));
    assert!(!second.has("one"), "a new sink begins with what comes");

    // Down, so that the change finds it with work.
    first.answer(503);
    post(&forebay, "three");
    until("it fails", || forebay.metric("forebay_sink_errors_total", "\"up\"") > 0.0);
    place.set_sink("up", Some(&second.sink()));
    assert_eq!(reload(&place)["sinks_changed"], json!(["up"]));
    until("its new destination has it twice: for each sink once", || {
        second.events().get("three").is_some_and(|(times, _)| *times == 2)
    });

    place.set_sink("more", None);
    assert_eq!(reload(&place)["sinks_removed"], json!(["more"]));
    post(&forebay, "four");
    until("it is delivered", || second.has("four"));
    forebay.stored("four");
    assert_eq!(second.events()["four"].0, 1, "only one sink is left");
    assert!(!first.has("three"));
    until("it is no longer looked at", || forebay.json("/health")["checks"]["sinks"].get("more").is_none());
    assert_eq!(forebay.metric("forebay_actor_restarts_total", ""), 0.0, "nothing was restarted");
}

/// SIGHUP does the same as the command; a file that is wrong changes nothing, and both say what is wrong with it.
#[test]
fn an_invalid_file_changes_nothing_and_says_why() {
    let destination = Destination::start();
    let mut place = Place::new().sink("up", &destination.sink());
    let forebay = place.start();
    let good = fs::read_to_string(place.config_file()).unwrap();
    fs::write(place.config_file(), good.replace("type: http, url", "type: http, ulr")).unwrap();
    let said = place.run(&["reload"]).failed(1);
    assert!(said.contains("did you mean `url`?") && said.contains("forebay.yaml:"), "{said}");
    forebay.signal("HUP");
    forebay.says("the configuration stays as it was");
    forebay.says("did you mean `url`?");
    post(&forebay, "one");
    until("it is delivered as before", || destination.has("one"));

    let other = Destination::start();
    place.set_sink("up", Some(&other.sink()));
    place.write();
    forebay.signal("HUP");
    forebay.says("the configuration was read again");
    post(&forebay, "two");
    until("it goes to the new place", || other.has("two"));
}

/// Limits, the log's level and retention take effect at once; what needs a restart is named. With the store goes the
/// answer to questions, and comes back with it, events included.
#[test]
fn what_can_change_live_does() {
    let mut place = Place::new().sink("nowhere", "{ type: blackhole }");
    let forebay = place.start();
    post(&forebay, "one");
    forebay.stored("one");
    place = place
        .section("limits: { query: { per_client_per_second: 1, burst: 1 } }")
        .section("log: { level: trace }");
    place = place.section("retention: { days: 3 }").http("max_connections: 77");
    let changes = reload(&place);
    assert_eq!(changes["applied"], json!(["log.level", "limits", "retention"]));
    assert_eq!(changes["needs_restart"], json!(["http"]));
    until("questions are limited", || forebay.get("/events").status == 429);
    post(&forebay, "traced");
    forebay.says("TRACE");

    place.set_sink("events", None);
    assert_eq!(reload(&place)["sinks_removed"], json!(["events"]));
    until("there is no store", || forebay.get("/events").status == 404);
    post(&forebay, "unseen");
    place.set_sink("events", Some("{ type: store }"));
    assert_eq!(reload(&place)["sinks_added"], json!(["events"]));
    post(&forebay, "two");
    forebay.stored("one");
    forebay.stored("two");
}

/// Without a process `reload` says so.
#[test]
fn without_a_process_nothing_is_reloaded() {
    let place = Place::new();
    place.write();
    assert!(place.run(&["reload"]).failed(1).contains("no forebay runs in"));
    let mut forebay = place.start();
    forebay.kill();
    assert!(
        place.run(&["reload"]).failed(1).contains("no forebay runs in"),
        "a dead process' socket is no process"
    );
}
