//! Conditions of sinks (`when`): what is not for a sink is counted, and everything that is promised holds for the rest.

use std::{collections::HashSet, sync::Arc};

use forebay::{
    command::{progress::Progress, replay},
    config::Config,
};
use forebay_actors::{event::Timestamp, record::Position, runtime::fault::Fault, state::Reason};
use serde_json::{Value, json};

use crate::support::testbed::{TestBed, config, event_id, run};

/// Sink `a` with a condition, sink `all` without.
fn with(when: Value) -> Config {
    let mut config = config(&["a", "all"]);
    config.sinks.get_mut("a").expect("it is configured").when =
        Some(serde_json::from_value(when).expect("it is a condition"));
    config
}

/// The even ones of these ids.
fn even(ids: &[String]) -> Vec<&str> {
    ids.iter().step_by(2).map(String::as_str).collect()
}

fn alternating(events: usize) -> Vec<&'static str> {
    ["keep", "leave"].into_iter().cycle().take(events).collect()
}

/// Scenario: requests of which every second event is for the sink, one of which all are, and many of which none is.
/// Guarantee: the sink gets its own, once and in order; what it got and what was left out is what was accepted, by its own
/// counters too; batches without anything for it are finished without a delivery; another sink gets everything.
#[test]
fn p2_what_is_not_for_a_sink_is_counted() {
    run(async {
        let bed = TestBed::start(&with(json!({ "fields": { "message": "keep" } }))).await;
        let mut expected = Vec::new();
        for request in 0..10 {
            let ids = bed.post(&alternating(20 + request)).await;
            expected.extend(even(&ids).into_iter().map(str::to_owned));
        }
        expected.extend(bed.post(&["keep"; 7]).await);
        bed.settled("a").await;
        let asked = bed.fake("a").seen().asked.len();
        for _ in 0..10 {
            bed.post(&["leave"; 9]).await;
        }
        bed.settled("a").await;
        bed.settled("all").await;
        let seen = bed.fake("a").seen();
        assert_eq!(seen.events(), expected);
        assert_eq!(seen.asked.len(), asked, "nothing was for it");
        assert_eq!(bed.fake("all").seen().events(), bed.acknowledged());
        let counted = |name: &str, sink: &str| bed.metric(name, &[("sink", sink)]) as usize;
        let (sent, filtered) = ("forebay_sink_sent_events_total", "forebay_sink_filtered_events_total");
        assert_eq!(counted(sent, "a"), expected.len());
        assert_eq!(counted(sent, "a") + counted(filtered, "a"), bed.acknowledged().len());
        assert_eq!((counted(sent, "all"), counted(filtered, "all")), (bed.acknowledged().len(), 0));
        assert_eq!(bed.dead_letters("a"), []);
        bed.end().await;
    });
}

/// Scenario: a large batch, judged on a blocking thread, of which every second event is for the sink; the destination
/// refuses one of these, panics on another, and would refuse some that are not for it.
/// Guarantee: the dead letters are these two, at their own positions; all others for the sink arrive, once and in order.
#[test]
fn p2_a_view_is_halved_to_the_event_at_fault() {
    run(async {
        let bed =
            TestBed::start(&with(json!({ "not": { "fields": { "message": { "contains": "leave" } } } })))
                .await;
        bed.fake("a").order(|orders| (orders.reject, orders.panic_on) = (Some("refuse"), Some("panic")));
        let long = format!("keep {}", "x".repeat(100));
        let mut messages: Vec<&str> = [long.as_str(), "leave"].into_iter().cycle().take(2_000).collect();
        (messages[500], messages[501], messages[1_200]) = ("refuse", "leave and refuse", "panic");
        let ids = bed.post(&messages).await;
        bed.settled("a").await;
        let letters = bed.dead_letters("a");
        let found: Vec<_> = letters.iter().map(|l| (l.span.first, l.reason, event_id(l))).collect();
        let letter = |at: usize, reason| (Position(at as u64), reason, Some(ids[at].clone()));
        assert_eq!(found, [letter(500, Reason::Rejected), letter(1_200, Reason::Panicked)]);
        let seen = bed.fake("a").seen();
        let given_up = [ids[500].as_str(), ids[1_200].as_str()];
        let expected: Vec<_> = even(&ids).into_iter().filter(|id| !given_up.contains(id)).collect();
        assert_eq!(seen.events(), expected);
        let counted = |name: &str| bed.metric(name, &[("sink", "a")]);
        assert_eq!(counted("forebay_sink_sent_events_total"), 998.0);
        assert_eq!(counted("forebay_sink_filtered_events_total"), 1_000.0);
        assert_eq!(counted("forebay_sink_dead_letters_total"), 2.0);
        bed.end().await;
    });
}

