//! One server with its sink and its data directory, and what a load on it comes to.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    Failure,
    arguments::Arguments,
    load::Tally,
    process::{Metrics, Server},
    sink::Sink,
};

/// How long the sink may get nothing while events are missing.
pub const STALL_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A server under test. Fields are dropped in order: nobody writes into the directory when it is removed.
#[derive(Debug)]
pub struct Rig {
    /// The release binary.
    pub server: Server,
    /// Its first destination.
    pub sink: Sink,
    cpu_at_start: Duration,
    _dir: TempDir,
}

/// What a server did from its start until its last delivery.
#[derive(Debug)]
pub struct Outcome {
    /// The load whose rate and latencies are reported.
    pub tally: Tally,
    /// Events acknowledged over all loads.
    pub acked_events: u64,
    /// Events that arrived at the sink.
    pub delivered_events: u64,
    /// Bytes of the bodies in which they arrived.
    pub delivered_bytes: u64,
    /// Processor time for all of them, their delivery included: what is left for later is not free.
    pub cpu: Duration,
    /// The most memory that was resident.
    pub rss_peak_bytes: u64,
    /// Its metrics at the end.
    pub metrics: Metrics,
}

// === impl Rig ===

impl Rig {
    /// Starts a server with an HTTP sink and `blackholes` further ones.
    ///
    /// # Errors
    /// Where a part of it does not start.
    pub async fn start(arguments: &Arguments, blackholes: usize) -> Result<Self, Failure> {
        fs::create_dir_all(&arguments.dir)
            .map_err(Failure::io(format!("create {}", arguments.dir.display())))?;
        let dir = TempDir::with_prefix_in("forebay-bench-", &arguments.dir)
            .map_err(Failure::io(format!("create a directory in {}", arguments.dir.display())))?;
        let sink = Sink::start()?;
        let file = dir.path().join("forebay.yaml");
        fs::write(&file, configuration(&dir.path().join("data"), &sink, blackholes))
            .map_err(Failure::io(format!("write {}", file.display())))?;
        let server = Server::start(Command::new(&arguments.bin).args(["run", "--config"]).arg(file)).await?;
        let cpu_at_start = server.cpu()?;
        Ok(Self { server, sink, cpu_at_start, _dir: dir })
    }

    /// Waits until everything acknowledged has arrived, or for `wait_max`, or until nothing arrives any more.
    /// `earlier` are the events acknowledged before the load that `tally` is of.
    ///
    /// # Errors
    /// Where the server has gone, or the sink did not understand it.
    pub async fn finish(self, tally: Tally, earlier: u64, wait_max: Duration) -> Result<Outcome, Failure> {
        let acked_events = tally.acked_events + earlier;
        let began = Instant::now();
        let mut progress = (self.sink.events(), began);
        while progress.0 < acked_events && began.elapsed() < wait_max && progress.1.elapsed() < STALL_MAX {
            tokio::time::sleep(POLL).await;
            let delivered = self.sink.events();
            if delivered > progress.0 {
                progress = (delivered, Instant::now());
            }
        }
        if self.sink.misunderstood() > 0 {
            return Err(self.server.failure("sent requests that the sink does not understand"));
        }
        let cpu = self.server.cpu()?.saturating_sub(self.cpu_at_start);
        Ok(Outcome {
            tally,
            acked_events,
            delivered_events: self.sink.events(),
            delivered_bytes: self.sink.bytes(),
            cpu,
            rss_peak_bytes: self.server.rss_peak_bytes()?,
            metrics: self.server.metrics().await?,
        })
    }
}

fn configuration(data_dir: &Path, sink: &Sink, blackholes: usize) -> String {
    let blackholes: String =
        (1..=blackholes).map(|n| format!("  blackhole-{n}: {{ type: blackhole }}\n")).collect();
    format!(
        "data_dir: {data_dir:?}\n\
         http: {{ listen: \"127.0.0.1:0\" }}\n\
         otlp: {{ http: {{ listen: null }}, grpc: {{ listen: null }} }}\n\
         ingest: {{ grpc: {{ listen: null }} }}\n\
         buffer: {{ durability: fsync, max_bytes: 20GiB }}\n\
         batch: {{ max_events: 5000, max_wait: 1s }}\n\
         sinks:\n\
         \x20 bench: {{ type: http, url: \"http://{}/\", encoding: ndjson, concurrency: 2 }}\n\
         {blackholes}",
        sink.address(),
    )
}

/// The kind of file system a directory lies on, by the longest mount point above it.
pub fn file_system(dir: &Path) -> Option<String> {
    let dir: PathBuf = std::path::absolute(dir).ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let above = fields.filter(|fields| fields.len() > 2 && dir.starts_with(fields[1]));
    above.max_by_key(|fields| fields[1].len()).map(|fields| fields[2].to_owned())
}
