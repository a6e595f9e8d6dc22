//! `forebay dead-letter`: against the running process, and without one.

use serde_json::{Value, json};

use crate::support::{
    binary::{Forebay, Place},
    http::Destination,
    until,
};

/// A process with five events of which the two `bad` ones the destination has refused for good.
fn with_two_letters(destination: &Destination) -> (Place, Forebay) {
    destination.refuse(Some("poison"));
    let place = Place::empty().sink("up", &destination.sink());
    let forebay = place.start();
    let event = |id: &str, message: &str| json!({"service": "s", "message": message, "event_id": id});
    let events = [
        event("a", "good"),
        event("bad1", "poison"),
        event("b", "good"),
        event("bad2", "poison"),
        event("c", "x"),
    ];
    forebay.post_json(json!(events).to_string()).ok(202);
    until("two are given up on", || forebay.metric("forebay_sink_dead_letters_total", "up") == 2.0);
    until("the others are delivered", || destination.count() == 3);
    (place, forebay)
}

fn list(place: &Place) -> Vec<Value> {
    let text = place.run(&["dead-letter", "list", "up"]).ok();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(letters: &[Value]) -> Vec<String> {
    letters.iter().map(|letter| letter["id"].to_string()).collect()
}

/// The whole life of two letters: listed, shown with their events, replayed in vain, replayed, dropped.
fn a_letters_life(place: &Place, destination: &Destination) {
    let totals: Value = serde_json::from_str(&place.run(&["dead-letter", "list"]).ok()).unwrap();
    assert_eq!((&totals["sink"], &totals["letters"]), (&json!("up"), &json!(2)));
    let letters = list(place);
    assert_eq!(letters.len(), 2);
    assert_eq!((&letters[0]["status"], &letters[0]["events"]), (&json!(400), &json!(1)));
    let ids = ids(&letters);
    let shown: Value =
        serde_json::from_str(&place.run(&["dead-letter", "show", "up", &ids[0]]).ok()).unwrap();
    assert_eq!(shown["event"]["event_id"], "bad1");
    assert_eq!(shown["event"]["message"], "poison");
    assert!(shown["error"].as_str().unwrap().contains("400"), "{shown}");

    let limited = place.run(&["dead-letter", "list", "up", "--limit", "1", "--after", &ids[0]]).ok();
    assert_eq!(serde_json::from_str::<Value>(&limited).unwrap()["id"].to_string(), ids[1]);

    let kept: Value = serde_json::from_str(&place.run(&["dead-letter", "replay", "up"]).failed(1)).unwrap();
    assert_eq!(kept["delivered"], 0);
    assert_eq!(kept["kept"].as_array().unwrap().len(), 2, "what is refused again is kept");

    destination.refuse(None);
    let done: Value =
        serde_json::from_str(&place.run(&["dead-letter", "replay", "up", &ids[0]]).ok()).unwrap();
    assert_eq!((&done["delivered"], &done["kept"]), (&json!(1), &json!([])));
    assert!(destination.has("bad1") && !destination.has("bad2"));

    assert!(place.run(&["dead-letter", "drop", "up", &ids[1]]).ok().contains("1 dead letters of up dropped"));
    assert!(list(place).is_empty());
    assert!(place.run(&["dead-letter", "drop", "up", "--all"]).ok().contains("0 dead letters"));
    let said = place.run(&["dead-letter", "show", "up", &ids[0]]).failed(1);
    assert!(said.contains("no dead letter"), "{said}");
    let said = place.run(&["dead-letter", "replay", "nobody"]).failed(1);
    assert!(said.contains("there is no sink \"nobody\""), "{said}");
}

/// Over the control socket, while the process holds the files.
#[test]
fn letters_of_a_running_process() {
    let destination = Destination::start();
    let (place, mut forebay) = with_two_letters(&destination);
    a_letters_life(&place, &destination);
    assert_eq!(forebay.stop(), Some(0));
}

/// Without a process, after it was killed: letters are durable, and the commands work on the files themselves.
#[test]
fn letters_without_a_process() {
    let destination = Destination::start();
    let (place, mut forebay) = with_two_letters(&destination);
    forebay.kill();
    a_letters_life(&place, &destination);
    let forebay = place.start();
    until("nothing is left to do", || forebay.metric("forebay_buffer_events", "") == 0.0);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 0.0);
}
