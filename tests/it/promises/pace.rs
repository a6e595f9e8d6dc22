//! Concurrency within bounds (`concurrency: { min, max }`).

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
        sink.concurrency = forebay::config::Concurrency { min: 1, max: 4 };
        sink.batch = Some(forebay::config::BatchOverride { max_events: Some(5), ..Default::default() });
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

        bed.fake("a").order(|orders| orders.throttle = 6);
        bed.post_many(100).await;
        eventually("as few as may be", || shown() == Some(1) && gauge() == 1.0).await;
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.end().await;
    });
}
