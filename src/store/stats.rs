//! How many events in which bucket of time: the question and its answer, the same for every store.

use forebay_actors::event::Timestamp;

use super::QueryError;

/// Rows an answer may have.
pub const STATS_ROWS_MAX: usize = 10_000;

pub(super) const SECONDS_PER_MINUTE: u32 = 60;

/// Which events to count, and how to group them.
#[derive(Debug, Clone, Default)]
pub struct StatsQuery {
    /// At this time or later.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub to: Option<Timestamp>,
    /// The length of a bucket, a multiple of 60. Buckets begin at multiples of it since the Unix epoch.
    pub bucket_seconds: u32,
    /// Of this service only.
    pub service: Option<String>,
    /// A row for each service, instead of one for all of them.
    pub group_by_service: bool,
}

/// The events of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsBucket {
    /// When the bucket begins, though events before `from` are not counted.
    pub bucket_start: Timestamp,
    /// The service, where rows are by service.
    pub service: Option<String>,
    /// Events; at least one.
    pub events: u64,
}

// === impl StatsQuery ===

impl StatsQuery {
    /// All events in as few buckets as there can be.
    pub(super) fn of_all_time() -> Self {
        Self { bucket_seconds: u32::MAX - u32::MAX % SECONDS_PER_MINUTE, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<(), QueryError> {
        let is_whole = self.bucket_seconds > 0 && self.bucket_seconds.is_multiple_of(SECONDS_PER_MINUTE);
        if is_whole { Ok(()) } else { Err(QueryError::BucketSeconds(self.bucket_seconds)) }
    }
}
