//! The scenarios: what load, against what, and what is compared with what.

use std::{process::Command, str::FromStr, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Failure,
    arguments::{Arguments, Protocol},
    events::{self, Request},
    load::{Load, Tally},
    process::Server,
    report::{Report, Row, cores},
    rig::{Outlet, Rig, STALL_MAX, file_system},
    sink::Stance,
};

/// Until everything acknowledged in a scenario has arrived.
const DELIVERY_MAX: Duration = Duration::from_secs(60);
/// The same for a backlog, which may be hundreds of times a scenario's events.
const BACKLOG_DELIVERY_MAX: Duration = Duration::from_secs(15 * 60);
/// For each GiB of backlog; a journal slower than this has failed already.
const FILL_MAX_PER_GIB: Duration = Duration::from_secs(2 * 60);
const FILL_POLL: Duration = Duration::from_millis(250);
/// Further sinks in the runs of `fan-out`.
const FAN_OUT: [usize; 4] = [0, 1, 2, 4];
/// `Batches` behind `Backlog`, without its floor.
pub const BATCHES_AGAIN: &str = "batches-again";
const BYTES_PER_GIB: u64 = 1 << 30;

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Arrays of 500 events over 8 connections.
    Batches,
    /// Single events over 32 connections.
    Singles32,
    /// Single events over 256 connections.
    Singles256,
    /// 500 lines of a real access log over 8 connections.
    AccessLog,
    /// `Batches` while a backlog drains.
    Backlog,
    /// `Batches` with further sinks.
    FanOut,
    /// OpenTelemetry logs, 500 records a request over 8 connections, which nobody gets.
    OtlpAccept,
    /// The same, passed on as OpenTelemetry.
    OtlpForward,
    /// The same, as lines of JSON.
    OtlpRows,
}

// === impl Name ===

impl Name {
    /// All of them, in the order they run in.
    pub const ALL: [Self; 9] = [
        Self::Batches,
        Self::Singles32,
        Self::Singles256,
        Self::AccessLog,
        Self::Backlog,
        Self::FanOut,
        Self::OtlpAccept,
        Self::OtlpForward,
        Self::OtlpRows,
    ];

    /// The name in arguments and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batches => "batches",
            Self::Singles32 => "singles-32",
            Self::Singles256 => "singles-256",
            Self::AccessLog => "access-log",
            Self::Backlog => "backlog",
            Self::FanOut => "fan-out",
            Self::OtlpAccept => "otlp-accept",
            Self::OtlpForward => "otlp-forward",
            Self::OtlpRows => "otlp-rows",
        }
    }

    fn workload(self) -> Result<Workload, Failure> {
        let (requests, connections) = match self {
            Self::Batches | Self::Backlog | Self::FanOut => (events::batches(), 8),
            Self::Singles32 => (events::singles(), 32),
            Self::Singles256 => (events::singles(), 256),
            Self::AccessLog => (events::access_log()?, 8),
            Self::OtlpAccept | Self::OtlpForward | Self::OtlpRows => (events::otlp_logs(), 8),
        };
        Ok(Workload { requests: requests.into(), connections })
    }
}

impl FromStr for Name {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        let unknown = || Failure::Usage(format!("{text:?} is no scenario; there are {}", names()));
        Self::ALL.into_iter().find(|name| name.as_str() == text).ok_or_else(unknown)
    }
}

/// Requests and how many are outstanding at once.
#[derive(Debug, Clone)]
struct Workload {
    requests: Arc<[Request]>,
    connections: usize,
}

// === impl Workload ===

impl Workload {
    fn on(&self, server: &Server) -> Load {
        let requests = Arc::clone(&self.requests);
        let (connections, protocol) = (self.connections, Protocol::Http);
        Load { address: server.address(), requests, connections, protocol }
    }

    /// Load on the server for `window`, and how much of the machine others took meanwhile.
    async fn measure(&self, server: &Server, window: Duration) -> Result<Tally, Failure> {
        self.measure_load(self.on(server), server, window).await
    }

