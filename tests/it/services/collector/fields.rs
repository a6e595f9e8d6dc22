//! Every field of the protocol, through Forebay to a real Collector. Messages that are full name each of their fields, so that
//! one which the protocol gets with a later version of its library is missed by the compiler.

use std::{fmt::Debug, fs, path::Path};

use forebay_actors::otlp::{Signal, json::RequestSeed};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{
        AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList, any_value::Value,
    },
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
        Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
        exponential_histogram_data_point::Buckets, metric::Data, number_data_point,
        summary_data_point::ValueAtQuantile,
    },
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link},
    },
};
use prost::Message;
use serde::de::DeserializeSeed as _;
use tempfile::TempDir;

use super::{Behind, PROTOBUF, TO_FILES, delivered};
use crate::{otlp::text, support::http::request};

/// A time in nanoseconds that no double holds.
const NANOS: u64 = 1_544_712_660_123_456_789;
const TRACE_ID: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const SPAN_ID: [u8; 8] = [0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0];

/// A request, as it goes out and as it is found.
#[derive(Clone, Copy)]
enum Form {
    Sent,
    /// As the Collector writes it: what is absent of resources, scopes, values, statuses and buckets is empty to it.
    Written,
}

impl Form {
    /// A message that is not sent.
    fn absent<M: Default>(self) -> Option<M> {
        match self {
            Self::Sent => None,
            Self::Written => Some(M::default()),
        }
    }
}

