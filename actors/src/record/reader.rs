//! Reading the events of a batch, one by one or request by request.

use std::borrow::Cow;

use bytes::Bytes;

use super::{Batch, Position, Span};
use crate::{
    event::{self, DecodeError, Event, Events, Stamp, Unread, WithItem},
    otlp::Signal,
    projection::{Projected, Projection},
};

/// Reads the events of a batch.
#[derive(Debug)]
pub struct BatchEvents<'a> {
    batch: &'a Batch,
    next_record: usize,
    /// Of the record before that.
    events: Events<'a>,
    /// The next event's place, and where this record's share ends.
    at: Position,
    until: Position,
    projected: Projected,
    room: Room,
}

/// Bytes that the events of a batch may have when they are read one by one, beside four times those of its records.
///
/// Items of OpenTelemetry are there with all that stands around them, each: a request of a large resource and many items is
/// many times as large as rows, and no destination has room for that. A batch of one event is read whatever it has.
const EXPANDED_BYTES: usize = 16 << 20;

/// What is left of that.
#[derive(Debug)]
struct Room {
    bytes: usize,
}

/// What a batch holds next, for destinations that want requests of OpenTelemetry as they are.
#[derive(Debug)]
pub enum Part<'a> {
    /// A request of the next items.
    Otlp {
        /// Of what.
        signal: Signal,
        /// In protobuf: the bytes of the record itself where the batch has the whole request.
        request: Bytes,
        /// From its first item to behind its last. Between them may be positions that the batch does not have.
        span: Span,
        /// The id of the first item, and when all of them were accepted first; each further position has the next id.
        stamp: Stamp,
    },
    /// An event that came as one.
    Event(Event<'a>),
}

impl Room {
    fn take<'e>(&mut self, event: Event<'e>) -> Result<Event<'e>, DecodeError> {
        self.take_unread(Unread::from(&event)).map(|_| event)
    }

    fn take_unread<'e>(&mut self, event: Unread<'e>) -> Result<Unread<'e>, DecodeError> {
        self.bytes = self.bytes.checked_sub(event.text_bytes()).ok_or(DecodeError::Expanded)?;
        Ok(event)
    }
}

impl<'a> BatchEvents<'a> {
    pub(super) fn of(batch: &'a Batch) -> Self {
        Self {
            batch,
            next_record: 0,
            events: Events::new(&[]),
            at: batch.span.first,
            until: batch.span.first,
            projected: Projected::default(),
            room: Room { bytes: batch.expanded_bytes_max() },
        }
    }

