//! How a batch comes to the server, and what its answers mean.

#[cfg(feature = "grpc")]
pub(crate) mod grpc;
#[cfg(feature = "http")]
pub(crate) mod http;
#[cfg(feature = "grpc")]
mod status;
pub(crate) mod tls;

use std::{pin::Pin, time::Duration};

use crate::Event;

/// The answer to a batch: the events that the server refuses on their own; all others are durable.
pub(crate) type Answer = Result<Vec<Rejection>, Fault>;

/// One way to the server.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Sends a batch once. Dropping the future gives the attempt up.
    fn deliver<'a>(
        &'a self,
        batch_id: &'a str,
        events: Vec<&'a Event>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;
}

/// An event that the server refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// Its place in the batch.
    pub index: usize,
    /// The server's words.
    pub error: String,
}

/// A batch that was not taken as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub verdict: Verdict,
    /// The server's words, or what happened on the way.
    pub words: String,
}

/// What makes sense now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same once more; the server may say when.
    Retry { after: Option<Duration> },
    /// Fewer events at a time.
    Split,
    /// Nothing: it would be refused again.
    Refuse,
}

impl Fault {
    pub fn passing(words: impl Into<String>) -> Self {
        Self { verdict: Verdict::Retry { after: None }, words: words.into() }
    }

    pub fn refused(words: impl Into<String>) -> Self {
        Self { verdict: Verdict::Refuse, words: words.into() }
    }
}

/// An error with its causes: the outermost alone often says only that something failed.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        cause = error.source();
    }
    words
}
