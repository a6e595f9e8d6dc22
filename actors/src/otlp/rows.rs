//! Items as generic events, for destinations that know nothing of the protocol.
//!
//! | item | `service` | `message` | time |
//! |---|---|---|---|
//! | log record | `service.name` of the resource | the body | `timeUnixNano`, or `observedTimeUnixNano` |
//! | span | the same | the span's name | `startTimeUnixNano` |
//! | data point | the same | the metric's name | `timeUnixNano` |
//!
//! Everything else is in the metadata: `signal`, the item's own fields, `metric`, `resource` and `scope`, in natural JSON.

use super::{
    Item, Items, Signal,
    items::member,
    json::{Style, any_value, write, write_members},
    schema::{self, Field, Kind, Message},
    wire::{Fields, Value},
};
use crate::event::{SERVICE_CHARS_MAX, Timestamp};

/// The service of a resource that does not say who it is; the name is the protocol's.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// The largest number of a field that says of which kind a metric is.
const KIND_MAX: usize = 11;

/// One item as an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// When it happened; `None` where the item does not say.
    pub timestamp: Option<Timestamp>,
    /// Who speaks.
    pub service: &'a str,
    /// What is said.
    pub message: &'a str,
    /// The text of a JSON object.
    pub metadata: &'a str,
}

/// Turns the items of a request into rows, one at a time, in buffers that are used again.
#[derive(Debug)]
pub struct Rows<'a> {
    signal: Signal,
    items: Items<'a>,
    /// The item at hand.
    item: Item<'a>,
    /// The resource and the scope of the last row, and what was written for them: many items have the same.
    resource: Around<'a>,
    scope: Around<'a>,
    /// The metric of the last point.
    metric: Metric<'a>,
    service: String,
    message: String,
    metadata: Vec<u8>,
}

#[derive(Debug, Default)]
struct Around<'a> {
    bytes: &'a [u8],
    json: Vec<u8>,
}

/// What all points of a metric have in their rows. It stands beside the points in the metric, so it is looked for once, and not
/// by a walk over all of them for each.
#[derive(Debug, Default)]
struct Metric<'a> {
    bytes: &'a [u8],
    name: &'a [u8],
    /// By the number of the kind, since points of several kinds may take turns in one metric; empty where it is not written yet.
    json: [Vec<u8>; KIND_MAX + 1],
}

impl<'a> Around<'a> {
    /// Writes the bytes where they are others than before.
    fn change(&mut self, bytes: &'a [u8], of: &'static Message) {
        if !std::ptr::eq(self.bytes, bytes) || self.json.is_empty() {
            self.bytes = bytes;
            self.json.clear();
            write(bytes, of, Style::Natural, &mut self.json);
        }
    }
}

impl<'a> Metric<'a> {
    const NAME: u32 = 1;

    /// Forgets what was written where the bytes are others than before.
    fn change(&mut self, bytes: &'a [u8]) {
        if !std::ptr::eq(self.bytes, bytes) {
            self.bytes = bytes;
            self.name = member(bytes, Self::NAME);
            self.json.iter_mut().for_each(Vec::clear);
        }
    }

    /// Its members for points of a kind, each with a comma before it: its own, and those of the message with the points.
    fn members(&mut self, kind: &Field, of: &'static Message) -> &[u8] {
        let Some(json) = self.json.get_mut(kind.number as usize) else { return &[] };
        if json.is_empty() {
            json.extend_from_slice(format!(",\"type\":\"{}\"", kind.name).as_bytes());
            let without = [Self::NAME, 5, 7, 9, 10, 11];
            write_members(self.bytes, &schema::METRIC, Style::Natural, &without, json);
            write_members(member(self.bytes, kind.number), of, Style::Natural, &[1], json);
        }
        json
    }
}

impl<'a> Rows<'a> {
    /// Over the items of this request.
    pub fn of(request: &'a [u8], signal: Signal) -> Self {
        Self {
            signal,
            items: Items::of(request, signal),
            item: Item::default(),
            resource: Around::default(),
            scope: Around::default(),
            metric: Metric::default(),
            service: String::new(),
            message: String::new(),
            metadata: Vec::new(),
        }
    }

    /// Passes over so many.
    pub(crate) fn skip(&mut self, count: u32) {
        for _ in 0..count {
            self.items.next();
        }
    }

    /// Goes on to the next item; whether it may be of another resource than the one before.
    pub(crate) fn advance(&mut self) -> Option<bool> {
        let item = self.items.next()?;
        let is_other = self.service.is_empty() || !std::ptr::eq(self.item.resource, item.resource);
        if is_other {
            self.service = service(item.resource);
        }
        self.item = item;
        Some(is_other)
    }

