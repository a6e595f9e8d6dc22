//! Events as rows: each value in the bytes of its column's type, with its length before it, as the protocol has them.

use std::ops::Range;

use forebay_actors::{
    destination::DeliveryError,
    event::{Event, Timestamp},
    otlp::{
        Item, Signal, attribute,
        json::Alone,
        schema,
        wire::{Fields, Value},
    },
    record::Batch,
};
use ring::digest::{Context, SHA256};
use scylla::serialize::{
    SerializationError,
    row::{RowSerializationContext, SerializeRow},
    writers::RowWriter,
};
use uuid::Uuid;

use super::{super::unreadable, ROWS_BYTES_MAX, table::Table};
use crate::config::CassandraSink;

/// Rows of one request at most: from there on, more of them make it no faster.
const REQUEST_ROWS_MAX: usize = 100;

/// Bytes of one request at most, where it has more than a row.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The length of a value that is left as it is, which is what a row has none for: a null would be a tombstone.
const UNSET: i32 = -2;

const DAY_NANOS: i64 = 24 * 3600 * 1_000_000_000;

/// 1970 among the days that a `date` can say.
const EPOCH_DAY: i64 = 1 << 31;

/// What a trace without an id has for one, which is what its protocol calls none.
const NO_TRACE_ID: &str = "00000000000000000000000000000000";

/// The rows of a batch, those of a partition together.
#[derive(Debug, Default)]
pub(super) struct Rows {
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

/// Where a row stands.
#[derive(Debug, Clone)]
struct Row {
    table: Table,
    /// Up to the end of its partition's columns.
    key: Range<usize>,
    end: usize,
}

/// Values of one row, as the driver takes them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a>(&'a [u8]);

/// How rows are made.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    node_id: Vec<String>,
    customer_id: Vec<String>,
    bucket_nanos: i64,
}

/// What of a row is the same for all of a resource.
#[derive(Debug, Default)]
struct Around<'a> {
    resource: &'a [u8],
    node_id: Option<String>,
    customer_id: Option<String>,
    is_known: bool,
}

impl Recipe {
    pub(super) fn of(options: &CassandraSink) -> Self {
        Self {
            node_id: options.node_id.clone(),
            customer_id: options.customer_id.clone(),
            bucket_nanos: i64::try_from(options.events_bucket.as_nanos()).unwrap_or(i64::MAX),
        }
    }

    /// The rows of a batch; `None` where they are more than may be held, and of more than one event.
    ///
    /// # Errors
    /// [`Cause::Encode`](forebay_actors::destination::Cause::Encode) where a record is damaged.
    pub(super) fn rows(&self, batch: &Batch) -> Result<Option<Rows>, DeliveryError> {
        let mut rows = Rows::default();
        // Ids and times are not spelled out in a record.
        rows.bytes.reserve((batch.payload_bytes() + batch.count() as usize * 128).min(ROWS_BYTES_MAX));
        rows.rows.reserve(batch.count() as usize);
        let (mut around, mut spans) = (Around::default(), Alone::of(Signal::Traces));
        let mut scratch = Vec::new();
        let mut events = batch.events();
        while let Some(next) = events.next_with_item() {
            let (item, event) = next.map_err(|error| unreadable(batch, &error.to_string()))?;
            scratch.clear();
            match (item, &mut spans) {
                (Some((Signal::Metrics, item)), _) => {
                    around.change(item.resource, self);
                    point(&mut rows, &item, &event, &around);
                }
                (Some((Signal::Traces, item)), Some(spans)) => {
                    // A request has all of a span, so where only some of it may be told there is none.
                    if batch.is_projected() {
                        scratch.extend_from_slice(event.metadata.unwrap_or_default().as_bytes());
                    } else {
                        spans.write(&item, &mut scratch);
                    }
                    span(&mut rows, &item, &event, &scratch);
                }
                _ => self.event(&mut rows, &event, &mut scratch),
            }
            if rows.bytes.len() > ROWS_BYTES_MAX && batch.count() > 1 {
                return Ok(None);
            }
        }
        // A record that holds fewer events than it says must not pass as delivered.
        if rows.rows.len() as u64 != batch.count() {
            return Err(unreadable(batch, &format!("only {} are there", rows.rows.len())));
        }
        rows.sort();
        Ok(Some(rows))
    }