/// Scenario: the pipeline crashes while a view is with the destination, and its sink dies while it delivers again.
/// Guarantee: the view comes again under its own id with the same events.
#[test]
fn p3_views_have_the_same_ids_after_a_crash() {
    run(async {
        let config = with(json!({ "fields": { "message": "keep" } }));
        let bed = TestBed::start_with(&config, |fake| fake("a").order(|orders| orders.hang = true)).await;
        let ids = bed.post(&alternating(31)).await;
        bed.fake("a").until("it has the view at hand", |seen| !seen.asked.is_empty()).await;
        let bed = bed.crash().await;
        bed.fake("a").until("it has it again", |seen| seen.asked.len() > 1).await;
        assert!(bed.pipeline.inject("sink:a", Fault::Panic));
        bed.fake("a").until("and again", |seen| seen.asked.len() > 2).await;
        bed.fake("a").heal();
        bed.settled("a").await;
        let seen = bed.fake("a").seen();
        let asked: HashSet<_> = seen.asked.iter().collect();
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert!(seen.asked[0].starts_with("0-31-part-"), "{}", seen.asked[0]);
        assert_eq!(seen.distinct(), even(&ids));
        bed.end().await;
    });
}

/// Scenario: the destination has taken a view when the pipeline crashes before that is noted; the file says another
/// condition at the next start.
/// Guarantee: what is for the sink now comes under another id, so a destination that knows batches does not take it for the
/// one that it has had; nothing that the new condition takes is lost.
#[test]
fn p3_another_condition_makes_other_ids() {
    run(async {
        let bed = TestBed::start_with(&with(json!({ "fields": { "message": "keep" } })), |fake| {
            fake("a").order(|orders| orders.hang = true);
        })
        .await;
        let ids = bed.post(&alternating(10)).await;
        bed.fake("a").until("it has the view at hand", |seen| !seen.asked.is_empty()).await;
        let bed =
            bed.crash_into(&with(json!({ "fields": { "message": { "in": ["keep", "leave"] } } }))).await;
        bed.fake("a").heal();
        bed.settled("a").await;
        let seen = bed.fake("a").seen();
        assert_eq!(seen.asked.last().map(String::as_str), Some("0-10"));
        assert_ne!(seen.asked.first(), seen.asked.last());
        let found: HashSet<_> = seen.events().into_iter().collect();
        assert!(ids.iter().all(|id| found.contains(id.as_str())));
        bed.end().await;
    });
}

/// Scenario: everything was delivered to both sinks; an operator replays it to the one with a condition.
/// Guarantee: only what is for it is delivered again, and the report says how much was not.
#[test]
fn a_replay_is_of_what_is_for_the_sink() {
    run(async {
        let bed = TestBed::start(&with(json!({ "service": "te*", "fields": { "message": "keep" } }))).await;
        let ids = bed.post(&alternating(40)).await;
        bed.settled("a").await;
        let before = bed.fake("a").seen().count();
        let (from, to) = (Timestamp::from_nanos(0), Timestamp::from_nanos(i64::MAX));
        let name = "a".into();
        let (factory, when) = (bed.pipeline.factory(&name), bed.pipeline.condition(&name));
        let request = replay::Request { sink: name, from, to };
        let factory = factory.expect("it is configured");
        let journal: Arc<_> = bed.pipeline.view().journal;
        let report = replay::carry_out(journal, factory, when, request, Progress::silent()).await;
        let report = report.expect("the destination takes it");
        assert_eq!((report.delivered, report.filtered, report.refused, report.damaged), (20, 20, 0, 0));
        let seen = bed.fake("a").seen();
        assert_eq!(seen.events()[before..], even(&ids));
        bed.end().await;
    });
}
