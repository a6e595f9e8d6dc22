//! What a sink shows of itself: metrics for machines, a report for `/health`, tests and people.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{
    GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use serde::Serialize;
use tokio::time::Instant;

use super::{BreakerState, StandbyRole};
use crate::{
    destination::Cause,
    event::Timestamp,
    record::{Position, SinkName},
    runtime::metrics::{counters, gauges, histograms, registered},
    state::{HeldTotals, Reason},
};

/// Seconds a delivery may take, from a local file to the usual time-out.
const DELIVER_BUCKETS_S: &[f64] =
    &[1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The families of all sinks, label `sink`.
#[derive(Debug, Clone)]
pub struct SinkMetrics {
    sent_events: IntCounterVec,
    sent_bytes: IntCounterVec,
    refused_events: IntCounterVec,
    filtered_events: IntCounterVec,
    errors: IntCounterVec,
    retries: IntCounterVec,
    dead_letters: IntCounterVec,
    lag_events: IntGaugeVec,
    lag_seconds: GaugeVec,
    deliver_seconds: HistogramVec,
    breaker_state: IntGaugeVec,
    concurrency: IntGaugeVec,
    held_events: IntGaugeVec,
    held_bytes: IntGaugeVec,
    held_batches: IntGaugeVec,
    given_to_hold: IntCounterVec,
    read_back: IntCounterVec,
    diverted: IntCounterVec,
}

impl SinkMetrics {
    /// Registers the families.
    pub fn new(registry: &Registry) -> Self {
        let sink: &[&str] = &["sink"];
        let pair: &[&str] = &["sink", "to"];
        let counter = |name: &str, help: &str, labels: &[&str]| counters(registry, name, help, labels);
        let lag_seconds = Opts::new("forebay_sink_lag_seconds", "Age of the oldest event not delivered");
        Self {
            sent_events: counter("forebay_sink_sent_events_total", "Events delivered", sink),
            sent_bytes: counter("forebay_sink_sent_bytes_total", "Bytes delivered, as sent", sink),
            refused_events: counter(
                "forebay_sink_refused_events_total",
                "Events that the destination left out of a batch that it took (partial success)",
                sink,
            ),
            filtered_events: counter(
                "forebay_sink_filtered_events_total",
                "Events that are not for this sink (when)",
                sink,
            ),
            errors: counter("forebay_sink_errors_total", "Failed deliveries by cause", &["sink", "cause"]),
            retries: counter(
                "forebay_sink_retries_total",
                "Deliveries that were not the first of their batch",
                sink,
            ),
            dead_letters: counter(
                "forebay_sink_dead_letters_total",
                "Events given up on, by reason",
                &["sink", "reason"],
            ),
            lag_events: gauges(registry, "forebay_sink_lag_events", "Events not delivered yet", sink),
            lag_seconds: registered(registry, GaugeVec::new(lag_seconds, sink)),
            deliver_seconds: histograms(
                registry,
                "forebay_sink_deliver_seconds",
                "Time of one successful delivery",
                DELIVER_BUCKETS_S,
                sink,
            ),
            breaker_state: gauges(
                registry,
                "forebay_sink_breaker_state",
                "0 closed, 1 half open, 2 open",
                sink,
            ),
            concurrency: gauges(
                registry,
                "forebay_sink_concurrency",
                "Deliveries that may run at the same time",
                sink,
            ),
            held_events: gauges(
                registry,
                "forebay_sink_held_events",
                "Events of the sink that its fallback holds",
                pair,
            ),
            held_bytes: gauges(registry, "forebay_sink_held_bytes", "Bytes that its fallback holds", pair),
            held_batches: gauges(
                registry,
                "forebay_sink_held_batches",
                "Batches that its fallback holds",
                pair,
            ),
            given_to_hold: counter(
                "forebay_sink_given_to_fallback_events_total",
                "Events that the fallback was given to hold",
                pair,
            ),
            read_back: counter(
                "forebay_sink_read_back_events_total",
                "Events that the fallback held and that found their outcome",
                pair,
            ),
            diverted: counter(
                "forebay_sink_diverted_events_total",
                "Events that went to on_failure's sink for good",
                pair,
            ),
        }
    }

    /// Forgets a sink that was removed: what it showed last would stand there for ever.
    pub fn forget(&self, sink: &SinkName) {
        let name = sink.as_str();
        // Where it never showed something there is nothing to remove.
        let of_sinks =
            [&self.sent_events, &self.sent_bytes, &self.refused_events, &self.filtered_events, &self.retries];
        for counter in of_sinks {
            let _ = counter.remove_label_values(&[name]);
        }
        for gauge in [&self.lag_events, &self.breaker_state, &self.concurrency] {
            let _ = gauge.remove_label_values(&[name]);
        }
        let _ = self.lag_seconds.remove_label_values(&[name]);
        let _ = self.deliver_seconds.remove_label_values(&[name]);
        for cause in Cause::ALL {
            let _ = self.errors.remove_label_values(&[name, cause.as_str()]);
        }
        for reason in Reason::ALL {
            let _ = self.dead_letters.remove_label_values(&[name, reason.as_str()]);
        }
    }

    /// Forgets what a sink showed of its standby.
    pub fn forget_standby(&self, sink: &SinkName, standby: &SinkName) {
        let pair = &[sink.as_str(), standby.as_str()];
        for gauge in [&self.held_events, &self.held_bytes, &self.held_batches] {
            let _ = gauge.remove_label_values(pair);
        }
        for counter in [&self.given_to_hold, &self.read_back, &self.diverted] {
            let _ = counter.remove_label_values(pair);
        }
    }

    /// The metrics of a sink's standby; `other` is that sink's own probe.
    pub fn standby(&self, sink: &SinkName, role: StandbyRole, other: SinkProbe) -> StandbyProbe {
        let pair = &[sink.as_str(), other.name.as_str()];
        let shown = match role {
            StandbyRole::Fallback => Shown::Held {
                events: self.held_events.with_label_values(pair),
                bytes: self.held_bytes.with_label_values(pair),
                batches: self.held_batches.with_label_values(pair),
                given: self.given_to_hold.with_label_values(pair),
                read_back: self.read_back.with_label_values(pair),
            },
            StandbyRole::OnFailure => Shown::Diverted(self.diverted.with_label_values(pair)),
        };
        StandbyProbe { owner: sink.clone(), other, shown, error: Arc::default() }
    }

    /// The metrics of one sink.
    pub fn of(&self, sink: &SinkName) -> SinkProbe {
        let name = sink.as_str();
        // An alert on the increase of a counter misses the first event if the counter appears with it.
        Cause::ALL.iter().for_each(|cause| self.errors.with_label_values(&[name, cause.as_str()]).inc_by(0));
        Reason::ALL
            .iter()
            .for_each(|reason| self.dead_letters.with_label_values(&[name, reason.as_str()]).inc_by(0));
        SinkProbe {
            name: sink.clone(),
            sent_events: self.sent_events.with_label_values(&[name]),
            sent_bytes: self.sent_bytes.with_label_values(&[name]),
            refused_events: self.refused_events.with_label_values(&[name]),
            filtered_events: self.filtered_events.with_label_values(&[name]),
            errors: self.errors.clone(),
            retries: self.retries.with_label_values(&[name]),
            dead_letters: self.dead_letters.clone(),
            lag_events: self.lag_events.with_label_values(&[name]),
            lag_seconds: self.lag_seconds.with_label_values(&[name]),
            deliver_seconds: self.deliver_seconds.with_label_values(&[name]),
            breaker_state: self.breaker_state.with_label_values(&[name]),
            concurrency: self.concurrency.with_label_values(&[name]),
            report: Arc::new(Mutex::new(SinkReport::default())),
        }
    }
}

/// The metrics and the report of one sink. They outlive its restarts.
#[derive(Debug, Clone)]
pub struct SinkProbe {
    name: SinkName,
    pub(super) sent_events: IntCounter,
    pub(super) sent_bytes: IntCounter,
    pub(super) refused_events: IntCounter,
    pub(super) filtered_events: IntCounter,
    errors: IntCounterVec,
    pub(super) retries: IntCounter,
    dead_letters: IntCounterVec,
    pub(super) lag_events: IntGauge,
    pub(super) lag_seconds: prometheus::Gauge,
    pub(super) deliver_seconds: Histogram,
    pub(super) breaker_state: IntGauge,
    pub(super) concurrency: IntGauge,
    report: Arc<Mutex<SinkReport>>,
}

/// Where a sink stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SinkReport {
    /// What it does.
    pub state: SinkState,
    /// Every event before this has its outcome.
    pub next: Position,
    /// All it has to deliver is less than a full batch, which does not go before then (`max_wait`).
    #[serde(skip)]
    pub gathers_until: Option<Instant>,
    /// When its destination last took a batch.
    #[serde(serialize_with = "as_text")]
    pub last_successful_send: Option<Timestamp>,
    /// Events it has still to deliver.
    pub lag_events: u64,
    /// Age of the oldest of them, in seconds.
    pub lag_seconds: f64,
    /// Deliveries of the current batch that failed.
    pub retry_attempts: u32,
    /// The last failure, until a delivery succeeds.
    pub error: Option<String>,
    /// Where its breaker stands.
    pub breaker: &'static str,
    /// Deliveries that may run at the same time.
    pub concurrency: usize,
    /// Dead letters since the start.
    pub dead_letters: u64,
    /// The sink that holds its batches while its breaker is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<StandbyReport>,
    /// The sink that its batches go to instead while its breaker is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<StandbyReport>,
    /// What it holds of other sinks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub holds: BTreeMap<SinkName, Holds>,
}

