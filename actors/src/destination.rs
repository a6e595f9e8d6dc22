//! What a destination is to the sink that feeds it.
//!
//! A destination knows its own wire and nothing else. Cursors, retries, breaker, halving, dead letters and
//! restarts are the sink's; a destination answers for one batch at a time, and says how it failed.

use std::{fmt, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::LocalBoxFuture};

use crate::{
    examination::Examination,
    holding::Holding,
    record::{Batch, Position},
};

/// Delivers batches to one place. One value lives on one arbiter thread, so its futures need not be `Send`;
/// what blocks (a driver, a file) goes to `tokio::task::spawn_blocking`.
pub trait Destination: 'static {
    /// Delivers the batch whole. A success answer means that the destination holds it by its own word.
    /// The sink calls this again for the same batch after a failure or a crash, so a destination that can
    /// recognise a batch (by [`Batch::id`]) or an event (by its id) should.
    fn deliver(&self, batch: Arc<Batch>) -> Delivery;

    /// Whether the destination can be reached and would take events. Delivers nothing.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>>;

    /// What `forebay validate` tells of it: more than [`probe`](Self::probe) where the destination has a schema, a clock, or
    /// rights that a probe does not see. Leaves nothing behind.
    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        self.probe().map(Examination::of).boxed_local()
    }

    /// What it holds batches of other sinks with, where it can.
    fn holding(&self) -> Option<&dyn Holding> {
        None
    }
}

/// The future of one delivery.
pub type Delivery = LocalBoxFuture<'static, Result<Receipt, DeliveryError>>;

/// Builds a destination, afresh at every restart of its sink, on the sink's own thread.
pub type DestinationFactory = Arc<dyn Fn() -> Result<Box<dyn Destination>, DeliveryError> + Send + Sync>;

/// A destination's word that it has a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Bytes sent, as they went over the wire or into the file.
    pub bytes: u64,
    /// Events of the batch that it refused although it took the batch, and that its protocol wants nobody to send again.
    pub refused: u64,
    /// Events that it can never take, by name, in their order: they become dead letters, and no other event of the batch is sent
    /// again for their sake.
    pub rejected: Vec<Rejection>,
}

/// One event that a destination can never take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its place.
    pub position: Position,
    /// The destination's own words.
    pub error: String,
    /// The status it gave, where its protocol has one.
    pub status: Option<u16>,
}

impl Receipt {
    /// For a batch that was taken whole, in so many bytes.
    pub const fn of(bytes: u64) -> Self {
        Self { bytes, refused: 0, rejected: Vec::new() }
    }
}

/// Why a delivery failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct DeliveryError {
    /// The closed set that metrics count by.
    pub cause: Cause,
    /// What the destination said, for people: the sink's name need not be in it.
    pub message: String,
    /// The status it answered with, where its protocol has one.
    pub status: Option<u16>,
    /// What is to be done.
    pub verdict: Verdict,
}

impl DeliveryError {
    /// A failure that may pass.
    pub fn transient(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), status: None, verdict: Verdict::Retry { after: None } }
    }

    /// How long the destination wishes to be left alone; nothing where it named no time.
    pub fn wished_wait(&self) -> Duration {
        match self.verdict {
            Verdict::Retry { after } => after.unwrap_or_default(),
            Verdict::Reject => Duration::ZERO,
        }
    }

    /// Whether fewer deliveries at the same time may be what it wants.
    pub fn asks_for_less(&self) -> bool {
        matches!(self.cause, Cause::Throttled | Cause::Timeout) || matches!(self.status, Some(429 | 503))
    }

    /// A refusal of the events themselves.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self { cause: Cause::Rejected, message: message.into(), status: None, verdict: Verdict::Reject }
    }
}

/// What the sink does with a failed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try the same batch again, not before `after` where the destination named a time.
    Retry {
        /// The destination's own wish (`Retry-After`).
        after: Option<Duration>,
    },
    /// At least one event of the batch can never be delivered: halve until it stands alone.
    Reject,
}

/// Causes of failed deliveries; the label `cause` of `forebay_sink_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No connection, or it broke.
    Connect,
    /// No answer in time.
    Timeout,
    /// It asked for a slower pace (429 and the like).
    Throttled,
    /// It failed on its own side (5xx and the like).
    Server,
    /// It refuses this sender whatever is sent: credentials, address, rights (401, 403, 404, 405).
    Refused,
    /// It refuses these events (other 4xx, a constraint).
    Rejected,
    /// A local file or device failed.
    Io,
    /// A record could not be decoded, or an event not be put into the destination's form.
    Encode,
    /// The destination could not be built from its configuration.
    Build,
    /// It panicked: a bug of ours, or of a driver.
    Panicked,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Connect,
        Self::Timeout,
        Self::Throttled,
        Self::Server,
        Self::Refused,
        Self::Rejected,
        Self::Io,
        Self::Encode,
        Self::Build,
        Self::Panicked,
    ];

    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
            Self::Io => "io",
            Self::Encode => "encode",
            Self::Build => "build",
            Self::Panicked => "panicked",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
