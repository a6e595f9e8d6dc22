//! Reading a record's payload: its blocks, and their events one by one.

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Event, EventId, Timestamp,
    block::{Block, DecodeError, OTLP, RELAYED, Stamp},
    unread::{Encoded, Unread},
};
use crate::otlp::{self, Item, Row, Rows, Signal};

/// Reads the events of a record's payload, block after block. An event borrows from the payload or, where it is an item of
/// an OpenTelemetry request, from the reader.
#[derive(Debug)]
pub struct Events<'a> {
    /// What stands behind the current block.
    rest: &'a [u8],
    body: Body<'a>,
    stamp: Stamp,
    index: u32,
    count: u32,
}

/// What a payload holds next, for readers that want requests of OpenTelemetry as they are.
#[derive(Debug)]
pub enum Part<'a, 'r> {
    /// A request of the next items, or of those of them that are wanted. Borrowed where it is a whole block.
    Otlp {
        /// Of what.
        signal: Signal,
        /// In protobuf.
        request: Cow<'a, [u8]>,
        /// Items that were gone over.
        passed: u32,
        /// Of these, how many there are up to the last that is in the request.
        last: u32,
        /// The id of the first item, and when all of them were accepted first.
        stamp: Stamp,
    },
    /// An event that came as one.
    Event(Event<'r>),
}

/// An event, and the item that it is where it came by OpenTelemetry.
pub type WithItem<'a, 'r> = (Option<(Signal, Item<'a>)>, Event<'r>);

#[derive(Debug)]
enum Body<'a> {
    /// What of them stands behind the current one.
    Events(&'a [u8]),
    Otlp {
        signal: Signal,
        request: &'a [u8],
        rows: Box<Rows<'a>>,
    },
}

impl<'a> Events<'a> {
    /// Over the payload of a record.
    pub fn new(payload: &'a [u8]) -> Self {
        let stamp = Stamp { first_id: Uuid::nil(), ingested_at: Timestamp::default() };
        Self { rest: payload, body: Body::Events(&[]), stamp, index: 0, count: 0 }
    }

    /// The next event; it is gone when the one after it is asked for. After an error there is nothing more: where one event
    /// ends is where the next begins.
    pub fn next_event(&mut self) -> Option<Result<Event<'_>, DecodeError>> {
        match self.advance() {
            Ok(()) => Some(self.read()),
            Err(end) => end.map(Err),
        }
    }

    /// The same, but nobody has looked into its texts yet: what is none ends this reading only where whoever looks ends it.
    pub fn next_unread(&mut self) -> Option<Result<Unread<'_>, DecodeError>> {
        if let Err(end) = self.advance() {
            return end.map(Err);
        }
        let (index, stamp) = (self.index - 1, self.stamp);
        let Body::Events(rest) = &mut self.body else {
            return Some(self.read().map(|event| Unread::from(&event)));
        };
        let event = Encoded::take(rest);
        if event.is_err() {
            self.end();
        }
        Some(event.map(|event| event.stamped(stamp.id_at(index), stamp.ingested_at)))
    }

    /// The next event or, where that is an item of an OpenTelemetry request, as much of the request as is left: of the
    /// next items, up to `most`, the first and those others that are `wanted`, by their number from here. A whole request is
    /// not looked into: its bytes were counted when they came in, and the record that they lie in has a checksum.
    pub fn next_part(
        &mut self,
        most: u64,
        wanted: impl Fn(u32) -> bool,
    ) -> Option<Result<Part<'a, '_>, DecodeError>> {
        if let Err(end) = self.advance() {
            return end.map(Err);
        }
        let Body::Otlp { signal, request, rows } = &mut self.body else {
            return Some(self.read().map(Part::Event));
        };
        let (signal, request, first) = (*signal, *request, self.index - 1);
        let stamp = Stamp { first_id: self.stamp.id_at(first), ..self.stamp };
        let passed =
            u32::try_from(most.max(1)).map_or(self.count - first, |most| most.min(self.count - first));
        self.index = first + passed;
        if passed == self.count && (0..passed).all(&wanted) {
            return Some(Ok(Part::Otlp {
                signal,
                request: Cow::Borrowed(request),
                passed,
                last: passed,
                stamp,
            }));
        }
        let (mut found, mut last) = (0, 0);
        let part = otlp::select(request, signal, |item| {
            let Some(item) = item.checked_sub(first).filter(|item| *item < passed) else { return false };
            found += 1;
            let is_wanted = item == 0 || wanted(item);
            last = if is_wanted { item + 1 } else { last };
            is_wanted
        });
        rows.skip(passed);
        if found < passed {
            self.end();
            return Some(Err(DecodeError::Otlp));
        }
        Some(Ok(Part::Otlp { signal, request: Cow::Owned(part), passed, last, stamp }))
    }

