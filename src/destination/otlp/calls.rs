//! A batch as the calls that deliver it.

use bytes::Bytes;
use forebay_actors::{
    destination::DeliveryError,
    event::{BLOCK_BYTES, Event},
    otlp::Signal,
    record::{Batch, Part, Position, Span},
};

use super::event::LogWriter;
use crate::destination::unreadable;

/// One call.
#[derive(Debug)]
pub(in crate::destination) struct Call {
    pub(in crate::destination) signal: Signal,
    /// Requests which together are one.
    pub(in crate::destination) pieces: Vec<Bytes>,
    pub(in crate::destination) bytes: usize,
    /// What of the batch is in it.
    pub(in crate::destination) spans: Vec<Span>,
}

/// Puts the parts of a batch into calls.
struct Sorter {
    bytes_max: usize,
    done: Vec<Call>,
    /// What is being filled, at most one of each signal.
    open: Vec<Call>,
    /// Events that came as such, up to the next request, and where they lie.
    events: LogWriter,
    events_span: Span,
}

/// The calls of a batch, without the positions that were taken before. Of each signal they are in order.
///
/// # Errors
/// Where a record is damaged.
pub(in crate::destination) fn calls(
    batch: &Batch,
    bytes_max: usize,
    is_taken: impl Fn(Position) -> bool,
) -> Result<Vec<Call>, DeliveryError> {
    let (done, open) = (Vec::new(), Vec::new());
    let events_span = Span { first: batch.span().first, end: batch.span().first };
    let mut sorter = Sorter { bytes_max, done, open, events: LogWriter::default(), events_span };
    let mut parts = batch.events();
    while let Some(at) = parts.position() {
        // A record that holds fewer events than it says must not pass as delivered.
        let part = parts.next_part().ok_or_else(|| unreadable(batch, &format!("there is none at {at}")))?;
        match part.map_err(|error| unreadable(batch, &error.to_string()))? {
            Part::Otlp { signal, request, span, .. } => {
                sorter.push_events();
                // What was taken was taken with all of the request that the batch has.
                if !is_taken(span.first) {
                    sorter.push(signal, request, span);
                }
            }
            Part::Event(_) if is_taken(at) => sorter.push_events(),
            Part::Event(event) => {
                sorter.push_event(&event, at);
                if sorter.events.bytes() >= BLOCK_BYTES.min(bytes_max) {
                    sorter.push_events();
                }
            }
        }
    }
    sorter.push_events();
    sorter.done.append(&mut sorter.open);
    Ok(sorter.done)
}

// === impl Sorter ===

impl Sorter {
    fn push_event(&mut self, event: &Event<'_>, at: Position) {
        if self.events.count() == 0 {
            self.events_span.first = at;
        }
        self.events_span.end = at.plus(1);
        self.events.push(event);
    }

    /// Puts the events that are not in a call yet into one.
    fn push_events(&mut self) {
        if self.events.count() > 0 {
            let request = self.events.finish();
            self.push(Signal::Logs, request.into(), self.events_span);
        }
    }

    fn push(&mut self, signal: Signal, request: Bytes, span: Span) {
        let index = self.open.iter().position(|call| call.signal == signal);
        let index = match index {
            Some(index) if self.open[index].bytes + request.len() <= self.bytes_max => index,
            full => {
                self.done.extend(full.map(|index| self.open.remove(index)));
                self.open.push(Call { signal, pieces: Vec::new(), bytes: 0, spans: Vec::new() });
                self.open.len() - 1
            }
        };
        let call = &mut self.open[index];
        call.bytes += request.len();
        call.pieces.push(request);
        match call.spans.last_mut() {
            Some(last) if last.end == span.first => last.end = span.end,
            _ => call.spans.push(span),
        }
    }
}
