//! Sinks die all at once, or at every message; their destinations panic on everything, or on one event.

use std::time::Duration;

use forebay_actors::{
    health::Status,
    runtime::{
        fault::{Fault, Moment},
        supervisor::ChildState,
    },
    state::Reason,
};

use super::account::{child, nothing_was_lost};
use crate::support::{
    destination::Seen,
    testbed::{TestBed, config, event_id, eventually, run},
    thorough,
};

/// Scenario: under load all sinks die at the same moment, again and again: between messages, entering and leaving them.
/// Guarantee: producers do not notice; nothing acknowledged is lost, in order.
#[test]
fn all_sinks_die_at_once() {
    run(async {
        let bed = TestBed::start(&config(&["a", "b", "c", "d"])).await;
        let load = bed.load();
        let sinks: Vec<_> =
            ["a", "b", "c", "d"].iter().map(|name| child(&bed, &format!("sink:{name}"))).collect();
        let rounds = thorough(8, 100);
        for round in 0..rounds {
            let fault = match round % 4 {
                0 => Fault::Panic,
                1 => Fault::Stop,
                2 => Fault::PanicInHandler { after: 0, moment: Moment::Entering },
                _ => Fault::PanicInHandler { after: 0, moment: Moment::Leaving },
            };
            sinks.iter().for_each(|sink| sink.inject(fault));
            eventually("all of them were restarted", || {
                sinks.iter().all(|sink| sink.restarts() == round + 1)
            })
            .await;
            let enough = bed.acknowledged().len() + 50;
            eventually("producers go on", || bed.acknowledged().len() > enough).await;
        }
        assert_eq!(load.stop().await, [], "producers do not notice");
        nothing_was_lost(bed, &format!("{rounds} times all of 4 sinks died")).await;
    });
}

/// What the health says of this sink, and of the whole.
fn health_of(bed: &TestBed, sink: &str) -> (Status, Status, &'static str) {
    let (report, _) = bed.pipeline.view().board.read();
    let actor = report.actors.get(&format!("sink:{sink}")).map_or("absent", |actor| actor.state);
    (report.status, report.sinks.get(sink).map_or(Status::Unhealthy, |sink| sink.status), actor)
}

/// A pipeline whose actors have a budget of three restarts, and are retried every 20 ms when it is spent.
async fn with_a_small_budget() -> TestBed {
    let mut config = config(&["bad", "good"]);
    config.supervisor.restarts_max = 3;
    config.supervisor.backoff_max = Duration::from_millis(20);
    TestBed::start(&config).await
}

/// While `bad` dies again and again: it is `Failed` in state, metrics and health, and nobody else is touched.
async fn bad_has_failed_and_good_goes_on(bed: &TestBed) {
    let bad = child(bed, "sink:bad");
    eventually("its budget is spent", || bad.state() == ChildState::Failed).await;
    let state = || bed.metric("forebay_actor_state", &[("actor", "sink:bad")]);
    eventually("the metrics say so", || state() == f64::from(ChildState::Failed as u8)).await;
    // Between two deaths it runs for a moment, and health may look at that one.
    let says_failed = || health_of(bed, "bad") == (Status::Degraded, Status::Degraded, "failed");
    eventually("health says so", says_failed).await;
    assert_eq!(health_of(bed, "good"), (Status::Degraded, Status::Healthy, "running"));
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.extend(bed.post_many(10).await);
    }
    let came = |id: &String, seen: &Seen| seen.events().contains(&id.as_str());
    let last = ids.pop().expect("there were some");
    bed.fake("good").until("the last has come", |seen| came(&last, seen)).await;
    let seen = bed.fake("good").seen();
    assert!(ids.iter().all(|id| came(id, &seen)), "and all before it");
    for other in bed.pipeline.children().filter(|child| child.name() != "sink:bad") {
        assert_eq!((other.restarts(), other.state()), (0, ChildState::Running), "{}", other.name());
    }
    assert_eq!(bed.fake("bad").seen().count(), 0);
}

/// Scenario: a sink's destination panics while it is built, every time: nobody but the sink itself is there to bear that.
/// Guarantee: the sink's restart budget is spent, it is `Failed` for all to see, and retried; the others do not notice;
/// when the destination can be built, everything comes.
#[test]
fn a_sink_that_dies_of_every_batch_is_failed_and_alone() {
    run(async {
        let bed = with_a_small_budget().await;
        bed.fake("bad").order(|orders| orders.panic_when_built = true);
        bed.post_many(10).await;
        bad_has_failed_and_good_goes_on(&bed).await;
        bed.fake("bad").heal();
        let deaths = bed.fake("bad").seen().built;
        nothing_was_lost(bed, &format!("{deaths} deaths of one sink")).await;
    });
}

