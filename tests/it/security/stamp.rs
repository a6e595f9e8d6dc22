//! The tenant on requests of OpenTelemetry, against what the protocol's own library reads out of their bytes.

use forebay_actors::otlp::{Signal, check, stamp};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use crate::otlp::text;

fn attribute(key: &str, value: Option<AnyValue>) -> KeyValue {
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let key = prop_oneof![Just("tenant"), Just("tenants"), Just(""), Just("service.name")];
    let value = prop_oneof![
        Just(None),
        Just(Some(AnyValue { value: None })),
        ".{0,8}".prop_map(|value| text(&value)),
        any::<i64>().prop_map(|number| Some(AnyValue { value: Some(Value::IntValue(number)) })),
    ];
    vec((key, value).prop_map(|(key, value)| attribute(key, value)), 0..5)
}

fn resources() -> impl Strategy<Value = Vec<Option<Resource>>> {
    let resource = (attributes(), 0_u32..300).prop_map(|(attributes, dropped_attributes_count)| Resource {
        attributes,
        dropped_attributes_count,
        ..Resource::default()
    });
    vec(option::of(resource), 0..4)
}

/// What the resource should be.
fn expected(resource: &Option<Resource>, value: &str) -> Option<Resource> {
    let mut resource = resource.clone().unwrap_or_default();
    resource.attributes.retain(|attribute| attribute.key != "tenant");
    resource.attributes.push(attribute("tenant", text(value)));
    Some(resource)
}

fn stamped<M: Message + Default>(request: &M, signal: Signal, value: &str) -> M {
    let bytes = stamp(&request.encode_to_vec(), "tenant", value).unwrap();
    check(&bytes, signal).unwrap();
    M::decode(&bytes[..]).unwrap()
}

fn logs(resources: &[Option<Resource>], bodies: &[String]) -> ExportLogsServiceRequest {
    let record = |body: &String| LogRecord {
        body: text(body),
        attributes: vec![attribute("tenant", text("of the record"))],
        ..LogRecord::default()
    };
    let scope = ScopeLogs { log_records: bodies.iter().map(record).collect(), ..ScopeLogs::default() };
    let group = |resource: &Option<Resource>| ResourceLogs {
        resource: resource.clone(),
        scope_logs: vec![scope.clone(), ScopeLogs::default()],
        schema_url: "u".to_owned(),
    };
    ExportLogsServiceRequest { resource_logs: resources.iter().map(group).collect() }
}

fn traces(resources: &[Option<Resource>], names: &[String]) -> ExportTraceServiceRequest {
    let span = |name: &String| Span { name: name.clone(), trace_id: vec![1; 16], ..Span::default() };
    let scope = ScopeSpans { spans: names.iter().map(span).collect(), ..ScopeSpans::default() };
    let group = |resource: &Option<Resource>| ResourceSpans {
        resource: resource.clone(),
        scope_spans: vec![scope.clone()],
        schema_url: String::new(),
    };
    ExportTraceServiceRequest { resource_spans: resources.iter().map(group).collect() }
}

fn metrics(resources: &[Option<Resource>], names: &[String]) -> ExportMetricsServiceRequest {
    let metric = |name: &String| Metric {
        name: name.clone(),
        data: Some(Data::Gauge(Gauge { data_points: vec![NumberDataPoint::default()] })),
        ..Metric::default()
    };
    let scope = ScopeMetrics { metrics: names.iter().map(metric).collect(), ..ScopeMetrics::default() };
    let group = |resource: &Option<Resource>| ResourceMetrics {
        resource: resource.clone(),
        scope_metrics: vec![scope.clone()],
        schema_url: String::new(),
    };
    ExportMetricsServiceRequest { resource_metrics: resources.iter().map(group).collect() }
}

proptest! {
    /// Whatever the resources are, of every signal: each has the attribute once, as its last, and everything else is equal.
    #[test]
    fn everything_but_the_attribute_is_equal(resources in resources(), texts in vec(".{0,40}", 0..4), value in ".{1,200}") {
        let wanted: Vec<_> = resources.iter().map(|resource| expected(resource, &value)).collect();
        prop_assert_eq!(stamped(&logs(&resources, &texts), Signal::Logs, &value), logs(&wanted, &texts));
        prop_assert_eq!(stamped(&traces(&resources, &texts), Signal::Traces, &value), traces(&wanted, &texts));
        prop_assert_eq!(stamped(&metrics(&resources, &texts), Signal::Metrics, &value), metrics(&wanted, &texts));
    }

    /// A resource that is written in several parts, which every decoder merges, has the attribute once, too.
    #[test]
    fn a_resource_in_parts_is_stamped_once(parts in vec(attributes(), 1..4), value in ".{1,20}") {
        let part = |attributes: &Vec<KeyValue>| {
            let resource = Resource { attributes: attributes.clone(), ..Resource::default() };
            ResourceLogs { resource: Some(resource), ..ResourceLogs::default() }.encode_to_vec()
        };
        let group: Vec<u8> = parts.iter().flat_map(part).collect();
        let mut request = vec![0x0a];
        prost::encoding::encode_varint(group.len() as u64, &mut request);
        request.extend(group);
        let whole = ExportLogsServiceRequest::decode(&request[..]).unwrap();
        let stamped = stamp(&request, "tenant", &value).unwrap();
        let stamped = ExportLogsServiceRequest::decode(&stamped[..]).unwrap();
        let wanted = expected(&whole.resource_logs[0].resource, &value);
        prop_assert_eq!(&stamped.resource_logs[0].resource, &wanted);
    }
}
