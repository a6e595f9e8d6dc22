//! What the buffer shows of the journal and of itself.

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, Registry};

use crate::runtime::metrics::{counters, registered};

/// What the journal holds and does.
#[derive(Debug, Clone)]
pub struct BufferMetrics {
    /// Events that at least one sink still needs.
    pub events: IntGauge,
    /// Stored bytes of records.
    pub bytes: IntGauge,
    /// Bytes of the journal's files on the device.
    pub disk_bytes: IntGauge,
    /// The cap.
    pub max_bytes: IntGauge,
    /// Age of the oldest event that at least one sink still needs, in seconds.
    pub oldest_age_seconds: Gauge,
    /// Events that wait for their commit.
    pub waiting_events: IntGauge,
    /// Not 0 while requests are refused for want of room: 1 in the journal, 2 on its device; 3 while it fails.
    pub full: IntGauge,
    /// Records or generations found damaged.
    pub damaged: IntGauge,
    pub(super) commit_seconds: Histogram,
    pub(super) commit_requests: Histogram,
    /// Events that sinks were made to skip.
    pub dropped: IntCounterVec,
}

impl BufferMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help));
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            registered(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
        };
        // From a fast device's sync to a stalled one's.
        let seconds = vec![1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];
        let requests = vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
        Self {
            events: gauge("forebay_buffer_events", "Events that at least one sink has not delivered yet"),
            bytes: gauge("forebay_buffer_bytes", "Bytes of the journal's records as stored"),
            disk_bytes: gauge("forebay_buffer_disk_bytes", "Bytes of the journal's files on the device"),
            max_bytes: gauge("forebay_buffer_max_bytes", "Bytes the journal may take up on the device"),
            oldest_age_seconds: registered(
                registry,
                Gauge::new(
                    "forebay_buffer_oldest_age_seconds",
                    "Age of the oldest event that at least one sink has not delivered yet",
                ),
            ),
            waiting_events: gauge("forebay_buffer_waiting_events", "Events that wait for their commit"),
            full: gauge(
                "forebay_buffer_full",
                "1 while the journal is full, 2 while its device is, 3 while it fails otherwise",
            ),
            damaged: gauge("forebay_buffer_damaged_records", "Damaged records met since the start"),
            commit_seconds: histogram(
                "forebay_buffer_commit_seconds",
                "Time of one commit, sync included",
                seconds,
            ),
            commit_requests: histogram(
                "forebay_buffer_commit_requests",
                "Requests that shared one commit",
                requests,
            ),
            dropped: counters(
                registry,
                "forebay_buffer_dropped_events_total",
                "Events that a sink skipped because the journal was full (policy drop_oldest)",
                &["sink"],
            ),
        }
    }
}