    /// The next event as [`Events::next_event`] has it, and what it is an item of where it came by OpenTelemetry.
    pub fn next_of(&mut self) -> Option<Result<(Option<Signal>, Event<'_>), DecodeError>> {
        let next = self.next_with_item()?;
        Some(next.map(|(item, event)| (item.map(|(signal, _)| signal), event)))
    }

    /// The same, with the item itself.
    pub fn next_with_item(&mut self) -> Option<Result<WithItem<'a, '_>, DecodeError>> {
        if let Err(end) = self.advance() {
            return end.map(Err);
        }
        Some(self.read_with_item())
    }

    /// Passes over the next events without looking at them as far as that can be. What is damaged shows at the one behind
    /// them.
    pub fn skip(&mut self, mut count: u64) {
        while count > 0 {
            if self.enter_block().is_err() {
                return;
            }
            let here = u32::try_from(count)
                .map_or(self.count - self.index, |count| count.min(self.count - self.index));
            count -= u64::from(here);
            self.index += here;
            // At the end of a block nobody looks at it again.
            if self.index < self.count {
                match &mut self.body {
                    Body::Otlp { rows, .. } => rows.skip(here),
                    Body::Events(rest) => {
                        // Texts, too: readers rely on nothing being read behind an event that cannot be.
                        if (0..here).any(|_| Encoded::take(rest).and_then(Encoded::read).is_err()) {
                            // It stands somewhere within that event, where anything may look like one.
                            *rest = &[];
                            return;
                        }
                    }
                }
            }
        }
    }

    /// What the next event is an item of where it came by OpenTelemetry, and how many of its block are left.
    pub(crate) fn ahead(&mut self) -> Option<Result<(Option<Signal>, u32), DecodeError>> {
        if let Err(end) = self.enter_block() {
            return end.map(Err);
        }
        let signal = match &self.body {
            Body::Otlp { signal, .. } => Some(*signal),
            Body::Events(_) => None,
        };
        Some(Ok((signal, self.count - self.index)))
    }

    /// Who speaks in the next item of a request of OpenTelemetry, and whether that may be another than in the item before.
    /// [`current`](Self::current) has the item whole. `None` where no such item is next.
    pub(crate) fn next_speaker(&mut self) -> Option<Result<(&str, bool), DecodeError>> {
        let Body::Otlp { rows, .. } = &mut self.body else { return None };
        let is_other = rows.advance();
        self.index += 1;
        match is_other {
            Some(is_other) => match &self.body {
                Body::Otlp { rows, .. } => Some(Ok((rows.service(), is_other))),
                Body::Events(_) => None,
            },
            None => {
                self.end();
                Some(Err(DecodeError::Otlp))
            }
        }
    }