/// A value of every kind, with what is easily lost of it.
fn values() -> Vec<Option<Value>> {
    let texts =
        ["ü \u{1F600} \"q\" \\ \n\t\0 \u{7f}\u{2028} <&>", ""].map(|text| Value::StringValue(text.into()));
    let doubles = [0.1, 0.0, -0.0, f64::from_bits(1), f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    let bytes = [Vec::new(), (0..=255).collect()].map(Value::BytesValue);
    let inner = [Some(Value::IntValue(1)), None, Some(Value::BytesValue(vec![255]))];
    let inner: Vec<_> = inner.into_iter().map(|value| AnyValue { value }).collect();
    let lists = [Vec::new(), inner].map(|values| Value::ArrayValue(ArrayValue { values }));
    let nested = KeyValue {
        key: "in ü".into(),
        value: Some(AnyValue { value: Some(lists[1].clone()) }),
        key_strindex: 0,
    };
    let maps = [Vec::new(), vec![nested]].map(|values| Value::KvlistValue(KeyValueList { values }));
    let all = texts.into_iter().chain([0, i64::MIN, i64::MAX].map(Value::IntValue));
    let all = all.chain([false, true].map(Value::BoolValue)).chain(doubles.map(Value::DoubleValue));
    let all = all.chain(bytes).chain(lists).chain(maps).chain([Value::StringValueStrindex(3)]);
    all.map(Some).chain([None]).collect()
}

fn attributes(form: Form) -> Vec<KeyValue> {
    let of_kind = |(index, value): (usize, Option<Value>)| KeyValue {
        key: format!("kind {index} ü"),
        value: Some(AnyValue { value }),
        key_strindex: 0,
    };
    let bare = KeyValue { key: String::new(), value: form.absent(), key_strindex: 7 };
    values().into_iter().enumerate().map(of_kind).chain([bare]).collect()
}

fn resource(form: Form) -> Resource {
    let entity = EntityRef {
        schema_url: "https://entity.example/ü".into(),
        r#type: "host".into(),
        id_keys: vec!["host.id".into(), String::new()],
        description_keys: vec!["host.name".into()],
    };
    Resource {
        attributes: attributes(form),
        dropped_attributes_count: u32::MAX,
        entity_refs: vec![entity, EntityRef::default()],
    }
}

fn scope(form: Form) -> InstrumentationScope {
    InstrumentationScope {
        name: "library ü".into(),
        version: "1.2".into(),
        attributes: attributes(form),
        dropped_attributes_count: 3,
    }
}

/// A record with everything, one with nothing, and one for each kind of body; and a scope and a resource with nothing.
fn logs(form: Form) -> Vec<ResourceLogs> {
    let full = LogRecord {
        time_unix_nano: NANOS,
        observed_time_unix_nano: u64::MAX,
        severity_number: 24,
        severity_text: "FATAL4 ü".into(),
        body: text("body"),
        attributes: attributes(form),
        dropped_attributes_count: 4,
        flags: u32::MAX,
        trace_id: TRACE_ID.into(),
        span_id: SPAN_ID.into(),
        event_name: "event ü".into(),
    };
    let bare = LogRecord { body: form.absent(), ..LogRecord::default() };
    let of_kind = |value| LogRecord { body: Some(AnyValue { value }), ..LogRecord::default() };
    let log_records = [full, bare.clone()].into_iter().chain(values().into_iter().map(of_kind)).collect();
    let full =
        ScopeLogs { scope: Some(scope(form)), log_records, schema_url: "https://scope.example".into() };
    let bare = ScopeLogs { scope: form.absent(), log_records: vec![bare], schema_url: String::new() };
    vec![
        ResourceLogs {
            resource: Some(resource(form)),
            scope_logs: vec![full],
            schema_url: "https://resource.example".into(),
        },
        ResourceLogs { resource: form.absent(), scope_logs: vec![bare], schema_url: String::new() },
    ]
}

/// A record with a body of 1 MiB.
fn large_log(form: Form) -> Vec<ResourceLogs> {
    let record = LogRecord { body: text(&"ü".repeat(1 << 19)), ..LogRecord::default() };
    let scope = ScopeLogs { scope: form.absent(), log_records: vec![record], schema_url: String::new() };
    vec![ResourceLogs { resource: form.absent(), scope_logs: vec![scope], schema_url: String::new() }]
}

fn spans(form: Form) -> Vec<ResourceSpans> {
    let event = Event {
        time_unix_nano: NANOS,
        name: "event ü".into(),
        attributes: attributes(form),
        dropped_attributes_count: 2,
    };
    let link = Link {
        trace_id: TRACE_ID.into(),
        span_id: SPAN_ID.into(),
        trace_state: "x=y".into(),
        attributes: attributes(form),
        dropped_attributes_count: 4,
        flags: 0x100,
    };
    let full = Span {
        trace_id: TRACE_ID.into(),
        span_id: SPAN_ID.into(),
        trace_state: "a=b,c=d".into(),
        parent_span_id: SPAN_ID.into(),
        flags: 0x301,
        name: "span ü".into(),
        kind: 5,
        start_time_unix_nano: 1,
        end_time_unix_nano: (1 << 63) + 5,
        attributes: attributes(form),
        dropped_attributes_count: 1,
        events: vec![event, Event::default()],
        dropped_events_count: 3,
        links: vec![link, Link::default()],
        dropped_links_count: 5,
        status: Some(Status { message: "failed ü".into(), code: 2 }),
    };
    let bare = Span { status: form.absent(), ..Span::default() };
    let spans = vec![full, bare.clone()];
    let full = ScopeSpans { scope: Some(scope(form)), spans, schema_url: "https://scope.example".into() };
    let bare = ScopeSpans { scope: form.absent(), spans: vec![bare], schema_url: String::new() };
    vec![
        ResourceSpans {
            resource: Some(resource(form)),
            scope_spans: vec![full],
            schema_url: "https://resource.example".into(),
        },
        ResourceSpans { resource: form.absent(), scope_spans: vec![bare], schema_url: String::new() },
    ]
}

fn exemplars(form: Form) -> Vec<Exemplar> {
    let full = Exemplar {
        filtered_attributes: attributes(form),
        time_unix_nano: NANOS,
        span_id: SPAN_ID.into(),
        trace_id: TRACE_ID.into(),
        value: Some(exemplar::Value::AsDouble(-0.25)),
    };
    let whole = Exemplar { value: Some(exemplar::Value::AsInt(i64::MIN)), ..Exemplar::default() };
    vec![full, whole, Exemplar::default()]
}

fn number(form: Form, value: number_data_point::Value) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(form),
        start_time_unix_nano: 1,
        time_unix_nano: NANOS,
        exemplars: exemplars(form),
        flags: 1,
        value: Some(value),
    }
}

