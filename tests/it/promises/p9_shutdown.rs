//! P9: shutdown follows the graph, each step with a deadline; what could not be delivered stays in the journal.

use std::time::Duration;

use forebay_actors::message::Refusal;
use tokio::time::Instant;

use crate::support::testbed::{NotAcknowledged, TestBed, config, run};

/// Scenario: the pipeline is ended while producers post, and while less than a batch waits for more.
/// Guarantee: what was acknowledged is delivered before the end, without waiting for `batch.max_wait`; who comes later
/// is refused.
#[test]
fn p9_a_drain_delivers_everything() {
    run(async {
        let mut config = config(&["a", "b"]);
        config.batch.max_wait = Duration::from_secs(3600);
        let bed = TestBed::start(&config).await;
        // The first goes at once; the others wait for an hour.
        bed.post_many(1).await;
        bed.settled("a").await;
        bed.post_many(10).await;
        let (a, b, before) = (bed.fake("a"), bed.fake("b"), bed.acknowledged());
        let producer = bed.producer();
        bed.end().await;
        assert_eq!(
            (a.seen().events(), b.seen().events()),
            (before.iter().map(String::as_str).collect(), before.iter().map(String::as_str).collect())
        );
        assert_eq!(producer.post(&["too late"]).await, Err(NotAcknowledged::Refused(Refusal::ShuttingDown)));
    });
}

/// Scenario: one of two destinations hangs when the pipeline is ended.
/// Guarantee: the end comes at the deadline, says what is left and for whom, and the next start delivers it.
#[test]
fn p9_a_hung_sink_ends_at_the_deadline() {
    run(async {
        let config = config(&["a", "b"]);
        let bed = TestBed::start_with(&config, |fake| fake("b").order(|orders| orders.hang = true)).await;
        bed.post_many(33).await;
        let (a, b) = (bed.fake("a"), bed.fake("b"));
        let deadline = Duration::from_millis(300);
        let began = Instant::now();
        // Ended and started again by hand: what is left has to be looked at.
        let patience = deadline + Duration::from_secs(5);
        let bed = bed.restart(&config, deadline).await;
        let took = began.elapsed();
        assert!((deadline..patience).contains(&took), "{took:?}");
        assert_eq!((a.seen().count(), b.seen().count()), (33, 0));
        assert_eq!((bed.cursor("a").0, bed.cursor("b").0), (33, 0));
        b.heal();
        bed.settled("b").await;
        bed.assert_delivered("b");
        assert_eq!(a.seen().count(), 33, "what was delivered is not delivered again");
        let (_, drained) = bed.stop(Duration::from_secs(5)).await;
        assert!(drained.left.is_empty());
    });
}

/// Scenario: a destination holds its thread when the pipeline is ended with work left for it.
/// Guarantee: the end comes all the same, and says how much is left for whom.
#[test]
fn p9_the_end_says_what_is_left() {
    run(async {
        let config = config(&["a", "b"]);
        let bed = TestBed::start_with(&config, |fake| fake("b").order(|orders| orders.hang = true)).await;
        bed.post_many(33).await;
        let (_, drained) = bed.stop(Duration::from_millis(50)).await;
        assert_eq!(drained.left.into_iter().collect::<Vec<_>>(), [("b".into(), 33)]);
    });
}

/// Scenario: the gate is closed, as the first step of a shutdown does, under load.
/// Guarantee: from then on every request is refused as shutting down, and all that was acknowledged is delivered.
#[test]
fn p9_a_closed_gate_refuses() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        let load = bed.load();
        crate::support::testbed::eventually("the load is on", || bed.acknowledged().len() > 500).await;
        bed.pipeline.view().gate.close();
        let refused = bed.producer().post(&["too late"]).await;
        assert_eq!(refused, Err(NotAcknowledged::Refused(Refusal::ShuttingDown)));
        let failures = load.stop().await;
        let shutting_down = NotAcknowledged::Refused(Refusal::ShuttingDown);
        assert!(failures.iter().all(|failure| *failure == shutting_down), "{failures:?}");
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.end().await;
    });
}
