//! Chaos: faults on purpose against a process of this binary, and a judgement of what it promised.
//!
//! In reading order: a [`schedule`] says what happens when; [`mod@derive`] makes the configuration of the process under attack;
//! [`process`] starts, kills and asks it; [`load`] posts numbered events to it; a [`sandbox`] takes the place of its
//! destinations; the [`ledger`] knows what was acknowledged and what came; [`recovery`] measures; the [`report`] judges.
//! [`run`] does all of that, for `forebay chaos` and for tests.
//!
//! What is judged is the process as it is started from its binary, seen from outside. Nothing in it knows of the ledger.

pub mod derive;
pub mod ledger;
pub mod load;
pub mod place;
pub mod process;
pub mod recovery;
pub mod report;
mod run;
pub mod sandbox;
pub mod schedule;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

pub use run::run;
use schedule::FaultKind;

use crate::config::{Config, Durability};

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The operator's configuration.
    pub config: Config,
    /// The binary to attack.
    pub binary: PathBuf,
    /// What the schedule is drawn from.
    pub seed: u64,
    /// How long faults are injected.
    pub duration: Duration,
    /// Events a second.
    pub rate: u32,
    /// The kinds of faults; see [`Plan::kinds`].
    pub faults: Vec<FaultKind>,
    /// Whether sinks deliver to the sandbox.
    pub sandbox: bool,
    /// Where the data is, if not in a directory that is removed at the end.
    pub data_dir: Option<PathBuf>,
    /// How long to wait for recovery, and then for the sinks, before it is judged.
    pub settle: Duration,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy)]
pub struct Live {
    /// What it does now.
    pub phase: &'static str,
    /// Since the first fault could come.
    pub elapsed: Duration,
    /// Events acknowledged.
    pub acknowledged: u64,
    /// Faults injected.
    pub injected: u64,
    /// Faults that have not been recovered from.
    pub open: usize,
    /// Events that the sink that is most behind has still to deliver.
    pub lag_events: u64,
    /// The last fault.
    pub last: Option<FaultKind>,
}

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// A file or a directory of the run.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The sandbox cannot listen.
    #[error("the sandbox cannot listen on this machine: {0}")]
    Sandbox(io::Error),
    /// There is no HTTP client.
    #[error("no HTTP client can be set up: {0}")]
    Client(String),
    /// The process ended, and nobody had killed it.
    #[error("forebay ended by itself ({})", ended(.0))]
    Ended(Option<ExitStatus>),
    /// The process did not come up.
    #[error("forebay did not listen within {0:?}")]
    DoesNotStart(Duration),
    /// The process does not say who its actors are.
    #[error("forebay does not answer for its actors: {0}")]
    NoActors(String),
    /// The store cannot be asked.
    #[error("the event store could not be asked: {0}")]
    Store(String),
    /// The dead letters cannot be read.
    #[error("the dead letters could not be read: {0}")]
    DeadLetters(String),
    /// What went wrong, and where what it said about it can be read.
    #[error("{error}\n{last_words}\nits log and data are kept in {}", .place.display())]
    WithLog {
        /// What.
        error: Box<ChaosError>,
        /// The last that the process said.
        last_words: String,
        /// Where.
        place: PathBuf,
    },
}

fn ended(status: &Option<ExitStatus>) -> String {
    status.map_or("nobody knows how".to_owned(), |status| status.to_string())
}

impl ChaosError {
    /// Something about a file.
    pub(crate) fn file(path: &Path, error: io::Error) -> Self {
        Self::File { path: path.to_owned(), error }
    }
}

impl Plan {
    /// The kinds of faults for this configuration: those that are wanted, or without any all that are possible.
    ///
    /// # Errors
    /// Where one was asked for that is not possible, with the reason.
    pub fn kinds(config: &Config, wanted: &[FaultKind], sandbox: bool) -> Result<Vec<FaultKind>, String> {
        for kind in wanted {
            if let Some(why) = Self::why_not(config, *kind, sandbox) {
                return Err(format!("--faults {}: {why}", kind.as_str()));
            }
        }
        let mut kinds = if wanted.is_empty() { FaultKind::ALL.to_vec() } else { wanted.to_vec() };
        kinds.retain(|kind| Self::why_not(config, *kind, sandbox).is_none());
        // So that the order on the command line does not change the schedule.
        kinds.sort_unstable();
        kinds.dedup();
        Ok(kinds)
    }

    /// Why a fault of this kind is not possible; `None` where it is.
    pub fn why_not(config: &Config, kind: FaultKind, sandbox: bool) -> Option<&'static str> {
        if kind.needs_sandbox() && !sandbox {
            Some("only the destinations of --sandbox do that")
        } else if kind == FaultKind::Crash && config.buffer.durability != Durability::Fsync {
            Some("where buffer.durability is not fsync, it may lose what was acknowledged last, as promised")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is possible depends on the sandbox and on the durability; who asks for more is told why not.
    #[test]
    fn kinds_are_those_that_are_possible() {
        let mut config = Config::default();
        let all = Plan::kinds(&config, &[], true).unwrap();
        assert_eq!(all, FaultKind::ALL);
        let real = Plan::kinds(&config, &[], false).unwrap();
        assert!(real.contains(&FaultKind::Crash) && !real.iter().any(|kind| kind.needs_sandbox()));
        let twice = [FaultKind::Panic, FaultKind::SinkKill, FaultKind::Panic];
        assert_eq!(Plan::kinds(&config, &twice, true), Ok(vec![FaultKind::SinkKill, FaultKind::Panic]));
        let error = Plan::kinds(&config, &[FaultKind::SinkCut], false).unwrap_err();
        assert!(error.contains("sink-cut") && error.contains("--sandbox"), "{error}");
        for durability in [Durability::Interval, Durability::Memory] {
            config.buffer.durability = durability;
            assert!(!Plan::kinds(&config, &[], true).unwrap().contains(&FaultKind::Crash));
            assert!(Plan::kinds(&config, &[FaultKind::Crash], true).unwrap_err().contains("durability"));
        }
    }
}
