//! Conditions on events: which of them a sink takes.
//!
//! A condition is asked once for each event of a batch, and the answer is a view of the batch: its positions, its id and its
//! records stay, see [`Batch::select`]. As little is looked at as the answer takes. What it says of signals is decided for a
//! whole block by its header; what it says of services, for a request of OpenTelemetry, once a resource; only where it asks
//! for more, an item becomes a row, and only where it asks for metadata, their text is walked over.
//!
//! - Limits: [`DEPTH_MAX`], [`TESTS_MAX`], [`PATTERNS_MAX`], [`PATTERN_BYTES`].
//! - What cannot be read counts as taken: its account (a dead letter, `damaged`) is the delivery's.

mod field;
mod glob;
mod metadata;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

pub(crate) use self::metadata::Places;
pub use self::{
    field::Field,
    glob::Glob,
    value::{Number, Operand, PATTERN_BYTES, PATTERN_TEXT_BYTES_MAX, Pattern, Test},
};
use self::{
    field::{Own, Place},
    value::Found,
};
use crate::{
    event::{Event, Events},
    otlp::Signal,
    record::{Batch, Position, Selection, Span},
};

/// How deep clauses may stand in each other.
pub const DEPTH_MAX: usize = 8;

/// Questions of one condition: to signals, services and fields.
pub const TESTS_MAX: usize = 256;

/// Patterns of one condition; each may take twice [`PATTERN_BYTES`].
pub const PATTERNS_MAX: usize = 16;

/// A condition as it is said.
#[derive(Debug, Clone)]
pub enum Clause {
    /// All of these hold; so does an empty list.
    All(Vec<Self>),
    /// One of these holds.
    Any(Vec<Self>),
    /// This does not hold.
    Not(Box<Self>),
    /// The event came as one of these; `None` is an event that came as such.
    Signal(Vec<Option<Signal>>),
    /// The service is one of these.
    Service(Vec<Glob>),
    /// The field's value passes all of these.
    Field(Field, Vec<Test>),
}

/// A condition that can be asked.
#[derive(Debug)]
pub struct Condition {
    root: Node,
    /// Of the metadata, each once.
    paths: Vec<Box<str>>,
}

#[derive(Debug)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Signal(Vec<Option<Signal>>),
    Service(Vec<Glob>),
    Field(Place, Vec<Test>),
}

/// What is known of an event so far.
#[derive(Debug, Clone, Copy)]
struct Facts<'e> {
    signal: Option<Signal>,
    service: Option<&'e str>,
    event: Option<&'e Event<'e>>,
}

/// What is used again from event to event.
#[derive(Debug, Default)]
struct Scratch {
    places: Places,
    /// Whether the places are those of the event at hand.
    is_found: bool,
}

// === impl Clause ===

impl Clause {
    /// How deep, how many tests, and how many of these are patterns.
    fn size(&self) -> (usize, usize, usize) {
        match self {
            Self::All(clauses) | Self::Any(clauses) => {
                let sum = |(depth, tests, patterns): (usize, usize, usize), clause: &Self| {
                    let of = clause.size();
                    (depth.max(of.0), tests + of.1, patterns + of.2)
                };
                let (depth, tests, patterns) = clauses.iter().fold((0, 0, 0), sum);
                (depth + 1, tests, patterns)
            }
            Self::Not(clause) => {
                let (depth, tests, patterns) = clause.size();
                (depth + 1, tests, patterns)
            }
            Self::Signal(signals) => (0, signals.len(), 0),
            Self::Service(services) => (0, services.len(), 0),
            Self::Field(_, tests) => {
                let count = |test: &Test| if let Test::OneOf(operands) = test { operands.len() } else { 1 };
                let patterns = tests.iter().filter(|test| matches!(test, Test::Matches(_))).count();
                (0, tests.iter().map(count).sum(), patterns)
            }
        }
    }

    fn compiled(self, paths: &mut Vec<Box<str>>) -> Node {
        let mut all = |clauses: Vec<Self>| clauses.into_iter().map(|clause| clause.compiled(paths)).collect();
        match self {
            Self::All(clauses) => Node::All(all(clauses)),
            Self::Any(clauses) => Node::Any(all(clauses)),
            Self::Not(clause) => Node::Not(Box::new(clause.compiled(paths))),
            Self::Signal(signals) => Node::Signal(signals),
            Self::Service(services) => Node::Service(services),
            Self::Field(field, tests) => Node::Field(field.placed(paths), tests),
        }
    }
}

// === impl Node ===

impl Node {
    /// Whether it holds, as far as that follows from what is known.
    fn holds(&self, facts: &Facts<'_>, paths: &[Box<str>], scratch: &mut Scratch) -> Option<bool> {
        match self {
            Self::All(nodes) => Self::decided(nodes, false, facts, paths, scratch),
            Self::Any(nodes) => Self::decided(nodes, true, facts, paths, scratch),
            Self::Not(node) => node.holds(facts, paths, scratch).map(|holds| !holds),
            Self::Signal(signals) => Some(signals.contains(&facts.signal)),
            Self::Service(services) => {
                facts.service.map(|service| services.iter().any(|glob| glob.matches(service)))
            }
            Self::Field(Place::Own(Own::Service), tests) => {
                let found = Found::Text(facts.service?.into());
                Some(tests.iter().all(|test| test.holds(Some(&found))))
            }
            Self::Field(place, tests) => {
                let event = facts.event?;
                let found = match place {
                    Place::Own(Own::Service) => Some(Found::Text(event.service.into())),
                    Place::Own(Own::EventId) => Some(Found::Text(event.event_id.to_string().into())),
                    Place::Own(Own::Message) => Some(Found::Text(event.message.into())),
                    Place::Own(Own::Timestamp) => Some(Found::Time(event.timestamp)),
                    Place::Own(Own::IngestedAt) => Some(Found::Time(event.ingested_at)),
                    Place::Metadata(path) => event.metadata.and_then(|text| {
                        if !scratch.is_found {
                            scratch.is_found = true;
                            scratch.places.find(text, paths);
                        }
                        scratch.places.get(text, *path).map(Found::of_json)
                    }),
                };
                Some(tests.iter().all(|test| test.holds(found.as_ref())))
            }
        }
    }

