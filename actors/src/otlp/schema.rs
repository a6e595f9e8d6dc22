//! The messages of the OpenTelemetry protocol, as a table.
//!
//! One table serves everything that looks into a request: checking it, counting and cutting its records, and its JSON
//! form both ways. Field numbers and names are those of opentelemetry-proto 1.10; a field that is not here is passed through
//! on the wire and ignored in JSON, as protobuf wants it.

use super::wire::Fields;

/// A message type.
#[derive(Debug)]
pub struct Message {
    /// Its name in the protocol.
    pub name: &'static str,
    /// Its fields, by number.
    pub fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name in JSON.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// How often it may stand there.
    pub rule: Rule,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A varint, 0 or 1.
    Bool,
    /// A varint; an enum, too.
    Int32,
    /// A varint.
    Uint32,
    /// A zigzag varint.
    Sint32,
    /// A varint.
    Int64,
    /// A varint.
    Uint64,
    /// 4 bytes.
    Fixed32,
    /// 8 bytes.
    Fixed64,
    /// 8 bytes, signed.
    Sfixed64,
    /// 8 bytes.
    Double,
    /// UTF-8.
    String,
    /// Bytes; base64 in JSON.
    Bytes,
    /// The id of a trace or a span; hexadecimal in JSON.
    Id {
        /// Bytes of one that is valid.
        bytes: usize,
    },
    /// A message.
    Message(&'static Message),
}

/// How often a field may stand in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Once; its default is left out.
    Plain,
    /// Once; that it stands there says something, even with its default.
    Present,
    /// As [`Rule::Present`], and of all fields of the message that have this rule the last one on the wire counts.
    OneOf,
    /// Any number of times.
    Repeated,
}

impl Message {
    /// The field of this number.
    pub fn field(&self, number: u32) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.number == number)
    }

    /// Of the fields one of which may be set: the last one that is. No message of the protocol has two such choices.
    pub(super) fn chosen(&self, message: &[u8]) -> Option<u32> {
        let is_choice = |number: &u32| self.field(*number).is_some_and(|field| field.rule == Rule::OneOf);
        let numbers = Fields::of(message).map_while(Result::ok).map(|entry| entry.number);
        self.fields.iter().any(|field| field.rule == Rule::OneOf).then(|| numbers.filter(is_choice).last())?
    }

    /// The field of this name in JSON.
    pub fn named(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

const fn plain(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, rule: Rule::Plain }
}

const fn present(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, rule: Rule::Present }
}

const fn one_of(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, rule: Rule::OneOf }
}

const fn repeated(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, rule: Rule::Repeated }
}

const TRACE_ID: Kind = Kind::Id { bytes: 16 };
const SPAN_ID: Kind = Kind::Id { bytes: 8 };

