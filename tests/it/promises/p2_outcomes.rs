//! P2: every accepted event ends at every sink as exactly one recorded outcome.

use std::{collections::HashSet, time::Duration};

use forebay::command::dead_letter::{Request, carry_out};
use forebay::command::progress::Progress;
use forebay_actors::{record::SinkName, runtime::fault::Fault, state::Reason};

use crate::support::{
    destination::REJECTED_STATUS,
    testbed::{TestBed, config, event_id, events_with, eventually, run},
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

/// Scenario: a destination takes a batch but for three of its events, which it names.
/// Guarantee: these are dead letters, each with the words about it; the others are delivered, and nothing is sent again.
#[test]
fn p2_events_that_a_destination_names_become_dead_letters_alone() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        bed.fake("a").order(|orders| orders.name = Some("unwanted"));
        let mut messages = vec!["a good one"; 500];
        let wrong = [("unwanted 0", 0), ("unwanted 7", 7), ("unwanted 499", 499)];
        wrong.iter().for_each(|(message, index)| messages[*index] = *message);
        let mut ids = bed.post(&messages).await;
        bed.settled("a").await;
        bed.assert_outcomes("a");
        let letters = bed.dead_letters("a");
        let found: Vec<_> =
            letters.iter().map(|letter| (event_id(letter).unwrap(), &*letter.error)).collect();
        let words: Vec<_> =
            wrong.iter().map(|(message, _)| format!("the destination names {message}")).collect();
        let expected: Vec<_> =
            wrong.iter().zip(&words).map(|((_, index), words)| (ids[*index].clone(), &**words)).collect();
        assert_eq!(found, expected);
        assert!(
            letters.iter().all(|letter| {
                (letter.reason, letter.status) == (Reason::Rejected, Some(REJECTED_STATUS))
            })
        );
        for (_, index) in wrong.iter().rev() {
            ids.remove(*index);
        }
        let seen = bed.fake("a").seen();
        assert_eq!((seen.events(), seen.asked.len()), (ids.iter().map(String::as_str).collect(), 1));
        let labels = [("sink", "a")];
        assert_eq!(bed.metric("forebay_sink_sent_events_total", &labels), 497.0);
        let labels = [("sink", "a"), ("reason", "rejected")];
        assert_eq!(bed.metric("forebay_sink_dead_letters_total", &labels), 3.0);
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
        retry.max_age = Some(Duration::from_millis(500));
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
            carry_out(
                bed.pipeline.view().dead_letters,
                factory,
                Request::Replay("a".into(), None),
                Progress::silent(),
            )
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

/// Scenario: the dead letters have reached their cap when events are refused; later the operator drops some.
/// Guarantee: the sink waits and says so, loses nothing, delays nobody, and goes on by itself when there is room.
#[test]
fn p2_full_dead_letters_hold_the_sink_and_lose_nothing() {
    run(async {
        let mut config = config(&["a", "b"]);
        config.dead_letters.max_bytes = 1_000;
        let bed = TestBed::start(&config).await;
        bed.fake("a").order(|orders| orders.reject = Some("refuse"));
        let mut messages = vec!["a good one"; 40];
        messages[..20].fill("refuse this");
        let ids = bed.post(&messages).await;
        bed.settled("b").await;
        let error =
            || bed.pipeline.sink_probe("a").and_then(|probe| probe.report().error).unwrap_or_default();
        eventually("the sink says why it waits", || error().contains("dead letters have reached")).await;
        // The sink buries several at a time: those that are kept need not be the first. The cursor is read before them.
        let cursor = bed.cursor("a").0;
        let kept: HashSet<_> = bed.dead_letters("a").iter().map(|letter| letter.span.first.0).collect();
        assert!((1..20).contains(&kept.len()), "{kept:?} were kept");
        assert!((0..cursor).all(|position| kept.contains(&position)), "{cursor} is behind one of {kept:?}");

        let mut dropped = 0;
        while bed.fake("a").seen().count() < 20 {
            let letters = bed.pipeline.view().dead_letters;
            let answer =
                carry_out(letters, |_| None, Request::Drop("a".into(), None), Progress::silent()).await;
            let answer = answer.expect("they are dropped");
            let count = answer.as_str().and_then(|text| text.split(' ').next()).expect("it says how many");
            dropped += count.parse::<usize>().expect("a number");
            tokio::task::yield_now().await;
        }
        bed.settled("a").await;
        assert_eq!(bed.fake("a").seen().events(), ids[20..]);
        assert_eq!(dropped + bed.dead_letters("a").len(), 20);
        bed.end().await;
    });
}

/// Scenario: rounds of everything at once, drawn from a seed: destinations fail, hang, panic and refuse; actors die;
/// the process restarts in order or crashes.
/// Guarantee: at the end every event that was ever acknowledged is delivered to each sink, or a dead letter of it.
#[test]
fn p2_every_event_has_its_outcome_whatever_happens() {
    for seed in [1, 2, 3, 4, 5, 6] {
        println!("seed {seed}");
        run(chaos(seed));
    }
}

async fn chaos(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut config = config(&["a", "b"]);
    config.batch.max_events = random.usize(5..200);
    config.sinks.get_mut("b").expect("it is configured").concurrency = random.usize(1..4).into();
    let mut bed = TestBed::start(&config).await;
    for _ in 0..10 {
        for name in ["a", "b"] {
            bed.fake(name).order(|orders| {
                orders.hang = random.u8(..4) == 0;
                (orders.fail, orders.panic) = (random.u64(..4), random.u64(..2));
                orders.reject = random.bool().then_some("refuse");
            });
        }
        let producer = bed.producer();
        for _ in 0..random.usize(1..20) {
            let mut messages = vec!["a good one"; random.usize(1..60)];
            if random.u8(..4) == 0 {
                messages[0] = "refuse this";
            }
            let names: Vec<_> = bed.pipeline.children().map(|child| child.name().to_owned()).collect();
            if random.u8(..4) == 0 {
                let fault = if random.bool() { Fault::Panic } else { Fault::Stop };
                bed.pipeline.inject(&names[random.usize(..names.len())], fault);
            }
            // What was not acknowledged was not promised.
            let _ = producer.post(&messages).await;
        }
        bed = match random.u8(..3) {
            0 => bed.crash().await,
            1 => bed.restart(&config, Duration::from_millis(random.u64(..20))).await,
            _ => bed,
        };
    }
    for name in ["a", "b"] {
        bed.fake(name).heal();
        bed.settled(name).await;
        bed.assert_outcomes(name);
        let letters = bed.dead_letters(name);
        assert!(letters.iter().all(|letter| letter.event.is_some()), "nothing was damaged: {letters:?}");
    }
    bed.end().await;
}
