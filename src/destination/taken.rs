//! What a destination has taken of batches whose rest it has not.
//!
//! A sink tries a batch again whole. What was taken of it is remembered, so that it is not sent again, as long as this process
//! lives; behind a crash, whoever can has to know it by its id.

use std::sync::{Mutex, MutexGuard, PoisonError};

use forebay_actors::record::{Position, Span};

/// Spans that are remembered. What was taken of a batch is a few of them, and there are as many batches as are on their way;
/// more are of batches that were given up.
const SPANS_MAX: usize = 1024;

/// The spans, each of a batch that is not delivered yet.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<Vec<Span>>);

impl Taken {
    pub(super) fn has(&self, position: Position) -> bool {
        self.spans().iter().any(|span| span.first <= position && position < span.end)
    }

    /// Remembers spans of a batch of which something is still to be sent. Those that stand side by side become one.
    pub(super) fn add(&self, taken: impl IntoIterator<Item = Span>) {
        let mut spans = self.spans();
        for span in taken {
            match spans.last_mut() {
                Some(last) if last.end == span.first => last.end = span.end,
                _ => spans.push(span),
            }
        }
        let surplus = spans.len().saturating_sub(SPANS_MAX);
        spans.drain(..surplus);
    }

    /// The whole span has its outcome.
    pub(super) fn forget(&self, done: Span) {
        let mut spans = self.spans();
        let rest = spans.iter().flat_map(|span| {
            let before = Span { first: span.first, end: span.end.min(done.first) };
            let behind = Span { first: span.first.max(done.end), end: span.end };
            [before, behind]
        });
        *spans = rest.filter(|span| span.count() > 0).collect();
    }

    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, end: u64) -> Span {
        Span { first: Position(first), end: Position(end) }
    }

    /// What was taken is known until its batch is done, and of another batch nothing is forgotten.
    #[test]
    fn what_was_taken_is_known_until_its_batch_is_done() {
        let taken = Taken::default();
        taken.add([span(10, 11), span(11, 12), span(14, 15), span(20, 30)]);
        assert_eq!(taken.spans().len(), 3, "neighbours are one");
        let known = |taken: &Taken| (0..40).filter(|at| taken.has(Position(*at))).count();
        assert_eq!(known(&taken), 13);
        taken.forget(span(10, 25));
        assert!(!taken.has(Position(24)) && taken.has(Position(25)) && known(&taken) == 5);
        taken.add((0..2 * SPANS_MAX as u64).map(|at| span(2 * at, 2 * at + 1)));
        assert_eq!(taken.spans().len(), SPANS_MAX);
    }
}
