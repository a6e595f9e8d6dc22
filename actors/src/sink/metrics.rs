//! The families of metrics that all sinks share.

use std::sync::{Arc, Mutex};

use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{SinkProbe, SinkReport, StandbyProbe, StandbyRole, report::Shown};
use crate::{
    destination::Cause,
    record::SinkName,
    runtime::metrics::{counters, gauges, histograms, registered},
    state::Reason,
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
