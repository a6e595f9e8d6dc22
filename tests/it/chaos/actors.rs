//! Every actor dies before, in the midst of and after each message it handles; alone and in pairs.

use std::time::Duration;

use forebay_actors::runtime::{
    fault::{Fault, Moment},
    supervisor::Child,
};

use super::account::{bring_down, child, is_back, nothing_was_lost};
use crate::support::{
    testbed::{NotAcknowledged, TestBed, config, eventually, run},
    thorough,
};

const MOMENTS: [Moment; 2] = [Moment::Entering, Moment::Leaving];

/// So long that it does not come to an end within the test.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// What one small request makes: who is sent what, and how many messages that actor is sent for it before.
const MESSAGES: [(&str, &str, u64); 6] = [
    ("receiver", "Admit", 0),
    ("buffer", "Append", 0),
    ("buffer", "Delivered with a plan to save", 1),
    ("buffer", "Delivered", 2),
    ("batcher", "Committed", 0),
    ("sink:a", "Shaped", 0),
];

/// Whether actors may take no message but those that follow from a request.
async fn is_quiet(bed: &TestBed) {
    eventually("nothing waits", || bed.pipeline.children().all(|child| child.waiting() == 0)).await;
}

/// Scenario: on an idle pipeline with one sink, where it is known which message comes when, each actor panics at each
/// kind of message that a request makes, with nothing of it done and with all of it done.
/// Guarantee: the request is acknowledged, unless its own message was lost before it was handled; the next one is; both
/// that were acknowledged come to the sink in order, and the actor was restarted once.
#[test]
fn each_actor_dies_at_each_kind_of_message() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        // It would send Buffer a message a second.
        child(&bed, "retention").inject(Fault::Stall(FOR_EVER));
        let mut faults = 0;
        for _ in 0..thorough(2, 20) {
            for ((name, message, after), moment) in
                MESSAGES.iter().flat_map(|m| MOMENTS.map(|moment| (*m, moment)))
            {
                is_quiet(&bed).await;
                let child = child(&bed, name);
                let (restarts, handled) = (child.restarts(), child.handled());
                child.inject(Fault::PanicInHandler { after, moment });
                let posted = bed.producer().post(&["an event"; 3]).await;
                is_back(&child, restarts).await;
                faults += 1;
                let says_no = moment == Moment::Entering && matches!(message, "Admit" | "Append");
                let lost = Err(NotAcknowledged::Unanswered);
                match says_no {
                    true => assert_eq!(posted, lost, "{name} entering {message}"),
                    false => assert!(posted.is_ok(), "{name} {moment:?} {message}: {posted:?}"),
                }
                assert!(child.handled() > handled + after, "{name} was sent {message}");
                bed.post_many(2).await;
                bed.settled("a").await;
                assert_eq!(child.restarts(), restarts + 1, "{name} {moment:?} {message}");
            }
        }
        nothing_was_lost(bed, &format!("{faults} panics at known messages")).await;
    });
}

/// Scenario: nothing happens but what happens by the clock, and Buffer panics at a `Trim`, before and after; and the two
/// who are sent nothing are brought down between their looks.
/// Guarantee: everything goes on.
#[test]
fn who_works_by_the_clock_dies_between_two_looks() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        bed.post_many(5).await;
        bed.settled("a").await;
        is_quiet(&bed).await;
        for moment in MOMENTS {
            bring_down(&child(&bed, "buffer"), Fault::PanicInHandler { after: 0, moment }).await;
            bed.post_many(5).await;
            bed.settled("a").await;
            is_quiet(&bed).await;
        }
        for (name, fault) in
            ["retention", "health"].into_iter().flat_map(|n| [(n, Fault::Panic), (n, Fault::Stop)])
        {
            bring_down(&child(&bed, name), fault).await;
        }
        let buffer = child(&bed, "buffer");
        let handled = buffer.handled();
        eventually("retention sends trims again", || buffer.handled() > handled).await;
        nothing_was_lost(bed, "6 deaths of who works by the clock").await;
    });
}

/// Scenario: the pipeline is drained while its sink has a batch that is not answered, and the sink panics at the
/// `Drain`, before and after; then the destination answers.
/// Guarantee: everything is delivered before the end.
#[test]
fn a_sink_dies_at_the_message_that_it_shall_drain() {
    run(async {
        for moment in MOMENTS {
            let bed = TestBed::start(&config(&["a"])).await;
            let fake = bed.fake("a");
            fake.order(|orders| orders.hang = true);
            let ids = bed.post_many(7).await;
            fake.until("it was asked", |seen| !seen.asked.is_empty()).await;
            is_quiet(&bed).await;
            let child = child(&bed, "sink:a");
            child.inject(Fault::PanicInHandler { after: 0, moment });
            let heal = async {
                eventually("it died of the message", || child.restarts() == 1).await;
                fake.heal();
            };
            futures::join!(bed.end(), heal);
            assert_eq!(fake.seen().distinct(), ids);
            eprintln!("a panic {moment:?} Drain: {} events acknowledged, 0 lost", ids.len());
        }
    });
}

