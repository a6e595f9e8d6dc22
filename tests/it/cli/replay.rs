//! `forebay replay`: events that the journal has kept, delivered once more.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use crate::support::{
    binary::{Forebay, Place},
    http::Destination,
    until,
};

/// Posts and returns when the event was accepted.
fn post(forebay: &Forebay, destination: &Destination, id: &str) -> String {
    forebay.post_json(json!({"service": "s", "message": "m", "event_id": id}).to_string()).ok(202);
    until("it is delivered", || destination.has(id));
    let (_, event): (u64, Value) = destination.events().remove(id).unwrap();
    event["ingested_at"].as_str().unwrap().to_owned()
}

fn times(destination: &Destination, id: &str) -> u64 {
    destination.events()[id].0
}

/// What every sink has had is kept for `journal_keep`, and goes to one sink once more where it was accepted from
/// `--from` on and before `--to`: asked of the running process, and of the files without one.
#[test]
fn events_of_the_past_are_delivered_once_more() {
    let (up, other) = (Destination::start(), Destination::start());
    let place = Place::empty().sink("up", &up.sink()).sink("other", &other.sink());
    let place = place.section("retention: { journal_keep: 1h }");
    let mut forebay = place.start();
    let first = post(&forebay, &up, "first");
    let second = post(&forebay, &up, "second");
    let third = post(&forebay, &up, "third");
    assert!(first < second && second < third);
    until("the other has them", || other.count() == 3);

    let said = place.run(&["replay", "--sink", "up", "--from", &second, "--to", &third]).ok();
    assert!(said.contains("replayed to up: 1 delivered, 0 refused, 0 damaged"), "{said}");
    assert_eq!(["first", "second", "third"].map(|id| times(&up, id)), [1, 2, 1]);
    assert_eq!(times(&other, "second"), 1, "only the sink that was asked for");

    assert_eq!(forebay.stop(), Some(0));
    let all = ["replay", "--sink", "up", "--from", "2020-01-01T00:00:00Z", "--to", "2200-01-01T00:00:00Z"];
    let said = place.run(&all).ok();
    assert!(said.contains("3 delivered"), "{said}");
    assert_eq!(["first", "second", "third"].map(|id| times(&up, id)), [2, 3, 2]);
    let nobody =
        ["replay", "--sink", "nobody", "--from", "2020-01-01T00:00:00Z", "--to", "2200-01-01T00:00:00Z"];
    assert!(place.run(&nobody).failed(1).contains("there is no sink \"nobody\""));

    up.refuse(Some("second"));
    let said = place.run(&all).ok();
    assert!(said.contains("2 delivered, 1 refused"), "{said}");

    up.answer(500);
    let said = place.run(&all).failed(1);
    assert!(said.contains("stopped after 0 events"), "{said}");

    up.answer(200);
    up.refuse(None);
    let forebay = place.start();
    post(&forebay, &up, "fourth");
    assert_eq!(times(&other, "first"), 1, "replays move no cursor");
}

/// Scenario: a `file` sink fails until two events are dead letters, then delivers; while it runs, these are replayed, and then
/// all that the journal has.
/// Guarantee: both replays write to the file, and the sink goes on. They were answered that another sink or process was
/// writing it: the one that was asked.
#[test]
fn r0261_replays_to_a_file_failed_while_the_process_ran() {
    let sink = "{ type: file, path: out/events.ndjson, breaker: { failures: 1000000 }, \
                retry: { backoff_min: 10ms, backoff_max: 20ms, max_age: 100ms } }";
    let place = Place::empty().sink("out", sink).section("retention: { journal_keep: 1h }");
    // Where its directory should be.
    fs::write(place.file("out"), "").unwrap();
    let mut forebay = place.start();
    let post = |id: &str| {
        forebay.post_json(json!({"service": "s", "message": "m", "event_id": id}).to_string()).ok(202);
    };
    let times = || -> BTreeMap<String, u64> {
        let text = fs::read_to_string(place.file("out/events.ndjson")).unwrap_or_default();
        let mut times = BTreeMap::new();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let event: Value = serde_json::from_str(line).unwrap();
            *times.entry(event["event_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        times
    };
    let wanted = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
        counts.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect()
    };
    post("a");
    post("b");
    until("both are given up on", || forebay.metric("forebay_sink_dead_letters_total", "out") == 2.0);
    fs::remove_file(place.file("out")).unwrap();
    post("c");
    until("the sink writes the file", || times() == wanted(&[("c", 1)]));

    let said = place.run(&["dead-letter", "replay", "out"]).ok();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["delivered"], &said["kept"]), (&json!(2), &json!([])));
    assert_eq!(times(), wanted(&[("a", 1), ("b", 1), ("c", 1)]));

    let all = ["replay", "--sink", "out", "--from", "2020-01-01T00:00:00Z", "--to", "2200-01-01T00:00:00Z"];
    let said = place.run(&all).ok();
    assert!(said.contains("3 delivered, 0 refused"), "{said}");
    assert_eq!(times(), wanted(&[("a", 2), ("b", 2), ("c", 2)]));

    post("d");
    until("the sink goes on", || times() == wanted(&[("a", 2), ("b", 2), ("c", 2), ("d", 1)]));
    assert_eq!(forebay.stop(), Some(0));
}
