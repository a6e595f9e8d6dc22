//! Concurrency within bounds (`concurrency: { min, max }`).

use forebay::config::{BatchOverride, Concurrency};

use crate::support::testbed::{TestBed, config, eventually, run};

/// Scenario: a sink with a backlog of many batches, whose destination takes each at once; later it asks for less with each
/// answer for a while.
/// Guarantee: it gets several batches at the same time, never more than the bound, and every event once; the metric and the
/// report say how many there may be.
#[test]
fn concurrency_is_found_within_its_bounds() {
    run(async {
        let mut config = config(&["a"]);
        let sink = config.sinks.get_mut("a").expect("it is configured");
        sink.concurrency = Concurrency { min: 1, max: 4 };
        sink.batch = Some(BatchOverride { max_events: Some(5), ..Default::default() });
        let bed = TestBed::start_with(&config, |fake| fake("a").order(|orders| orders.hang = true)).await;
        bed.post_many(3_000).await;
        bed.fake("a").until("it has the first batch", |seen| !seen.asked.is_empty()).await;
        let shown = || bed.pipeline.sink_probe("a").map(|probe| probe.report().concurrency);
        assert_eq!((bed.fake("a").seen().at_once, shown()), (1, Some(1)));
        bed.fake("a").heal();
        bed.fake("a").until("it has several at a time", |seen| seen.at_once > 1).await;
        bed.settled("a").await;
        let seen = bed.fake("a").seen();
        assert!(seen.at_once <= 4, "{} at once", seen.at_once);
        assert_eq!((seen.count(), seen.distinct().len()), (3_000, 3_000));
        let gauge = || bed.metric("forebay_sink_concurrency", &[("sink", "a")]);
        assert!((1.0..=4.0).contains(&gauge()), "{}", gauge());

        // Until that is seen: what is taken afterwards lets it have more at once.
        bed.fake("a").order(|orders| orders.throttle = u64::MAX);
        bed.post_many(100).await;
        eventually("as few as may be", || shown() == Some(1) && gauge() == 1.0).await;
        bed.fake("a").heal();
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.end().await;
    });
}

/// Scenario: a sink has two batches on their way, always; the older one ends, and another follows.
/// Guarantee: its lag is that of the oldest which is still on its way. It was that of the first of all, until nothing was.
#[test]
fn r0612_the_lag_was_that_of_a_delivery_which_had_ended() {
    const HOUR: f64 = 3600.0;
    run(async {
        let mut config = config(&["a"]);
        let sink = config.sinks.get_mut("a").expect("it is configured");
        sink.concurrency = Concurrency { min: 2, max: 2 };
        sink.batch = Some(BatchOverride { max_events: Some(1), ..Default::default() });
        let hang_from =
            |from| move |orders: &mut crate::support::destination::Orders| orders.hang_from = Some(from);
        let bed = TestBed::start_with(&config, |fake| fake("a").order(hang_from(0))).await;
        for _ in 0..3 {
            bed.post_many(1).await;
            bed.move_clock(HOUR as i64);
        }
        let lag = || bed.metric("forebay_sink_lag_seconds", &[("sink", "a")]);
        bed.fake("a").until("two are on their way", |seen| seen.asked.len() == 2).await;
        eventually("the first is three hours old", || lag() >= 3.0 * HOUR).await;
        bed.fake("a").order(hang_from(1));
        bed.fake("a").until("the third is on its way", |seen| seen.asked.len() == 3).await;
        eventually("the second is two hours old", || (2.0 * HOUR..2.5 * HOUR).contains(&lag())).await;
        bed.fake("a").heal();
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.end().await;
    });
}
