//! What the tests stand on: a running binary and an HTTP client that may misbehave; a pipeline within the test and
//! destinations in memory; clients that others wrote; devices that fill up, wires that break, and what speaks TLS for a server
//! that does not.

pub mod binary;
pub mod clients;
pub mod collector;
pub mod destination;
pub mod device;
pub mod http;
pub mod http2;
pub mod memory;
pub mod otlp;
pub mod testbed;
pub mod tls_front;
pub mod wire;

use std::{
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// How long anything may take on a machine that does something else besides.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How much a test does: the first here in a plain `cargo test`, the second where `FOREBAY_THOROUGH` is `1`, or names the module
/// of the caller among others (`chaos,power`), as CI does.
#[track_caller]
pub fn thorough<T>(plain: T, in_ci: T) -> T {
    let wanted = std::env::var("FOREBAY_THOROUGH").unwrap_or_default();
    let caller = std::panic::Location::caller().file();
    let module = caller.rsplit_once("tests/it/").map_or(caller, |(_, below)| below);
    let module = module.split(['/', '.']).next().unwrap_or_default();
    if wanted == "1" || wanted.split(',').any(|name| name == module) { in_ci } else { plain }
}

/// Where real input is: beside the checkout, or where `FOREBAY_DATA` says.
pub fn data_dir() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    std::env::var_os("FOREBAY_DATA").map_or(beside, PathBuf::from)
}

/// A port of loopback for a server that cannot be told to take any. Ports that the system gives to whoever asks for any are
/// left out: one of these could be another's by the time the server takes it, or while it is down.
pub fn free_port() -> u16 {
    /// Below are those of what a machine usually runs.
    const FIRST: u16 = 10_000;
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let given = range.split_whitespace().next().and_then(|first| first.parse::<u16>().ok()).unwrap_or(32_768);
    let choice = given.saturating_sub(FIRST);
    if choice < 1000 {
        // Where the system gives nearly all of them, one that is free now has to do.
        return TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    }
    // Several runs on one machine begin at different places.
    let begin = u16::try_from(std::process::id() * 97 % u32::from(choice)).unwrap_or_default();
    let mut ports = std::iter::repeat_with(|| {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        FIRST + u16::try_from((u32::from(begin) + u32::from(taken)) % u32::from(choice)).unwrap_or_default()
    });
    let free =
        ports.by_ref().take(choice.into()).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("a port is free")
}

/// Says that a test did nothing. Not by `eprintln`, which the test harness keeps to itself where a test passes.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// Waits until the condition gives a value; the condition is what is waited for, never a time.
///
/// # Panics
/// After [`PATIENCE`], saying what did not come.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        // A spurious wake-up is one look more.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// As [`eventually`], for conditions that are only true or not.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || condition().then_some(()));
}
