//! `forebay replay`: events that the journal has kept, delivered once more.

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
