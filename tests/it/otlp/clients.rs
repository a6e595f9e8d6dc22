//! Clients that others wrote: the OpenTelemetry SDK for Rust, over HTTP and over gRPC, with all three signals.

use std::net::SocketAddr;

use opentelemetry::{
    KeyValue,
    logs::{LogRecord as _, Logger as _, LoggerProvider as _, Severity},
    metrics::MeterProvider as _,
    trace::{Span as _, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::{
    Compression, LogExporter, MetricExporter, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    logs::SdkLoggerProvider,
    metrics::{PeriodicReader, SdkMeterProvider},
    trace::SdkTracerProvider,
};
use serde_json::{Value, json};

use super::stored;
use crate::support::binary::Place;

/// The exporters of one transport.
struct Exporters {
    logs: LogExporter,
    spans: SpanExporter,
    metrics: MetricExporter,
}

fn over_http(address: SocketAddr) -> Exporters {
    // Its HTTP client wants one even where it speaks in the clear; another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let at = |signal: &str| format!("http://{address}/v1/{signal}");
    Exporters {
        logs: LogExporter::builder().with_http().with_endpoint(at("logs")).build().unwrap(),
        spans: SpanExporter::builder().with_http().with_endpoint(at("traces")).build().unwrap(),
        metrics: MetricExporter::builder().with_http().with_endpoint(at("metrics")).build().unwrap(),
    }
}

fn over_grpc(address: SocketAddr) -> Exporters {
    let endpoint = format!("http://{address}");
    let (logs, spans) = (LogExporter::builder().with_tonic(), SpanExporter::builder().with_tonic());
    let metrics = MetricExporter::builder().with_tonic();
    Exporters {
        logs: logs.with_endpoint(&endpoint).with_compression(Compression::Gzip).build().unwrap(),
        spans: spans.with_endpoint(&endpoint).build().unwrap(),
        metrics: metrics.with_endpoint(&endpoint).build().unwrap(),
    }
}

/// Sends two log records, two spans and two data points as an application does.
fn send(exporters: Exporters, service: &'static str) {
    let resource = Resource::builder_empty().with_service_name(service).build();
    let logs = SdkLoggerProvider::builder()
        .with_resource(resource.clone())
        .with_batch_exporter(exporters.logs)
        .build();
    let logger = logs.logger("library");
    for text in ["first", "second"] {
        let mut record = logger.create_log_record();
        record.set_severity_number(Severity::Warn);
        record.set_body(text.into());
        record.add_attribute("answer", 42);
        logger.emit(record);
    }
    logs.force_flush().unwrap();

    let spans = SdkTracerProvider::builder()
        .with_resource(resource.clone())
        .with_batch_exporter(exporters.spans)
        .build();
    let tracer = spans.tracer("library");
    for name in ["GET /", "SELECT"] {
        let mut span = tracer.start(name);
        span.set_attribute(KeyValue::new("rows", 7));
        span.end();
    }
    spans.force_flush().unwrap();

    let reader = PeriodicReader::builder(exporters.metrics).build();
    let metrics = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build();
    let meter = metrics.meter("library");
    meter.u64_counter("requests").build().add(3, &[KeyValue::new("code", 200)]);
    meter.f64_histogram("latency").with_unit("s").build().record(0.25, &[]);
    metrics.force_flush().unwrap();

    logs.shutdown().unwrap();
    spans.shutdown().unwrap();
    // A last collection comes with the end of the metrics; it would send them again.
    std::mem::forget(metrics);
}

fn check(events: &[Value]) {
    let of = |signal: &str| -> Vec<&Value> {
        events.iter().filter(|event| event["metadata"]["signal"] == signal).collect()
    };
    let logs = of("logs");
    assert_eq!(logs.iter().map(|event| &event["message"]).collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(logs[0]["metadata"]["attributes"], json!({"answer": 42}));
    assert_eq!(logs[0]["metadata"]["scope"]["name"], "library");
    let mut spans: Vec<_> = of("traces").iter().map(|event| event["message"].clone()).collect();
    spans.sort_by_key(|name| name.to_string());
    assert_eq!(spans, ["GET /", "SELECT"]);
    let metrics = of("metrics");
    let counter = metrics.iter().find(|event| event["message"] == "requests").unwrap();
    assert_eq!(counter["metadata"]["asInt"], 3);
    assert_eq!(counter["metadata"]["attributes"], json!({"code": 200}));
    let histogram = metrics.iter().find(|event| event["message"] == "latency").unwrap();
    assert_eq!((&histogram["metadata"]["sum"], &histogram["metadata"]["unit"]), (&json!(0.25), &json!("s")));
}

/// What an application sends with the SDK over HTTP is in the store, field by field.
#[test]
fn the_rust_sdk_over_http() {
    let forebay = Place::new().start();
    send(over_http(forebay.otlp()), "sdk-http");
    check(&stored(&forebay, "sdk-http", 6));
}

/// The same over gRPC, packed.
#[test]
fn the_rust_sdk_over_grpc() {
    let forebay = Place::new().start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    send(over_grpc(forebay.otlp()), "sdk-grpc");
    check(&stored(&forebay, "sdk-grpc", 6));
}
