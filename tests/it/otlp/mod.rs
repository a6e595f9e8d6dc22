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
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    resource::v1::Resource,
};
use prost::Message as _;
use serde_json::Value as Json;

use crate::support::{binary::Forebay, eventually};

pub(crate) fn text(text: &str) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(text.into())) })
}

/// Log records of a service, as other people's code writes them.
pub(crate) fn logs(service: &str, bodies: &[&str]) -> ExportLogsServiceRequest {
    let name = KeyValue { key: "service.name".into(), value: text(service), ..KeyValue::default() };
    let record = |body: &&str| LogRecord {
        time_unix_nano: 1_544_712_660_300_000_000,
        body: text(body),
        ..LogRecord::default()
    };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource { attributes: vec![name], ..Resource::default() }),
            scope_logs: vec![ScopeLogs {
                log_records: bodies.iter().map(record).collect(),
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    }
}

pub(crate) fn protobuf(service: &str, bodies: &[&str]) -> Vec<u8> {
    logs(service, bodies).encode_to_vec()
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