/// A gauge, with points of nothing but zero and of nothing.
fn gauge(form: Form) -> Data {
    use number_data_point::Value::{AsDouble, AsInt};
    let zeros = [Some(AsInt(0)), Some(AsDouble(0.0)), Some(AsDouble(f64::NAN)), None];
    let zeros = zeros.into_iter().map(|value| NumberDataPoint { value, ..NumberDataPoint::default() });
    Data::Gauge(Gauge { data_points: [number(form, AsDouble(-0.5))].into_iter().chain(zeros).collect() })
}

fn histogram(form: Form) -> Data {
    let full = HistogramDataPoint {
        attributes: attributes(form),
        start_time_unix_nano: 1,
        time_unix_nano: NANOS,
        count: u64::MAX,
        sum: Some(0.0),
        bucket_counts: vec![0, u64::MAX, 3],
        explicit_bounds: vec![-1.5, 0.0],
        exemplars: exemplars(form),
        flags: 1,
        min: Some(-0.0),
        max: Some(1e300),
    };
    let data_points = vec![full, HistogramDataPoint::default()];
    Data::Histogram(Histogram { data_points, aggregation_temporality: 1 })
}

fn exponential_histogram(form: Form) -> Data {
    let full = ExponentialHistogramDataPoint {
        attributes: attributes(form),
        start_time_unix_nano: 1,
        time_unix_nano: NANOS,
        count: 9,
        sum: Some(0.1),
        scale: -4,
        zero_count: 3,
        positive: Some(Buckets { offset: -2, bucket_counts: vec![0, u64::MAX] }),
        negative: Some(Buckets { offset: 5, bucket_counts: vec![1] }),
        flags: 1,
        exemplars: exemplars(form),
        min: Some(-1.0),
        max: Some(0.0),
        zero_threshold: 0.001,
    };
    let (positive, negative) = (form.absent(), form.absent());
    let bare =
        ExponentialHistogramDataPoint { positive, negative, ..ExponentialHistogramDataPoint::default() };
    Data::ExponentialHistogram(ExponentialHistogram {
        data_points: vec![full, bare],
        aggregation_temporality: 2,
    })
}

fn summary(form: Form) -> Data {
    let quantiles = [(0.0, -1.0), (0.99, f64::INFINITY), (0.0, 0.0)];
    let full = SummaryDataPoint {
        attributes: attributes(form),
        start_time_unix_nano: 1,
        time_unix_nano: NANOS,
        count: 8,
        sum: 2.5,
        quantile_values: quantiles.map(|(quantile, value)| ValueAtQuantile { quantile, value }).into(),
        flags: 1,
    };
    Data::Summary(Summary { data_points: vec![full, SummaryDataPoint::default()] })
}

fn metrics(form: Form) -> Vec<ResourceMetrics> {
    let point = number(form, number_data_point::Value::AsInt(i64::MAX));
    let sum = Sum { data_points: vec![point], aggregation_temporality: 2, is_monotonic: true };
    let kinds = [
        Some(gauge(form)),
        Some(Data::Sum(sum)),
        Some(histogram(form)),
        Some(exponential_histogram(form)),
        Some(summary(form)),
        Some(Data::Gauge(Gauge::default())),
        None,
    ];
    let of_kind = |data| Metric {
        name: "metric ü".into(),
        description: "what\nit is".into(),
        unit: "By".into(),
        metadata: attributes(form),
        data,
    };
    let full = ScopeMetrics {
        scope: Some(scope(form)),
        metrics: kinds.map(of_kind).into(),
        schema_url: "https://scope.example".into(),
    };
    let point = NumberDataPoint::default();
    let bare = Metric { data: Some(Data::Gauge(Gauge { data_points: vec![point] })), ..Metric::default() };
    let bare = ScopeMetrics { scope: form.absent(), metrics: vec![bare], schema_url: String::new() };
    vec![
        ResourceMetrics {
            resource: Some(resource(form)),
            scope_metrics: vec![full],
            schema_url: "https://resource.example".into(),
        },
        ResourceMetrics { resource: form.absent(), scope_metrics: vec![bare], schema_url: String::new() },
    ]
}

