//! Which events of a range of positions are meant: one bit each.

use super::{Position, Span};

const BITS: u64 = u64::BITS as u64;

/// Some events of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    span: Span,
    words: Vec<u64>,
}

impl Selection {
    /// None of these.
    pub fn none_of(span: Span) -> Self {
        let words =
            usize::try_from(span.count().div_ceil(BITS)).expect("a batch's events are counted in memory");
        Self { span, words: vec![0; words] }
    }

    /// Takes these in, as far as they are of its span.
    pub fn insert(&mut self, positions: Span) {
        let mut at = positions.first.since(self.span.first);
        let end = positions.end.min(self.span.end).since(self.span.first);
        while at < end {
            let (word, bit) = (at / BITS, at % BITS);
            let count = (BITS - bit).min(end - at);
            let bits = if count == BITS { u64::MAX } else { ((1 << count) - 1) << bit };
            self.words[word as usize] |= bits;
            at += count;
        }
    }

    /// Takes out what is not among the others.
    pub fn keep(&mut self, others: &Self) {
        let strangers: Vec<_> =
            self.within(self.span).filter(|position| !others.contains(*position)).collect();
        for position in strangers {
            let at = position.since(self.span.first);
            self.words[(at / BITS) as usize] &= !(1 << (at % BITS));
        }
    }

    /// Whether this one is among them.
    pub fn contains(&self, position: Position) -> bool {
        self.next(position, position.plus(1)).is_some()
    }

    /// The first one from `from` on and before `end`.
    pub fn next(&self, from: Position, end: Position) -> Option<Position> {
        let mut at = from.since(self.span.first);
        let end = end.min(self.span.end).since(self.span.first);
        while at < end {
            let rest = self.words[(at / BITS) as usize] >> (at % BITS);
            if rest != 0 {
                let found = at + u64::from(rest.trailing_zeros());
                return (found < end).then(|| self.span.first.plus(found));
            }
            at = (at / BITS + 1) * BITS;
        }
        None
    }

    /// All of them within the span.
    pub fn within(&self, span: Span) -> impl Iterator<Item = Position> + '_ {
        let mut from = span.first;
        std::iter::from_fn(move || {
            let found = self.next(from, span.end)?;
            from = found.plus(1);
            Some(found)
        })
    }

    /// How many are within the span.
    pub fn count(&self, span: Span) -> u64 {
        let inside = Span { first: span.first.max(self.span.first), end: span.end.min(self.span.end) };
        if inside == self.span {
            return self.words.iter().map(|word| u64::from(word.count_ones())).sum();
        }
        self.within(inside).count() as u64
    }

    /// A checksum of which ones within the span these are: the same for the same ones.
    pub fn checksum(&self, span: Span) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        self.within(span).for_each(|position| hasher.update(&position.since(span.first).to_le_bytes()));
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn span(first: u64, end: u64) -> Span {
        Span { first: Position(first), end: Position(end) }
    }

    proptest! {
        /// It is what a set of positions would be, at the edges of words and of its span too.
        #[test]
        fn a_selection_is_a_set(
            first in 0_u64..100,
            length in 1_u64..300,
            inserted in proptest::collection::vec((0_u64..450, 0_u64..150), 0..8),
            looked in (0_u64..450, 0_u64..450),
        ) {
            let all = span(first, first + length);
            let mut selection = Selection::none_of(all);
            let mut set = BTreeSet::new();
            for (from, count) in inserted {
                selection.insert(span(from, from + count));
                set.extend((from..from + count).filter(|at| (first..first + length).contains(at)));
            }
            let found: Vec<_> = selection.within(all).map(|position| position.0).collect();
            prop_assert_eq!(&found, &set.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(selection.count(all), set.len() as u64);
            let part = span(looked.0.min(looked.1), looked.0.max(looked.1));
            let of_part = set.range(part.first.0..part.end.0).count() as u64;
            prop_assert_eq!(selection.count(part), of_part);
            let mut kept = Selection::none_of(all);
            kept.insert(all);
            kept.keep(&selection);
            prop_assert_eq!(&kept, &selection);
            prop_assert!((0..460).all(|at| selection.contains(Position(at)) == set.contains(&at)));
        }
    }
}
