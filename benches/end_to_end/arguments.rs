//! What the command line asks for.

use std::{ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use super::{Failure, scenario::Name};

/// Shown for `--help`.
pub const USAGE: &str = "\
usage: cargo bench --bench end_to_end -- [options]
  --only NAME,..       batches, singles-32, singles-256, access-log, backlog, fan-out, otlp-accept, otlp-forward,
                       otlp-rows; default all
  --protocol NAME      how OpenTelemetry comes in and goes out: http (default) or grpc
  --seconds N          measured time of each scenario, 1 to 600; default 10
  --backlog-bytes N    journal bytes on disk before `backlog` measures, up to 16 GiB; default 2 GiB
  --outage KIND        the sink while the backlog grows: `closed` (default) or `503`
  --dir DIR            where the data directories lie; a real disk, or fsync costs nothing
  --bin FILE           another forebay binary than the one cargo built
  --json FILE          write the report there too
environment: FOREBAY_DATA, the directory of access_events.ndjson.gz; default ../shared/data";

const SECONDS: RangeInclusive<u64> = 1..=600;
/// Below the `buffer.max_bytes` of the configuration that the bench writes, so the cap is never what is met.
const BACKLOG_BYTES: RangeInclusive<u64> = 1..=16 << 30;

/// How OpenTelemetry is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// gRPC.
    Grpc,
}

/// What this process is to be.
#[derive(Debug)]
pub enum Mode {
    /// The bench.
    Bench(Arguments),
    /// The child that serves the floor.
    Floor,
    /// Somebody asks how it is used.
    Usage,
}

/// What the bench is to do.
#[derive(Debug)]
pub struct Arguments {
    /// The scenarios, in the order of [`Name::ALL`].
    pub only: Vec<Name>,
    /// Measured time of each.
    pub window: Duration,
    /// Journal bytes on disk before `backlog` measures.
    pub backlog_bytes: u64,
    /// How the sink fails while the backlog grows.
    pub outage: super::sink::Stance,
    /// How OpenTelemetry comes in and goes out.
    pub protocol: Protocol,
    /// Parent of the data directories.
    pub dir: PathBuf,
    /// The server under test.
    pub bin: PathBuf,
    /// Where the report goes as JSON.
    pub json: Option<PathBuf>,
}

// === impl Arguments ===

impl Arguments {
    /// From the arguments behind the program's name.
    ///
    /// # Errors
    /// [`Failure::Usage`] that names the argument which is not understood.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Mode, Failure> {
        let mut bin = default_bin();
        let mut parsed = Self {
            only: Name::ALL.to_vec(),
            window: Duration::from_secs(10),
            backlog_bytes: 2 << 30,
            outage: super::sink::Stance::Closed,
            protocol: Protocol::Http,
            dir: default_dir(),
            bin: PathBuf::new(),
            json: None,
        };
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or_else(|| Failure::Usage(format!("{argument} needs a value")));
            match argument.as_str() {
                // Cargo passes it to every bench.
                "--bench" => {}
                "--floor" => return Ok(Mode::Floor),
                "--help" | "-h" => return Ok(Mode::Usage),
                "--only" => parsed.only = names(&value()?)?,
                "--seconds" => parsed.window = Duration::from_secs(number(&argument, &value()?, SECONDS)?),
                "--backlog-bytes" => parsed.backlog_bytes = number(&argument, &value()?, BACKLOG_BYTES)?,
                "--outage" => parsed.outage = outage(&value()?)?,
                "--protocol" => parsed.protocol = protocol(&value()?)?,
                "--dir" => parsed.dir = value()?.into(),
                "--bin" => bin = Some(value()?.into()),
                "--json" => parsed.json = Some(value()?.into()),
                _ => return Err(Failure::Usage(format!("{argument} is no option"))),
            }
        }
        parsed.bin =
            bin.ok_or_else(|| Failure::Usage("outside of cargo, --bin FILE is needed".to_owned()))?;
        Ok(Mode::Bench(parsed))
    }
}

/// The binary that cargo built beside this bench.
fn default_bin() -> Option<PathBuf> {
    option_env!("CARGO_BIN_EXE_forebay").map(PathBuf::from)
}

/// Cargo's directory for what benches write lies on the disk of the target directory, where `/tmp` is
/// memory on many machines.
fn default_dir() -> PathBuf {
    option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

fn names(list: &str) -> Result<Vec<Name>, Failure> {
    let named = list.split(',').map(str::parse).collect::<Result<Vec<Name>, _>>()?;
    Ok(Name::ALL.into_iter().filter(|name| named.contains(name)).collect())
}

fn number(argument: &str, value: &str, range: RangeInclusive<u64>) -> Result<u64, Failure> {
    let wanted = || {
        let (from, to) = (range.start(), range.end());
        Failure::Usage(format!("{argument} is {value:?}; a whole number from {from} to {to} is wanted"))
    };
    u64::from_str(value).ok().filter(|n| range.contains(n)).ok_or_else(wanted)
}

fn protocol(value: &str) -> Result<Protocol, Failure> {
    match value {
        "http" => Ok(Protocol::Http),
        "grpc" => Ok(Protocol::Grpc),
        _ => Err(Failure::Usage(format!("--protocol is {value:?}; http or grpc is wanted"))),
    }
}

fn outage(value: &str) -> Result<super::sink::Stance, Failure> {
    match value {
        "closed" => Ok(super::sink::Stance::Closed),
        "503" => Ok(super::sink::Stance::Unavailable),
        _ => Err(Failure::Usage(format!("--outage is {value:?}; closed or 503 is wanted"))),
    }
}
