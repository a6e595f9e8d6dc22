//! The tables of OpenTelemetry, in the layout of the Collector's ClickHouse exporter: its names, columns and types.
//!
//! Two things differ, so that nothing of an item is lost. Times of data points keep their nanoseconds, which the exporter's
//! newest tables cut to seconds. And some columns are added behind its own: for what senders usually set and the exporter
//! drops, and `OtherFields` for the rest. Whoever reads or writes the exporter's columns by their names does not notice.

use forebay_actors::otlp::{
    Signal,
    schema::{self, Message},
};

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::destination::clickhouse) enum OtelTable {
    Logs,
    Traces,
    Gauge,
    Sum,
    Histogram,
    ExponentialHistogram,
    Summary,
}

/// A message that an item has fields in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Around {
    Resource,
    Scope,
    /// Of a data point: the metric.
    Metric,
    /// Of a data point: what its metric says of all points.
    Data,
    Item,
}

/// What a column holds. Numbers are those of the protocol's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Field(Around, u32),
    /// A field of a message that is a field of the item.
    Inner(u32, u32),
    /// A field of every message in a list of the item.
    Each(u32, u32),
    /// `asDouble` or `asInt` as a double.
    Number,
    /// The same of every message in a list of the item.
    EachNumber(u32),
    ResourceSchema,
    ScopeSchema,
    Service,
    Body,
    /// When it happened, or else when it was seen.
    LogTime,
    /// Those of W3C: the lowest byte of the flags.
    TraceFlags,
    SpanKind,
    StatusCode,
    Duration,
    /// All that no other column holds as it was, by its path.
    Others,
}

/// A column as Forebay makes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) declared: &'static str,
    pub(super) codec: &'static str,
    pub(super) holds: Holds,
    /// Whether an item would not be one without it.
    pub(super) is_needed: bool,
}

const TIME: &str = "DateTime64(9)";
const TEXT: &str = "String";
const NAME: &str = "LowCardinality(String)";
const MAP: &str = "Map(LowCardinality(String), String)";

const ZSTD: &str = "ZSTD(1)";
const DELTA: &str = "Delta(8), ZSTD(1)";

const fn spec(name: &'static str, declared: &'static str, holds: Holds) -> Spec {
    Spec { name, declared, codec: ZSTD, holds, is_needed: false }
}

const fn time(name: &'static str, holds: Holds) -> Spec {
    Spec { codec: DELTA, ..spec(name, TIME, holds) }
}

const fn needed(spec: Spec) -> Spec {
    Spec { is_needed: true, ..spec }
}

const fn item(number: u32) -> Holds {
    Holds::Field(Around::Item, number)
}

const OTHERS: Spec = spec("OtherFields", MAP, Holds::Others);

// === impl OtelTable ===

impl OtelTable {
    pub(in crate::destination::clickhouse) const ALL: [Self; 7] = [
        Self::Logs,
        Self::Traces,
        Self::Gauge,
        Self::Sum,
        Self::Histogram,
        Self::ExponentialHistogram,
        Self::Summary,
    ];

