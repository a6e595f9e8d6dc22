//! Clients that others wrote, as `tests/clients/install` put them under `target/clients`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::skipped;

/// Where the programs are, and the manifests of what they need.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// The directory of a part that is installed and up to date. `None` where it is not; then the test has been called
/// skipped, and with `CI` set it fails.
#[track_caller]
pub fn installed(part: &str, test: &str) -> Option<PathBuf> {
    let found = Command::new(sources().join("install")).args(["--where", part]).output();
    let found = found.ok().filter(|found| found.status.success());
    let directory = found.map(|found| PathBuf::from(String::from_utf8_lossy(&found.stdout).trim()));
    if directory.is_none() {
        let why = format!("`tests/clients/install {part}` has not been run, or is out of date");
        assert!(std::env::var_os("CI").is_none(), "{test}: {why}");
        skipped(test, &why);
    }
    directory
}

/// A command without what this machine's environment may say about OpenTelemetry or a proxy.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let of_interest = name.to_string_lossy().to_ascii_lowercase();
        if of_interest.starts_with("otel_") || of_interest.ends_with("_proxy") {
            command.env_remove(&name);
        }
    }
    command
}
