//! The one place where the time of day is read.

use std::time::SystemTime;

/// Now. The relay's own clock is in a crate that a client should not have to build.
#[allow(clippy::disallowed_methods, reason = "an application's events are stamped with the time they happen")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