    async fn measure_load(&self, load: Load, server: &Server, window: Duration) -> Result<Tally, Failure> {
        let (others, began) = (server.others_cpu()?, Instant::now());
        let tally = load.measure(window).await?;
        let others = server.others_cpu()?.saturating_sub(others).as_secs_f64();
        let all = began.elapsed().as_secs_f64() * cores() as f64;
        Ok(Tally { others_cpu_percent: 100.0 * others / all, ..tally })
    }
}

/// Runs the scenarios one after the other.
///
/// # Errors
/// Where a part of the bench fails; a server that loses events or misses a target is a result.
pub async fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let mut report = Report::new(arguments.window);
    if file_system(&arguments.dir).is_some_and(|kind| kind == "tmpfs") {
        report.note(format!("{} is memory: fsync costs nothing there, use --dir", arguments.dir.display()));
    }
    for name in Name::ALL {
        let is_baseline = name == Name::Batches && arguments.only.contains(&Name::Backlog);
        if !arguments.only.contains(&name) && !is_baseline {
            continue;
        }
        if name == Name::AccessLog && !events::access_log_path().is_file() {
            let path = events::access_log_path();
            report.note(format!("access-log SKIPPED: {} is missing, set FOREBAY_DATA", path.display()));
            continue;
        }
        eprintln!("end_to_end: {} ...", name.as_str());
        match name {
            Name::Backlog => backlog(arguments, &mut report).await?,
            Name::FanOut => fan_out(arguments, &mut report).await?,
            Name::OtlpAccept => report.push(otlp(arguments, name, Outlet::Blackhole).await?),
            Name::OtlpForward => report.push(otlp(arguments, name, Outlet::Otlp(arguments.protocol)).await?),
            Name::OtlpRows => report.push(otlp(arguments, name, Outlet::Lines).await?),
            _ => report.push(compared(arguments, name).await?),
        }
    }
    report.judge();
    Ok(report)
}

/// The server and the floor under the same load.
async fn compared(arguments: &Arguments, name: Name) -> Result<Row, Failure> {
    let workload = name.workload()?;
    let rig = Rig::start(arguments, 0).await?;
    let tally = workload.measure(&rig.server, arguments.window).await?;
    let outcome = rig.finish(tally, 0, DELIVERY_MAX).await?;
    let floor = floor(&workload, arguments.window).await?;
    Ok(Row::new(name.as_str(), &outcome).with_floor(&floor))
}

/// OpenTelemetry in, whatever out. The floor is always asked over HTTP/1.1.
async fn otlp(arguments: &Arguments, name: Name, outlet: Outlet) -> Result<Row, Failure> {
    let workload = name.workload()?;
    let rig = Rig::delivering(arguments, outlet, 0).await?;
    let address = rig.server.address_behind("OpenTelemetry over HTTP and gRPC on ")?;
    let load = Load { address, protocol: arguments.protocol, ..workload.on(&rig.server) };
    let tally = workload.measure_load(load, &rig.server, arguments.window).await?;
    let outcome = rig.finish(tally, 0, DELIVERY_MAX).await?;
    let floor = floor(&workload, arguments.window).await?;
    Ok(Row::new(name.as_str(), &outcome).with_floor(&floor))
}

async fn floor(workload: &Workload, window: Duration) -> Result<Tally, Failure> {
    let this = std::env::current_exe().map_err(Failure::io("find this program"))?;
    let server = Server::start(Command::new(this).arg("--floor")).await?;
    let tally = workload.measure(&server, window).await?;
    if !tally.errors.is_empty() {
        // A floor that refuses what is sent is no floor.
        return Err(server.failure(&format!("of the floor answered with {:?}", tally.errors)));
    }
    Ok(tally)
}