/// How a sink fares with its standby.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StandbyReport {
    /// Whose destination it is.
    pub sink: Option<SinkName>,
    /// Where its breaker stands, for this sink.
    pub breaker: &'static str,
    /// The last failure, until it does something.
    pub error: Option<String>,
    /// What it holds; absent where it holds nothing by its nature.
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    pub holds: Option<Holds>,
    /// Events that went there for good since the start; absent where they are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diverted_events: Option<u64>,
}

/// What one sink holds of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Holds {
    /// Events.
    pub held_events: u64,
    /// Their batches.
    pub held_batches: u64,
    /// Bytes of these.
    pub held_bytes: u64,
}

/// What a sink does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkState {
    /// Everything is delivered.
    #[default]
    Idle,
    /// It delivers.
    Delivering,
    /// The last delivery failed; it tries again.
    Retrying,
    /// Its breaker is open.
    BreakerOpen,
    /// It is there for other sinks, and gets nothing of its own.
    Standby,
}

/// What a sink and its standby show of each other.
#[derive(Debug, Clone)]
pub struct StandbyProbe {
    owner: SinkName,
    other: SinkProbe,
    shown: Shown,
    error: Arc<Mutex<Option<String>>>,
}

#[derive(Debug, Clone)]
enum Shown {
    Held { events: IntGauge, bytes: IntGauge, batches: IntGauge, given: IntCounter, read_back: IntCounter },
    Diverted(IntCounter),
}

