//! What is told of the parts of the journal that were removed.

use std::time::Duration;

use tokio::time::Instant;

use super::{Buffer, Durability};
use crate::journal::Removed;

/// How often it is told at most: under load a generation goes every fraction of a second.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// What one look removed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Removal {
    /// Its time was over.
    pub(super) served: Removed,
    /// At the cap: it should have been kept for replay.
    pub(super) early: Removed,
}

/// What was removed and is not told yet.
#[derive(Debug, Default)]
pub(super) struct Removals {
    served: Untold,
    early: Untold,
}

#[derive(Debug, Default)]
struct Untold {
    sum: Removed,
    told: Option<Instant>,
}

impl Buffer {
    /// Tells the sum of what was removed, where it is not too early for that.
    pub(super) fn tell_removed(&mut self, removal: Removal) {
        // What is in memory is not kept, and goes a record at a time.
        if self.spec.durability == Durability::Memory {
            return;
        }
        if let Some(Removed { parts, bytes }) = self.removals.served.add(removal.served) {
            // A shared stream does not say how much it was.
            let bytes = (bytes > 0).then_some(bytes);
            tracing::info!(parts, bytes, "retention removed from the journal what every sink has");
        }
        if let Some(Removed { parts, bytes }) = self.removals.early.add(removal.early) {
            tracing::warn!(
                parts,
                bytes,
                "the journal is near its cap (buffer.max_bytes): what was kept for replay is removed before \
                 retention.journal_keep is over"
            );
        }
    }
}

// === impl Untold ===

impl Untold {
    /// The sum, if it is to be told now.
    fn add(&mut self, removed: Removed) -> Option<Removed> {
        self.sum = self.sum.plus(removed);
        let is_early = self.told.is_some_and(|told| told.elapsed() < TELL_INTERVAL);
        if is_early || self.sum.parts == 0 {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a generation is removed every second, for two minutes; then none.
    /// Guarantee: the first is told at once, and all further ones as a sum, once a minute; none is forgotten, and nothing is told
    /// of nothing.
    #[tokio::test(start_paused = true)]
    async fn removals_are_told_once_a_minute() {
        let (mut untold, mut told) = (Untold::default(), Vec::new());
        for second in 0..300 {
            let parts = u64::from(second < 120);
            told.extend(untold.add(Removed { parts, bytes: 10 * parts }).map(|sum| (second, sum)));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let sum = |parts| Removed { parts, bytes: 10 * parts };
        assert_eq!(told, [(0, sum(1)), (60, sum(60)), (120, sum(59))]);
    }
}
