//! The clock is set, forward and back, by a day and by centuries: nothing is harmed but the timestamps it gives.

use std::{collections::HashSet, time::Duration};

use forebay::config::{BreakerConfig, Config};
use forebay_actors::{event::Timestamp, journal::Piece, record::Position, runtime::fault::Fault};

use super::account::{bring_down, child, nothing_was_lost};
use crate::support::testbed::{TestBed, config, eventually, incompressible, run};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const CENTURY: i64 = 36_525 * DAY;

/// From now on the clock is set so: a day on, back, a day back, and so on; in the end it is right again.
const JUMPS: [i64; 8] = [DAY, -DAY, -DAY, DAY, 2 * CENTURY, -2 * CENTURY, -CENTURY, CENTURY];

/// When the last record of the journal was written, by itself.
fn last_written(bed: &TestBed) -> Timestamp {
    let journal = bed.pipeline.view().journal;
    let last = Position(journal.span().end.0 - 1);
    match journal.read(last, 1).expect("the journal can be read").last() {
        Some(Piece::Record(record)) => record.written_at,
        other => panic!("no record: {other:?}"),
    }
}

fn assert_sane_ages(bed: &TestBed) {
    for metric in ["forebay_sink_lag_seconds", "forebay_buffer_oldest_age_seconds"] {
        let seconds = bed.metric(metric, &[]);
        assert!((0.0..=4.0 * CENTURY as f64).contains(&seconds), "{metric}: {seconds}");
    }
}

/// Scenario: the clock is set again and again under load, and while one sink has a backlog; actors that read it are
/// restarted in between, and at last the process crashes while it is a day behind.
/// Guarantee: what is written bears the time that the clock shows, and nothing else changes: ids are unique, those of one
/// life of the receiver grow; every event is delivered, in order; no age is negative; nobody dies of it.
#[test]
fn a_clock_that_is_set_harms_nothing_but_its_timestamps() {
    run(async {
        let bed = TestBed::start(&config(&["a", "b"])).await;
        let load = bed.load();
        let mut last = String::new();
        for jump in JUMPS {
            bed.fake("b").order(|orders| orders.hang = true);
            bed.post_many(3).await;
            bed.move_clock(jump);
            let began = bed.now();
            for _ in 0..5 {
                for id in bed.post_many(3).await {
                    assert!(id > last, "{id} came after {last}");
                    last = id;
                }
            }
            // The load may have had one commit on its way.
            eventually("what is written bears the new time", || last_written(&bed) >= began).await;
            assert!(last_written(&bed).seconds_since(began) < 3_600.0);
            assert_sane_ages(&bed);
            bed.fake("b").heal();
        }
        for name in ["receiver", "buffer", "batcher", "retention", "health", "sink:a", "sink:b"] {
            assert_eq!(child(&bed, name).restarts(), 0, "{name} died of the clock");
        }
        bed.move_clock(-DAY);
        for name in ["receiver", "buffer", "retention", "sink:a"] {
            bring_down(&child(&bed, name), Fault::Panic).await;
        }
        bed.producer().post_patiently(&["after all of them died"]).await;
        load.stop().await;
        let head = bed.pipeline.view().journal.span().end;
        let bed = bed.crash().await;
        assert_eq!(bed.pipeline.view().journal.span().end, head, "positions go on where they were");
        bed.post_many(10).await;
        bed.move_clock(DAY);
        bed.post_many(10).await;
        let acknowledged = bed.acknowledged();
        assert_eq!(acknowledged.iter().collect::<HashSet<_>>().len(), acknowledged.len(), "ids are unique");
        assert_sane_ages(&bed);
        nothing_was_lost(bed, &format!("the clock was set {} times", JUMPS.len() + 2)).await;
    });
}

/// A cap that three generations fit under; what all sinks have is kept for an hour.
fn keeping() -> Config {
    let mut config = config(&["a", "b"]);
    config.buffer.max_bytes = 60 * 1024 * 1024;
    config.retention.journal_keep = Duration::from_secs(HOUR as u64);
    config
}

/// About a megabyte that cannot be compressed.
async fn post_megabytes(bed: &TestBed, count: usize) {
    for request in 0..count {
        let messages: Vec<_> = (0..16).map(|index| incompressible(request + index)).collect();
        bed.producer().post_patiently(&messages).await;
    }
}