/// The requests that a Collector's first life has written; from its very text, since numbers that have been through
/// serde_json's own values may be others.
fn written<M: Message + Default>(dir: &Path, signal: Signal) -> Vec<M> {
    let text = fs::read_to_string(dir.join(format!("{}-0.json", signal.as_str()))).unwrap();
    let request = |line: &str| {
        let bytes = RequestSeed(signal).deserialize(&mut serde_json::Deserializer::from_str(line)).unwrap();
        M::decode(&*bytes).unwrap()
    };
    text.lines().map(request).collect()
}

/// The same messages in any order. By their bytes, since what is not a number equals nothing.
#[track_caller]
fn assert_same<M: Message + Debug>(wanted: Vec<M>, found: impl IntoIterator<Item = M>) {
    let sorted = |messages: Vec<M>| {
        let bytes_and_text = |message: &M| (message.encode_to_vec(), format!("{message:#?}"));
        let mut all: Vec<_> = messages.iter().map(bytes_and_text).collect();
        all.sort();
        all
    };
    let (wanted, found) = (sorted(wanted), sorted(found.into_iter().collect()));
    assert_eq!(found.len(), wanted.len());
    for ((wanted, wanted_text), (found, found_text)) in wanted.iter().zip(&found) {
        let differing = wanted_text.lines().zip(found_text.lines()).find(|(wanted, found)| wanted != found);
        assert!(wanted == found, "{differing:?} in {wanted_text:.60000}\nis\n{found_text:.60000}");
    }
}

/// Scenario: requests with every field of the protocol, at the limits of its type and at its default, and with nothing, go
/// through Forebay to a Collector.
/// Guarantee: the Collector writes what was sent, to the last field.
#[test]
fn every_field_comes_to_a_collector() {
    for protocol in ["grpc", "http"] {
        let dir = TempDir::with_prefix("forebay-it-").unwrap();
        let to_files = TO_FILES.replace("$DIR", dir.path().to_str().unwrap());
        let test = "every_field_comes_to_a_collector";
        let Some(behind) = Behind::start(protocol, "", &to_files, test) else { return };
        let forebay = behind.place("secret-123").start();
        let post = |signal: Signal, body: Vec<u8>| {
            let path = format!("/v1/{}", signal.as_str());
            request(forebay.otlp(), "POST", &path, &PROTOBUF, &body).unwrap().ok(200);
        };
        for resource_logs in [logs(Form::Sent), large_log(Form::Sent)] {
            post(Signal::Logs, ExportLogsServiceRequest { resource_logs }.encode_to_vec());
        }
        let resource_spans = spans(Form::Sent);
        post(Signal::Traces, ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        let resource_metrics = metrics(Form::Sent);
        post(Signal::Metrics, ExportMetricsServiceRequest { resource_metrics }.encode_to_vec());
        delivered(&forebay);

        let wanted = [logs(Form::Written), large_log(Form::Written)].concat();
        let found = written::<ExportLogsServiceRequest>(dir.path(), Signal::Logs);
        assert_same(wanted, found.into_iter().flat_map(|request| request.resource_logs));
        let found = written::<ExportTraceServiceRequest>(dir.path(), Signal::Traces);
        assert_same(spans(Form::Written), found.into_iter().flat_map(|request| request.resource_spans));
        let found = written::<ExportMetricsServiceRequest>(dir.path(), Signal::Metrics);
        assert_same(metrics(Form::Written), found.into_iter().flat_map(|request| request.resource_metrics));
        for counted in ["refused_events", "dead_letters"] {
            assert_eq!(forebay.metric(&format!("forebay_sink_{counted}_total"), "up"), 0.0, "{counted}");
        }
    }
}
