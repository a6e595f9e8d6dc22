//! What a sink shows of itself: its metrics, and a report for `/health`, tests and people.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use serde::Serialize;
use tokio::time::Instant;

use super::BreakerState;
use crate::{
    destination::Cause,
    event::Timestamp,
    record::{Position, SinkName},
    state::{HeldTotals, Reason},
};

/// The metrics and the report of one sink. They outlive its restarts.
#[derive(Debug, Clone)]
pub struct SinkProbe {
    pub(super) name: SinkName,
    pub(super) sent_events: IntCounter,
    pub(super) sent_bytes: IntCounter,
    pub(super) refused_events: IntCounter,
    pub(super) filtered_events: IntCounter,
    pub(super) errors: IntCounterVec,
    pub(super) retries: IntCounter,
    pub(super) dead_letters: IntCounterVec,
    pub(super) lag_events: IntGauge,
    pub(super) lag_seconds: prometheus::Gauge,
    pub(super) deliver_seconds: Histogram,
    pub(super) breaker_state: IntGauge,
    pub(super) concurrency: IntGauge,
    pub(super) report: Arc<Mutex<SinkReport>>,
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
    pub(super) owner: SinkName,
    pub(super) other: SinkProbe,
    pub(super) shown: Shown,
    pub(super) error: Arc<Mutex<Option<String>>>,
}

#[derive(Debug, Clone)]
pub(super) enum Shown {
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