    /// The exporter's name for it.
    pub(in crate::destination::clickhouse) const fn name(self) -> &'static str {
        match self {
            Self::Logs => "otel_logs",
            Self::Traces => "otel_traces",
            Self::Gauge => "otel_metrics_gauge",
            Self::Sum => "otel_metrics_sum",
            Self::Histogram => "otel_metrics_histogram",
            Self::ExponentialHistogram => "otel_metrics_exponential_histogram",
            Self::Summary => "otel_metrics_summary",
        }
    }

    /// Where items of this signal go; of data points, those of the metric's kind. `None` where the kind is none.
    pub(super) const fn of(signal: Signal, metric_kind: u32) -> Option<Self> {
        Some(match (signal, metric_kind) {
            (Signal::Logs, _) => Self::Logs,
            (Signal::Traces, _) => Self::Traces,
            (Signal::Metrics, 5) => Self::Gauge,
            (Signal::Metrics, 7) => Self::Sum,
            (Signal::Metrics, 9) => Self::Histogram,
            (Signal::Metrics, 10) => Self::ExponentialHistogram,
            (Signal::Metrics, 11) => Self::Summary,
            (Signal::Metrics, _) => return None,
        })
    }

    /// The message of its items.
    pub(super) const fn item(self) -> &'static Message {
        match self {
            Self::Logs => &schema::LOG_RECORD,
            Self::Traces => &schema::SPAN,
            Self::Gauge | Self::Sum => &schema::NUMBER_DATA_POINT,
            Self::Histogram => &schema::HISTOGRAM_DATA_POINT,
            Self::ExponentialHistogram => &schema::EXPONENTIAL_HISTOGRAM_DATA_POINT,
            Self::Summary => &schema::SUMMARY_DATA_POINT,
        }
    }

    /// The message around its items; of what has none, an item's own.
    pub(super) const fn around(self, around: Around) -> &'static Message {
        match around {
            Around::Resource => &schema::RESOURCE,
            Around::Scope => &schema::SCOPE,
            Around::Metric => &schema::METRIC,
            Around::Item => self.item(),
            Around::Data => match self {
                Self::Logs | Self::Traces => self.item(),
                Self::Gauge => &schema::GAUGE,
                Self::Sum => &schema::SUM,
                Self::Histogram => &schema::HISTOGRAM,
                Self::ExponentialHistogram => &schema::EXPONENTIAL_HISTOGRAM,
                Self::Summary => &schema::SUMMARY,
            },
        }
    }

    /// Its columns, in the exporter's order, and behind them Forebay's.
    pub(super) fn columns(self) -> Vec<Spec> {
        match self {
            Self::Logs => logs(),
            Self::Traces => traces(),
            Self::Gauge => [point(7), number(), vec![OTHERS]].concat(),
            Self::Sum => {
                let sum =
                    vec![temporality(), spec("IsMonotonic", "Bool", Holds::Field(Around::Data, 3)), OTHERS];
                [point(7), number(), sum].concat()
            }
            Self::Histogram => histogram(),
            Self::ExponentialHistogram => exponential_histogram(),
            Self::Summary => [point(7), summary(), vec![OTHERS]].concat(),
        }
    }

    /// What follows the columns: indices, parts and order.
    pub(super) fn order(self) -> &'static str {
        match self {
            Self::Logs => {
                "PARTITION BY toDate(Timestamp) ORDER BY (toStartOfFiveMinutes(Timestamp), ServiceName, Timestamp)"
            }
            Self::Traces => {
                "PARTITION BY toDate(Timestamp) ORDER BY (ServiceName, SpanName, toDateTime(Timestamp))"
            }
            _ => {
                "PARTITION BY toDate(TimeUnix) \
                 ORDER BY (ServiceName, MetricName, toStartOfHour(TimeUnix), cityHash64(Attributes), TimeUnix)"
            }
        }
    }

    /// The column of its time.
    pub(super) const fn time(self) -> &'static str {
        match self {
            Self::Logs | Self::Traces => "Timestamp",
            _ => "TimeUnix",
        }
    }

    /// Its indices: by trace, by attribute, and what else is looked for.
    pub(super) fn indices(self) -> Vec<String> {
        let (maps, more): (&[_], _) = match self {
            Self::Logs => (
                &[
                    ("res_attr", "ResourceAttributes"),
                    ("scope_attr", "ScopeAttributes"),
                    ("log_attr", "LogAttributes"),
                ],
                "INDEX idx_lower_body lower(Body) TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 8",
            ),
            Self::Traces => (
                &[("res_attr", "ResourceAttributes"), ("span_attr", "SpanAttributes")],
                "INDEX idx_duration Duration TYPE minmax GRANULARITY 1",
            ),
            _ => (
                &[
                    ("res_attr", "ResourceAttributes"),
                    ("scope_attr", "ScopeAttributes"),
                    ("attr", "Attributes"),
                ],
                "INDEX idx_time_minmax TimeUnix TYPE minmax GRANULARITY 1",
            ),
        };
        let filter = |name: &str, of: String, share: &str| {
            format!("INDEX idx_{name} {of} TYPE bloom_filter({share}) GRANULARITY 1")
        };
        let mut indices = Vec::new();
        if matches!(self, Self::Logs | Self::Traces) {
            indices.push(filter("trace_id", "TraceId".to_owned(), "0.001"));
        }
        for (name, column) in maps {
            indices.push(filter(&format!("{name}_key"), format!("mapKeys({column})"), "0.01"));
            indices.push(filter(&format!("{name}_value"), format!("mapValues({column})"), "0.01"));
        }
        indices.push(more.to_owned());
        indices
    }
}

