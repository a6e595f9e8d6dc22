//! Destinations against the real servers. Each server is started by a script of `tests/services`, in a temporary directory
//! and on loopback; where it is not installed, its tests are skipped by name, and fail in CI.

mod all;
mod cassandra;
mod clickhouse;
mod collector;
mod encrypted;
mod fallback;
mod jetstream;
mod nats;
mod postgres;
mod pushgateway;
mod s3;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    binary::{Forebay, Place},
    device::Device,
    free_port,
    http::Connection,
    skipped,
    testbed::incompressible,
    thorough, until,
    wire::{Cut, Wire},
};

/// A server of a script in `tests/services`.
struct Service {
    script: PathBuf,
    /// Where it is on a device of its own; unmounted before the directory is removed.
    device: Option<Device>,
    dir: TempDir,
    port: u16,
    is_up: bool,
}

impl Service {
    /// Starts it, or says that `test` is skipped because it is not installed.
    fn start(name: &str, test: &str) -> Option<Self> {
        let dir = Self::dir();
        Self::start_in(dir, None, name, test)
    }

    /// The same on a small device of its own, which can be filled; skipped too where none can be mounted.
    fn start_on_device(name: &str, mib: u64, test: &str) -> Option<Self> {
        let dir = Self::dir();
        let device = Device::tmpfs(dir.path().to_owned(), mib, test)?;
        Self::start_in(dir, Some(device), name, test)
    }

    fn dir() -> TempDir {
        let dir = TempDir::with_prefix("forebay-it-").unwrap();
        // The server may run as another user.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        dir
    }

    fn start_in(dir: TempDir, device: Option<Device>, name: &str, test: &str) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services").join(name);
        if !Command::new(&script).arg("version").output().is_ok_and(|output| output.status.success()) {
            let why = format!("`{} version` fails: the server is not installed", script.display());
            assert!(std::env::var_os("CI").is_none(), "{why}");
            skipped(test, &why);
            return None;
        }
        let mut service = Self { script, device, dir, port: 0, is_up: false };
        // Another run on this machine may take the port before the server does; then another one is free.
        for _ in 0..5 {
            service.port = free_port();
            if service.try_up().status.success() {
                service.is_up = true;
                return Some(service);
            }
        }
        panic!("{:?}", service.try_up());
    }

    /// Starts it again, at the same port.
    fn up(&mut self) {
        let started = self.try_up();
        assert!(started.status.success(), "{started:?}");
        self.is_up = true;
    }

    fn try_up(&self) -> Output {
        let dir = self.dir.path();
        Command::new(&self.script).arg("start").arg(dir).arg(self.port.to_string()).output().unwrap()
    }

    /// Takes all the space of its device, until the file is removed.
    fn fill(&self) -> PathBuf {
        self.device.as_ref().expect("it is on a device of its own").fill()
    }

    /// Ends it in order, or as a crash would.
    fn down(&mut self, how: &str) {
        self.is_up = false;
        let ended = Command::new(&self.script).arg(how).arg(self.dir.path()).output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let log = std::fs::read_to_string(self.dir.path().join("output.log")).unwrap_or_default();
        if std::thread::panicking() && !log.is_empty() {
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            println!("--- {} said last:\n{}", self.script.display(), last.join("\n"));
        }
        if self.is_up {
            let _ = Command::new(&self.script).arg("kill").arg(self.dir.path()).output();
        }
    }
}

fn event(id: &str) -> Value {
    json!({"event_id": id, "service": "api", "message": "m", "timestamp": "2026-05-06T07:08:09.123456Z"})
}

#[track_caller]
fn post(forebay: &Forebay, events: &[Value]) {
    let answer = forebay.post_json(Value::from(events).to_string()).ok(202).json();
    assert_eq!(answer["accepted"], events.len());
}

/// What the sink says of its last failure, once it has one that contains `text`.
#[track_caller]
fn complains(forebay: &Forebay, text: &str) {
    until(&format!("the sink says {text:?}: {}", forebay.get("/health").text()), || {
        forebay.get("/health").text().contains(text)
    });
}

/// Events of incompressible messages that take some MiB.
fn large_events(prefix: &str) -> Vec<Value> {
    let of = |index: usize| {
        let mut event = event(&format!("{prefix}{index}"));
        event["message"] = incompressible(index)[..60_000].into();
        event
    };
    (0..64).map(of).collect()
}