    /// `by` where one of them is that; the other where all are that; else it is not known yet.
    fn decided(
        nodes: &[Self],
        by: bool,
        facts: &Facts<'_>,
        paths: &[Box<str>],
        scratch: &mut Scratch,
    ) -> Option<bool> {
        let mut known = Some(!by);
        for node in nodes {
            match node.holds(facts, paths, scratch) {
                Some(holds) if holds == by => return Some(by),
                Some(_) => {}
                None => known = None,
            }
        }
        known
    }
}

// === impl Condition ===

impl Condition {
    /// Of what was said.
    ///
    /// # Errors
    /// Which limit it goes over.
    pub fn new(clause: Clause) -> Result<Self, String> {
        let (depth, tests, patterns) = clause.size();
        let over = |what: &str, found: usize, max: usize| {
            (found > max).then(|| format!("has {found} {what}; up to {max} are possible"))
        };
        let over = over("levels of any, all and not", depth, DEPTH_MAX)
            .or_else(|| over("tests", tests, TESTS_MAX))
            .or_else(|| over("patterns (`matches`)", patterns, PATTERNS_MAX));
        if let Some(why) = over {
            return Err(why);
        }
        let mut paths = Vec::new();
        let root = clause.compiled(&mut paths);
        Ok(Self { root, paths })
    }

    /// The batch with only the events for which it holds; `None` where there are none.
    pub fn view(&self, batch: &Arc<Batch>) -> Option<Arc<Batch>> {
        let view = (**batch).clone().select(self.select(batch))?;
        Some(if view.count() == batch.count() { batch.clone() } else { Arc::new(view) })
    }

    fn select(&self, batch: &Batch) -> Selection {
        let (mut selection, mut scratch) = (Selection::none_of(batch.span()), Scratch::default());
        for record in batch.records() {
            let span =
                Span { first: record.first.max(batch.span().first), end: record.end().min(batch.span().end) };
            let mut events = Events::new(&record.payload);
            events.skip(span.first.since(record.first));
            let read = self.select_of(&mut events, span, &mut selection, &mut scratch);
            selection.insert(Span { first: read, end: span.end });
        }
        selection
    }

    /// Judges the next events, which lie at `span`; up to where they can be read.
    fn select_of(
        &self,
        events: &mut Events<'_>,
        span: Span,
        selection: &mut Selection,
        scratch: &mut Scratch,
    ) -> Position {
        let mut at = span.first;
        while at < span.end {
            let Some(Ok((signal, left))) = events.ahead() else { return at };
            let end = at.plus(u64::from(left)).min(span.end);
            let block = Span { first: at, end };
            let facts = Facts { signal, service: None, event: None };
            match self.root.holds(&facts, &self.paths, scratch) {
                Some(holds) => {
                    if holds {
                        selection.insert(block);
                    }
                    events.skip(block.count());
                    at = end;
                }
                None => {
                    at = match signal {
                        Some(_) => self.select_items(events, block, facts, selection, scratch),
                        None => self.select_events(events, block, facts, selection, scratch),
                    };
                    if at < end {
                        return at;
                    }
                }
            }
        }
        at
    }

    /// Judges events that came as such.
    fn select_events(
        &self,
        events: &mut Events<'_>,
        span: Span,
        facts: Facts<'_>,
        selection: &mut Selection,
        scratch: &mut Scratch,
    ) -> Position {
        let mut at = span.first;
        while at < span.end {
            let Some(Ok(event)) = events.next_event() else { return at };
            let facts = Facts { service: Some(event.service), event: Some(&event), ..facts };
            scratch.is_found = false;
            let next = at.plus(1);
            if self.root.holds(&facts, &self.paths, scratch) == Some(true) {
                selection.insert(Span { first: at, end: next });
            }
            at = next;
        }
        at
    }

    /// Judges items of a request of OpenTelemetry: by their resource where that is enough.
    fn select_items(
        &self,
        events: &mut Events<'_>,
        span: Span,
        facts: Facts<'_>,
        selection: &mut Selection,
        scratch: &mut Scratch,
    ) -> Position {
        let (mut at, mut by_service) = (span.first, None);
        let mut is_first = true;
        while at < span.end {
            let Some(Ok((service, is_other))) = events.next_speaker() else { return at };
            if is_other || is_first {
                is_first = false;
                let facts = Facts { service: Some(service), ..facts };
                by_service = self.root.holds(&facts, &self.paths, scratch);
            }
            let holds = by_service.or_else(|| {
                let event = events.current()?;
                let facts = Facts { service: Some(event.service), event: Some(&event), ..facts };
                scratch.is_found = false;
                self.root.holds(&facts, &self.paths, scratch)
            });
            let next = at.plus(1);
            if holds == Some(true) {
                selection.insert(Span { first: at, end: next });
            }
            at = next;
        }
        at
    }
}