    /// The next event; it is gone when the one after it is asked for.
    ///
    /// # Errors
    /// An item is an error where a record's bytes are not what the format says; its other events are lost to this reader. And
    /// where the events so far are too large together, see [`Batch::expanded_bytes_max`].
    pub fn next_event(&mut self) -> Option<Result<Event<'_>, DecodeError>> {
        self.enter()?;
        self.at = self.at.plus(1);
        let fields = self.batch.fields.as_deref();
        let event = self.events.next_event()?;
        Some(event.and_then(|event| self.room.take(projected(event, fields, &mut self.projected))))
    }

    /// The same, but nobody has looked into its texts yet.
    ///
    /// # Errors
    /// As [`BatchEvents::next_event`].
    pub fn next_unread(&mut self) -> Option<Result<Unread<'_>, DecodeError>> {
        if self.batch.fields.is_some() {
            // What goes out of the metadata takes a look into it.
            return self.next_event().map(|event| event.map(|event| Unread::from(&event)));
        }
        self.enter()?;
        self.at = self.at.plus(1);
        let event = self.events.next_unread()?;
        Some(event.and_then(|event| self.room.take_unread(event)))
    }

    /// The next event or, where that is an item of an OpenTelemetry request, as much of the request as the batch has.
    ///
    /// # Errors
    /// As [`BatchEvents::next_event`].
    pub fn next_part(&mut self) -> Option<Result<Part<'_>, DecodeError>> {
        self.enter()?;
        let first = self.at;
        self.at = first.plus(1);
        let payload = &self.batch.records[self.next_record - 1].payload;
        let selected = self.batch.selected.as_deref();
        let wanted = |item| selected.is_none_or(|selected| selected.contains(first.plus(u64::from(item))));
        let part = match self.events.next_part(self.until.since(first), wanted)? {
            Err(error) => return Some(Err(error)),
            Ok(event::Part::Event(event)) => {
                let fields = self.batch.fields.as_deref();
                let event = projected(event, fields, &mut self.projected);
                return Some(self.room.take(event).map(Part::Event));
            }
            Ok(event::Part::Otlp { signal, request, passed, last, stamp }) => {
                let span = Span { first, end: first.plus(u64::from(last)) };
                self.at = first.plus(u64::from(passed));
                let request = match request {
                    Cow::Borrowed(request) => payload.slice_ref(request),
                    Cow::Owned(request) => request.into(),
                };
                Part::Otlp { signal, request, span, stamp }
            }
        };
        Some(Ok(part))
    }

    /// The next event, and what it is an item of where it came by OpenTelemetry.
    ///
    /// # Errors
    /// As [`BatchEvents::next_event`].
    pub fn next_of(&mut self) -> Option<Result<(Option<Signal>, Event<'_>), DecodeError>> {
        self.enter()?;
        self.at = self.at.plus(1);
        let fields = self.batch.fields.as_deref();
        let next = self.events.next_of()?;
        Some(next.and_then(|(signal, event)| {
            let event = self.room.take(projected(event, fields, &mut self.projected))?;
            Ok((signal, event))
        }))
    }

    /// The same, with the item itself, which has all that it came with.
    ///
    /// # Errors
    /// As [`BatchEvents::next_event`].
    pub fn next_with_item(&mut self) -> Option<Result<WithItem<'a, '_>, DecodeError>> {
        self.enter()?;
        self.at = self.at.plus(1);
        let fields = self.batch.fields.as_deref();
        let next = self.events.next_with_item()?;
        Some(next.and_then(|(item, event)| {
            let event = self.room.take(projected(event, fields, &mut self.projected))?;
            Ok((item, event))
        }))
    }

    /// The same reader for who keeps nothing of the events, and so has room for all.
    pub fn unbounded(self) -> Self {
        Self { room: Room { bytes: usize::MAX }, ..self }
    }

    /// The place of the next event; `None` at the end of the batch.
    pub fn position(&mut self) -> Option<Position> {
        self.enter().map(|()| self.at)
    }

    /// The next event as a payload of its own, with all that it has.
    ///
    /// # Errors
    /// As [`BatchEvents::next_event`].
    pub fn next_single(&mut self) -> Option<Result<Bytes, DecodeError>> {
        self.enter()?;
        self.at = self.at.plus(1);
        self.events.next_single()
    }

    /// Goes on to the next event that the batch has, in the next record where this one's share is at its end; `None` at the
    /// end of the batch.
    fn enter(&mut self) -> Option<()> {
        loop {
            while self.at == self.until {
                let record = self.batch.records.get(self.next_record)?;
                self.next_record += 1;
                self.events = Events::new(&record.payload);
                let at = record.first.max(self.batch.span.first);
                self.events.skip(at.since(record.first));
                (self.at, self.until) = (at, record.end().min(self.batch.span.end));
            }
            let Some(selected) = &self.batch.selected else { return Some(()) };
            if let Some(next) = selected.next(self.at, self.until) {
                self.events.skip(next.since(self.at));
                self.at = next;
                return Some(());
            }
            self.at = self.until;
        }
    }
}

/// The event with what goes out of its metadata.
fn projected<'e>(event: Event<'e>, fields: Option<&Projection>, projected: &'e mut Projected) -> Event<'e> {
    match (fields, event.metadata) {
        (Some(fields), Some(text)) => Event { metadata: Some(fields.of(text, projected)), ..event },
        _ => event,
    }
}

impl Batch {
    /// Bytes that its events may come to where each has all that stands around it. What is more is for halves of it.
    pub fn expanded_bytes_max(&self) -> usize {
        match self.count {
            1 => usize::MAX,
            _ => EXPANDED_BYTES.saturating_add(self.payload_bytes().saturating_mul(4)),
        }
    }
}
