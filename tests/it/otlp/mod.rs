//! OpenTelemetry over HTTP and gRPC: what the protocol asks of a server, row by row.

mod bad_input;
mod bad_streams;
mod clients;
mod forward;
pub(crate) mod gateway;
mod grpc;
mod http;
mod messages;
mod secured;

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;
use serde_json::Value as Json;

use crate::support::{binary::Forebay, eventually};

pub(crate) fn text(text: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(text.into())) })
}

const SOME_TIME: u64 = 1_544_712_660_300_000_000;

fn resource(service: &str) -> Option<Resource> {
    let name = KeyValue { key: "service.name".into(), value: text(service), ..KeyValue::default() };
    Some(Resource { attributes: vec![name], ..Resource::default() })
}

/// Log records of a service, as other people's code writes them.
pub(crate) fn logs(service: &str, bodies: &[&str]) -> ExportLogsServiceRequest {
    let record =
        |body: &&str| LogRecord { time_unix_nano: SOME_TIME, body: text(body), ..LogRecord::default() };
    let log_records = bodies.iter().map(record).collect();
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let of_resource = ResourceLogs { resource: resource(service), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![of_resource] }
}

pub(crate) fn protobuf(service: &str, bodies: &[&str]) -> Vec<u8> {
    logs(service, bodies).encode_to_vec()
}

fn spans(service: &str, names: &[&str]) -> Vec<u8> {
    let span = |name: &&str| Span {
        trace_id: vec![7; 16],
        span_id: vec![9; 8],
        name: (*name).to_owned(),
        start_time_unix_nano: SOME_TIME,
        end_time_unix_nano: SOME_TIME + 1,
        ..Span::default()
    };
    let spans = names.iter().map(span).collect();
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let of_resource = ResourceSpans { resource: resource(service), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_resource] }.encode_to_vec()
}

fn points(service: &str, names: &[&str]) -> Vec<u8> {
    let metric = |name: &&str| {
        let point = NumberDataPoint {
            time_unix_nano: SOME_TIME,
            value: Some(number_data_point::Value::AsInt(7)),
            ..NumberDataPoint::default()
        };
        let data = Some(Data::Gauge(Gauge { data_points: vec![point] }));
        Metric { name: (*name).to_owned(), data, ..Metric::default() }
    };
    let metrics = names.iter().map(metric).collect();
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let of_resource =
        ResourceMetrics { resource: resource(service), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![of_resource] }.encode_to_vec()
}

/// A request of every signal: the signal, the names of ten items, like `logs-3-0` in round 3, and the request in protobuf.
pub(crate) fn every_signal(service: &str, round: &str) -> [(&'static str, Vec<String>, Vec<u8>); 3] {
    type Encode = fn(&str, &[&str]) -> Vec<u8>;
    let encoders: [(_, Encode); 3] = [("logs", protobuf), ("traces", spans), ("metrics", points)];
    encoders.map(|(signal, encode)| {
        let names: Vec<_> = (0..10).map(|number| format!("{signal}-{round}-{number}")).collect();
        let body = encode(service, &names.iter().map(String::as_str).collect::<Vec<_>>());
        (signal, names, body)
    })
}

/// Waits until the store has so many events of the service, and returns them, oldest first.
#[track_caller]
pub fn stored(forebay: &Forebay, service: &str, count: usize) -> Vec<Json> {
    eventually(&format!("{count} events of {service} are stored"), || {
        let events = forebay.all_events(&format!("service={service}&order=oldest&limit=1000"));
        assert!(events.len() <= count, "{} events instead of {count}", events.len());
        (events.len() == count).then_some(events)
    })
}