    fn event(&self, rows: &mut Rows, event: &Event<'_>, id: &mut Vec<u8>) {
        event.event_id.write(id);
        let nanos = event.timestamp.nanos();
        let bucket = nanos.div_euclid(self.bucket_nanos).saturating_mul(self.bucket_nanos);
        let mut row = rows.begin(Table::Events);
        row.text(event.service).time(Timestamp::from_nanos(bucket)).end_key();
        row.time(event.timestamp).bigint(nanos).value(id);
        row.text(event.message).optional(event.metadata).time(event.ingested_at).end();
    }
}

impl<'a> Around<'a> {
    fn change(&mut self, resource: &'a [u8], recipe: &Recipe) {
        if self.is_known && std::ptr::eq(self.resource, resource) {
            return;
        }
        let first = |keys: &[String]| keys.iter().find_map(|key| attribute(resource, key));
        let (node_id, customer_id) = (first(&recipe.node_id), first(&recipe.customer_id));
        *self = Self { resource, node_id, customer_id, is_known: true };
    }
}

/// A point of numbers has its value in a column of its own; what more there is of any point is in the metadata.
fn point(rows: &mut Rows, item: &Item<'_>, event: &Event<'_>, around: &Around<'_>) {
    let nanos = event.timestamp.nanos();
    let metadata = event.metadata.unwrap_or_default();
    let node_id = around.node_id.as_deref().unwrap_or(event.service);
    // What the metadata says in one way for several types is told apart by the point's own bytes.
    let id = content_id(&[metadata.as_bytes(), item.bytes]);
    let day = (nanos.div_euclid(DAY_NANOS) + EPOCH_DAY) as u32;
    let mut row = rows.begin(Table::Metrics);
    row.text(node_id).text(event.message).value(&day.to_be_bytes()).end_key();
    row.time(event.timestamp).bigint(nanos).value(id.as_bytes());
    match number(item) {
        Some(number) => row.value(&number.to_be_bytes()),
        None => row.unset(),
    };
    let kind = schema::METRIC.field(item.metric_kind).map(|kind| kind.name);
    row.optional(around.customer_id.as_deref()).optional(kind);
    row.text(metadata).time(event.ingested_at).end();
}

/// A span as a request of its own, which any receiver of OpenTelemetry takes.
fn span(rows: &mut Rows, item: &Item<'_>, event: &Event<'_>, request: &[u8]) {
    let id = content_id(&[request, item.bytes]);
    let (trace_id, span_id) = (hex_member(item.bytes, 1), hex_member(item.bytes, 2));
    let mut row = rows.begin(Table::Traces);
    row.text(if trace_id.is_empty() { NO_TRACE_ID } else { &trace_id }).end_key();
    row.text(&span_id).time(event.timestamp).bigint(event.timestamp.nanos()).value(id.as_bytes());
    row.text(event.service).text(event.message).value(request).time(event.ingested_at).end();
}

/// The value of a point of numbers, as near as a double comes to it.
fn number(item: &Item<'_>) -> Option<f64> {
    const AS_DOUBLE: u32 = 4;
    const AS_INT: u32 = 6;
    // Only points of a gauge and of a sum have these.
    if !matches!(item.metric_kind, 5 | 7) {
        return None;
    }
    let numbers = Fields::of(item.bytes).map_while(Result::ok).filter_map(|entry| match entry.value {
        Value::Fixed64(bits) if entry.number == AS_DOUBLE => Some(f64::from_bits(bits)),
        Value::Fixed64(bits) if entry.number == AS_INT => Some(bits as i64 as f64),
        _ => None,
    });
    numbers.last()
}

