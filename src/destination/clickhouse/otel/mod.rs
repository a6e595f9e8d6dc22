//! OpenTelemetry in tables of its own: one row for each log record, span and data point.
//!
//! | file | what is in it |
//! |---|---|
//! | `layout.rs` | the tables: their columns, and what each holds |
//! | `columns.rs` | an item's values in the columns that a table has |
//! | `others.rs` | what no column holds as it was |
//!
//! Attributes are maps of texts, as the exporter has them: a number and its text are the same there, all else is JSON. What a
//! column cannot hold as it is, and what there is no column for, stands in `OtherFields` by its path; a table without that
//! column does without. Fields that the table of the protocol does not know are lost here.

mod columns;
mod layout;
mod others;

use forebay_actors::otlp::{Item, Items, Members, Signal};

pub(super) use self::layout::OtelTable;
use self::{
    columns::{Column, Seen, Told},
    layout::Around,
};
use super::table::{self, Abilities};

/// The columns of a table that are written, in this order.
#[derive(Debug, Clone)]
pub(super) struct Columns(Vec<Column>);

/// The rows for one table.
#[derive(Debug)]
pub(super) struct Sheet<'c> {
    table: OtelTable,
    columns: &'c Columns,
    pub(super) rows: Vec<u8>,
    pub(super) count: u64,
    /// For each column that is not of the item alone, what was last written.
    last: Vec<Last>,
}

/// A value that many items share.
#[derive(Debug, Clone, Default)]
struct Last {
    /// Which of the messages it is of.
    version: u64,
    bytes: Vec<u8>,
    told: Told,
}

/// The messages around the items of a request, each looked into once.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    seen: Seen<'a>,
    /// Counts the messages of each kind, over all requests of a batch: bytes at the same place may be others.
    versions: &'a mut [u64; 5],
    metric_kind: u32,
    is_new: bool,
}

/// Statements that make the table where it is missing, and what belongs to it.
pub(super) fn definitions(
    table: OtelTable,
    database: &str,
    can: Abilities,
    ttl_seconds: Option<u64>,
) -> Vec<String> {
    let columns = table.columns().into_iter().map(|column| {
        let codec = format!("CODEC({})", column.codec);
        format!("{} {} {codec}", table::name(column.name), column.declared)
    });
    let parts: Vec<_> = columns.chain(table.indices()).collect();
    let place = |name: &str| format!("{}.{}", table::name(database), table::name(name));
    let ttl = |time: &str| match ttl_seconds {
        Some(seconds) => format!(" TTL toDateTime({time}) + toIntervalSecond({seconds})"),
        None => String::new(),
    };
    let mut settings = can.settings();
    settings.push("ttl_only_drop_parts = 1".to_owned());
    let settings = settings.join(", ");
    let mut all = vec![format!(
        "CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = MergeTree {}{} SETTINGS {settings}",
        place(table.name()),
        parts.join(", "),
        table.order(),
        ttl(table.time()),
    )];
    if table == OtelTable::Traces {
        // When a trace began and ended, by its id: what looks for one need not search all time.
        let (times, view) = (place("otel_traces_trace_id_ts"), place("otel_traces_trace_id_ts_mv"));
        all.push(format!(
            "CREATE TABLE IF NOT EXISTS {times} (TraceId String CODEC(ZSTD(1)), \
             Start SimpleAggregateFunction(min, DateTime) CODEC(ZSTD(1)), \
             End SimpleAggregateFunction(max, DateTime) CODEC(ZSTD(1))) ENGINE = AggregatingMergeTree \
             PARTITION BY toStartOfWeek(Start) ORDER BY TraceId{} SETTINGS {settings}",
            ttl("Start"),
        ));
        all.push(format!(
            "CREATE MATERIALIZED VIEW IF NOT EXISTS {view} TO {times} AS SELECT TraceId, \
             toDateTime(min(Timestamp)) AS Start, toDateTime(max(Timestamp)) AS End FROM {} \
             WHERE TraceId != '' GROUP BY TraceId",
            place(table.name()),
        ));
    }
    all
}

