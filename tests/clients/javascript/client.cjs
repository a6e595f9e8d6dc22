// An application with the OpenTelemetry SDK for Node.js: sends known items of all three signals, and ends.
//
// Where and how it sends is said by the SDK's own variables: OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL and _COMPRESSION,
// OTEL_SERVICE_NAME. What it sends is what tests/it/clients/content.rs expects; what nobody knows before, it prints.

const { NodeSDK, logs: sdkLogs, metrics: sdkMetrics, tracing } = require("@opentelemetry/sdk-node");
const api = require("@opentelemetry/api");
const { SeverityNumber, logs } = require("@opentelemetry/api-logs");
const { ROOT_CONTEXT, SpanKind, SpanStatusCode, ValueType, metrics, trace } = api;
const { AggregationType } = sdkMetrics;

const transport = { grpc: "grpc", "http/protobuf": "proto", "http/json": "http" }[
  process.env.OTEL_EXPORTER_OTLP_PROTOCOL
];
const { OTLPLogExporter } = require(`@opentelemetry/exporter-logs-otlp-${transport}`);
const { OTLPMetricExporter } = require(`@opentelemetry/exporter-metrics-otlp-${transport}`);
const { OTLPTraceExporter } = require(`@opentelemetry/exporter-trace-otlp-${transport}`);

const start = (nanos) => [1_700_000_000, 123_456_789 + nanos];
const unicode = 'Grüße, 世界 🌍 "quoted"\n\ttab';
const attributes = {
  text: unicode,
  "text.empty": "",
  yes: true,
  no: false,
  zero: 0,
  large: Number.MAX_SAFE_INTEGER,
  negative: -42,
  double: 0.1,
  "double.large": 1e300,
  texts: ["a", "ü", ""],
  flags: [true, false],
  integers: [1, -2, 3],
  doubles: [0.5, -1.25],
  "none.of.them": [],
};
const remote = {
  traceId: "0102030405060708090a0b0c0d0e0f10",
  spanId: "1112131415161718",
  isRemote: true,
  traceFlags: api.TraceFlags.SAMPLED,
  traceState: api.createTraceState("vendor=value"),
};

const reader = new sdkMetrics.PeriodicExportingMetricReader({ exporter: new OTLPMetricExporter() });
const sdk = new NodeSDK({
  spanProcessors: [new tracing.BatchSpanProcessor(new OTLPTraceExporter())],
  logRecordProcessors: [new sdkLogs.BatchLogRecordProcessor({ exporter: new OTLPLogExporter() })],
  metricReaders: [reader],
  views: [
    {
      instrumentName: "latency",
      aggregation: { type: AggregationType.EXPLICIT_BUCKET_HISTOGRAM, options: { boundaries: [0.1, 1, 10] } },
    },
    {
      instrumentName: "latency.exponential",
      aggregation: { type: AggregationType.EXPONENTIAL_HISTOGRAM, options: { maxSize: 8 } },
    },
  ],
});

function spans() {
  const tracer = trace.getTracer("library", "1.2.3");
  const incoming = trace.setSpanContext(ROOT_CONTEXT, remote);
  const links = [{ context: remote, attributes: { link: 7 } }];
  const options = { kind: SpanKind.SERVER, attributes, links, startTime: start(0) };
  const server = tracer.startSpan("GET /grüße", options, incoming);
  const within = trace.setSpan(ROOT_CONTEXT, server);
  const client = tracer.startSpan("SELECT", { kind: SpanKind.CLIENT, startTime: start(1) }, within);
  client.addEvent("exception", { text: unicode, at: 3 }, start(2));
  client.setStatus({ code: SpanStatusCode.ERROR, message: "it did not answer" });
  client.end(start(3));
  server.setStatus({ code: SpanStatusCode.OK });
  server.end([1_700_000_001, 123_456_790]);
  return { server, client };
}

function records(span) {
  const logger = logs.getLogger("library", "1.2.3");
  const bytes = new Uint8Array([0, 1, 255]);
  const everything = { ...attributes, bytes, map: { inner: { deep: [1, "two", null] } } };
  const bodies = [unicode, 42, 0.5, true, bytes, ["a", 1, [2.5]], { key: { inner: unicode } }, undefined];
  bodies.forEach((body, number) =>
    logger.emit({
      timestamp: start(number),
      observedTimestamp: start(1000 + number),
      context: number === 0 ? trace.setSpan(ROOT_CONTEXT, span) : ROOT_CONTEXT,
      severityNumber: SeverityNumber.TRACE + 3 * number,
      severityText: `level ${number}`,
      body,
      attributes: number === 0 ? everything : { number },
      eventName: number === 0 ? "device.app.lifecycle" : undefined,
    }),
  );
}

function points() {
  const meter = metrics.getMeter("library", "1.2.3");
  const description = "Anfragen, größer als null";
  const requests = meter.createCounter("requests", { unit: "{request}", description, valueType: ValueType.INT });
  requests.add(3, { code: 200, path: "/grüße" });
  requests.add(Number.MAX_SAFE_INTEGER, { code: 500 });
  meter.createUpDownCounter("in.flight", { valueType: ValueType.INT }).add(-2);
  meter.createGauge("temperature", { unit: "Cel" }).record(-0.5);
  for (const name of ["latency", "latency.exponential"]) {
    const histogram = meter.createHistogram(name, { unit: "s" });
    [0.05, 0.5, 0.5, 5, 50].forEach((value) => histogram.record(value));
  }
}

sdk.start();
const { server, client } = spans();
const link_state = remote.traceState.serialize();
const ids = { server: server.spanContext().spanId, client: client.spanContext().spanId, link_state };
console.log(JSON.stringify(ids));
records(client);
points();
// Flushes what waits, and collects the metrics once.
sdk.shutdown().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