/// Scenario: the destination has a batch at hand when its sink panics or stops; meanwhile more comes.
/// Guarantee: the batch comes again as it was, then what came meanwhile.
#[test]
fn a_sink_dies_in_the_midst_of_a_delivery() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        let fake = bed.fake("a");
        for round in 0..thorough(6, 60) {
            fake.order(|orders| orders.hang = true);
            let asked = fake.seen().asked.len();
            bed.post_many(4).await;
            fake.until("it has a batch at hand", |seen| seen.asked.len() > asked).await;
            bring_down(&child(&bed, "sink:a"), if round % 2 == 0 { Fault::Panic } else { Fault::Stop }).await;
            bed.post_many(4).await;
            fake.until("it was asked again", |seen| seen.asked.len() > asked + 1).await;
            let seen = fake.seen();
            assert_eq!(seen.asked[asked], seen.asked[asked + 1], "the batch is the same");
            fake.heal();
            bed.settled("a").await;
        }
        nothing_was_lost(bed, "deaths in the midst of a delivery").await;
    });
}

/// The faults that a child can be hit by at the n-th of its messages; those who are sent none are hit between.
fn faults(child: &Child, n: u64) -> Vec<Fault> {
    if ["retention", "health"].contains(&child.name()) {
        return vec![Fault::Panic, Fault::Stop];
    }
    let at = MOMENTS.map(|moment| Fault::PanicInHandler { after: n, moment });
    [&at[..], &[Fault::Panic, Fault::Stop]].concat()
}

/// Scenario: under load, each actor dies at its first message from now, at its second, and so on, entering and leaving
/// the handler, and between two messages.
/// Guarantee: each death is one restart of that actor and of no other; nothing acknowledged is lost, in order.
#[test]
fn each_actor_dies_at_its_nth_message_under_load() {
    run(async {
        let bed = TestBed::start(&config(&["a", "b"])).await;
        let load = bed.load();
        let children: Vec<_> = bed.pipeline.children().cloned().collect();
        let mut sprung = 0;
        for n in 0..thorough(3, 25) {
            for child in &children {
                for fault in faults(child, n) {
                    bring_down(child, fault).await;
                    sprung += 1;
                    let restarts: u64 = children.iter().map(Child::restarts).sum();
                    assert_eq!(restarts, sprung, "{} {fault:?}", child.name());
                }
            }
        }
        let enough = bed.acknowledged().len() + 100;
        eventually("events are acknowledged at the end, too", || bed.acknowledged().len() > enough).await;
        let failures = load.stop().await;
        assert!(failures.iter().all(|failure| *failure == NotAcknowledged::Unanswered), "{failures:?}");
        nothing_was_lost(bed, &format!("{sprung} deaths under load, {} requests unanswered", failures.len()))
            .await;
    });
}

/// Scenario: the same with two at a time, every pair there is, each with a fault of its own.
/// Guarantee: the same.
#[test]
fn every_pair_of_actors_dies_under_load() {
    run(async {
        let bed = TestBed::start(&config(&["a", "b"])).await;
        let load = bed.load();
        let children: Vec<_> = bed.pipeline.children().cloned().collect();
        let mut random = fastrand::Rng::with_seed(3);
        let mut pairs = 0;
        for _ in 0..thorough(2, 20) {
            for (index, one) in children.iter().enumerate() {
                for other in &children[index + 1..] {
                    let before = (one.restarts(), other.restarts());
                    for child in [one, other] {
                        let faults = faults(child, random.u64(0..3));
                        child.inject(faults[random.usize(..faults.len())]);
                    }
                    is_back(one, before.0).await;
                    is_back(other, before.1).await;
                    assert_eq!((one.restarts(), other.restarts()), (before.0 + 1, before.1 + 1));
                    pairs += 1;
                }
            }
        }
        let enough = bed.acknowledged().len() + 100;
        eventually("events are acknowledged at the end, too", || bed.acknowledged().len() > enough).await;
        load.stop().await;
        nothing_was_lost(bed, &format!("{pairs} pairs died under load")).await;
    });
}