/// The columns to write of those that the table has, by name and type, with their names.
///
/// # Errors
/// What of the table does not fit.
pub(super) fn plan(table: OtelTable, found: &[(&str, &str)]) -> Result<(Vec<&'static str>, Columns), String> {
    let (mut names, mut columns, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for spec in table.columns() {
        match found.iter().find(|(name, _)| *name == spec.name) {
            None if spec.is_needed => wrong.push(format!("{} is missing", spec.name)),
            None => {
                // A table that was made with flatten_nested = 0 has its lists as one column.
                let nested = spec.name.split_once('.').map(|(list, _)| list);
                if let Some((name, declared)) = found.iter().find(|(name, _)| Some(*name) == nested) {
                    let words = format!("{name} is {declared}, which cannot be written");
                    if !wrong.contains(&words) {
                        wrong.push(words);
                    }
                }
            }
            Some((name, declared)) => match Column::of(table, &spec, declared) {
                Some(column) => {
                    names.push(spec.name);
                    columns.push(column);
                }
                None => wrong.push(format!("{name} is {declared}, which cannot be written")),
            },
        }
    }
    if wrong.is_empty() { Ok((names, Columns(columns))) } else { Err(wrong.join("; ")) }
}

/// Calls `each` with every item of a request and the table it belongs to.
pub(super) fn walk<'a>(
    request: &'a [u8],
    signal: Signal,
    versions: &'a mut [u64; 5],
    mut each: impl FnMut(Option<OtelTable>, &Surroundings<'a>),
) {
    let mut surroundings = Surroundings::of_request(versions);
    for item in Items::of(request, signal) {
        surroundings.enter(&item);
        each(OtelTable::of(signal, item.metric_kind), &surroundings);
    }
}

// === impl Surroundings ===

impl<'a> Surroundings<'a> {
    fn of_request(versions: &'a mut [u64; 5]) -> Self {
        let seen = Seen { messages: [Members::of(&[]); 5], resource_schema: &[], scope_schema: &[] };
        Self { seen, versions, metric_kind: 0, is_new: true }
    }

    fn enter(&mut self, item: &Item<'a>) {
        let is_new = std::mem::take(&mut self.is_new);
        self.note(Around::Resource, item.resource, is_new);
        self.note(Around::Scope, item.scope, is_new);
        if self.note(Around::Metric, item.metric, is_new) || self.metric_kind != item.metric_kind {
            self.metric_kind = item.metric_kind;
            let data = self.seen.of(Around::Metric).data(item.metric_kind);
            self.note(Around::Data, data, true);
        }
        self.seen.messages[Around::Item as usize] = Members::of(item.bytes);
        (self.seen.resource_schema, self.seen.scope_schema) = (item.resource_schema, item.scope_schema);
    }

    /// Whether it is another message than before.
    fn note(&mut self, around: Around, bytes: &'a [u8], is_new: bool) -> bool {
        let is_other = is_new || !std::ptr::eq(self.seen.of(around).bytes(), bytes);
        if is_other {
            self.seen.messages[around as usize] = Members::of(bytes);
            self.versions[around as usize] += 1;
        }
        is_other
    }
}

// === impl Sheet ===

impl<'c> Sheet<'c> {
    pub(super) fn new(table: OtelTable, columns: &'c Columns) -> Self {
        let last = vec![Last::default(); columns.0.len()];
        Self { table, columns, rows: Vec::new(), count: 0, last }
    }

    /// Appends the row of an item.
    pub(super) fn push(&mut self, around: &Surroundings<'_>) {
        let mut told = Told::default();
        for (column, last) in self.columns.0.iter().zip(&mut self.last) {
            let of = column.around();
            if of == Around::Item {
                column.put(self.table, &around.seen, &mut told, &mut self.rows);
                continue;
            }
            let version = around.versions[of as usize];
            if last.version != version {
                last.bytes.clear();
                last.told = Told::default();
                column.put(self.table, &around.seen, &mut last.told, &mut last.bytes);
                last.version = version;
            }
            self.rows.extend_from_slice(&last.bytes);
            told.fields[of as usize] |= last.told.fields[of as usize];
        }
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use forebay_actors::otlp::wire::put_bytes;

    use super::*;

    const MAP: &str = "Map(LowCardinality(String), String)";

    /// A request of one log record, with a time between two seconds and a count that has no column.
    fn request() -> Vec<u8> {
        let nested = |number: u32, inner: &[u8]| {
            let mut out = Vec::new();
            put_bytes(&mut out, number, inner);
            out
        };
        let time = [&[1 << 3 | 1][..], &1_500_000_000_u64.to_le_bytes()].concat();
        let record = [time, nested(5, &nested(1, b"said")), vec![7 << 3, 2]].concat();
        nested(1, &nested(2, &nested(2, &record)))
    }

    fn rows(found: &[(&str, &str)]) -> Vec<u8> {
        let (_, columns) = plan(OtelTable::Logs, found).unwrap();
        let mut sheet = Sheet::new(OtelTable::Logs, &columns);
        let request = request();
        walk(&request, Signal::Logs, &mut [0; 5], |table, around| {
            assert_eq!(table, Some(OtelTable::Logs));
            sheet.push(around);
        });
        assert_eq!(sheet.count, 1);
        sheet.rows
    }

    /// What a column holds whole is not said again, and what it cuts is; a table without the map does without.
    #[test]
    fn what_no_column_holds_is_in_the_map() {
        let dropped = b"\x16droppedAttributesCount\x012";
        let fine = [("Timestamp", "DateTime64(9)"), ("Body", "String"), ("OtherFields", MAP)];
        let wanted = [&1_500_000_000_u64.to_le_bytes()[..], b"\x04said\x01", dropped].concat();
        assert_eq!(rows(&fine), wanted);
        let coarse = [("OtherFields", MAP), ("Timestamp", "DateTime"), ("Body", "Nullable(String)")];
        let time = b"\x0ctimeUnixNano\x0a1500000000";
        let wanted = [&1_u32.to_le_bytes()[..], b"\0\x04said\x02", &time[..], dropped].concat();
        assert_eq!(rows(&coarse), wanted);
        assert_eq!(rows(&coarse[1..]), [&1_u32.to_le_bytes()[..], b"\0\x04said"].concat());
    }

    /// What of an operator's table does not fit is said by name, all of it.
    #[test]
    fn what_does_not_fit_is_named() {
        let why = |table, found: &[(&str, &str)]| plan(table, found).unwrap_err();
        assert_eq!(
            why(OtelTable::Logs, &[("Timestamp", "String"), ("LogAttributes", "JSON")]),
            "Timestamp is String, which cannot be written; Body is missing; LogAttributes is JSON, which cannot be written"
        );
        let nested = "Nested(Timestamp DateTime64(9), Name String)";
        let span =
            [("Timestamp", "DateTime"), ("TraceId", "String"), ("SpanId", "String"), ("SpanName", "String")];
        assert!(plan(OtelTable::Traces, &span).is_ok());
        let span = [&span[..], &[("Events", nested)]].concat();
        assert_eq!(why(OtelTable::Traces, &span), format!("Events is {nested}, which cannot be written"));
    }
}