/// Fills the journal behind a dead sink, then measures while the sink catches up.
async fn backlog(arguments: &Arguments, report: &mut Report) -> Result<(), Failure> {
    let workload = Name::Backlog.workload()?;
    // The sink is there while the server starts: whether a dead one delays readiness is not the question.
    let rig = Rig::start(arguments, 0).await?;
    rig.sink().set(arguments.outage);
    let filling = workload.on(&rig.server).start()?;
    let filled = fill(&rig, arguments.backlog_bytes).await;
    let fill = filling.stop().await?;
    let disk_bytes = filled?;
    eprintln!("end_to_end: backlog of {} events, {disk_bytes} bytes on disk", fill.acked_events);
    // First as it is while the destination is away, then while the backlog is delivered beside the load.
    let away = workload.measure(&rig.server, arguments.window).await?;
    let rate = away.measured_events as f64 / away.measured.as_secs_f64();
    let (p99, rss) =
        (away.latencies.quantile_ms(0.99).unwrap_or_default(), rig.server.rss_peak_bytes()? / 1_000_000);
    report.note(format!(
        "backlog of {disk_bytes} bytes, the sink still away: {rate:.0} events/s acknowledged, p99 {p99:.1} ms, peak RSS {rss} MB"
    ));
    rig.sink().set(Stance::Open);
    let began = Instant::now();
    let before = rig.sink().events();
    while rig.sink().events() == before {
        if began.elapsed() > STALL_MAX {
            return Err(rig
                .server
                .failure(&format!("delivered nothing for {STALL_MAX:?} to a sink that was back")));
        }
        tokio::time::sleep(FILL_POLL).await;
    }
    let (before, began) = (rig.sink().events(), Instant::now());
    let tally = workload.measure(&rig.server, arguments.window).await?;
    let delivered = (rig.sink().events() - before) as f64 / began.elapsed().as_secs_f64();
    report.note(format!("of the backlog and what came in meanwhile {delivered:.0} events/s were delivered"));
    let filled_events = fill.acked_events + away.acked_events;
    if rig.sink().events() >= filled_events {
        report.note("backlog was drained before the window ended: give more --backlog-bytes".to_owned());
    }
    let outcome = rig.finish(tally, filled_events, BACKLOG_DELIVERY_MAX).await?;
    report.push(Row::new(Name::Backlog.as_str(), &outcome));
    // The machine's speed drifts while a backlog is filled and delivered: what it is compared with is measured on both sides.
    let rig = Rig::start(arguments, 0).await?;
    let tally = workload.measure(&rig.server, arguments.window).await?;
    let outcome = rig.finish(tally, 0, DELIVERY_MAX).await?;
    report.push(Row::new(BATCHES_AGAIN, &outcome));
    Ok(())
}

/// Waits until the journal has so many bytes on disk; how many there are.
async fn fill(rig: &Rig, bytes: u64) -> Result<u64, Failure> {
    let fill_max = FILL_MAX_PER_GIB * (bytes.div_ceil(BYTES_PER_GIB) as u32);
    let began = Instant::now();
    loop {
        tokio::time::sleep(FILL_POLL).await;
        let disk_bytes = rig.server.metrics().await?.first_of(&["forebay_buffer_disk_bytes"]);
        let disk_bytes =
            disk_bytes.ok_or_else(|| rig.server.failure("has no forebay_buffer_disk_bytes"))? as u64;
        if disk_bytes >= bytes {
            return Ok(disk_bytes);
        }
        if began.elapsed() > fill_max {
            let what = format!("has {disk_bytes} bytes of backlog after {fill_max:?}; {bytes} are wanted");
            return Err(rig.server.failure(&what));
        }
    }
}

/// The same load with more and more sinks that take everything.
async fn fan_out(arguments: &Arguments, report: &mut Report) -> Result<(), Failure> {
    let workload = Name::FanOut.workload()?;
    for blackholes in FAN_OUT {
        let rig = Rig::start(arguments, blackholes).await?;
        let tally = workload.measure(&rig.server, arguments.window).await?;
        let outcome = rig.finish(tally, 0, DELIVERY_MAX).await?;
        report.push(Row::new(&format!("fan-out+{blackholes}"), &outcome).with_blackholes(blackholes));
    }
    Ok(())
}
