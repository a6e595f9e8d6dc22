//! What tables have taken of batches that others have not.
//!
//! A batch that comes again as it was is known by its token. But where the sink halves it around events that one table
//! refuses, the halves are batches of their own, and the tables that took the whole would take them once more.

use forebay_actors::record::{Batch, Span};

use super::sheets::Table;

/// Entries that are remembered. There are as many as tables of batches on their way; more are of batches that were given up.
const ENTRIES_MAX: usize = 1024;

/// Spans by the table that has them.
#[derive(Debug, Default)]
pub(super) struct Taken(Vec<(Table, Option<u64>, Span)>);

// === impl Taken ===

impl Taken {
    /// Whether the table has all of the batch.
    pub(super) fn has(&self, table: Table, batch: &Batch) -> bool {
        let (wanted, replay) = (batch.span(), batch.id().replay());
        self.0.iter().any(|(of, of_replay, span)| {
            *of == table && *of_replay == replay && span.first <= wanted.first && wanted.end <= span.end
        })
    }

    /// Remembers that the table has all of the batch, while others have not.
    pub(super) fn add(&mut self, table: Table, batch: &Batch) {
        self.0.push((table, batch.id().replay(), batch.span()));
        let surplus = self.0.len().saturating_sub(ENTRIES_MAX);
        self.0.drain(..surplus);
    }

    /// The batch has its outcome everywhere; of a larger one, what lies behind is still remembered.
    pub(super) fn forget(&mut self, batch: &Batch) {
        let (done, replay) = (batch.span(), batch.id().replay());
        self.0 = std::mem::take(&mut self.0)
            .into_iter()
            .flat_map(|(table, of_replay, span)| {
                if of_replay != replay {
                    return [Some((table, of_replay, span)), None];
                }
                let before = Span { first: span.first, end: span.end.min(done.first) };
                let behind = Span { first: span.first.max(done.end), end: span.end };
                [before, behind].map(|span| (span.count() > 0).then_some((table, of_replay, span)))
            })
            .flatten()
            .collect();
    }
}
