//! Wall-clock time and chance, in one place so that tests can hold them.
//!
//! Waiting is `tokio::time`, which a paused test runtime moves; this is for what is written down.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
};

use crate::event::Timestamp;

/// Tells the time. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::from_fn(system_now)
    }

    /// A clock of the caller's own.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the system's clock")]
fn system_now() -> Timestamp {
    // The year 2262, where nanoseconds end, is nobody's clock; the epoch is what a machine without one says.
    Timestamp::from_nanos(chrono::Utc::now().timestamp_nanos_opt().unwrap_or(0))
}

/// A seed from the operating system.
pub fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
