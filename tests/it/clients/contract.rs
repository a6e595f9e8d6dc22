//! The contract of batches, spoken by clients of other languages: grpcurl, which knows it only by reflection, and Python,
//! which knows it by the file.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};

use crate::{
    otlp::stored,
    support::{
        binary::{Finished, Place},
        clients::{command, installed, sources},
    },
};

/// grpcurl, against one address.
struct Grpcurl<'a> {
    directory: &'a Path,
    address: SocketAddr,
}

impl Grpcurl<'_> {
    fn run(&self, arguments: &[&str], behind: &[&str]) -> Finished {
        let mut grpcurl = command(self.directory.join("grpcurl"));
        Finished::of(grpcurl.arg("-plaintext").args(arguments).arg(self.address.to_string()).args(behind))
    }

    #[track_caller]
    fn call(&self, method: &str, messages: &str) -> Vec<Value> {
        let answers = self.run(&["-emit-defaults", "-d", messages], &[method]).ok();
        serde_json::Deserializer::from_str(&answers).into_iter().map(Result::unwrap).collect()
    }
}

/// Who knows nothing but the address finds out what there is, and calls it.
#[test]
fn grpcurl_needs_nothing_but_the_address() {
    let Some(directory) = installed("tools", "grpcurl_needs_nothing_but_the_address") else { return };
    let forebay = Place::new().start();
    let grpcurl = Grpcurl { directory: &directory, address: forebay.ingest() };

    let listed = grpcurl.run(&[], &["list"]).ok();
    for service in [
        "forebay.ingest.v1.IngestService",
        "grpc.health.v1.Health",
        "opentelemetry.proto.collector.logs.v1.LogsService",
        "opentelemetry.proto.collector.metrics.v1.MetricsService",
        "opentelemetry.proto.collector.trace.v1.TraceService",
    ] {
        assert!(listed.lines().any(|line| line == service), "{service}: {listed}");
        let described = grpcurl.run(&[], &["describe", service]).ok();
        assert!(described.contains("rpc "), "{described}");
    }
    let described = grpcurl.run(&[], &["describe", "forebay.ingest.v1.EventBatchRequest"]).ok();
    assert!(described.contains("repeated .forebay.ingest.v1.Event events"), "{described}");

    let health = grpcurl.call("grpc.health.v1.Health/Check", "{}");
    assert_eq!(health, [json!({"status": "SERVING"})]);
    let health = grpcurl.call("forebay.ingest.v1.IngestService/HealthCheck", "{}");
    assert_eq!(health[0]["status"], "SERVING_STATUS_SERVING");

    let batch = json!({"batch_id": "one", "source": "grpcurl", "events": [
        {"service": "grpcurl", "message": "größer", "timestamp": "2026-11-23T08:00:00.123456789Z", "metadata": {"a": [1]}},
        {"message": "nobody speaks"},
    ]});
    let answer = &grpcurl.call("forebay.ingest.v1.IngestService/SendBatch", &batch.to_string())[0];
    assert_eq!((&answer["success"], &answer["batchId"]), (&json!(true), &json!("one")), "{answer:#}");
    assert_eq!((&answer["receivedCount"], &answer["rejectedCount"]), (&json!(1), &json!(1)), "{answer:#}");
    assert_eq!(
        (&answer["rejected"][0]["index"], &answer["rejected"][0]["field"]),
        (&json!(1), &json!("service"))
    );
    let batches: String = (0..3)
        .map(|number| {
            let event = json!({"service": "grpcurl", "message": format!("{number}")});
            json!({"batch_id": format!("stream-{number}"), "events": [event]}).to_string()
        })
        .collect();
    let answers = grpcurl.call("forebay.ingest.v1.IngestService/SendBatches", &batches);
    assert!(answers.len() == 3 && answers.iter().all(|answer| answer["success"] == true), "{answers:#?}");
    let events = stored(&forebay, "grpcurl", 4);
    let first = events.iter().find(|event| event["message"] == "größer").unwrap();
    assert_eq!(first["timestamp"], "2026-11-23T08:00:00.123456789Z");
    assert_eq!(first["metadata"]["a"][0], 1.0);

    // The other port knows the same, and takes OpenTelemetry through reflection.
    let grpcurl = Grpcurl { directory: &directory, address: forebay.otlp() };
    let name = json!({"key": "service.name", "value": {"string_value": "reflected"}});
    let request = json!({"resource_logs": [{
        "resource": {"attributes": [name]}, "scope_logs": [{"log_records": [{"body": {"string_value": "found"}}]}],
    }]});
    grpcurl.call("opentelemetry.proto.collector.logs.v1.LogsService/Export", &request.to_string());
    assert_eq!(stored(&forebay, "reflected", 1)[0]["message"], "found");

    // Errors have a code that Go's library knows, and say what is wrong.
    let wrong =
        json!({"resource_spans": [{"scope_spans": [{"spans": [{"trace_id": "AAAA", "name": "short"}]}]}]});
    let answer =
        &grpcurl.call("opentelemetry.proto.collector.trace.v1.TraceService/Export", &wrong.to_string())[0];
    assert_eq!(answer["partialSuccess"]["rejectedSpans"], "1", "{answer:#}");
    let unknown = grpcurl.run(&["-d", "{\"service\": \"nobody\"}"], &["grpc.health.v1.Health/Check"]);
    assert!(unknown.stderr.contains("NotFound"), "{unknown:?}");
}

