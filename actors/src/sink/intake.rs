//! What a sink has taken in and not yet cut into batches: pure bookkeeping, no clock, no actor.
//!
//! Invariant: a cut by size is a function of where the last batch ended and of the journal's bytes. So a sink that
//! restarts makes the same batches with the same ids, whatever way the events reach it the second time. Of a queue, whose
//! records come in any order and to any process, a batch is within one record: then the record alone says where it is cut.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    journal::Piece,
    record::{Batch, Position, Record, Span},
    state::Reason,
};

/// How much a batch holds.
#[derive(Debug, Clone, Copy)]
pub struct CutPolicy {
    /// Events.
    pub max_events: u64,
    /// Payload; the record that reaches it is the last.
    pub max_bytes: usize,
}

/// What comes out of the intake.
#[derive(Debug)]
pub enum Cut {
    /// Events to deliver.
    Batch(Arc<Batch>),
    /// Positions whose bytes are gone, and why.
    Gone(Span, Reason),
}

/// Records in order, without gaps; those of a queue as they come.
#[derive(Debug)]
pub struct Intake {
    pieces: VecDeque<Piece>,
    of_queue: bool,
    /// Where the next batch begins.
    from: Position,
    /// The next position to take in.
    end: Position,
    bytes: usize,
    bytes_max: usize,
}

/// What became of a broadcast batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is the next one: taken.
    Taken,
    /// It was taken before.
    Known,
    /// Something before it is missing, or there is no room: the journal has to be read.
    Missed,
}

impl Intake {
    /// An empty intake that waits for `from`, and takes no more once `bytes_max` of payload are in it.
    pub fn new(from: Position, bytes_max: usize) -> Self {
        Self { pieces: VecDeque::new(), of_queue: false, from, end: from, bytes: 0, bytes_max }
    }

    /// An empty intake of what is taken from a queue.
    pub fn of_queue(bytes_max: usize) -> Self {
        Self { of_queue: true, ..Self::new(Position::default(), bytes_max) }
    }

    /// The next position to take in.
    pub fn expected(&self) -> Position {
        self.end
    }

    /// Whether there is room for more.
    pub fn has_room(&self) -> bool {
        self.bytes < self.bytes_max
    }

    /// Whether there is nothing to cut.
    pub fn is_empty(&self) -> bool {
        if self.of_queue { self.pieces.is_empty() } else { self.from >= self.end }
    }

    /// The record that the next batch begins with.
    pub fn front(&self) -> Option<&Record> {
        self.pieces.front().and_then(Piece::record)
    }

    /// Takes a broadcast batch, if it is the next one.
    pub fn offer(&mut self, batch: &Batch) -> Offered {
        let span = batch.span();
        if span.end <= self.end {
            return Offered::Known;
        }
        if span.first > self.end || !self.has_room() {
            return Offered::Missed;
        }
        batch.records().iter().for_each(|record| self.push(Piece::Record(record.clone())));
        Offered::Taken
    }

    /// Takes what the journal has; what is known already is passed over.
    pub fn push(&mut self, piece: Piece) {
        let end = piece.end();
        if end <= self.end && !self.of_queue {
            return;
        }
        if let Piece::Record(record) = &piece {
            self.bytes += record.payload.len();
        }
        self.end = end;
        self.pieces.push_back(piece);
    }

    /// The next batch: up to `planned` where an earlier life of the sink planned a cut there, else as much as the
    /// policy says. Where there is less than that, only `now` cuts.
    pub fn cut(&mut self, policy: CutPolicy, planned: Option<Position>, now: bool) -> Option<Cut> {
        if self.of_queue
            && let Some(front) = self.pieces.front()
            && !(front.first()..front.end()).contains(&self.from)
        {
            self.from = front.first();
        }
        let from = self.from;
        let gone = match self.pieces.front() {
            Some(Piece::Damaged(span)) => Some((*span, Reason::Damaged)),
            Some(Piece::Removed(span)) => Some((*span, Reason::Expired)),
            _ => None,
        };
        if let Some((span, reason)) = gone {
            self.advance(span.end);
            return Some(Cut::Gone(Span { first: span.first.max(from), end: span.end }, reason));
        }
        let planned = planned.filter(|planned| *planned > from);
        let (mut records, mut bytes, mut end) = (Vec::new(), 0, from);
        let mut whole = false;
        for piece in &self.pieces {
            let Piece::Record(record) = piece else {
                whole = true;
                break;
            };
            records.push(record.clone());
            bytes += record.payload.len();
            end = record.end();
            whole = match planned {
                Some(planned) => end >= planned,
                None if self.of_queue => true,
                None => end.since(from) >= policy.max_events || bytes >= policy.max_bytes,
            };
            if whole {
                break;
            }
        }
        let ready = if planned.is_some() { whole } else { whole || now };
        if !ready || end == from {
            return None;
        }
        let end = end.min(planned.unwrap_or(from.plus(policy.max_events)));
        let batch = Batch::new(Span { first: from, end }, records);
        self.advance(end);
        Some(Cut::Batch(Arc::new(batch)))
    }

    /// Passes over everything before `to`, as far as it is not cut yet.
    pub fn skip(&mut self, to: Position) {
        if to > self.from {
            self.advance(to);
            self.end = self.end.max(to);
        }
    }

