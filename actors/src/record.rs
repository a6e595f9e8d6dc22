//! Positions, records and batches: what lies between the journal and a destination.

mod reader;
mod selection;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::{
    reader::{BatchEvents, Part},
    selection::Selection,
};
use crate::{event::Timestamp, projection::Projection};

/// The place of an event in the journal: the events accepted before it. Never reused, never reordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// The place `count` events further on. Nobody counts as far as the last place there is, but damaged bytes may say
    /// any number.
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// Events from `earlier` up to here; 0 where `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a sink, as its key stands in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SinkName(Arc<str>);

impl SinkName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SinkName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for SinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One journal record: the blocks of one or many requests, written and read as one.
#[derive(Clone)]
pub struct Record {
    /// The place of its first event.
    pub first: Position,
    /// Events in it.
    pub count: u32,
    /// When it was handed to the journal.
    pub written_at: Timestamp,
    /// The stamped blocks, one after the other, not compressed.
    pub payload: Bytes,
}

impl Record {
    /// The place after its last event.
    pub fn end(&self) -> Position {
        self.first.plus(u64::from(self.count))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}..{}, {} B)", self.first, self.end(), self.payload.len())
    }
}

/// A half-open range of positions, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The first place in it.
    pub first: Position,
    /// The first place after it.
    pub end: Position,
}

impl Span {
    /// Events in it.
    pub fn count(&self) -> u64 {
        self.end.since(self.first)
    }
}

/// The identity of a batch: its range of positions, which of them where it is not all, and what of the metadata goes out where
/// that is not all. The same events always make the same id, so a destination can recognise a batch that it has seen before;
/// others never do, so that neither a batch which has more events since its sink takes more is mistaken for the one before, nor
/// that of one sink for that of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchId {
    span: Span,
    /// Of what was selected, where that is a part.
    selected: Option<u32>,
    /// Of what goes out of the metadata, where that is a part.
    fields: Option<u32>,
    /// Set where somebody wants the events delivered once more: a destination that recognises batches must not take
    /// it for the one it has had.
    replay: Option<u64>,
}

impl BatchId {
    /// What it says behind the positions, as it is written; nothing for whole batches that go their way for the first time.
    pub fn mark(self) -> String {
        let positions = format!("{}-{}", self.span.first, self.span.end);
        self.to_string().split_off(positions.len())
    }

    /// What marks a replay; `None` for the first time that the events go their way.
    pub const fn replay(self) -> Option<u64> {
        self.replay
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.span.first, self.span.end)?;
        self.selected.map_or(Ok(()), |selected| write!(f, "-part-{selected:08x}"))?;
        self.fields.map_or(Ok(()), |fields| write!(f, "-fields-{fields:08x}"))?;
        self.replay.map_or(Ok(()), |replay| write!(f, "-replay-{replay:016x}"))
    }
}

/// Events on their way to a destination: a range of positions over the records that hold them, and of these all, or
/// those that are selected.
#[derive(Debug, Clone)]
pub struct Batch {
    span: Span,
    records: Vec<Arc<Record>>,
    /// Absent where it is all.
    selected: Option<Arc<Selection>>,
    /// Of those that are selected.
    count: u64,
    /// What of their metadata is read; all where absent.
    fields: Option<Arc<Projection>>,
    replay: Option<u64>,
}

impl Batch {
    /// A batch of the events of `span`.
    ///
    /// # Panics
    /// Where the records do not cover the span without a gap: that is a bug of the caller.
    pub fn new(span: Span, records: Vec<Arc<Record>>) -> Self {
        let mut covered = span.first;
        for record in &records {
            assert!(record.first <= covered, "a batch has no gaps: {covered} is missing before {record:?}");
            covered = record.end();
        }
        assert!(
            covered >= span.end && span.first < span.end,
            "records end at {covered}, the span is {span:?}"
        );
        Self { span, records, selected: None, count: span.count(), fields: None, replay: None }
    }

    /// The same batch with only these of its events; `None` where it has none of them. Positions stay what they are.
    pub fn select(self, mut selection: Selection) -> Option<Self> {
        self.selected.iter().for_each(|before| selection.keep(before));
        let count = selection.count(self.span);
        match count {
            0 => None,
            _ if count == self.span.count() => Some(Self { selected: None, count, ..self }),
            _ => Some(Self { selected: Some(Arc::new(selection)), count, ..self }),
        }
    }

    /// The same events, to be delivered once more, under an id of their own.
    pub fn replayed(self, replay: u64) -> Self {
        Self { replay: Some(replay), ..self }
    }

    /// The same batch, of whose metadata a part is read. Items of OpenTelemetry requests have it where they are read as
    /// events.
    pub fn with_fields(self, fields: Arc<Projection>) -> Self {
        Self { fields: Some(fields), ..self }
    }

    /// Its identity.
    pub fn id(&self) -> BatchId {
        let selected = self.selected.as_ref().map(|selected| selected.checksum(self.span));
        let fields = self.fields.as_ref().map(|fields| fields.checksum());
        BatchId { span: self.span, selected, fields, replay: self.replay }
    }

    /// The positions it lies over: those of its events, and of those between that are not selected.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Events in it; at least one.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether it has the event at this place of its span.
    pub fn has(&self, position: Position) -> bool {
        self.selected.as_ref().is_none_or(|selected| selected.contains(position))
    }

    /// The places of its events, in order.
    pub fn positions(&self) -> impl Iterator<Item = Position> {
        (self.span.first.0..self.span.end.0).map(Position).filter(|at| self.has(*at))
    }

    /// Which of the positions it has; `None` where it is all of them.
    pub fn selection(&self) -> Option<&Selection> {
        self.selected.as_deref()
    }

    /// Whether only some of the events' metadata is read.
    pub fn is_projected(&self) -> bool {
        self.fields.is_some()
    }

    /// Bytes its records hold in memory. Records at the edges count whole, though they may be shared.
    pub fn payload_bytes(&self) -> usize {
        self.records.iter().map(|r| r.payload.len()).sum()
    }

    /// The records it lies over.
    pub fn records(&self) -> &[Arc<Record>] {
        &self.records
    }

    /// Reads its events in journal order.
    pub fn events(&self) -> BatchEvents<'_> {
        BatchEvents::of(self)
    }

    /// The first and second half; `None` where it is a single event. Together they have the batch's whole span.
    pub fn halves(&self) -> Option<(Self, Self)> {
        let half = self.count / 2;
        let middle = match &self.selected {
            _ if self.count <= 1 => return None,
            None => self.span.first.plus(half),
            Some(selected) => selected.within(self.span).nth(usize::try_from(half).ok()?)?,
        };
        Some((self.part(self.span.first, middle), self.part(middle, self.span.end)))
    }

    /// The events of `span`, which lies within this batch's.
    pub fn within(self: &Arc<Self>, span: Span) -> Arc<Self> {
        if span == self.span { self.clone() } else { Arc::new(self.part(span.first, span.end)) }
    }

    fn part(&self, first: Position, end: Position) -> Self {
        let overlaps = |r: &&Arc<Record>| r.first < end && r.end() > first;
        let span = Span { first, end };
        let part = Self::new(span, self.records.iter().filter(overlaps).cloned().collect());
        let count = self.selected.as_ref().map_or(part.count, |selected| selected.count(span));
        let selected = self.selected.clone().filter(|_| count < span.count());
        Self { selected, count, fields: self.fields.clone(), replay: self.replay, ..part }
    }
}