/// Scenario: one sink has a backlog of several generations when the clock is set a day, and two centuries, on: everything
/// looks older than what is to be kept.
/// Guarantee: what the sink still needs is not removed; it gets all of it. Then what nobody needs goes.
#[test]
fn a_clock_set_forward_removes_nothing_that_a_sink_needs() {
    run(async {
        let bed = TestBed::start(&keeping()).await;
        bed.fake("b").order(|orders| orders.hang = true);
        post_megabytes(&bed, 30).await;
        bed.settled("a").await;
        let first = bed.pipeline.view().journal.span().first;
        for jump in [DAY, 2 * CENTURY] {
            bed.move_clock(jump);
            let buffer = child(&bed, "buffer");
            let handled = buffer.handled();
            // Of the trims, one a second; nothing else comes.
            eventually("it was trimmed, twice", || buffer.handled() >= handled + 2).await;
            assert_eq!(bed.pipeline.view().journal.span().first, first);
        }
        bed.fake("b").heal();
        bed.settled("b").await;
        eventually("what nobody needs goes", || bed.pipeline.view().journal.span().first > first).await;
        nothing_was_lost(bed, "a backlog, and the clock two centuries on").await;
    });
}

/// Scenario: the clock is set a day back while the journal keeps what was delivered for an hour: everything looks as if
/// it had been written tomorrow, and more comes than the journal may hold.
/// Guarantee: the journal stays under its cap, and producers can go on: what was delivered makes room, whatever its time.
#[test]
fn a_clock_set_back_does_not_fill_the_journal() {
    run(async {
        let bed = TestBed::start(&keeping()).await;
        post_megabytes(&bed, 20).await;
        bed.move_clock(-DAY);
        post_megabytes(&bed, 80).await;
        let usage = bed.pipeline.view().journal.usage();
        assert!(usage.disk_bytes <= keeping().buffer.max_bytes, "{usage:?}");
        nothing_was_lost(bed, "100 MB through a journal of 60, and the clock a day back").await;
    });
}

/// Scenario: a destination is down; `retry.max_age` is an hour; the clock is set a day on, and the sink is restarted.
/// Guarantee: no event expires, since none has waited for an hour. All did, at their next attempt.
#[test]
fn r0316_events_expired_because_the_clock_was_set() {
    run(async {
        let mut config = config(&["a"]);
        config.sinks.get_mut("a").expect("it is configured").retry.max_age =
            Some(Duration::from_secs(HOUR as u64));
        let bed = TestBed::start(&config).await;
        let fake = bed.fake("a");
        fake.order(|orders| orders.fail = u64::MAX);
        bed.post_many(5).await;
        fake.until("it was tried", |seen| !seen.asked.is_empty()).await;
        bed.move_clock(DAY);
        bring_down(&child(&bed, "sink:a"), Fault::Panic).await;
        bed.post_many(5).await;
        let asked = fake.seen().asked.len();
        fake.until("it was tried again", |seen| seen.asked.len() > asked + 5).await;
        assert_eq!(bed.dead_letters("a").len(), 0);
        assert!(bed.metric("forebay_sink_lag_seconds", &[]) >= DAY as f64, "the lag is by the clock");
        fake.heal();
        nothing_was_lost(bed, "the clock a day on, while events are retried").await;
    });
}

/// Scenario: the breaker of a sink has opened, and the sink waits to try again, when the clock is set a day back.
/// Guarantee: the waits are of time that passes: it tries again, and delivers.
#[test]
fn waits_do_not_heed_the_clock() {
    run(async {
        let mut config = config(&["a"]);
        config.sinks.get_mut("a").expect("it is configured").breaker =
            BreakerConfig { failures: 2, open_for: Duration::from_millis(50), successes: 1 };
        let bed = TestBed::start(&config).await;
        bed.fake("a").order(|orders| orders.fail = 20);
        bed.post_many(5).await;
        let is_open = || bed.metric("forebay_sink_breaker_state", &[("sink", "a")]) == 2.0;
        eventually("the breaker opens", is_open).await;
        bed.move_clock(-DAY);
        bed.post_many(5).await;
        nothing_was_lost(bed, "the clock a day back, while the breaker is open").await;
    });
}
