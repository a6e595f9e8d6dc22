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
    arguments::{Arguments, Protocol},
    load::Tally,
    otlp::{LogRecords, Receiver},
    process::{Metrics, Server},
    sink::Sink,
};

/// How long the sink may get nothing while events are missing.
pub const STALL_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Where a server under test delivers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlet {
    /// An HTTP sink that gets lines of JSON.
    Lines,
    /// An OTLP sink.
    Otlp(Protocol),
    /// Nobody.
    Blackhole,
}

/// Who counts what is delivered.
#[derive(Debug)]
enum Counting {
    Http(Sink),
    Grpc(Receiver),
    /// The server's own word.
    Nobody,
}

/// A server under test. Fields are dropped in order: nobody writes into the directory when it is removed.
#[derive(Debug)]
pub struct Rig {
    /// The release binary.
    pub server: Server,
    counting: Counting,
    began: Instant,
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
    /// From the start of the server to the last delivery.
    pub elapsed: Duration,
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
        Self::delivering(arguments, Outlet::Lines, blackholes).await
    }

    /// Starts a server that delivers there, and `blackholes` further sinks.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub async fn delivering(
        arguments: &Arguments,
        outlet: Outlet,
        blackholes: usize,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(&arguments.dir)
            .map_err(Failure::io(format!("create {}", arguments.dir.display())))?;
        let dir = TempDir::with_prefix_in("forebay-bench-", &arguments.dir)
            .map_err(Failure::io(format!("create a directory in {}", arguments.dir.display())))?;
        let (counting, sink) = match outlet {
            Outlet::Lines => {
                let sink = Sink::start()?;
                let options = format!("type: http, url: \"http://{}/\", encoding: ndjson", sink.address());
                (Counting::Http(sink), options)
            }
            Outlet::Otlp(Protocol::Http) => {
                let sink = Sink::read_by(|counts| Box::new(LogRecords::new(counts)))?;
                let options = format!("type: otlp, protocol: http, endpoint: \"http://{}\"", sink.address());
                (Counting::Http(sink), options)
            }
            Outlet::Otlp(Protocol::Grpc) => {
                let receiver = Receiver::start()?;
                let options = format!("type: otlp, endpoint: \"http://{}\"", receiver.address());
                (Counting::Grpc(receiver), options)
            }
            Outlet::Blackhole => (Counting::Nobody, "type: blackhole".to_owned()),
        };
        let file = dir.path().join("forebay.yaml");
        fs::write(&file, configuration(&dir.path().join("data"), &sink, blackholes))
            .map_err(Failure::io(format!("write {}", file.display())))?;
        let server = Server::start(Command::new(&arguments.bin).args(["run", "--config"]).arg(file)).await?;
        let (cpu_at_start, began) = (server.cpu()?, Instant::now());
        Ok(Self { server, counting, began, cpu_at_start, _dir: dir })
    }

    /// Its HTTP destination.
    ///
    /// # Panics
    /// Where it was started with another.
    pub fn sink(&self) -> &Sink {
        match &self.counting {
            Counting::Http(sink) => sink,
            _ => panic!("the scenario was started with another destination"),
        }
    }

    async fn delivered(&self) -> Result<(u64, u64), Failure> {
        Ok(match &self.counting {
            Counting::Http(sink) => (sink.events(), sink.bytes()),
            Counting::Grpc(receiver) => (receiver.events(), receiver.bytes()),
            Counting::Nobody => {
                let metrics = self.server.metrics().await?;
                let sum = |name| metrics.first_of(&[name]).unwrap_or_default() as u64;
                (sum("forebay_sink_sent_events_total"), sum("forebay_sink_sent_bytes_total"))
            }
        })
    }

    /// Waits until everything acknowledged has arrived, or for `wait_max`, or until nothing arrives any more.
    /// `earlier` are the events acknowledged before the load that `tally` is of.
    ///
    /// # Errors
    /// Where the server has gone, or the sink did not understand it.
    pub async fn finish(self, tally: Tally, earlier: u64, wait_max: Duration) -> Result<Outcome, Failure> {
        let acked_events = tally.acked_events + earlier;
        let began = Instant::now();
        let mut progress = (self.delivered().await?.0, began);
        while progress.0 < acked_events && began.elapsed() < wait_max && progress.1.elapsed() < STALL_MAX {
            tokio::time::sleep(POLL).await;
            let (delivered, _) = self.delivered().await?;
            if delivered > progress.0 {
                progress = (delivered, Instant::now());
            }
        }
        let elapsed = self.began.elapsed();
        if matches!(&self.counting, Counting::Http(sink) if sink.misunderstood() > 0) {
            return Err(self.server.failure("sent requests that the sink does not understand"));
        }
        let cpu = self.server.cpu()?.saturating_sub(self.cpu_at_start);
        let (delivered_events, delivered_bytes) = self.delivered().await?;
        Ok(Outcome {
            tally,
            acked_events,
            delivered_events,
            delivered_bytes,
            elapsed,
            cpu,
            rss_peak_bytes: self.server.rss_peak_bytes()?,
            metrics: self.server.metrics().await?,
        })
    }
}

fn configuration(data_dir: &Path, sink: &str, blackholes: usize) -> String {
    let blackholes: String =
        (1..=blackholes).map(|n| format!("  blackhole-{n}: {{ type: blackhole }}\n")).collect();
    format!(
        "data_dir: {data_dir:?}\n\
         http: {{ listen: \"127.0.0.1:0\" }}\n\
         otlp: {{ listen: \"127.0.0.1:0\" }}\n\
         buffer: {{ durability: fsync, max_bytes: 20GiB }}\n\
         batch: {{ max_events: 5000, max_wait: 1s }}\n\
         sinks:\n\
         \x20 bench: {{ {sink}, concurrency: 2 }}\n\
         {blackholes}",
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
