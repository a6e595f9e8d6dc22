//! P4: a slow, failing or dead sink never delays another sink, nor a producer, until the journal's byte cap.

use forebay::config::{Config, WhenFull};
use forebay_actors::{message::Refusal, state::Reason};

use crate::support::{
    destination::Orders,
    testbed::{NotAcknowledged, TestBed, config, events_with, eventually, incompressible, run},
};

/// Scenario: one destination takes batches and never answers.
/// Guarantee: producers are never refused, the healthy sink gets everything at once; the other one later.
#[test]
fn p4_a_hung_sink_delays_nobody() {
    run(delays_nobody(Orders { hang: true, ..Orders::default() }));
}

/// Scenario: one destination holds its thread, as a driver that blocks.
/// Guarantee: the same.
#[test]
fn p4_a_sink_that_holds_its_thread_delays_nobody() {
    run(delays_nobody(Orders { hold_thread: true, ..Orders::default() }));
}

/// Scenario: one destination fails every time.
/// Guarantee: the same.
#[test]
fn p4_a_failing_sink_delays_nobody() {
    run(delays_nobody(Orders { fail: u64::MAX, ..Orders::default() }));
}

/// Scenario: one destination panics often.
/// Guarantee: the same.
#[test]
fn p4_a_panicking_sink_delays_nobody() {
    run(async {
        let bed = TestBed::start(&config(&["bad", "good"])).await;
        for _ in 0..20 {
            // Once is chance: a batch that panics the destination twice is taken to be at fault.
            bed.fake("bad").order(|orders| orders.panic = 1);
            bed.post_many(20).await;
            bed.settled("good").await;
        }
        bed.settled("bad").await;
        ["good", "bad"].iter().for_each(|name| bed.assert_outcomes(name));
        bed.assert_delivered("good");
        bed.end().await;
    });
}

async fn delays_nobody(bad: Orders) {
    let bed = TestBed::start_with(&config(&["bad", "good"]), |fake| {
        fake("bad").order(|orders| *orders = bad.clone());
    })
    .await;
    for _ in 0..200 {
        bed.post_many(50).await;
    }
    bed.settled("good").await;
    bed.assert_delivered("good");
    assert_eq!(bed.fake("bad").seen().count(), 0);
    assert_eq!(bed.cursor("bad").0, 0);
    bed.fake("bad").heal();
    bed.settled("bad").await;
    bed.assert_delivered("bad");
    bed.end().await;
}

/// A cap that a generation and a bit fit under.
fn capped(sinks: &[&str], when_full: WhenFull) -> Config {
    let mut config = config(sinks);
    config.buffer.max_bytes = 40 * 1024 * 1024;
    config.sinks.values_mut().for_each(|sink| sink.when_full = when_full);
    config
}

fn megabyte(request: usize) -> Vec<&'static str> {
    (0..16).map(|index| incompressible(request + index)).collect()
}

/// Scenario: a sink whose policy is `block` hangs until the journal is at its cap.
/// Guarantee: producers are refused with `journal_full` and nothing is half-accepted; when the sink has caught up they
/// are accepted again, by itself; nothing is lost.
#[test]
fn p4_at_the_cap_block_refuses_and_recovers_by_itself() {
    run(async {
        let bed = TestBed::start_with(&capped(&["bad", "good"], WhenFull::Block), |fake| {
            fake("bad").order(|orders| orders.hang = true);
        })
        .await;
        let producer = bed.producer();
        let mut request = 0;
        loop {
            match producer.post(&megabyte(request)).await {
                Ok(_) => request += 1,
                Err(refusal) => {
                    assert_eq!(refusal, NotAcknowledged::Refused(Refusal::JournalFull));
                    // The commit before counts as what it has in memory until `Buffer` hears what it takes on disk, which is
                    // behind the answer: there may have been room for this one.
                    if bed.metric("forebay_buffer_full", &[]) == 1.0 {
                        break;
                    }
                }
            }
            assert!(request < 60, "the cap holds");
        }
        assert!(request >= 30, "refused after {request} MB of 40 MiB");
        bed.settled("good").await;
        bed.assert_delivered("good");
        assert_eq!(bed.fake("good").seen().count(), request * 16);

        bed.fake("bad").heal();
        producer.post_patiently(&megabyte(request)).await;
        for name in ["good", "bad"] {
            bed.settled(name).await;
            bed.assert_delivered(name);
        }
        assert_eq!(bed.metric("forebay_buffer_full", &[]), 0.0);
        assert_eq!(bed.metric("forebay_sink_dead_letters_total", &[]), 0.0);
        bed.end().await;
    });
}

/// Scenario: a sink whose policy is `drop_oldest` hangs; producers bring three times the cap.
/// Guarantee: they can go on; what the sink skips is counted and dead-lettered by range, once; the rest is delivered
/// to it, and everything to the healthy sink.
#[test]
fn p4_at_the_cap_drop_oldest_lets_producers_go_on() {
    run(async {
        let bed = TestBed::start_with(&capped(&["bad", "good"], WhenFull::DropOldest), |fake| {
            fake("bad").order(|orders| orders.hang = true);
        })
        .await;
        let producer = bed.producer();
        for request in 0..120 {
            producer.post_patiently(&megabyte(request)).await;
            if request % 10 == 9 {
                // The healthy one keeps up, so that it has nothing to skip.
                bed.settled("good").await;
            }
        }
        bed.settled("good").await;
        bed.assert_delivered("good");
        assert_eq!(bed.dead_letters("good"), []);

        bed.fake("bad").heal();
        bed.settled("bad").await;
        bed.assert_outcomes("bad");
        let letters = bed.dead_letters("bad");
        assert!(letters.iter().all(|letter| letter.reason == Reason::DroppedOldest), "{letters:?}");
        let dropped = events_with(&letters, Reason::DroppedOldest);
        assert!(dropped >= 1_000, "only {dropped} were dropped");
        let counted = bed.metric("forebay_buffer_dropped_events_total", &[("sink", "bad")]);
        assert_eq!(counted, dropped as f64);
        // What was on its way when its range was dropped came to both; nothing else did.
        let delivered = bed.fake("bad").seen().distinct().len() as u64;
        let batch = bed.config().batch.max_bytes as u64 / 60_000 + 16;
        assert!((120 * 16..=120 * 16 + batch).contains(&(delivered + dropped)), "{delivered} and {dropped}");
        let view = bed.pipeline.view();
        eventually("the room is there again", || view.journal.usage().generations == 1).await;
        bed.end().await;
    });
}