    fn advance(&mut self, end: Position) {
        self.from = end;
        while let Some(piece) = self.pieces.pop_front_if(|piece| piece.end() <= end) {
            if let Piece::Record(record) = piece {
                self.bytes -= record.payload.len();
            }
            // What comes behind it may lie before it.
            if self.of_queue {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::event::Timestamp;

    const POLICY: CutPolicy = CutPolicy { max_events: 10, max_bytes: 1000 };

    fn record(first: u64, count: u32, bytes: usize) -> Arc<Record> {
        let payload = Bytes::from(vec![0; bytes]);
        Arc::new(Record { first: Position(first), count, written_at: Timestamp::default(), payload })
    }

    fn spans(intake: &mut Intake, now: bool) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| intake.cut(POLICY, None, now))
            .map(|cut| match cut {
                Cut::Batch(batch) => (batch.span().first.0, batch.span().end.0),
                Cut::Gone(span, _) => (span.first.0, span.end.0),
            })
            .collect()
    }

    fn batch(record: Arc<Record>) -> Batch {
        Batch::new(Span { first: record.first, end: record.end() }, vec![record])
    }

    /// Only the next batch is taken; a gap or a full intake sends the sink to the journal.
    #[test]
    fn only_the_next_batch_is_taken() {
        let mut intake = Intake::new(Position(5), 100);
        assert_eq!(intake.offer(&batch(record(0, 5, 10))), Offered::Known);
        assert_eq!(intake.offer(&batch(record(6, 2, 10))), Offered::Missed);
        assert_eq!(intake.offer(&batch(record(5, 2, 100))), Offered::Taken);
        assert_eq!(intake.offer(&batch(record(7, 2, 10))), Offered::Missed, "no room");
    }

    /// Batches end at the count, at the bytes and at damage; the rest waits unless it must go now.
    #[test]
    fn cuts_are_by_count_by_bytes_and_at_damage() {
        let mut intake = Intake::new(Position(0), usize::MAX);
        intake.push(Piece::Record(record(0, 25, 10)));
        intake.push(Piece::Record(record(25, 1, 2000)));
        intake.push(Piece::Record(record(26, 2, 10)));
        intake.push(Piece::Damaged(Span { first: Position(28), end: Position(40) }));
        intake.push(Piece::Record(record(40, 3, 10)));
        assert_eq!(spans(&mut intake, false), [(0, 10), (10, 20), (20, 26), (26, 28), (28, 40)]);
        assert_eq!(spans(&mut intake, true), [(40, 43)]);
    }

    /// A planned cut is made where it was planned, not before and not behind, however much there is by now.
    #[test]
    fn a_planned_cut_is_kept() {
        let mut intake = Intake::new(Position(0), usize::MAX);
        intake.push(Piece::Record(record(0, 2, 10)));
        assert!(intake.cut(POLICY, Some(Position(3)), true).is_none());
        intake.push(Piece::Record(record(2, 5, 10)));
        let Some(Cut::Batch(batch)) = intake.cut(POLICY, Some(Position(3)), false) else { panic!("no cut") };
        assert_eq!(batch.id().to_string(), "0-3");
    }

    /// Scenario: records of a queue come in any order, with gaps, and one is damaged.
    /// Guarantee: each is cut by itself, at the same places whatever comes before or behind it, and none is passed over.
    #[test]
    fn p3_a_record_of_a_queue_is_cut_by_itself() {
        let cuts = |records: &[(u64, u32)]| {
            let mut intake = Intake::of_queue(usize::MAX);
            records.iter().for_each(|(first, count)| intake.push(Piece::Record(record(*first, *count, 10))));
            intake.push(Piece::Damaged(Span { first: Position(50), end: Position(51) }));
            let mut spans = spans(&mut intake, false);
            assert!(intake.is_empty() && intake.has_room());
            spans.sort_unstable();
            spans
        };
        let expected = [(50, 51), (100, 110), (110, 120), (120, 125), (200, 203), (300, 301)];
        for order in [
            [(100, 25), (200, 3), (300, 1)],
            [(300, 1), (100, 25), (200, 3)],
            [(200, 3), (300, 1), (100, 25)],
        ] {
            assert_eq!(cuts(&order), expected);
        }
    }

    proptest! {
        /// P3: however the records arrive, in one piece or many, the cuts by size are the same.
        #[test]
        fn p3_batch_ids_do_not_depend_on_how_events_arrive(
            counts in proptest::collection::vec((1_u32..30, 1_usize..600), 1..40),
            restart in 0_usize..20,
        ) {
            let mut first = 0;
            let records: Vec<_> = counts.iter().map(|(count, bytes)| {
                let record = record(first, *count, *bytes);
                first += u64::from(*count);
                record
            }).collect();
            let mut at_once = Intake::new(Position(0), usize::MAX);
            records.iter().for_each(|r| at_once.push(Piece::Record(r.clone())));
            let expected = spans(&mut at_once, false);

            let mut one_by_one = Intake::new(Position(0), usize::MAX);
            let mut found = Vec::new();
            for record in &records {
                one_by_one.push(Piece::Record(record.clone()));
                found.extend(spans(&mut one_by_one, false));
            }
            prop_assert_eq!(&found, &expected);

            // A sink that restarts begins at the end of some batch.
            if let Some((_, end)) = expected.get(restart) {
                let mut again = Intake::new(Position(*end), usize::MAX);
                records.iter().for_each(|r| again.push(Piece::Record(r.clone())));
                prop_assert_eq!(&spans(&mut again, false), &expected[restart + 1..]);
            }
        }
    }
}
