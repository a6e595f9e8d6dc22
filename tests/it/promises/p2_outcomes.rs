//! P2: every accepted event ends at every sink as exactly one recorded outcome.

use std::{collections::HashSet, time::Duration};

use forebay::command::dead_letter::{Request, carry_out};
use forebay_actors::{record::SinkName, state::Reason};

use crate::support::{
    destination::REJECTED_STATUS,
    testbed::{TestBed, config, event_id, events_with, run},
};

/// Scenario: one request after the other with events that the destination refuses, one that it panics on, and
/// failures that pass.
/// Guarantee: delivered and dead-lettered events are all there are, and no event is both; reason, status and attempts
/// are noted; the metrics count the same.
#[test]
fn p2_every_event_is_delivered_or_a_dead_letter() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        bed.fake("a").order(|orders| {
            (orders.reject, orders.panic_on, orders.fail) = (Some("refuse"), Some("panic"), 3);
        });
        let (mut refused, mut panicked) = (Vec::new(), Vec::new());
        for request in 0..10 {
            let mut messages = vec!["a good one"; 30];
            messages[request] = "refuse this";
            messages[29 - request] = if request == 4 { "panic on this" } else { "a good one" };
            let ids = bed.post(&messages).await;
            refused.push(ids[request].clone());
            panicked.extend((request == 4).then(|| ids[29 - request].clone()));
        }
        bed.settled("a").await;
        bed.assert_outcomes("a");

        let letters = bed.dead_letters("a");
        let ids = |reason| -> Vec<_> {
            letters.iter().filter(|letter| letter.reason == reason).filter_map(event_id).collect()
        };
        assert_eq!(ids(Reason::Rejected), refused);
        assert_eq!(ids(Reason::Panicked), panicked);
        for letter in letters.iter().filter(|letter| letter.reason == Reason::Rejected) {
            assert_eq!(letter.status, Some(REJECTED_STATUS));
            assert!(letter.attempts >= 1 && letter.error.contains("does not like"), "{letter:?}");
        }
        let seen = bed.fake("a").seen();
        assert!(letters.iter().filter_map(event_id).all(|id| !seen.events().contains(&id.as_str())));

        let sent = bed.metric("forebay_sink_sent_events_total", &[("sink", "a")]);
        let dead =
            |reason| bed.metric("forebay_sink_dead_letters_total", &[("sink", "a"), ("reason", reason)]);
        assert_eq!((dead("rejected"), dead("panicked")), (10.0, 1.0));
        assert_eq!((sent, seen.count()), (289.0, 289));
        assert_eq!(bed.metric("forebay_receiver_events_total", &[]), 300.0);
        bed.end().await;
    });
}

/// Scenario: one event of a full batch is refused.
/// Guarantee: it stands alone as a dead letter; the others arrive, once and in order.
#[test]
fn p2_a_poison_record_is_isolated_by_halving() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        bed.fake("a").order(|orders| orders.reject = Some("poison"));
        let mut messages = vec!["a good one"; 5_000];
        messages[3_210] = "poison";
        let mut ids = bed.post(&messages).await;
        bed.settled("a").await;
        let letters = bed.dead_letters("a");
        assert_eq!(letters.iter().filter_map(event_id).collect::<Vec<_>>(), [ids.remove(3_210)]);
        let seen = bed.fake("a").seen();
        assert_eq!(seen.events(), ids);
        assert!(seen.asked.len() < 30, "asked {} times", seen.asked.len());
        bed.end().await;
    });
}

/// Scenario: a destination fails for longer than `retry.max_age`.
/// Guarantee: its events are dead letters with the reason `expired`, and delivery goes on when it is back.
#[test]
fn p2_what_fails_for_too_long_expires_by_policy() {
    run(async {
        let mut config = config(&["a"]);
        let retry = &mut config.sinks.get_mut("a").expect("it is configured").retry;
        retry.max_age = Some(Duration::from_millis(20));
        let bed = TestBed::start(&config).await;
        bed.fake("a").order(|orders| orders.fail = u64::MAX);
        let expired = bed.post_many(40).await;
        bed.settled("a").await;
        let letters = bed.dead_letters("a");
        assert_eq!(letters.iter().filter_map(event_id).collect::<Vec<_>>(), expired);
        assert_eq!(events_with(&letters, Reason::Expired), 40);
        assert!(letters.iter().all(|letter| letter.attempts > 1 && letter.error.contains("told to fail")));
        let counted = bed.metric("forebay_sink_dead_letters_total", &[("sink", "a"), ("reason", "expired")]);
        assert_eq!(counted, 40.0);

        bed.fake("a").heal();
        let later = bed.post_many(4).await;
        bed.settled("a").await;
        assert_eq!(bed.fake("a").seen().events(), later);
        bed.end().await;
    });
}

/// Scenario: events were refused; the destination has learned to take them; the operator replays the dead letters.
/// Guarantee: they are delivered with the ids they had, and are dead letters no more.
#[test]
fn p2_dead_letters_can_be_replayed() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        bed.fake("a").order(|orders| orders.reject = Some("refuse"));
        let ids = bed.post(&["refuse 1", "fine", "refuse 2"]).await;
        bed.settled("a").await;
        assert_eq!(bed.dead_letters("a").len(), 2);

        let replay = || {
            let factory = |name: &SinkName| bed.pipeline.factory(name);
            carry_out(bed.pipeline.view().dead_letters, factory, Request::Replay("a".into(), None))
        };
        let answer = replay().await.expect("a refusal is an answer");
        assert_eq!(answer["delivered"], 0);
        assert_eq!(bed.dead_letters("a").len(), 2, "what is refused again stays");

        bed.fake("a").heal();
        let answer = replay().await.expect("the replay is carried out");
        assert_eq!((&answer["delivered"], answer["kept"].as_array().map(Vec::len)), (&2.into(), Some(0)));
        assert_eq!(bed.dead_letters("a"), []);
        let seen = bed.fake("a").seen();
        let delivered: HashSet<_> = seen.events().into_iter().collect();
        assert_eq!(delivered, ids.iter().map(String::as_str).collect());
        bed.end().await;
    });
}