/// Scenario: the device of the server is full to the last byte when a batch comes, and has room again later.
/// Guarantee: the sink says so, waits, and delivers once there is room; nothing is lost, nothing doubled.
fn a_full_device_is_waited_for(service: &Service, sink: &str, words: &str, count: impl Fn() -> u64) {
    let forebay = Place::empty().sink("db", sink).start();
    post(&forebay, &[event("first")]);
    until("the first row is there", || count() == 1);
    let ballast = service.fill();
    let events = large_events("full");
    post(&forebay, &events);
    complains(&forebay, words);
    std::fs::remove_file(ballast).unwrap();
    until("all rows are there", || count() > events.len() as u64);
    until("it is acknowledged", || forebay.metric("forebay_buffer_events", "") == 0.0);
    assert_eq!(count(), 1 + events.len() as u64);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// Scenario: connections break again and again, in the middle of batches and of the answers to them.
/// Guarantee: every event arrives, and those that came twice are one row. `sink` gives the sink for a port, `asked` and
/// `answered` the bytes of a delivery either way.
fn p3_cuts_lose_and_double_nothing(
    service: &Service,
    sink: impl Fn(u16) -> String,
    (asked, answered): (usize, usize),
    count: impl Fn() -> u64,
) {
    let cuts = thorough(12, 60);
    let spread = |bytes: usize| (1..=cuts).map(move |cut| bytes * cut / cuts);
    let plan = spread(asked).map(Cut::Asked).zip(spread(answered).map(Cut::Answered));
    let wire = Wire::to(service.port, plan.flat_map(|(asked, answered)| [asked, answered]));
    let forebay = Place::empty().sink("db", &sink(wire.port)).start();
    let mut posted = 0;
    while wire.cuts_left() > 0 {
        post(&forebay, &(0..100).map(|id| event(&format!("w{}", posted + id))).collect::<Vec<_>>());
        posted += 100;
        until("rows come through", || forebay.metric("forebay_buffer_events", "") == 0.0);
    }
    assert!(forebay.metric("forebay_sink_retries_total", "db") > cuts as f64 / 2.0, "the wire broke");
    until("the last come through", || count() >= posted);
    assert_eq!(count(), posted);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// Posts until it is told to end; the ids that were acknowledged.
fn load(address: SocketAddr, posts: &AtomicUsize, ended: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let Ok(mut connection) = Connection::open(address) else { return acknowledged };
    while !ended.load(Ordering::Relaxed) {
        let post = posts.fetch_add(1, Ordering::Relaxed);
        let ids: Vec<_> = (0..100).map(|event| format!("p{post}-{event}")).collect();
        let body = Value::from(ids.iter().map(|id| event(id)).collect::<Vec<_>>()).to_string();
        match connection.request("POST", "/events", &[("Content-Type", "application/json")], body.as_bytes())
        {
            Ok(answer) if answer.status == 202 => acknowledged.extend(ids),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    acknowledged
}

/// Round by round the process is started, events are posted, and it is killed with SIGKILL when `under_load` returns, which may do
/// to the server what it likes; `mended` brings that back. In a last life everything is delivered. The ids that were
/// acknowledged.
#[track_caller]
fn through_kills<S>(
    place: &Place,
    rounds: usize,
    server: &mut S,
    under_load: impl Fn(usize, &Forebay, &mut S),
    mended: impl Fn(usize, &mut S),
) -> BTreeSet<String> {
    let load = Load { address: |forebay| forebay.address, post: load };
    through_kills_under(&load, place, rounds, server, under_load, mended)
}

/// What posts until it is told to end or nobody answers, and where to; the ids that were acknowledged.
struct Load {
    address: fn(&Forebay) -> SocketAddr,
    post: fn(SocketAddr, &AtomicUsize, &AtomicBool) -> Vec<String>,
}

/// The same under another load.
#[track_caller]
fn through_kills_under<S>(
    load: &Load,
    place: &Place,
    rounds: usize,
    server: &mut S,
    under_load: impl Fn(usize, &Forebay, &mut S),
    mended: impl Fn(usize, &mut S),
) -> BTreeSet<String> {
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut acknowledged = BTreeSet::new();
    for round in 0..rounds {
        ended.store(false, Ordering::Relaxed);
        acknowledged.extend(std::thread::scope(|scope| {
            // In here, so that the load ends with it, whatever fails.
            let mut forebay = place.start();
            let (address, posts, ended) = ((load.address)(&forebay), &posts, &ended);
            let load = scope.spawn(move || (load.post)(address, posts, ended));
            under_load(round, &forebay, server);
            forebay.kill();
            ended.store(true, Ordering::Relaxed);
            load.join().unwrap()
        }));
        mended(round, server);
    }
    let forebay = place.start();
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
    acknowledged
}

/// Every acknowledged event is there, and none is there twice.
#[track_caller]
fn assert_each_once(acknowledged: &BTreeSet<String>, rows: impl IntoIterator<Item = String>) {
    let (mut found, mut count) = (BTreeSet::new(), 0);
    for row in rows {
        found.insert(row);
        count += 1;
    }
    assert_eq!(found.len(), count, "one event, one row");
    let lost: Vec<_> = acknowledged.difference(&found).take(5).collect();
    assert!(lost.is_empty(), "{lost:?} of {} are lost", acknowledged.len());
}
