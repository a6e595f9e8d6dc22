//! P1: a success answer means on disk and synced, or the mode configured by name.

use std::{collections::HashSet, time::Duration};

use forebay::config::Durability;
use forebay_actors::{journal, state::Reason};

use crate::support::testbed::{
    INCOMPRESSIBLE_BYTES, TestBed, config, events_with, eventually, incompressible, journal_dir, run,
};

/// Scenario: the process dies at the moment of an acknowledgement, five times, while nothing can be delivered.
/// Guarantee: what was acknowledged is found and delivered, requests of one event as well as one of many records.
#[test]
fn p1_an_acknowledged_event_survives_a_crash_at_that_moment() {
    run(async {
        let config = config(&["a"]);
        let mut bed = TestBed::start_with(&config, |fake| fake("a").order(|orders| orders.hang = true)).await;
        for events in [1, 3, 6_000, 1, 2] {
            bed.post_many(events).await;
            bed = bed.crash().await;
        }
        bed.fake("a").heal();
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.end().await;
    });
}

/// Scenario: the process dies while four producers post.
/// Guarantee: every event acknowledged up to the moment the disk is looked at is delivered by the next start.
#[test]
fn p1_acknowledged_events_survive_a_crash_under_load() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        let load = bed.load();
        eventually("a hundred requests are acknowledged", || bed.acknowledged().len() >= 2_500).await;
        let acknowledged = bed.acknowledged();
        let bed = bed.crash().await;
        load.stop().await;
        bed.settled("a").await;
        let seen = bed.fake("a").seen();
        let delivered: HashSet<_> = seen.events().into_iter().collect();
        let lost = acknowledged.iter().filter(|id| !delivered.contains(id.as_str())).count();
        assert_eq!(lost, 0, "of {} events", acknowledged.len());
        bed.end().await;
    });
}

/// Scenario: `interval`; the process dies when the tick after the acknowledgement has synced.
/// Guarantee: the tick syncs, without a further commit, and the events are found.
#[test]
fn p1_interval_is_synced_by_its_tick() {
    run(async {
        let mut config = config(&["a"]);
        config.buffer.durability = Durability::Interval;
        config.buffer.sync_interval = Duration::from_millis(20);
        let bed = TestBed::start_with(&config, |fake| fake("a").order(|orders| orders.hang = true)).await;
        bed.post_many(7).await;
        let journal = journal_dir(bed.path());
        let on_disk = || journal::verify(&journal).expect("the journal can be looked at").events;
        eventually("the events are in the file", || on_disk() == 7).await;
        let bed = bed.crash().await;
        bed.fake("a").heal();
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.end().await;
    });
}

/// Scenario: `interval` with a tick that does not come; the process dies with the machine.
/// Guarantee: what may be lost is accounted for as damaged, and no position is given twice: what comes later is
/// delivered.
#[test]
fn p1_interval_accounts_for_what_a_crash_lost() {
    run(async {
        let mut config = config(&["a"]);
        config.buffer.durability = Durability::Interval;
        config.buffer.sync_interval = Duration::from_secs(3600);
        let bed = TestBed::start_with(&config, |fake| fake("a").order(|orders| orders.hang = true)).await;
        bed.post_many(7).await;
        bed.fake("a").until("the first batch is on its way", |seen| !seen.asked.is_empty()).await;
        let bed = bed.crash().await;
        bed.fake("a").heal();
        let later = bed.post_many(3).await;
        bed.settled("a").await;
        bed.assert_outcomes("a");
        let seen = bed.fake("a").seen();
        assert!(seen.distinct().ends_with(&later.iter().map(String::as_str).collect::<Vec<_>>()));
        let lost = events_with(&bed.dead_letters("a"), Reason::Damaged);
        assert_eq!(lost + seen.distinct().len() as u64, 10);
        bed.end().await;
    });
}

/// Scenario: `memory`; events are delivered, others are on their way when the process dies.
/// Guarantee: nothing of the events is on disk, those that wait die with the process, and the next life goes on.
#[test]
fn p1_memory_puts_nothing_on_disk() {
    run(async {
        let mut config = config(&["a"]);
        config.buffer.durability = Durability::Memory;
        let bed = TestBed::start(&config).await;
        let first = bed.post_many(5).await;
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.fake("a").order(|orders| orders.hang = true);
        bed.post_many(5).await;
        assert!(!journal_dir(bed.path()).exists());
        let bed = bed.crash().await;
        bed.fake("a").heal();
        let last = bed.post_many(5).await;
        bed.settled("a").await;
        let expected: Vec<_> = first.iter().chain(&last).map(String::as_str).collect();
        assert_eq!(bed.fake("a").seen().events(), expected);
        bed.end().await;
    });
}

/// Scenario: the backlog of two sinks at different places fills several generations; the process dies.
/// Guarantee: both get everything, and the generations that all have passed go away.
#[test]
fn p1_a_backlog_of_many_generations_survives() {
    run(async {
        let config = config(&["a", "b"]);
        let bed = TestBed::start(&config).await;
        bed.fake("a").order(|orders| orders.hang = true);
        // Three generations and a half.
        let mib_64 = 64 * 1024 * 1024 / INCOMPRESSIBLE_BYTES;
        for request in 0..(mib_64 * 7 / 4 / 16) {
            let messages: Vec<_> = (0..16).map(|index| incompressible(request + index)).collect();
            bed.post(&messages).await;
            if request == mib_64 / 16 {
                bed.settled("b").await;
                bed.fake("b").order(|orders| orders.hang = true);
            }
        }
        assert!(bed.pipeline.view().journal.usage().generations >= 4);
        let bed = bed.crash().await;
        let late = bed.post_many(10).await;
        ["a", "b"].iter().for_each(|name| bed.fake(name).heal());
        for name in ["a", "b"] {
            bed.settled(name).await;
            bed.assert_delivered(name);
            assert!(bed.fake(name).seen().events().ends_with(&[late[9].as_str()]));
        }
        let view = bed.pipeline.view();
        eventually("only the newest generation is left", || view.journal.usage().generations == 1).await;
        bed.end().await;
    });
}
