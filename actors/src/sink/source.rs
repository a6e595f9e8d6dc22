//! Where a sink reads what nobody has brought to it.

use std::{sync::Arc, time::Duration};

use crate::{
    journal::{Journal, JournalError, Piece, Queue},
    record::{Position, Span},
};

/// Payload read at a time.
const READ_BYTES: usize = 1024 * 1024;

/// How long a thread waits for something to take. It ends no later than this, and at once when the queue is closed.
const TAKE_WAIT: Duration = Duration::from_secs(1);

/// What a sink gets its events from.
#[derive(Clone)]
pub enum Source {
    /// The log of this process, read at the sink's cursor.
    Log(Arc<dyn Journal>),
    /// A queue that sinks of the same name in other processes take from, too. It has no cursor: who takes from it says
    /// which events have their outcome.
    Queue(Arc<dyn Queue>),
}

impl Source {
    /// Does what has to be done before a log is read, and what others who read may have to wait for.
    pub(super) fn prepare(&self, from: Position) {
        match self {
            Self::Log(log) => log.prepare(from),
            Self::Queue(_) => {}
        }
    }

    /// What comes next; `from` is of use to a log alone, the sink's `life` to a queue.
    ///
    /// # Errors
    /// For what may pass.
    pub(super) fn read(&self, from: Position, life: u64) -> Result<Vec<Piece>, JournalError> {
        match self {
            Self::Log(log) => log.read(from, READ_BYTES),
            Self::Queue(queue) => queue.take(life, READ_BYTES, TAKE_WAIT),
        }
    }

    /// Whether there may be something to read beside what was broadcast up to `expected`. Nothing of a queue is broadcast.
    pub(super) fn is_ahead_of(&self, expected: Position) -> bool {
        match self {
            Self::Log(log) => expected < log.span().end,
            Self::Queue(_) => true,
        }
    }

    /// Whether a crash may take back what was read.
    pub(super) fn may_forget(&self) -> bool {
        match self {
            Self::Log(log) => log.may_forget(),
            // What was taken is given to another under the same positions.
            Self::Queue(_) => false,
        }
    }

    /// Bytes that a log takes up; `None` of a queue, which is others' as well.
    pub(super) fn log_bytes(&self) -> Option<u64> {
        match self {
            Self::Log(log) => Some(log.usage().disk_bytes),
            Self::Queue(_) => None,
        }
    }

    /// The positions a log has; `None` of a queue, where they say nothing.
    pub(super) fn log_span(&self) -> Option<Span> {
        match self {
            Self::Log(log) => Some(log.span()),
            Self::Queue(_) => None,
        }
    }
}