impl SinkProbe {
    /// Where the sink stands.
    pub fn report(&self) -> SinkReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on it shows what others do with its destination: it has no actor of its own.
    pub fn stand_by(&self) {
        self.breaker_state.set(BreakerState::Closed as i64);
        self.lag_events.set(0);
        self.lag_seconds.set(0.0);
        let (state, breaker) = (SinkState::Standby, BreakerState::Closed.as_str());
        self.update(|report| *report = SinkReport { state, breaker, ..SinkReport::default() });
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut SinkReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn failed(&self, cause: Cause) {
        self.errors.with_label_values(&[self.name.as_str(), cause.as_str()]).inc();
    }

    /// Counts dead letters. Until the next success the sink does not count as healthy: it may be that the destination
    /// refuses everything.
    pub(super) fn gave_up(&self, reason: Reason, events: u64, said: &str) {
        self.dead_letters.with_label_values(&[self.name.as_str(), reason.as_str()]).inc_by(events);
        self.update(|report| {
            report.dead_letters += events;
            report.error = Some(format!("{events} events became dead letters ({}): {said}", reason.as_str()));
        });
    }
}

// === impl StandbyProbe ===

impl StandbyProbe {
    /// The standby took events, for good or to hold them.
    pub(super) fn took(&self, events: u64, bytes: u64, now: Timestamp) {
        match &self.shown {
            Shown::Held { given, .. } => given.inc_by(events),
            Shown::Diverted(diverted) => diverted.inc_by(events),
        }
        self.other.sent_events.inc_by(events);
        self.other.sent_bytes.inc_by(bytes);
        self.other.update(|report| report.last_successful_send = Some(now));
    }

    /// It left events out of a batch that it took.
    pub(super) fn refused(&self, events: u64) {
        self.other.refused_events.inc_by(events);
    }

    /// Events that it held have their outcome.
    pub(super) fn read_back(&self, events: u64) {
        if let Shown::Held { read_back, .. } = &self.shown {
            read_back.inc_by(events);
        }
    }

    /// It failed.
    pub(super) fn failed(&self, cause: Cause) {
        self.other.failed(cause);
    }

    /// What it last said, or that it did what it should.
    pub(super) fn error(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Shows where it stands, on both sides.
    pub(super) fn show(
        &self,
        own: &SinkProbe,
        held: HeldTotals,
        breaker: BreakerState,
        full: Option<String>,
    ) {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).clone().or(full);
        let mut standby = StandbyReport {
            sink: Some(self.other.name.clone()),
            breaker: breaker.as_str(),
            error: error.clone(),
            ..StandbyReport::default()
        };
        let gauge = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        match &self.shown {
            Shown::Held { events, bytes, batches, .. } => {
                gauge(events, held.events);
                gauge(bytes, held.bytes);
                gauge(batches, held.batches);
                let (held_events, held_batches, held_bytes) = (held.events, held.batches, held.bytes);
                let holds = Holds { held_events, held_batches, held_bytes };
                standby.holds = Some(holds);
                self.other.update(|report| {
                    report.holds.remove(&self.owner);
                    report.holds.extend((held.batches > 0).then(|| (self.owner.clone(), holds)));
                });
                own.update(|report| report.fallback = Some(standby));
            }
            Shown::Diverted(diverted) => {
                standby.diverted_events = Some(diverted.get());
                own.update(|report| report.on_failure = Some(standby));
            }
        }
        // A sink with an actor of its own shows its own state.
        let standing_by = self.other.report().state == SinkState::Standby;
        if standing_by {
            self.other.breaker_state.set(breaker as i64);
            self.other.update(|report| (report.breaker, report.error) = (breaker.as_str(), error));
        }
    }
}

fn as_text<S: serde::Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}
