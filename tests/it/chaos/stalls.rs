//! An actor stands still for a while: its mailbox fills, and nobody is promised what cannot be kept.

use forebay_actors::{message::Refusal, runtime::fault::Fault};

use super::account::{STALL, child, nothing_was_lost};
use crate::support::testbed::{NotAcknowledged, TestBed, config, eventually, run};

/// Offers requests, far more than a mailbox holds, until one is refused at once; the answers to all of them.
async fn flood(bed: &TestBed) -> Vec<Result<Vec<String>, NotAcknowledged>> {
    let producer = bed.producer();
    let is_full = || bed.metric("forebay_actor_refused_messages_total", &[]) > 0.0;
    let mut answers = Vec::new();
    for request in 0..100_000 {
        answers.push(actix::spawn(producer.offer(&["an event of the flood"])));
        if request % 500 == 0 && is_full() {
            break;
        }
    }
    let mut answered = Vec::new();
    for answer in answers {
        answered.push(answer.await.expect("a producer does not panic"));
    }
    answered
}

/// Scenario: one of the two that take events in stands still while more requests come than its mailbox holds.
/// Guarantee: what finds no room is refused as `overloaded` and at once; what found room is acknowledged when the actor
/// goes on, and delivered; then everything is as before.
async fn the_way_in_stalls(name: &str) {
    let bed = TestBed::start(&config(&["a", "b"])).await;
    bed.post_many(1).await;
    let stalled = child(&bed, name);
    stalled.inject(Fault::Stall(STALL));
    let answers = flood(&bed).await;
    let refused = answers.iter().filter(|answer| answer.is_err()).count();
    let overloaded = Err(NotAcknowledged::Refused(Refusal::Overloaded));
    assert!(answers.iter().all(|answer| answer.is_ok() || *answer == overloaded));
    assert!(refused > 0, "{} requests, and none was refused", answers.len());
    assert!(stalled.waiting() <= stalled.capacity());
    bed.post_many(1).await;
    assert_eq!(stalled.restarts(), 0);
    nothing_was_lost(bed, &format!("{name} stalled, {refused} of {} requests refused", answers.len())).await;
}

#[test]
fn the_receiver_stalls() {
    run(the_way_in_stalls("receiver"));
}

#[test]
fn the_buffer_stalls() {
    run(the_way_in_stalls("buffer"));
}

/// Scenario: the batcher, or one of the sinks, or both sinks stand still under load.
/// Guarantee: producers do not notice; what the mailboxes had no room for is read from the journal.
#[test]
fn behind_the_journal_a_stall_delays_no_producer() {
    run(async {
        for names in [&["batcher"][..], &["sink:a"], &["sink:a", "sink:b"]] {
            let mut config = config(&["a", "b"]);
            config.sinks.values_mut().for_each(|sink| sink.mailbox_batches = 2);
            let bed = TestBed::start(&config).await;
            bed.post_many(1).await;
            names.iter().for_each(|name| child(&bed, name).inject(Fault::Stall(STALL)));
            let load = bed.load();
            let refused = || bed.metric("forebay_actor_refused_messages_total", &[("actor", names[0])]);
            eventually("its mailbox is full", || refused() > 0.0).await;
            let enough = bed.acknowledged().len() + 100;
            eventually("producers do not notice", || bed.acknowledged().len() > enough).await;
            for child in bed.pipeline.children() {
                let (waiting, capacity) = (child.waiting(), child.capacity());
                assert!(waiting <= capacity, "{waiting} wait for {} where {capacity} may", child.name());
            }
            assert_eq!(load.stop().await, []);
            nothing_was_lost(bed, &format!("{names:?} stalled")).await;
        }
    });
}

/// Scenario: the two of the house stand still under load.
/// Guarantee: nobody else notices.
#[test]
fn a_stall_in_the_house_is_not_noticed() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        ["retention", "health"].iter().for_each(|name| child(&bed, name).inject(Fault::Stall(STALL)));
        let load = bed.load();
        eventually("events are acknowledged", || bed.acknowledged().len() > 1_000).await;
        assert_eq!(load.stop().await, []);
        nothing_was_lost(bed, "retention and health stalled").await;
    });
}