    /// The item that [`next_speaker`](Self::next_speaker) went on to.
    pub(crate) fn current(&mut self) -> Option<Event<'_>> {
        let stamp = self.stamp;
        let assigned = stamp.id_at(self.index.checked_sub(1)?);
        let Body::Otlp { rows, .. } = &mut self.body else { return None };
        Some(of_row(rows.row(), assigned, stamp))
    }

    /// The event that was advanced to.
    fn read(&mut self) -> Result<Event<'_>, DecodeError> {
        self.read_with_item().map(|(_, event)| event)
    }

    fn read_with_item(&mut self) -> Result<WithItem<'a, '_>, DecodeError> {
        let (index, stamp) = (self.index - 1, self.stamp);
        let assigned = stamp.id_at(index);
        let found = match &mut self.body {
            Body::Events(rest) => Encoded::take(rest)
                .and_then(|event| event.stamped(assigned, stamp.ingested_at).read())
                .map(|event| (None, event)),
            Body::Otlp { signal, rows, .. } => rows
                .next_with_item()
                .ok_or(DecodeError::Otlp)
                .map(|(item, row)| (Some((*signal, item)), of_row(row, assigned, stamp))),
        };
        if found.is_err() {
            (self.rest, self.index, self.count) = (&[], 0, 0);
        }
        found
    }

    /// Behind this there is nothing more.
    fn end(&mut self) {
        (self.rest, self.index, self.count) = (&[], 0, 0);
    }

    /// The next event as a payload of its own, with the id and the times that it has: what a dead letter keeps.
    pub fn next_single(&mut self) -> Option<Result<Bytes, DecodeError>> {
        if let Err(end) = self.advance() {
            return end.map(Err);
        }
        let index = self.index - 1;
        let block = match &mut self.body {
            Body::Events(rest) => {
                Encoded::take(rest).and_then(Encoded::read).map(|event| Block::of_one(&event))
            }
            Body::Otlp { signal, request, rows } => match rows.next_row() {
                Some(_) => Ok(Block::otlp(*signal, &otlp::select(request, *signal, |item| item == index), 1)),
                None => Err(DecodeError::Otlp),
            },
        };
        if block.is_err() {
            self.end();
        }
        let stamp = Stamp { first_id: self.stamp.id_at(index), ..self.stamp };
        Some(block.map(|block| block.stamped(stamp).bytes().clone()))
    }

    /// Counts one event more, in the next block where this one is at its end.
    ///
    /// # Errors
    /// As [`Events::enter_block`].
    fn advance(&mut self) -> Result<(), Option<DecodeError>> {
        self.enter_block()?;
        self.index += 1;
        Ok(())
    }

    /// Goes on to the next block where this one is at its end.
    ///
    /// # Errors
    /// `None` at the end, or what is wrong with the next block.
    fn enter_block(&mut self) -> Result<(), Option<DecodeError>> {
        while self.index == self.count {
            if self.rest.is_empty() {
                return Err(None);
            }
            if let Err(error) = self.next_block() {
                *self = Self::new(&[]);
                return Err(Some(error));
            }
        }
        Ok(())
    }

    fn next_block(&mut self) -> Result<(), DecodeError> {
        let (mut stamp, count, body) = split_block(&mut self.rest)?;
        self.body = match body {
            [OTLP, signal, rest @ ..] => {
                let mut request = rest;
                if signal & RELAYED != 0 {
                    stamp = split_stamp(&mut request)?;
                }
                let signal = Signal::from_u8(signal & !RELAYED).ok_or(DecodeError::Otlp)?;
                Body::Otlp { signal, request, rows: Box::new(Rows::of(request, signal)) }
            }
            events => Body::Events(events),
        };
        (self.stamp, self.count, self.index) = (stamp, count, 0);
        Ok(())
    }
}

fn of_row(row: Row<'_>, assigned: Uuid, stamp: Stamp) -> Event<'_> {
    Event {
        event_id: EventId::Assigned(assigned),
        timestamp: row.timestamp.unwrap_or(stamp.ingested_at),
        service: row.service,
        message: row.message,
        metadata: Some(row.metadata),
        ingested_at: stamp.ingested_at,
    }
}

/// The stamps of a payload's blocks, with the number of their events; ends where the payload is damaged.
pub fn stamps(payload: &[u8]) -> impl Iterator<Item = (Stamp, u32)> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        split_block(&mut rest).ok().map(|(stamp, count, _)| (stamp, count))
    })
}

/// The blocks of a payload that hold the events of `wanted`, counted from its first: where they lie, and which events they
/// hold, of which there may be some more at both ends.
///
/// # Errors
/// Where the payload is damaged before their end.
pub fn blocks_around(payload: &[u8], wanted: Range<u64>) -> Result<(Range<usize>, Range<u64>), DecodeError> {
    let (mut rest, mut at) = (payload, 0);
    let (mut bytes, mut events) = (0..0, 0..0);
    while at < wanted.end && !rest.is_empty() {
        let (begin, first) = (payload.len() - rest.len(), at);
        let (_, count, _) = split_block(&mut rest)?;
        at += u64::from(count);
        if at > wanted.start {
            if events.is_empty() {
                (bytes.start, events.start) = (begin, first);
            }
            (bytes.end, events.end) = (payload.len() - rest.len(), at);
        }
    }
    Ok((bytes, events))
}

/// Takes the block that stands first; its stamp, its events and its body.
fn split_block<'a>(rest: &mut &'a [u8]) -> Result<(Stamp, u32, &'a [u8]), DecodeError> {
    let stamp = split_stamp(rest)?;
    let count = u32::from_be_bytes(take(rest)?);
    let wanted = u32::from_be_bytes(take(rest)?) as usize;
    let left = rest.len();
    let (body, behind) = rest.split_at_checked(wanted).ok_or(DecodeError::Truncated { wanted, left })?;
    *rest = behind;
    Ok((stamp, count, body))
}

fn split_stamp(rest: &mut &[u8]) -> Result<Stamp, DecodeError> {
    let first_id = Uuid::from_bytes(take(rest)?);
    let ingested_at = Timestamp::from_nanos(i64::from_be_bytes(take(rest)?));
    Ok(Stamp { first_id, ingested_at })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let truncated = DecodeError::Truncated { wanted: N, left: rest.len() };
    let (head, behind) = rest.split_first_chunk().ok_or(truncated)?;
    *rest = behind;
    Ok(*head)
}

#[cfg(test)]
mod tests;
