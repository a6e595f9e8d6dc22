//! What may become of an event, and what calls of the client may fail with.

use crate::Event;

/// What became of an event that is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server has it on disk.
    Delivered,
    /// It is on this machine's disk, in the spool, and is delivered from there.
    Spooled,
}

/// Why an event was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server does not take this event, whoever sends it: its words.
    #[error("the server refuses the event: {0}")]
    Rejected(String),
    /// The server does not take requests like this one, as with a wrong token: its words.
    #[error("the server refuses the request: {0}")]
    Refused(String),
    /// As many attempts as configured were made.
    #[error("not delivered in {attempts} attempts, the last: {last}")]
    GaveUp {
        /// How many.
        attempts: u32,
        /// What the last one ended with.
        last: String,
    },
    /// The deadline of `close` came first. It may have arrived all the same.
    #[error("the client was closed before the event was delivered")]
    Closed,
    /// The runtime was shut down, or the process is coming to its end. It may have arrived all the same.
    #[error("the client's runtime ended before the event was delivered")]
    Abandoned,
}

/// An event that was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct Undelivered {
    /// The event, with the id under which it was sent.
    pub event: Box<Event>,
    /// Why.
    pub failure: Failure,
}

/// An event that was not even queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SendError {
    /// The event.
    pub event: Box<Event>,
    /// Why.
    pub reason: SendReason,
}

/// Why an event was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendReason {
    /// Only of `try_send`.
    #[error("the client's queue is full")]
    Full,
    /// `close` was called.
    #[error("the client is closed")]
    Closed,
    /// It has more bytes than the queue may hold.
    #[error("the event has {bytes} bytes; the queue holds {allowed}")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// What the queue may hold.
        allowed: usize,
    },
}

/// A deadline that came before everything was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeadlineError {
    /// Of `flush`: what is queued stays queued.
    #[error("the deadline came before everything was delivered; delivery goes on")]
    Flush,
    /// Of `close`: as many events were given back as [`Failure::Closed`].
    #[error("the deadline came before everything was delivered; {undelivered} events were not")]
    Close {
        /// How many; those that went to the spool are not among them.
        undelivered: u64,
    },
    /// Of `flush` on a client that is closed at the same time.
    #[error("the client is closed")]
    Closed,
}

/// A client that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address is none.
    #[error("{url:?} is no address of a server: {why}; http://…, https://…, grpc://… or grpcs://… is needed")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The token is no header.
    #[error("the token has characters that no header may have")]
    Token,
    /// Certificates or keys that cannot be used.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// A spool that cannot be used.
    #[error(transparent)]
    Spool(#[from] crate::spool::SpoolError),
    /// Built outside of a tokio runtime.
    #[error("a client delivers in a tokio runtime, and there is none here")]
    NoRuntime,
}