fn logs() -> Vec<Spec> {
    vec![
        needed(time("Timestamp", Holds::LogTime)),
        spec("TraceId", TEXT, item(9)),
        spec("SpanId", TEXT, item(10)),
        spec("TraceFlags", "UInt8", Holds::TraceFlags),
        spec("SeverityText", NAME, item(3)),
        spec("SeverityNumber", "UInt8", item(2)),
        spec("ServiceName", NAME, Holds::Service),
        needed(spec("Body", TEXT, Holds::Body)),
        spec("ResourceSchemaUrl", NAME, Holds::ResourceSchema),
        spec("ResourceAttributes", MAP, Holds::Field(Around::Resource, 1)),
        spec("ScopeSchemaUrl", NAME, Holds::ScopeSchema),
        spec("ScopeName", TEXT, Holds::Field(Around::Scope, 1)),
        spec("ScopeVersion", NAME, Holds::Field(Around::Scope, 2)),
        spec("ScopeAttributes", MAP, Holds::Field(Around::Scope, 3)),
        spec("LogAttributes", MAP, item(6)),
        spec("EventName", TEXT, item(12)),
        time("ObservedTimestamp", item(11)),
        OTHERS,
    ]
}

fn traces() -> Vec<Spec> {
    const EVENTS: u32 = 11;
    const LINKS: u32 = 13;
    vec![
        needed(time("Timestamp", item(7))),
        needed(spec("TraceId", TEXT, item(1))),
        needed(spec("SpanId", TEXT, item(2))),
        spec("ParentSpanId", TEXT, item(4)),
        spec("TraceState", TEXT, item(3)),
        needed(spec("SpanName", NAME, item(5))),
        spec("SpanKind", NAME, Holds::SpanKind),
        spec("ServiceName", NAME, Holds::Service),
        spec("ResourceAttributes", MAP, Holds::Field(Around::Resource, 1)),
        spec("ScopeName", TEXT, Holds::Field(Around::Scope, 1)),
        spec("ScopeVersion", TEXT, Holds::Field(Around::Scope, 2)),
        spec("SpanAttributes", MAP, item(9)),
        spec("Duration", "UInt64", Holds::Duration),
        spec("StatusCode", NAME, Holds::StatusCode),
        spec("StatusMessage", TEXT, Holds::Inner(15, 2)),
        spec("Events.Timestamp", "Array(DateTime64(9))", Holds::Each(EVENTS, 1)),
        spec("Events.Name", "Array(LowCardinality(String))", Holds::Each(EVENTS, 2)),
        spec("Events.Attributes", "Array(Map(LowCardinality(String), String))", Holds::Each(EVENTS, 3)),
        spec("Links.TraceId", "Array(String)", Holds::Each(LINKS, 1)),
        spec("Links.SpanId", "Array(String)", Holds::Each(LINKS, 2)),
        spec("Links.TraceState", "Array(String)", Holds::Each(LINKS, 3)),
        spec("Links.Attributes", "Array(Map(LowCardinality(String), String))", Holds::Each(LINKS, 4)),
        spec("Links.Flags", "Array(UInt32)", Holds::Each(LINKS, 6)),
        spec("Flags", "UInt32", item(16)),
        spec("ResourceSchemaUrl", NAME, Holds::ResourceSchema),
        spec("ScopeSchemaUrl", NAME, Holds::ScopeSchema),
        spec("ScopeAttributes", MAP, Holds::Field(Around::Scope, 3)),
        OTHERS,
    ]
}

/// What every data point has; its attributes are the field of this number.
fn point(attributes: u32) -> Vec<Spec> {
    vec![
        spec("ResourceAttributes", MAP, Holds::Field(Around::Resource, 1)),
        spec("ResourceSchemaUrl", TEXT, Holds::ResourceSchema),
        spec("ScopeName", TEXT, Holds::Field(Around::Scope, 1)),
        spec("ScopeVersion", TEXT, Holds::Field(Around::Scope, 2)),
        spec("ScopeAttributes", MAP, Holds::Field(Around::Scope, 3)),
        spec("ScopeDroppedAttrCount", "UInt32", Holds::Field(Around::Scope, 4)),
        spec("ScopeSchemaUrl", TEXT, Holds::ScopeSchema),
        spec("ServiceName", NAME, Holds::Service),
        needed(spec("MetricName", NAME, Holds::Field(Around::Metric, 1))),
        spec("MetricDescription", TEXT, Holds::Field(Around::Metric, 2)),
        spec("MetricUnit", TEXT, Holds::Field(Around::Metric, 3)),
        spec("Attributes", MAP, item(attributes)),
        time("StartTimeUnix", item(2)),
        needed(time("TimeUnix", item(3))),
    ]
}

fn number() -> Vec<Spec> {
    let values = vec![
        needed(spec("Value", "Float64", Holds::Number)),
        spec("ValueInt", "Nullable(Int64)", item(6)),
        spec("Flags", "UInt32", item(8)),
    ];
    [values, exemplars(5)].concat()
}