macro_rules! messages {
    ($($(#[$doc:meta])* $ident:ident = $name:literal { $($rule:ident $number:literal $json:literal $kind:expr;)* })*) => {
        $($(#[$doc])* pub static $ident: Message = Message {
            name: $name,
            fields: { use Kind::*; &[$($rule($number, $json, $kind)),*] },
        };)*
    };
}

messages! {
    /// A value of any type.
    ANY_VALUE = "AnyValue" {
        one_of 1 "stringValue" String;
        one_of 2 "boolValue" Bool;
        one_of 3 "intValue" Int64;
        one_of 4 "doubleValue" Double;
        one_of 5 "arrayValue" Message(&ARRAY_VALUE);
        one_of 6 "kvlistValue" Message(&KEY_VALUE_LIST);
        one_of 7 "bytesValue" Bytes;
        one_of 8 "stringValueStrindex" Int32;
    }
    /// Values in order.
    ARRAY_VALUE = "ArrayValue" {
        repeated 1 "values" Message(&ANY_VALUE);
    }
    /// Values by key.
    KEY_VALUE_LIST = "KeyValueList" {
        repeated 1 "values" Message(&KEY_VALUE);
    }
    /// An attribute.
    KEY_VALUE = "KeyValue" {
        plain 1 "key" String;
        plain 2 "value" Message(&ANY_VALUE);
        plain 3 "keyStrindex" Int32;
    }
    /// Who recorded.
    SCOPE = "InstrumentationScope" {
        plain 1 "name" String;
        plain 2 "version" String;
        repeated 3 "attributes" Message(&KEY_VALUE);
        plain 4 "droppedAttributesCount" Uint32;
    }
    /// What identifies an entity among the attributes.
    ENTITY_REF = "EntityRef" {
        plain 1 "schemaUrl" String;
        plain 2 "type" String;
        repeated 3 "idKeys" String;
        repeated 4 "descriptionKeys" String;
    }
    /// Who is observed.
    RESOURCE = "Resource" {
        repeated 1 "attributes" Message(&KEY_VALUE);
        plain 2 "droppedAttributesCount" Uint32;
        repeated 3 "entityRefs" Message(&ENTITY_REF);
    }
    /// A request of logs.
    LOGS_REQUEST = "ExportLogsServiceRequest" {
        repeated 1 "resourceLogs" Message(&RESOURCE_LOGS);
    }
    /// The logs of a resource.
    RESOURCE_LOGS = "ResourceLogs" {
        plain 1 "resource" Message(&RESOURCE);
        repeated 2 "scopeLogs" Message(&SCOPE_LOGS);
        plain 3 "schemaUrl" String;
    }
    /// The logs of a scope.
    SCOPE_LOGS = "ScopeLogs" {
        plain 1 "scope" Message(&SCOPE);
        repeated 2 "logRecords" Message(&LOG_RECORD);
        plain 3 "schemaUrl" String;
    }
    /// A log record.
    LOG_RECORD = "LogRecord" {
        plain 1 "timeUnixNano" Fixed64;
        plain 2 "severityNumber" Int32;
        plain 3 "severityText" String;
        plain 5 "body" Message(&ANY_VALUE);
        repeated 6 "attributes" Message(&KEY_VALUE);
        plain 7 "droppedAttributesCount" Uint32;
        plain 8 "flags" Fixed32;
        plain 9 "traceId" TRACE_ID;
        plain 10 "spanId" SPAN_ID;
        plain 11 "observedTimeUnixNano" Fixed64;
        plain 12 "eventName" String;
    }
    /// A request of spans.
    TRACES_REQUEST = "ExportTraceServiceRequest" {
        repeated 1 "resourceSpans" Message(&RESOURCE_SPANS);
    }
    /// The spans of a resource.
    RESOURCE_SPANS = "ResourceSpans" {
        plain 1 "resource" Message(&RESOURCE);
        repeated 2 "scopeSpans" Message(&SCOPE_SPANS);
        plain 3 "schemaUrl" String;
    }
    /// The spans of a scope.
    SCOPE_SPANS = "ScopeSpans" {
        plain 1 "scope" Message(&SCOPE);
        repeated 2 "spans" Message(&SPAN);
        plain 3 "schemaUrl" String;
    }
    /// A span.
    SPAN = "Span" {
        plain 1 "traceId" TRACE_ID;
        plain 2 "spanId" SPAN_ID;
        plain 3 "traceState" String;
        plain 4 "parentSpanId" SPAN_ID;
        plain 5 "name" String;
        plain 6 "kind" Int32;
        plain 7 "startTimeUnixNano" Fixed64;
        plain 8 "endTimeUnixNano" Fixed64;
        repeated 9 "attributes" Message(&KEY_VALUE);
        plain 10 "droppedAttributesCount" Uint32;
        repeated 11 "events" Message(&SPAN_EVENT);
        plain 12 "droppedEventsCount" Uint32;
        repeated 13 "links" Message(&SPAN_LINK);
        plain 14 "droppedLinksCount" Uint32;
        plain 15 "status" Message(&STATUS);
        plain 16 "flags" Fixed32;
    }
    /// Something that happened in a span.
    SPAN_EVENT = "Event" {
        plain 1 "timeUnixNano" Fixed64;
        plain 2 "name" String;
        repeated 3 "attributes" Message(&KEY_VALUE);
        plain 4 "droppedAttributesCount" Uint32;
    }
    /// Another span that belongs to this one.
    SPAN_LINK = "Link" {
        plain 1 "traceId" TRACE_ID;
        plain 2 "spanId" SPAN_ID;
        plain 3 "traceState" String;
        repeated 4 "attributes" Message(&KEY_VALUE);
        plain 5 "droppedAttributesCount" Uint32;
        plain 6 "flags" Fixed32;
    }
    /// How a span ended.
    STATUS = "Status" {
        plain 2 "message" String;
        plain 3 "code" Int32;
    }
    /// A request of metrics.
    METRICS_REQUEST = "ExportMetricsServiceRequest" {
        repeated 1 "resourceMetrics" Message(&RESOURCE_METRICS);
    }
    /// The metrics of a resource.
    RESOURCE_METRICS = "ResourceMetrics" {
        plain 1 "resource" Message(&RESOURCE);
        repeated 2 "scopeMetrics" Message(&SCOPE_METRICS);
        plain 3 "schemaUrl" String;
    }
    /// The metrics of a scope.
    SCOPE_METRICS = "ScopeMetrics" {
        plain 1 "scope" Message(&SCOPE);
        repeated 2 "metrics" Message(&METRIC);
        plain 3 "schemaUrl" String;
    }
    /// A metric and its data points.
    METRIC = "Metric" {
        plain 1 "name" String;
        plain 2 "description" String;
        plain 3 "unit" String;
        one_of 5 "gauge" Message(&GAUGE);
        one_of 7 "sum" Message(&SUM);
        one_of 9 "histogram" Message(&HISTOGRAM);
        one_of 10 "exponentialHistogram" Message(&EXPONENTIAL_HISTOGRAM);
        one_of 11 "summary" Message(&SUMMARY);
        repeated 12 "metadata" Message(&KEY_VALUE);
    }
    /// Values that stand for themselves.
    GAUGE = "Gauge" {
        repeated 1 "dataPoints" Message(&NUMBER_DATA_POINT);
    }
    /// Values that add up.
    SUM = "Sum" {
        repeated 1 "dataPoints" Message(&NUMBER_DATA_POINT);
        plain 2 "aggregationTemporality" Int32;
        plain 3 "isMonotonic" Bool;
    }
    /// Counts by bounds given.
    HISTOGRAM = "Histogram" {
        repeated 1 "dataPoints" Message(&HISTOGRAM_DATA_POINT);
        plain 2 "aggregationTemporality" Int32;
    }
    /// Counts by bounds that grow exponentially.
    EXPONENTIAL_HISTOGRAM = "ExponentialHistogram" {
        repeated 1 "dataPoints" Message(&EXPONENTIAL_HISTOGRAM_DATA_POINT);
        plain 2 "aggregationTemporality" Int32;
    }
    /// Quantiles.
    SUMMARY = "Summary" {
        repeated 1 "dataPoints" Message(&SUMMARY_DATA_POINT);
    }
    /// A number at a time.
    NUMBER_DATA_POINT = "NumberDataPoint" {
        plain 2 "startTimeUnixNano" Fixed64;
        plain 3 "timeUnixNano" Fixed64;
        one_of 4 "asDouble" Double;
        repeated 5 "exemplars" Message(&EXEMPLAR);
        one_of 6 "asInt" Sfixed64;
        repeated 7 "attributes" Message(&KEY_VALUE);
        plain 8 "flags" Uint32;
    }
    /// A histogram at a time.
    HISTOGRAM_DATA_POINT = "HistogramDataPoint" {
        plain 2 "startTimeUnixNano" Fixed64;
        plain 3 "timeUnixNano" Fixed64;
        plain 4 "count" Fixed64;
        present 5 "sum" Double;
        repeated 6 "bucketCounts" Fixed64;
        repeated 7 "explicitBounds" Double;
        repeated 8 "exemplars" Message(&EXEMPLAR);
        repeated 9 "attributes" Message(&KEY_VALUE);
        plain 10 "flags" Uint32;
        present 11 "min" Double;
        present 12 "max" Double;
    }
    /// An exponential histogram at a time.
    EXPONENTIAL_HISTOGRAM_DATA_POINT = "ExponentialHistogramDataPoint" {
        repeated 1 "attributes" Message(&KEY_VALUE);
        plain 2 "startTimeUnixNano" Fixed64;
        plain 3 "timeUnixNano" Fixed64;
        plain 4 "count" Fixed64;
        present 5 "sum" Double;
        plain 6 "scale" Sint32;
        plain 7 "zeroCount" Fixed64;
        plain 8 "positive" Message(&BUCKETS);
        plain 9 "negative" Message(&BUCKETS);
        plain 10 "flags" Uint32;
        repeated 11 "exemplars" Message(&EXEMPLAR);
        present 12 "min" Double;
        present 13 "max" Double;
        plain 14 "zeroThreshold" Double;
    }
    /// Counts of consecutive buckets.
    BUCKETS = "Buckets" {
        plain 1 "offset" Sint32;
        repeated 2 "bucketCounts" Uint64;
    }
    /// A summary at a time.
    SUMMARY_DATA_POINT = "SummaryDataPoint" {
        plain 2 "startTimeUnixNano" Fixed64;
        plain 3 "timeUnixNano" Fixed64;
        plain 4 "count" Fixed64;
        plain 5 "sum" Double;
        repeated 6 "quantileValues" Message(&VALUE_AT_QUANTILE);
        repeated 7 "attributes" Message(&KEY_VALUE);
        plain 8 "flags" Uint32;
    }
    /// A quantile.
    VALUE_AT_QUANTILE = "ValueAtQuantile" {
        plain 1 "quantile" Double;
        plain 2 "value" Double;
    }
    /// A measurement that stands for others.
    EXEMPLAR = "Exemplar" {
        plain 2 "timeUnixNano" Fixed64;
        one_of 3 "asDouble" Double;
        plain 4 "spanId" SPAN_ID;
        plain 5 "traceId" TRACE_ID;
        one_of 6 "asInt" Sfixed64;
        repeated 7 "filteredAttributes" Message(&KEY_VALUE);
    }
}