/// The contract is well-formed for another language's compiler; clients made from it are understood, packed or not, and
/// what the server tells of itself is the contract.
#[test]
fn python_speaks_the_contract() {
    let Some(directory) = installed("python", "python_speaks_the_contract") else { return };
    let forebay = Place::new()
        .http("max_event_bytes: 10KiB")
        .section("ingest: { grpc: { listen: \"127.0.0.1:0\" }, max_batch_bytes: 50KiB }")
        .start();
    let mut python = command(directory.join("bin/python"));
    python.arg(sources().join("python/contract.py")).arg(forebay.ingest().to_string());
    let finished = Finished::of(python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")));
    let report: Value = serde_json::from_str(&finished.ok()).unwrap();

    assert_eq!(report["health"], "SERVING_STATUS_SERVING");
    let first = json!({
        "success": true, "batch_id": "batch-1", "received": 3, "rejected": [[3, "service"]], "duplicate": false,
    });
    assert_eq!(report["first"], first);
    assert_eq!((&report["again"]["success"], &report["again"]["duplicate"]), (&json!(true), &json!(true)));
    let mut streamed: Vec<_> = (0..50).map(|number| format!("stream-{number}")).collect();
    streamed.sort();
    assert_eq!(report["stream"], json!(streamed));
    assert_eq!(report["garbage"], "INVALID_ARGUMENT");
    assert_eq!(report["too_large"], "RESOURCE_EXHAUSTED");
    assert_eq!(report["unknown"], "UNIMPLEMENTED");
    assert_eq!(report["same"], true, "what reflection tells is the file: {report:#}");

    let events = stored(&forebay, "python", 53);
    let event = |number: usize| {
        let id = format!("python-{number}");
        events.iter().find(|event| event["event_id"] == *id).unwrap_or_else(|| panic!("{id}"))
    };
    assert_eq!(event(1)["message"], "Grüße 🌍 1");
    assert_eq!(event(1)["timestamp"], "2023-11-14T22:13:20.123456790Z");
    let metadata = &event(1)["metadata"];
    assert_eq!((&metadata["text"], &metadata["flag"]), (&json!("ü"), &json!(true)));
    assert_eq!(metadata["list"].as_array().map(Vec::len), Some(3), "{metadata}");
    assert_eq!(metadata["object"]["inner"], 0.5);
    assert_eq!(event(2)["metadata"]["large"], 9_007_199_254_740_993_u64, "integers keep their digits");
}