fn exemplars(list: u32) -> Vec<Spec> {
    vec![
        spec(
            "Exemplars.FilteredAttributes",
            "Array(Map(LowCardinality(String), String))",
            Holds::Each(list, 7),
        ),
        spec("Exemplars.TimeUnix", "Array(DateTime64(9))", Holds::Each(list, 2)),
        spec("Exemplars.Value", "Array(Float64)", Holds::EachNumber(list)),
        spec("Exemplars.SpanId", "Array(String)", Holds::Each(list, 4)),
        spec("Exemplars.TraceId", "Array(String)", Holds::Each(list, 5)),
        spec("Exemplars.ValueInt", "Array(Nullable(Int64))", Holds::Each(list, 6)),
    ]
}

fn temporality() -> Spec {
    spec("AggregationTemporality", "Int32", Holds::Field(Around::Data, 2))
}

fn histogram() -> Vec<Spec> {
    let counts = vec![
        needed(spec("Count", "UInt64", item(4))),
        spec("Sum", "Float64", item(5)),
        spec("BucketCounts", "Array(UInt64)", item(6)),
        spec("ExplicitBounds", "Array(Float64)", item(7)),
    ];
    let rest = vec![
        spec("Flags", "UInt32", item(10)),
        spec("Min", "Float64", item(11)),
        spec("Max", "Float64", item(12)),
        temporality(),
        OTHERS,
    ];
    [point(9), counts, exemplars(8), rest].concat()
}

fn exponential_histogram() -> Vec<Spec> {
    const POSITIVE: u32 = 8;
    const NEGATIVE: u32 = 9;
    let counts = vec![
        needed(spec("Count", "UInt64", item(4))),
        spec("Sum", "Float64", item(5)),
        spec("Scale", "Int32", item(6)),
        spec("ZeroCount", "UInt64", item(7)),
        spec("PositiveOffset", "Int32", Holds::Inner(POSITIVE, 1)),
        spec("PositiveBucketCounts", "Array(UInt64)", Holds::Inner(POSITIVE, 2)),
        spec("NegativeOffset", "Int32", Holds::Inner(NEGATIVE, 1)),
        spec("NegativeBucketCounts", "Array(UInt64)", Holds::Inner(NEGATIVE, 2)),
    ];
    let rest = vec![
        spec("Flags", "UInt32", item(10)),
        spec("Min", "Float64", item(12)),
        spec("Max", "Float64", item(13)),
        temporality(),
        spec("ZeroThreshold", "Float64", item(14)),
        OTHERS,
    ];
    [point(1), counts, exemplars(11), rest].concat()
}

fn summary() -> Vec<Spec> {
    vec![
        needed(spec("Count", "UInt64", item(4))),
        spec("Sum", "Float64", item(5)),
        spec("ValueAtQuantiles.Quantile", "Array(Float64)", Holds::Each(6, 1)),
        spec("ValueAtQuantiles.Value", "Array(Float64)", Holds::Each(6, 2)),
        spec("Flags", "UInt32", item(8)),
    ]
}

#[cfg(test)]
mod tests {
    use forebay_actors::otlp::schema::{Kind, Rule};

    use super::*;

    /// Every number in the layout is a field of its message, and stands there once.
    #[test]
    fn every_column_holds_a_field_of_the_protocol() {
        let inner = |of: &'static Message, number: u32| match of.field(number).map(|field| field.kind) {
            Some(Kind::Message(inner)) => inner,
            other => panic!("{}.{number} is {other:?}", of.name),
        };
        for table in OtelTable::ALL {
            let (columns, mut seen) = (table.columns(), Vec::new());
            for column in &columns {
                let of = match column.holds {
                    Holds::Field(around, number) => Some((table.around(around), number)),
                    Holds::Inner(outer, number) => Some((inner(table.item(), outer), number)),
                    Holds::Each(list, number) => {
                        assert_eq!(table.item().field(list).unwrap().rule, Rule::Repeated);
                        Some((inner(table.item(), list), number))
                    }
                    _ => None,
                };
                if let Some((of, number)) = of {
                    assert!(of.field(number).is_some(), "{} {}", table.name(), column.name);
                }
                assert!(!seen.contains(&column.holds), "{} {}", table.name(), column.name);
                seen.push(column.holds);
            }
            assert_eq!(
                columns.last().map(|column| column.holds),
                Some(Holds::Others),
                "it has to know all others"
            );
        }
    }
}
