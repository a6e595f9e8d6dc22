//! What every actor shows of itself, whatever it does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};
use tokio::time::Instant;

use super::fault::Trap;

/// Seconds a handler may take, from a queue push to a stuck disk.
const HANDLE_BUCKETS_S: &[f64] = &[1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0];

/// Registers a metric, and hands it back.
///
/// # Panics
/// Where one of that name is there already: metrics are made once, at the start.
pub fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("names and labels of metrics are constants that prometheus accepts");
    registry.register(Box::new(metric.clone())).expect("a metric is registered once");
    metric
}

/// A counter family.
pub fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

/// A gauge family.
pub fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    registered(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

/// A histogram family.
pub fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
    labels: &[&str],
) -> HistogramVec {
    let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    registered(registry, HistogramVec::new(opts, labels))
}

/// The families that all actors share, label `actor`.
#[derive(Debug, Clone)]
pub struct ActorMetrics {
    mailbox_messages: IntGaugeVec,
    mailbox_capacity: IntGaugeVec,
    messages: IntCounterVec,
    refused: IntCounterVec,
    handle_seconds: HistogramVec,
    restarts: IntCounterVec,
    state: IntGaugeVec,
}

impl ActorMetrics {
    /// Registers the families.
    pub fn new(registry: &Registry) -> Self {
        let actor: &[&str] = &["actor"];
        Self {
            mailbox_messages: gauges(registry, "forebay_actor_mailbox_messages", "Messages waiting", actor),
            mailbox_capacity: gauges(
                registry,
                "forebay_actor_mailbox_capacity",
                "Messages that may wait",
                actor,
            ),
            messages: counters(registry, "forebay_actor_messages_total", "Messages handled", actor),
            refused: counters(
                registry,
                "forebay_actor_refused_messages_total",
                "Messages that found the mailbox full",
                actor,
            ),
            handle_seconds: histograms(
                registry,
                "forebay_actor_handle_seconds",
                "Time a handler held its thread",
                HANDLE_BUCKETS_S,
                actor,
            ),
            restarts: counters(
                registry,
                "forebay_actor_restarts_total",
                "Restarts by cause: panic, stop",
                &["actor", "cause"],
            ),
            state: gauges(
                registry,
                "forebay_actor_state",
                "0 starting, 1 running, 2 restarting, 3 failed (restart budget spent), 4 ended",
                actor,
            ),
        }
    }

    /// Forgets an actor that was removed: what it showed last would stand there for ever.
    pub fn forget(&self, actor: &str) {
        // Where it never showed something there is nothing to remove.
        for gauge in [&self.mailbox_messages, &self.mailbox_capacity, &self.state] {
            let _ = gauge.remove_label_values(&[actor]);
        }
        for counter in [&self.messages, &self.refused] {
            let _ = counter.remove_label_values(&[actor]);
        }
        let _ = self.handle_seconds.remove_label_values(&[actor]);
        for cause in ["panic", "stop"] {
            let _ = self.restarts.remove_label_values(&[actor, cause]);
        }
    }

    /// The metrics of one actor.
    pub fn probe(&self, actor: &str) -> Probe {
        Probe {
            waiting: self.mailbox_messages.with_label_values(&[actor]),
            capacity: self.mailbox_capacity.with_label_values(&[actor]),
            handled: self.messages.with_label_values(&[actor]),
            refused: self.refused.with_label_values(&[actor]),
            handle_seconds: self.handle_seconds.with_label_values(&[actor]),
            panics: self.restarts.with_label_values(&[actor, "panic"]),
            stops: self.restarts.with_label_values(&[actor, "stop"]),
            state: self.state.with_label_values(&[actor]),
            queued: Arc::default(),
            trap: Arc::default(),
        }
    }
}

/// The metrics of one actor. They outlive its restarts.
#[derive(Debug, Clone)]
pub struct Probe {
    /// As `queued`, for whoever reads metrics.
    waiting: IntGauge,
    pub(super) capacity: IntGauge,
    handled: IntCounter,
    pub(super) refused: IntCounter,
    handle_seconds: Histogram,
    pub(super) panics: IntCounter,
    pub(super) stops: IntCounter,
    pub(super) state: IntGauge,
    /// Messages in the mailbox. Not the gauge itself: one that ended with messages left may have had the same name.
    queued: Arc<AtomicI64>,
    pub(super) trap: Arc<Trap>,
}

impl Probe {
    /// Nothing waits yet, and so much may.
    pub(super) fn opens(&self, mailbox_messages: usize) {
        self.waiting.set(0);
        self.capacity.set(i64::try_from(mailbox_messages).unwrap_or(i64::MAX));
    }

    /// A message comes; `false`, and it is not counted, where there is no room for it.
    pub(super) fn enters(&self) -> bool {
        let has_room = self.queued.fetch_add(1, Ordering::Acquire) < self.capacity.get();
        if has_room {
            self.waiting.inc();
        } else {
            self.queued.fetch_sub(1, Ordering::Relaxed);
        }
        has_room
    }

    /// A message is taken, or was not sent after all.
    pub(super) fn leaves(&self) {
        // In this order, so that the gauge never shows more than there is room for.
        self.waiting.dec();
        self.queued.fetch_sub(1, Ordering::Release);
    }

    /// Called first in every handler of a message: counts it and, when dropped, times it, also when the handler
    /// panics.
    pub fn handling(&self) -> Handling {
        self.leaves();
        self.handled.inc();
        self.trap.entering();
        Handling { seconds: self.handle_seconds.clone(), began: Instant::now(), trap: self.trap.clone() }
    }

    /// Messages that wait in the mailbox.
    pub fn waiting(&self) -> i64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Messages handled so far.
    pub fn handled(&self) -> u64 {
        self.handled.get()
    }

    /// Restarts so far, for whatever cause.
    pub fn restarts(&self) -> u64 {
        self.panics.get() + self.stops.get()
    }
}

/// Times one message while it lives.
#[derive(Debug)]
pub struct Handling {
    seconds: Histogram,
    began: Instant,
    trap: Arc<Trap>,
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.seconds.observe(self.began.elapsed().as_secs_f64());
        self.trap.leaving();
    }
}

/// Observes a duration in seconds.
pub fn observe(histogram: &Histogram, duration: Duration) {
    histogram.observe(duration.as_secs_f64());
}