/// An id that is in a span's bytes, in hexadecimal.
fn hex_member(span: &[u8], number: u32) -> String {
    let found = Fields::of(span).map_while(Result::ok).filter_map(|entry| match entry.value {
        Value::Bytes(bytes) if entry.number == number => Some(bytes),
        _ => None,
    });
    found.last().unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An id that is the same for the same content, however often it comes, and for no other.
fn content_id(parts: &[&[u8]]) -> Uuid {
    let mut digest = Context::new(&SHA256);
    for part in parts {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finish().as_ref()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

// === impl Rows ===

/// A row that is being written.
struct Writing<'r> {
    rows: &'r mut Rows,
    table: Table,
    begin: usize,
    key_end: usize,
}

impl Rows {
    fn begin(&mut self, table: Table) -> Writing<'_> {
        let begin = self.bytes.len();
        Writing { rows: self, table, begin, key_end: begin }
    }

    /// Puts those of a partition together.
    fn sort(&mut self) {
        let Self { bytes, rows } = self;
        rows.sort_by(|a, b| {
            let by_key = || bytes[a.key.clone()].cmp(&bytes[b.key.clone()]);
            a.table.cmp(&b.table).then_with(by_key)
        });
    }

    /// All their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The rows of each request: of one partition.
    pub(super) fn requests(&self) -> Vec<(Table, Vec<Values<'_>>)> {
        let mut requests: Vec<(Table, Vec<Values<'_>>)> = Vec::new();
        let (mut last, mut bytes) = (None, 0);
        for row in &self.rows {
            let (partition, values) = (&self.bytes[row.key.clone()], &self.bytes[row.key.start..row.end]);
            bytes += values.len();
            match requests.last_mut() {
                Some((_, of))
                    if last == Some((row.table, partition))
                        && of.len() < REQUEST_ROWS_MAX
                        && bytes <= REQUEST_BYTES_MAX =>
                {
                    of.push(Values(values));
                }
                _ => {
                    requests.push((row.table, vec![Values(values)]));
                    (last, bytes) = (Some((row.table, partition)), values.len());
                }
            }
        }
        requests
    }
}

impl Writing<'_> {
    fn value(&mut self, bytes: &[u8]) -> &mut Self {
        // No event is anywhere near as long as a length can say.
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self.rows.bytes.extend_from_slice(&length.to_be_bytes());
        self.rows.bytes.extend_from_slice(bytes);
        self
    }

    fn unset(&mut self) -> &mut Self {
        self.rows.bytes.extend_from_slice(&UNSET.to_be_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.value(text.as_bytes())
    }

    fn optional(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.unset(),
        }
    }

    fn bigint(&mut self, number: i64) -> &mut Self {
        self.value(&number.to_be_bytes())
    }

    fn time(&mut self, time: Timestamp) -> &mut Self {
        self.bigint(time.millis())
    }

    fn end_key(&mut self) -> &mut Self {
        self.key_end = self.rows.bytes.len();
        self
    }

    fn end(&mut self) {
        let row = Row { table: self.table, key: self.begin..self.key_end, end: self.rows.bytes.len() };
        self.rows.rows.push(row);
    }
}

impl Values<'_> {
    /// Its values, one by one; `None` is one that is not set.
    fn each(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk()?;
            let (value, behind) = match usize::try_from(i32::from_be_bytes(*length)) {
                Ok(length) => {
                    let (value, behind) = behind.split_at_checked(length)?;
                    (Some(value), behind)
                }
                Err(_) => (None, behind),
            };
            rest = behind;
            Some(value)
        })
    }
}

impl SerializeRow for Values<'_> {
    /// The types of the columns were looked at when the table was.
    fn serialize(
        &self,
        _: &RowSerializationContext<'_>,
        to: &mut RowWriter<'_>,
    ) -> Result<(), SerializationError> {
        for value in self.each() {
            let cell = to.make_cell_writer();
            match value {
                Some(value) => cell.set_value(value).map_err(SerializationError::new)?,
                None => cell.set_unset(),
            };
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        false
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
