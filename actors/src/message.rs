//! Everything the actors say to each other.
//!
//! Commands are imperative, facts are past tense. No message has an actix result: who needs an
//! answer sends a `reply` along, and a dropped reply says that the actor died with the question.

use std::{sync::Arc, time::Duration};

use actix::Message;
use tokio::sync::oneshot;

use crate::{
    event::{Block, Stamp, Stamped},
    journal::Usage,
    record::{Batch, Record, SinkName},
    reply::Reply,
    state::Cursor,
};

/// Ingress → `Receiver`: take these requests, each whole or not at all. Several, because those that arrive at the same
/// moment share one message: under load, waking another thread costs more than what it is told.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Admit {
    /// The requests.
    pub requests: Vec<Request>,
}

/// One request.
pub struct Request {
    /// Its events.
    pub blocks: Vec<Block>,
    /// Answered when they are durable, or refused.
    pub reply: Reply,
}

/// `Receiver` → `Buffer`: make these durable, then answer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Append {
    /// The requests.
    pub requests: Vec<StampedRequest>,
}

/// One request, with ids and time.
pub struct StampedRequest {
    /// Its events.
    pub blocks: Vec<Stamped>,
    /// The ingress' own reply.
    pub reply: Reply,
}

impl Admit {
    /// A single request.
    pub fn one(blocks: Vec<Block>, reply: impl Into<Reply>) -> Self {
        Self { requests: vec![Request { blocks, reply: reply.into() }] }
    }
}

/// `Buffer` → `Batcher`: these are durable.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Committed {
    /// The records of one commit, in order.
    pub records: Vec<Arc<Record>>,
}

/// `Batcher` → every `Sink`: the next events there are. Who misses it reads the journal.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct Shaped {
    /// The events.
    pub batch: Arc<Batch>,
}

/// `Sink` → `Buffer`: everything before the cursor has its outcome.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Delivered {
    /// Who says so.
    pub sink: SinkName,
    /// How far it has come.
    pub cursor: Cursor,
    /// Answered when the cursor is on disk, for a sink that must not go on before.
    pub saved: Option<oneshot::Sender<()>>,
}

/// `Retention` → `Buffer`: remove generations that every sink has passed and that were last written so long ago.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Trim {
    /// `retention.journal_keep`.
    pub keep: Duration,
}

/// Pipeline → `Sink`: the process shuts down; cut batches without waiting for more.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Drain;

/// The answer to a request that is durable.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The stamp of each block and the number of its events.
    pub stamps: Vec<(Stamp, u32)>,
}

/// The answer to a request that was not taken: nothing of it was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too much waits for its commit.
    #[error("more is coming in than the disk takes; try again shortly")]
    Overloaded,
    /// The journal has reached its cap and a sink whose policy is `block` is behind.
    #[error("the journal is full because a sink is behind; try again when it has caught up")]
    JournalFull,
    /// The device has no space.
    #[error("no space is left on the device of the journal")]
    DiskFull,
    /// The journal failed; whether the events are in it is not known, so they may be sent again.
    #[error("the journal failed: the events were not acknowledged, send them again")]
    JournalFailed,
    /// The process is shutting down.
    #[error("the process is shutting down")]
    ShuttingDown,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Overloaded, Self::JournalFull, Self::DiskFull, Self::JournalFailed, Self::ShuttingDown];

    /// The label `reason` of `forebay_receiver_rejected_total`, and the error code of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::JournalFull => "journal_full",
            Self::DiskFull => "disk_full",
            Self::JournalFailed => "journal_failed",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// When to try again.
    pub const fn retry_after(self) -> Duration {
        match self {
            // A commit takes milliseconds; the header of HTTP knows only whole seconds.
            Self::Overloaded | Self::JournalFailed => Duration::from_secs(1),
            // A sink or a person has to make room first.
            Self::JournalFull | Self::DiskFull | Self::ShuttingDown => Duration::from_secs(5),
        }
    }
}

/// A commit ended; `Buffer` to itself, from the blocking thread.
pub(crate) struct CommitDone {
    pub usage: Usage,
    pub failure: Option<Refusal>,
}
