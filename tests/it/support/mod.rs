//! What the tests stand on: a running binary and an HTTP client that may misbehave; a pipeline within the test and
//! destinations in memory; clients that others wrote; devices that fill up, and wires that break.

pub mod binary;
pub mod clients;
pub mod collector;
pub mod destination;
pub mod device;
pub mod http;
pub mod http2;
pub mod otlp;
pub mod testbed;
pub mod wire;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

/// How long anything may take on a machine that does something else besides.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How much a test does: the first here in a plain `cargo test`, the second where `FOREBAY_THOROUGH` is set, as CI does.
pub fn thorough<T>(plain: T, in_ci: T) -> T {
    if std::env::var_os("FOREBAY_THOROUGH").is_some() { in_ci } else { plain }
}

/// Where real input is: beside the checkout, or where `FOREBAY_DATA` says.
pub fn data_dir() -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    std::env::var_os("FOREBAY_DATA").map_or(beside, PathBuf::from)
}

/// Says that a test did nothing. Not by `eprintln`, which the test harness keeps to itself where a test passes.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// Waits until the condition gives a value; the condition is what is waited for, never a time.
///
/// # Panics
/// After [`PATIENCE`], saying what did not come.
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
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || condition().then_some(()));
}
