//! Where a run keeps its files, and what is read there when the process is gone.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use forebay_actors::{
    event::{Events, Timestamp},
    record::SinkName,
    state::{DeadLetters, StateDb},
};

use super::{ChaosError, ledger::Ledger, report::Explained};
use crate::{config::Config, data_dir};

/// A directory of this run, for its user alone: the configuration has a token in it. Removed at the end, unless
/// somebody will want to look into it.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    kept: bool,
}

impl Place {
    /// Makes the directory among the system's temporary ones.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn new(run: u32) -> Result<Self, ChaosError> {
        let path = std::env::temp_dir().join(format!("forebay-chaos-{run:08x}"));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| ChaosError::file(&path, error))?;
        Ok(Self { path, kept: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration of the process.
    pub fn config_file(&self) -> PathBuf {
        self.path.join("forebay.yaml")
    }

    /// What the process says.
    pub fn log_file(&self) -> PathBuf {
        self.path.join("forebay.log")
    }

    /// Its data, where nobody named another directory.
    pub fn data_dir(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Writes the configuration of the process.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, config: &Config) -> Result<(), ChaosError> {
        let file = self.config_file();
        fs::write(&file, config.to_yaml()).map_err(|error| ChaosError::file(&file, error))
    }

    /// It stays when this value goes.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            // There is nobody to tell, and it is in a place that the system tidies.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The sink's dead letters since that time, in a data directory that no process uses any more.
///
/// # Errors
/// Where they cannot be read.
pub fn dead_letters(
    config: &Config,
    sink: &str,
    since: Timestamp,
    ledger: &Ledger,
) -> Result<Explained, ChaosError> {
    let words = |e: forebay_actors::state::StateError| ChaosError::DeadLetters(e.to_string());
    let state = StateDb::open(&data_dir::state(&config.data_dir)).map_err(words)?;
    let letters = DeadLetters::open(Arc::new(state), config.dead_letters.max_bytes).map_err(words)?;
    let letters = letters.list(&SinkName::from(sink), None, usize::MAX).map_err(words)?;
    let mut explained = Explained::default();
    for (_, letter) in letters.into_iter().filter(|(_, letter)| letter.at >= since) {
        match letter.event.as_deref().and_then(|payload| Events::new(payload).next()) {
            Some(Ok(event)) => explained.events.extend(ledger.number(event.event_id.to_string().as_bytes())),
            _ => explained.positions += letter.span.count(),
        }
    }
    Ok(explained)
}
