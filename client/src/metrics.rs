//! What the client tells about its work.

use std::time::Duration;

/// Hooks for counters and histograms of whatever kind. Every method does nothing unless it is overridden; they are called on
/// the client's tasks, so they should be quick.
pub trait Metrics: Send + Sync + 'static {
    /// An event was queued.
    fn queued(&self) {}

    /// A batch is durable at the server: its events, and the time from its first attempt.
    fn sent(&self, events: usize, took: Duration) {
        let _ = (events, took);
    }

    /// A batch is tried again after `wait`, because of `cause`.
    fn retried(&self, cause: &str, wait: Duration) {
        let _ = (cause, wait);
    }

    /// The server refused so many events of a batch on their own.
    fn rejected(&self, events: usize) {
        let _ = events;
    }

    /// So many events were given back for another reason.
    fn failed(&self, events: usize) {
        let _ = events;
    }

    /// So many events went to the spool.
    fn spooled(&self, events: usize) {
        let _ = events;
    }
}

/// Tells nobody.
pub(crate) struct Silent;

impl Metrics for Silent {}
