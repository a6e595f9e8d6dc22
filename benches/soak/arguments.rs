//! What the command line asks for.

use std::{path::PathBuf, str::FromStr, time::Duration};

use super::Failure;

/// Shown for `--help`.
pub const USAGE: &str = "\
usage: cargo bench --bench soak -- [options]
  --seconds N       how long the load is held; default 60, hours by hand
  --rate N          events a second; default 20000
  --seed N          of the faults and the events; default 1
  --reload-every N  seconds from one SIGHUP to the next; 0 is never; default 13
  --kill-every N    seconds from one SIGKILL and new start to the next; 0 is never, which is the default
  --csv FILE        a line for every half second, written as it happens
  --svg FILE        the plot
  --dir DIR         where the data directory lies; a real disk, or fsync costs nothing
  --bin FILE        another forebay binary than the one cargo built
The exit code is 1 where an acknowledged event did not arrive, or memory, disk or open files grew.";

/// A week. The ledger has a bit for each event.
const SECONDS_MAX: u64 = 7 * 24 * 60 * 60;
const RATE_MAX: u64 = 1_000_000;

/// What the run is to be.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// How long the load is held.
    pub total: Duration,
    /// Events a second.
    pub rate: u64,
    /// Chance.
    pub seed: u64,
    /// From one SIGHUP to the next; zero is never.
    pub reload_every: Duration,
    /// From one SIGKILL to the next; zero is never.
    pub kill_every: Duration,
    /// Where the samples go.
    pub csv: Option<PathBuf>,
    /// Where the plot goes.
    pub svg: Option<PathBuf>,
    /// Parent of the data directory.
    pub dir: PathBuf,
    /// The server.
    pub bin: PathBuf,
}

// === impl Arguments ===

impl Arguments {
    /// From the arguments behind the program's name; `None` where somebody asks how it is used.
    ///
    /// # Errors
    /// [`Failure::Usage`] that names the argument which is not understood.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>, Failure> {
        let mut parsed = Self {
            total: Duration::from_secs(60),
            rate: 20_000,
            seed: 1,
            reload_every: Duration::from_secs(13),
            kill_every: Duration::ZERO,
            csv: None,
            svg: None,
            // Cargo's own directory lies on the disk of the target directory, where `/tmp` is memory on many machines.
            dir: option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from),
            bin: option_env!("CARGO_BIN_EXE_forebay").map(PathBuf::from).unwrap_or_default(),
        };
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or_else(|| Failure::Usage(format!("{argument} needs a value")));
            match argument.as_str() {
                // Cargo passes it to every bench.
                "--bench" => {}
                "--help" | "-h" => return Ok(None),
                "--seconds" => parsed.total = seconds(&argument, &value()?, 1)?,
                "--rate" => parsed.rate = number(&argument, &value()?, 100, RATE_MAX)?,
                "--seed" => parsed.seed = number(&argument, &value()?, 0, u64::MAX)?,
                "--reload-every" => parsed.reload_every = seconds(&argument, &value()?, 0)?,
                "--kill-every" => parsed.kill_every = seconds(&argument, &value()?, 0)?,
                "--csv" => parsed.csv = Some(value()?.into()),
                "--svg" => parsed.svg = Some(value()?.into()),
                "--dir" => parsed.dir = value()?.into(),
                "--bin" => parsed.bin = value()?.into(),
                _ => return Err(Failure::Usage(format!("{argument} is no option"))),
            }
        }
        Ok(Some(parsed))
    }
}

fn seconds(argument: &str, value: &str, min: u64) -> Result<Duration, Failure> {
    number(argument, value, min, SECONDS_MAX).map(Duration::from_secs)
}

fn number(argument: &str, value: &str, min: u64, max: u64) -> Result<u64, Failure> {
    let wanted =
        || Failure::Usage(format!("{argument} is {value:?}; a whole number from {min} to {max} is wanted"));
    u64::from_str(value).ok().filter(|number| (min..=max).contains(number)).ok_or_else(wanted)
}