/// Scenario: the sink's handler panics at every message that it is sent.
/// Guarantee: the same.
#[test]
fn a_sink_that_dies_of_every_message_is_failed_and_alone() {
    run(async {
        let bed = with_a_small_budget().await;
        // Else what it does not get by message it would read from the journal, and deliver between two deaths.
        bed.fake("bad").order(|orders| orders.hang = true);
        let bad = child(&bed, "sink:bad");
        let again = {
            let (bad, producer) = (bad.clone(), bed.producer());
            actix::spawn(async move {
                loop {
                    bad.inject(Fault::PanicInHandler { after: 0, moment: Moment::Entering });
                    let before = bad.restarts();
                    while bad.restarts() == before {
                        producer.post(&["a message to die of"]).await.expect("producers do not notice");
                    }
                }
            })
        };
        bad_has_failed_and_good_goes_on(&bed).await;
        again.abort();
        let _ = again.await;
        bed.fake("bad").heal();
        // The trap that is still set.
        bed.post_many(1).await;
        let deaths = bad.restarts();
        nothing_was_lost(bed, &format!("{deaths} deaths of one sink at its messages")).await;
    });
}

/// Scenario: batches of many events hold one that panics the encoder in the very call of the destination, each time; the
/// sink itself is killed while it looks for the event.
/// Guarantee: that event alone is a dead letter, with the reason; all others are delivered, each batch is tried a bounded
/// number of times, and the other sink does not notice.
#[test]
fn a_poison_batch_ends_in_the_dead_letters() {
    run(async {
        let bed = TestBed::start(&config(&["a", "b"])).await;
        bed.fake("a").order(|orders| orders.panic_in_call_on = Some("poison"));
        let mut poisoned = Vec::new();
        for round in 0..thorough(4, 30) {
            let mut messages = vec!["a good one"; 1_000];
            messages[137 * round % 1_000] = "poison";
            poisoned.push(bed.post(&messages).await.swap_remove(137 * round % 1_000));
            let asked = bed.fake("a").seen().asked.len();
            bed.fake("a").until("it looks for the event", |seen| seen.asked.len() > asked).await;
            child(&bed, "sink:a").inject(if round % 2 == 0 { Fault::Panic } else { Fault::Stop });
            bed.post_many(10).await;
            bed.settled("a").await;
        }
        bed.settled("b").await;
        bed.assert_delivered("b");
        bed.assert_outcomes("a");
        bed.assert_order("a");
        let letters = bed.dead_letters("a");
        assert_eq!(letters.iter().filter_map(event_id).collect::<Vec<_>>(), poisoned);
        assert!(letters.iter().all(|letter| letter.reason == Reason::Panicked && letter.attempts > 0));
        let asked = bed.fake("a").seen().asked.len();
        // Twice the way down a thousand events, once again for the death, and the batches that follow.
        assert!(asked <= poisoned.len() * 60, "asked {asked} times for {} poisoned batches", poisoned.len());
        eprintln!(
            "{} poisoned batches: {} events acknowledged, {} dead letters, {asked} deliveries tried, 0 lost",
            poisoned.len(),
            bed.acknowledged().len(),
            letters.len(),
        );
        bed.end().await;
    });
}

/// Scenario: the destination panics on every batch.
/// Guarantee: no endless loop: everything has an outcome, the sink itself was not restarted, and the other sink does not
/// notice.
#[test]
fn a_destination_that_panics_on_everything_leaves_dead_letters() {
    run(async {
        let bed = TestBed::start(&config(&["a", "b"])).await;
        bed.fake("a").order(|orders| orders.panic = u64::MAX);
        for _ in 0..5 {
            bed.post_many(40).await;
        }
        for name in ["a", "b"] {
            bed.settled(name).await;
            bed.assert_outcomes(name);
        }
        bed.assert_delivered("b");
        assert_eq!((bed.dead_letters("a").len(), child(&bed, "sink:a").restarts()), (200, 0));
        assert_eq!(bed.metric("forebay_sink_dead_letters_total", &[("reason", "panicked")]), 200.0);
        bed.fake("a").heal();
        let later = bed.post_many(3).await;
        bed.settled("a").await;
        assert_eq!(bed.fake("a").seen().distinct(), later);
        bed.end().await;
    });
}
