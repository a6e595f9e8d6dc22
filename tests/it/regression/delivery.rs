//! What was broken in how sinks deliver.

use std::time::Duration;

use forebay::config::{BatchOverride, BreakerConfig};

use crate::support::testbed::{TestBed, config, run};

/// Scenario: a sink that delivers four batches at a time; its destination fails for a moment, and with it all four.
/// Guarantee: that is one failure to the breaker and to the back-off, as it is with one batch at a time: it was four, so
/// that a hiccup opened the breaker, which is meant for outages, and the wait began at eight times its minimum.
#[test]
fn r0341_a_hiccup_of_a_concurrent_sink_opened_its_breaker() {
    run(async {
        let mut config = config(&["a"]);
        let sink = config.sinks.get_mut("a").expect("it is configured");
        sink.concurrency = 4.into();
        sink.batch = Some(BatchOverride { max_events: Some(1), ..BatchOverride::default() });
        sink.breaker =
            BreakerConfig { failures: 2, open_for: Duration::from_secs(3600), ..sink.breaker.clone() };
        // Longer than the failures of one moment are apart.
        sink.retry.backoff_min = Duration::from_secs(1);
        sink.retry.backoff_max = Duration::from_secs(1);
        let bed = TestBed::start_with(&config, |fake| fake("a").order(|orders| orders.hang = true)).await;
        bed.post_many(4).await;
        bed.fake("a").until("four batches are on their way", |seen| seen.asked.len() == 4).await;
        bed.fake("a").order(|orders| (orders.hang, orders.fail) = (false, 4));
        bed.fake("a").until("all of them come when the hiccup is over", |seen| seen.count() == 4).await;
        assert_eq!(bed.metric("forebay_sink_errors_total", &[("sink", "a"), ("cause", "connect")]), 4.0);
        bed.end().await;
    });
}
