//! `type: blackhole`: takes everything, keeps nothing.
//!
//! For emergencies, and for measuring what stands before it. With a rate it paces like a destination that
//! can take so many events a second, however they are cut into batches.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use forebay_actors::{
    destination::{Delivery, DeliveryError, Destination, Receipt},
    record::Batch,
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use tokio::time::Instant;

use crate::config::BlackholeSink;

/// Time it may make up for after it was late. Timers wake up to a millisecond late, so without this small
/// batches would pass far below the rate.
const LATE_MAX: Duration = Duration::from_millis(10);

/// Takes batches and drops them.
#[derive(Debug)]
pub struct BlackholeDestination {
    pace: Option<Rc<Pace>>,
}

#[derive(Debug)]
struct Pace {
    events_per_second: f64,
    /// When everything taken so far has passed; `None` before the first batch.
    free_at: Cell<Option<Instant>>,
}

// === impl BlackholeDestination ===

impl BlackholeDestination {
    /// A blackhole; a rate of 0 counts as 1, since configuration checks refuse it.
    pub fn new(options: &BlackholeSink) -> Self {
        let pace = options.rate_events_per_second.map(|rate| {
            Rc::new(Pace { events_per_second: f64::from(rate.max(1)), free_at: Cell::new(None) })
        });
        Self { pace }
    }
}

impl Destination for BlackholeDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let pace = self.pace.clone();
        async move {
            if let Some(pace) = pace {
                tokio::time::sleep_until(pace.pass(batch.count())).await;
            }
            Ok(Receipt::of(batch.payload_bytes() as u64))
        }
        .boxed_local()
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        futures::future::ok(()).boxed_local()
    }
}

// === impl Pace ===

impl Pace {
    /// When `events` more have passed.
    fn pass(&self, events: u64) -> Instant {
        let now = Instant::now();
        let earliest = now.checked_sub(LATE_MAX).unwrap_or(now);
        let start = self.free_at.get().unwrap_or(now).max(earliest);
        let free_at = start + Duration::from_secs_f64(events as f64 / self.events_per_second);
        self.free_at.set(Some(free_at));
        free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::test_batch;

    async fn seconds_for(rate: Option<u32>, batches: u32, events: u32) -> f64 {
        let blackhole = BlackholeDestination::new(&BlackholeSink { rate_events_per_second: rate });
        let batch = Arc::new(test_batch::of(events));
        let start = Instant::now();
        for _ in 0..batches {
            let receipt = blackhole.deliver(batch.clone()).await.unwrap();
            assert_eq!(receipt.bytes, batch.payload_bytes() as u64);
        }
        start.elapsed().as_secs_f64()
    }

    /// Whether a second's worth comes in one batch, in many or in single events, it takes its second.
    #[tokio::test(start_paused = true)]
    async fn the_pace_does_not_depend_on_the_batches() {
        for (rate, batches, events, seconds) in
            [(100, 1, 500, 5.0), (100, 50, 10, 5.0), (10_000, 20_000, 1, 2.0), (3, 6, 1, 2.0)]
        {
            let took = seconds_for(Some(rate), batches, events).await;
            assert!((took - seconds).abs() < 0.012, "{batches} x {events} at {rate}/s took {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_waits() {
        assert_eq!(seconds_for(None, 1_000, 10).await, 0.0);
    }

    /// A pause is not made up for: what comes after it goes at the rate again.
    #[tokio::test(start_paused = true)]
    async fn a_pause_gives_no_credit() {
        let blackhole = BlackholeDestination::new(&BlackholeSink { rate_events_per_second: Some(10) });
        let batch = Arc::new(test_batch::of(10));
        blackhole.deliver(batch.clone()).await.unwrap();
        tokio::time::advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        blackhole.deliver(batch).await.unwrap();
        assert!(start.elapsed() > Duration::from_millis(980));
    }
}