    /// Who speaks in the item at hand.
    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    /// The next row; it is gone when the one after it is asked for.
    pub fn next_row(&mut self) -> Option<Row<'_>> {
        self.next_with_item().map(|(_, row)| row)
    }

    /// The same, and the item that it is made of.
    pub fn next_with_item(&mut self) -> Option<(Item<'a>, Row<'_>)> {
        self.advance()?;
        Some((self.item, self.row()))
    }

    /// The item at hand as a row.
    pub(crate) fn row(&mut self) -> Row<'_> {
        let item = self.item;
        self.resource.change(item.resource, &schema::RESOURCE);
        self.scope.change(item.scope, &schema::SCOPE);
        self.message.clear();
        self.metadata.clear();
        let out = &mut self.metadata;
        out.extend_from_slice(b"{\"signal\":\"");
        out.extend_from_slice(self.signal.as_str().as_bytes());
        out.push(b'"');
        let timestamp = match self.signal {
            Signal::Logs => log(&item, &mut self.message, out),
            Signal::Traces => span(&item, &mut self.message, out),
            Signal::Metrics => point(&item, &mut self.metric, &mut self.message, out),
        };
        for (name, around) in [("resource", &self.resource), ("scope", &self.scope)] {
            if !around.bytes.is_empty() {
                let parts: [&[u8]; 4] = [b",\"", name.as_bytes(), b"\":", &around.json];
                parts.into_iter().for_each(|part| out.extend_from_slice(part));
            }
        }
        out.push(b'}');
        let metadata = std::str::from_utf8(&self.metadata).expect("JSON is written as text");
        Row { timestamp, service: &self.service, message: &self.message, metadata }
    }
}

fn service(resource: &[u8]) -> String {
    let attributes = Fields::of(resource).map_while(Result::ok).filter(|entry| entry.number == 1);
    let name = attributes.filter_map(|entry| match entry.value {
        Value::Bytes(pair) if member(pair, 1) == b"service.name" => Some(member(member(pair, 2), 1)),
        _ => None,
    });
    let name = name.last().map(String::from_utf8_lossy).unwrap_or_default();
    match name.trim() {
        "" => UNKNOWN_SERVICE.to_owned(),
        name => name.chars().take(SERVICE_CHARS_MAX).collect(),
    }
}

fn log(item: &Item<'_>, message: &mut String, out: &mut Vec<u8>) -> Option<Timestamp> {
    const TIME: u32 = 1;
    const BODY: u32 = 5;
    let body = member(item.bytes, BODY);
    match schema::ANY_VALUE.chosen(body) {
        Some(1) => message.push_str(&String::from_utf8_lossy(member(body, 1))),
        Some(_) => {
            let mut json = Vec::new();
            any_value(body, &mut json);
            message.push_str(&String::from_utf8_lossy(&json));
        }
        None => {}
    }
    let happened = time(item.bytes, TIME);
    write_members(item.bytes, &schema::LOG_RECORD, Style::Natural, &[BODY, unless_kept(happened, TIME)], out);
    happened.or_else(|| time(item.bytes, 11))
}

fn span(item: &Item<'_>, message: &mut String, out: &mut Vec<u8>) -> Option<Timestamp> {
    const NAME: u32 = 5;
    message.push_str(&String::from_utf8_lossy(member(item.bytes, NAME)));
    write_members(item.bytes, &schema::SPAN, Style::Natural, &[NAME], out);
    time(item.bytes, 7)
}

fn point<'a>(
    item: &Item<'a>,
    metric: &mut Metric<'a>,
    message: &mut String,
    out: &mut Vec<u8>,
) -> Option<Timestamp> {
    const TIME: u32 = 3;
    metric.change(item.metric);
    message.push_str(&String::from_utf8_lossy(metric.name));
    let kind = schema::METRIC.field(item.metric_kind)?;
    let Kind::Message(of) = kind.kind else { return None };
    out.extend_from_slice(metric.members(kind, of));
    let happened = time(item.bytes, TIME);
    if let Some(Kind::Message(of)) = of.field(1).map(|field| field.kind) {
        write_members(item.bytes, of, Style::Natural, &[unless_kept(happened, TIME)], out);
    }
    happened
}

/// The field to leave out of the metadata: a time that the row has as its own. One behind the year 2262 stays there, because
/// the row cannot have it.
fn unless_kept(time: Option<Timestamp>, number: u32) -> u32 {
    // No field has the number 0.
    if time.is_some() { number } else { 0 }
}

/// A time in nanoseconds since the epoch; 0 says that there is none.
fn time(message: &[u8], number: u32) -> Option<Timestamp> {
    let entry = Fields::of(message).map_while(Result::ok).filter(|entry| entry.number == number).last()?;
    match entry.value {
        Value::Fixed64(nanos) if nanos > 0 => i64::try_from(nanos).ok().map(Timestamp::from_nanos),
        _ => None,
    }
}
