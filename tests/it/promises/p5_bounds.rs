//! P5: no unbounded queue anywhere; fullness travels outward as a refusal.

use forebay_actors::{buffer, message::Refusal, receiver};
use futures::future::join_all;

use crate::support::testbed::{NotAcknowledged, TestBed, config, eventually, run};

const OVERLOADED: NotAcknowledged = NotAcknowledged::Refused(Refusal::Overloaded);

/// Scenario: many more events come at once than may wait for their commit.
/// Guarantee: some requests are refused as overloaded, none hangs, and what was acknowledged is delivered.
#[test]
fn p5_events_that_wait_are_bounded() {
    run(async {
        let mut config = config(&["a"]);
        config.buffer.memory_events_max = 20;
        let bed = TestBed::start(&config).await;
        let producer = bed.producer();
        let answers =
            join_all((0..500).map(|_| producer.offer(&["one", "two", "three", "four", "five"]))).await;
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        assert!(answers.iter().all(|answer| answer.is_ok() || *answer == Err(OVERLOADED)));
        assert!((1..500).contains(&refused), "{refused} of 500 were refused");
        // A request that is larger than all that may wait is taken, too.
        producer.post_patiently(&["one of fifty"; 50]).await;
        bed.settled("a").await;
        bed.assert_delivered("a");
        assert_eq!(
            bed.fake("a").seen().count(),
            (500 - refused) * 5 + 50,
            "nothing of a refused request was kept"
        );
        bed.end().await;
    });
}

/// Scenario: the same by bytes.
/// Guarantee: the same.
#[test]
fn p5_bytes_that_wait_are_bounded() {
    run(async {
        let mut config = config(&["a"]);
        config.buffer.memory_bytes_max = 10_000;
        let bed = TestBed::start(&config).await;
        let producer = bed.producer();
        let long = "x".repeat(3_000);
        let answers = join_all((0..300).map(|_| producer.offer(&[&long]))).await;
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        assert!(answers.iter().all(|answer| answer.is_ok() || *answer == Err(OVERLOADED)));
        assert!((1..300).contains(&refused), "{refused} of 300 were refused");
        bed.settled("a").await;
        assert_eq!(bed.fake("a").seen().count(), 300 - refused);
        bed.end().await;
    });
}

/// Scenario: small requests are on their way all the time, fewer than may wait; among them one comes that is larger than all
/// that may wait, by its events or by its bytes.
/// Guarantee: it is taken as they are. It had to find nothing waiting at all.
#[test]
fn r0282_a_large_request_was_refused_while_small_ones_were_taken() {
    run(async {
        let mut config = config(&["a"]);
        config.buffer.memory_events_max = 100;
        config.buffer.memory_bytes_max = 20_000;
        let bed = TestBed::start(&config).await;
        let producer = bed.producer();
        let (many, long) = (["one of many"; 150], "x".repeat(30_000));
        let large: [&[&str]; 2] = [&many, &[&long]];
        let waiting = bed.pipeline.view().buffer.waiting_events;
        for round in 0..20 {
            // The answer comes a moment before the large one counts no more.
            eventually("nothing waits", || waiting.get() == 0).await;
            let mut answers: Vec<_> = (0..3).map(|_| producer.offer(&["small"])).collect();
            answers.push(producer.offer(large[round % 2]));
            let answers = join_all(answers).await;
            assert!(answers.iter().all(Result::is_ok), "round {round}: {answers:?}");
        }
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.end().await;
    });
}

/// Scenario: 30,000 requests are offered at once; one sink hangs.
/// Guarantee: every mailbox has a bound and keeps it; every request has its answer.
#[test]
fn p5_every_mailbox_is_bounded() {
    run(async {
        let bed = TestBed::start(&config(&["a", "b"])).await;
        bed.fake("b").order(|orders| orders.hang = true);
        let producer = bed.producer();
        let answers: Vec<_> = (0..30_000).map(|_| producer.offer(&["one"])).collect();
        let of = |metric: &str, actor: &str| bed.metric(metric, &[("actor", actor)]) as usize;
        let actors: Vec<_> = bed.pipeline.children().map(|child| child.name().to_owned()).collect();
        assert_eq!(actors.len(), 7);
        for actor in &actors {
            let capacity = of("forebay_actor_mailbox_capacity", actor);
            let waiting = of("forebay_actor_mailbox_messages", actor);
            assert!((1..=buffer::MAILBOX_MESSAGES).contains(&capacity), "{actor}: {capacity}");
            assert!(waiting <= capacity, "{actor}: {waiting} wait where {capacity} may");
        }
        assert_eq!(of("forebay_actor_mailbox_capacity", "receiver"), receiver::MAILBOX_REQUESTS);
        let answers = join_all(answers).await;
        assert!(answers.iter().all(|answer| answer.is_ok() || *answer == Err(OVERLOADED)));
        bed.settled("a").await;
        bed.fake("b").heal();
        for name in ["a", "b"] {
            bed.settled(name).await;
            bed.assert_delivered(name);
        }
        bed.end().await;
    });
}
