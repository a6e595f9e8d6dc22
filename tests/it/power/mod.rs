//! Power loss, simulated: the file operations of a process are recorded and cut at every sync, and what may be on the
//! device then is opened again.

mod device;
mod state_and_journal;
mod trace;

use std::path::PathBuf;

/// Where the child of a recording finds its place; `None` in the test itself.
fn recorded_place() -> Option<PathBuf> {
    std::env::var_os(trace::PLACE).map(PathBuf::from)
}

/// Whether recordings can be made here. Says so where not, and fails in CI, which has all that is needed.
fn can_record(test: &str) -> bool {
    let can = trace::can_record();
    if !can {
        assert!(std::env::var_os("CI").is_none(), "strace is missing, or may not trace a child of its own");
        crate::support::skipped(test, "strace is missing, or may not trace a child of its own");
    }
    can
}

/// The name by which the test harness finds a test of this binary.
macro_rules! test_name {
    ($name:ident) => {{
        let _: fn() = $name;
        let path = concat!(module_path!(), "::", stringify!($name));
        path.split_once("::").map_or(path, |(_, name)| name)
    }};
}
use test_name;
