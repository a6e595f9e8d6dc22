//! What every benchmark that starts a process stands on: the process, as much HTTP as is needed, and why a run failed.

pub mod client;
pub mod process;
pub mod sink;
pub mod wire;

use std::io;

/// Why a run ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments are not understood.
    #[error("{0}; --help says how it is used")]
    Usage(String),
    /// The operating system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What it said.
        source: io::Error,
    },
    /// A server did not come up, or went away.
    #[error("{what}; the last it printed:\n{output}")]
    Server {
        /// What happened.
        what: String,
        /// The end of its output.
        output: String,
    },
    /// A part of the bench waited as long as it may.
    #[error("{0}")]
    Timeout(String),
}

impl Failure {
    /// Puts what was tried before what the operating system said.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { what: what.into(), source }
    }
}
