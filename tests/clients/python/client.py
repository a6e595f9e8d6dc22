"""An application with the OpenTelemetry SDK for Python: sends known items of all three signals, and ends.

Where and how it sends is said by the SDK's own variables: OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL and _COMPRESSION,
OTEL_SERVICE_NAME. What it sends is what tests/it/clients/content.rs expects; what nobody knows before, it prints.
"""

import json
import os

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

if os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
else:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

START = 1_700_000_000_123_456_789
UNICODE = 'Grüße, 世界 🌍 "quoted"\n\ttab'
ATTRIBUTES = {
    "text": UNICODE,
    "text.empty": "",
    "yes": True,
    "no": False,
    "zero": 0,
    "large": 9_007_199_254_740_991,
    "negative": -42,
    "double": 0.1,
    "double.large": 1e300,
    "texts": ["a", "ü", ""],
    "flags": [True, False],
    "integers": [1, -2, 3],
    "doubles": [0.5, -1.25],
    "none.of.them": [],
}
REMOTE = SpanContext(
    trace_id=0x0102030405060708090A0B0C0D0E0F10,
    span_id=0x1112131415161718,
    is_remote=True,
    trace_flags=TraceFlags(TraceFlags.SAMPLED),
    trace_state=TraceState([("vendor", "value")]),
)


def spans():
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("library", "1.2.3", attributes={"of": "scope"})
    incoming = trace.set_span_in_context(trace.NonRecordingSpan(REMOTE))
    server = tracer.start_span(
        "GET /grüße", incoming, SpanKind.SERVER, ATTRIBUTES, [Link(REMOTE, {"link": 7})], START
    )
    client = tracer.start_span(
        "SELECT", trace.set_span_in_context(server), SpanKind.CLIENT, start_time=START + 1
    )
    client.add_event("exception", {"text": UNICODE, "at": 3}, START + 2)
    client.set_status(Status(StatusCode.ERROR, "it did not answer"))
    client.end(START + 3)
    server.set_status(Status(StatusCode.OK))
    server.end(START + 1_000_000_001)
    assert provider.force_flush()
    provider.shutdown()
    return server, client


def logs(span):
    provider = LoggerProvider()
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    logger = provider.get_logger("library", "1.2.3")
    everything = dict(ATTRIBUTES, bytes=b"\x00\x01\xff", map={"inner": {"deep": [1, "two", None]}})
    bodies = [UNICODE, 42, 0.5, True, b"\x00\x01\xff", ["a", 1, [2.5]], {"key": {"inner": UNICODE}}, None]
    for number, body in enumerate(bodies):
        logger.emit(
            LogRecord(
                timestamp=START + number,
                observed_timestamp=START + 1000 + number,
                context=trace.set_span_in_context(span) if number == 0 else None,
                severity_number=list(SeverityNumber)[1 + 3 * number],
                severity_text=f"level {number}",
                body=body,
                attributes=everything if number == 0 else {"number": number},
                event_name="device.app.lifecycle" if number == 0 else None,
            )
        )
    assert provider.force_flush()
    provider.shutdown()


def metrics():
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    views = [
        View(instrument_name="latency", aggregation=ExplicitBucketHistogramAggregation([0.1, 1, 10])),
        View(instrument_name="latency.exponential", aggregation=ExponentialBucketHistogramAggregation(max_size=8)),
    ]
    provider = MeterProvider(metric_readers=[reader], views=views)
    meter = provider.get_meter("library", "1.2.3")
    requests = meter.create_counter("requests", "{request}", "Anfragen, größer als null")
    requests.add(3, {"code": 200, "path": "/grüße"})
    requests.add(9_007_199_254_740_991, {"code": 500})
    meter.create_up_down_counter("in.flight").add(-2)
    meter.create_gauge("temperature", "Cel").set(-0.5)
    for name in ["latency", "latency.exponential"]:
        histogram = meter.create_histogram(name, "s")
        for value in [0.05, 0.5, 0.5, 5, 50]:
            histogram.record(value)
    assert provider.force_flush()
    # A last collection comes with a shutdown; it would send them again.
    os._exit(0)


server, client = spans()
print(
    json.dumps(
        {
            "server": format(server.get_span_context().span_id, "016x"),
            "client": format(client.get_span_context().span_id, "016x"),
            # The exporter leaves it out.
            "link_state": None,
        }
    ),
    flush=True,
)
logs(client)
metrics()
