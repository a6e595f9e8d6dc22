//! A journal that several processes share: each sink's events are a queue, and every process that has the sink takes
//! from it.
//!
//! A log is read at a cursor; a queue is taken from. What one process has taken no other gets, until it is settled or the
//! process is gone; then another takes it, and gets it at the same positions. Positions have gaps and come in any order, so
//! a piece is never joined with another.

use std::time::Duration;

use super::{JournalError, Piece};
use crate::{event::Timestamp, record::Span};

/// What one sink of this process takes its events from. Everything here may block for a moment, but for
/// [`Queue::backlog`].
pub trait Queue: Send + Sync + 'static {
    /// Takes what comes next for this life of the sink, up to about `bytes_max` of payload; where there is nothing, waits up to
    /// `wait` for it. In the name of an earlier life nothing is taken, whenever that was asked for.
    ///
    /// # Errors
    /// Only for what may pass; damage is an item of the answer.
    fn take(&self, life: u64, bytes_max: usize, wait: Duration) -> Result<Vec<Piece>, JournalError>;

    /// These events have their outcome; a piece of which all events have it is never taken again.
    fn settle(&self, span: Span);

    /// What was taken and is not settled is taken once more: the sink was built anew and has forgotten it. The answer is its new
    /// life; whoever still asks [`Queue::take`] in the name of one before does so for nobody.
    fn restart(&self) -> u64;

    /// Nothing new is taken any more; what was taken can still be settled, and is taken once more after a restart.
    fn close(&self);

    /// Gives back what was taken and is not settled, so that another process takes it at once: the sink has ended.
    fn release(&self);

    /// What is still to be delivered.
    fn backlog(&self) -> Backlog;
}

/// What a queue has still to deliver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events that no process has settled. Where the queue counts records, this is estimated from those that were seen; 0
    /// only where there are none.
    pub events: u64,
    /// Those of them that this process has taken.
    pub taken: u64,
    /// When the oldest of those was written.
    pub oldest: Option<Timestamp>,
}
