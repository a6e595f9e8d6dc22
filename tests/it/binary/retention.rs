//! What is removed while the process runs, and what is said of it.

use forebay_actors::runtime::clock::Clock;
use serde_json::{Value, json};

use crate::support::{binary::Place, testbed::incompressible, until};

/// Events of the store go at the times of the schedule, and again at the next one: none is left that is older than
/// `retention.days`, and none goes that is younger.
#[test]
fn retention_forgets_rows_of_the_embedded_store() {
    let days_ago = |id: &str, days: u64| {
        let time = Clock::system().now().to_chrono() - chrono::Days::new(days);
        json!({"service": "s", "message": "m", "event_id": id, "timestamp": time.to_rfc3339()})
    };
    // Of six fields the first is the second.
    let place = Place::new().section("retention: { days: 30, schedule: \"* * * * * *\" }");
    let mut forebay = place.start();
    for (round, young) in [(0, "young"), (1, "new")] {
        let old = [40, 400, 4_000].map(|days| days_ago(&format!("old-{round}-{days}"), days));
        let events: Vec<Value> = old.into_iter().chain([days_ago(young, round)]).collect();
        forebay.post_json(json!(events).to_string()).ok(202);
        // What came together is stored together.
        until("the old ones are gone", || forebay.counted() == round + 1);
        forebay.get(&format!("/events/{young}")).ok(200);
        forebay.get(&format!("/events/old-{round}-40")).error(404, "event_not_found");
    }
    forebay.says("retention deleted events from the store");
    assert_eq!(forebay.stop(), Some(0));
}

/// Scenario: more goes through the journal than it may hold: while what every sink has is kept for an hour, and while it is
/// not kept.
/// Guarantee: the log says what was removed, as a warning where it should have been kept.
#[test]
fn what_leaves_the_journal_is_told() {
    let early = "what was kept for replay is removed before retention.journal_keep is over";
    let served = "retention removed from the journal what every sink has";
    for (keep, words) in [("1h", early), ("0s", served)] {
        let place = Place::empty()
            .sink("out", "{ type: blackhole }")
            .section("buffer: { max_bytes: 128MiB }")
            .section(&format!("retention: {{ journal_keep: {keep} }}"));
        let mut forebay = place.start();
        // With a trim, one a second, it hears what is to be kept.
        let handled = || forebay.metric("forebay_actor_messages_total", "actor=\"buffer\"");
        until("it is trimmed", || handled() > 1.0);
        for request in 0..40 {
            let event = |index: usize| json!({"service": "s", "message": incompressible(request + index)});
            let events = json!((0..64).map(event).collect::<Vec<_>>()).to_string();
            // At the cap a request may come before there is room.
            until("it is taken", || forebay.post_json(&events).status == 202);
        }
        forebay.says(words);
        let other = if words == early { served } else { early };
        assert!(!forebay.log().contains(other), "{}", forebay.log());
        assert_eq!(forebay.stop(), Some(0));
    }
}
