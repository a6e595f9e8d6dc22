//! `grpc.health.v1` and reflection, as tools that know nothing of Forebay use them.

use std::{collections::HashMap, net::SocketAddr};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, Value};
use serde_json::{Value as Json, json};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{block_on, call, channel, stored};
use crate::support::{
    binary::Place,
    http::{Destination, request},
};

const INGEST: &str = "forebay.ingest.v1.IngestService";

#[derive(Clone, PartialEq, prost::Message)]
struct HealthListResponse {
    #[prost(map = "string, message", tag = "1")]
    statuses: HashMap<String, HealthCheckResponse>,
}

fn ask(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

/// Scenario: somebody watches a process that is told to end and cannot deliver what it has.
/// Guarantee: it serves, and then it does not; of what is not there that is said.
#[test]
fn health_is_that_of_the_process() {
    let destination = Destination::start();
    destination.answer(500);
    let place = Place::empty().sink("up", &destination.sink()).section("shutdown_timeout: 5s");
    let mut forebay = place.start();
    forebay.post_json(r#"{"service":"s","message":"m"}"#).ok(202);
    block_on(async {
        for address in [forebay.ingest(), forebay.otlp()] {
            let mut health = HealthClient::new(channel(address).await);
            for service in ["", INGEST, "opentelemetry.proto.collector.trace.v1.TraceService"] {
                let answer = health.check(ask(service)).await.unwrap().into_inner();
                assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
            }
            assert_eq!(health.check(ask("nobody")).await.unwrap_err().code(), Code::NotFound);
        }
        let list = call(forebay.ingest(), "/grpc.health.v1.Health/List", Vec::new()).await.unwrap();
        let list = HealthListResponse::decode(list).unwrap();
        assert_eq!(list.statuses.len(), 5);
        assert!(list.statuses.values().all(|status| status.status() == ServingStatus::Serving));
        let mut health = HealthClient::new(channel(forebay.ingest()).await);
        let mut nobody = health.watch(ask("nobody")).await.unwrap().into_inner();
        let unknown = nobody.message().await.unwrap().unwrap();
        assert_eq!(unknown.status(), ServingStatus::ServiceUnknown);
        let mut watching = health.watch(ask(INGEST)).await.unwrap().into_inner();
        assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        forebay.signal("TERM");
        assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    });
    forebay.wait();
}

/// What reflection says about a service: its file and everything that needs.
async fn ask_reflection(address: SocketAddr, question: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(channel(address).await);
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut answers =
        client.server_reflection_info(futures::stream::iter([request])).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap().message_response.unwrap()
}

/// The descriptors of a service, gathered by asking for its file and for what that file needs.
async fn learn(address: SocketAddr, service: &str) -> DescriptorPool {
    let mut wanted = vec![MessageRequest::FileContainingSymbol(service.into())];
    let mut files: Vec<prost_types::FileDescriptorProto> = Vec::new();
    while let Some(question) = wanted.pop() {
        let MessageResponse::FileDescriptorResponse(found) = ask_reflection(address, question).await else {
            panic!("no file of {service}")
        };
        for file in found.file_descriptor_proto {
            let file = prost_types::FileDescriptorProto::decode(&file[..]).unwrap();
            wanted.extend(file.dependency.iter().cloned().map(MessageRequest::FileByFilename));
            if files.iter().all(|known| known.name != file.name) {
                files.push(file);
            }
        }
    }
    DescriptorPool::from_file_descriptor_set(prost_types::FileDescriptorSet { file: files }).unwrap()
}

/// A message from JSON, by nothing but its descriptor.
fn from_json(descriptor: &MessageDescriptor, json: &Json) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, json) in json.as_object().unwrap() {
        let field = descriptor.get_field_by_json_name(name).unwrap_or_else(|| panic!("{name} is a field"));
        let one = |json: &Json| match field.kind() {
            Kind::Message(inner) => Value::Message(from_json(&inner, json)),
            Kind::String => Value::String(json.as_str().unwrap().into()),
            Kind::Int64 => Value::I64(json.as_i64().unwrap()),
            Kind::Fixed64 => Value::U64(json.as_u64().unwrap()),
            other => panic!("{other:?} is not needed here"),
        };
        let value = match json {
            Json::Array(many) => Value::List(many.iter().map(one).collect()),
            only => one(only),
        };
        message.set_field(&field, value);
    }
    message
}

/// Scenario: a tool that knows only reflection, as grpcurl does, looks for services and calls one with JSON.
/// Guarantee: every service is listed, on every port and to older tools, too, and what is learnt is enough to call it.
#[test]
fn whoever_knows_only_reflection_can_call() {
    let forebay = Place::new().start();
    block_on(async {
        for address in [forebay.ingest(), forebay.otlp()] {
            let question = MessageRequest::ListServices(String::new());
            let MessageResponse::ListServicesResponse(list) = ask_reflection(address, question).await else {
                panic!("no list")
            };
            let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
            for name in [
                INGEST,
                "grpc.health.v1.Health",
                "opentelemetry.proto.collector.logs.v1.LogsService",
                "opentelemetry.proto.collector.metrics.v1.MetricsService",
                "opentelemetry.proto.collector.trace.v1.TraceService",
            ] {
                assert!(names.iter().any(|listed| listed == name), "{name}: {names:?}");
            }
        }
        // The list to tools of before: field 7, a text.
        let question = vec![0x3a, 0];
        let alpha = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
        let answer = call(forebay.ingest(), alpha, question).await.unwrap();
        assert!(String::from_utf8_lossy(&answer).contains(INGEST));

        let pool = learn(forebay.ingest(), INGEST).await;
        let service = pool.get_service_by_name(INGEST).unwrap();
        let method = service.methods().find(|method| method.name() == "SendBatch").unwrap();
        let json = json!({
            "batchId": "by-reflection", "source": "tool",
            "events": [{"service": "tool", "message": "found", "timestamp": {"seconds": 1_431_857_103}},
                       {"service": "tool", "message": "too", "metadataJson": "{\"a\":1}"}],
        });
        let path = "/forebay.ingest.v1.IngestService/SendBatch";
        let answer = call(forebay.ingest(), path, from_json(&method.input(), &json).encode_to_vec()).await;
        let answer = DynamicMessage::decode(method.output(), answer.unwrap()).unwrap();
        let value = |name: &str| answer.get_field_by_name(name).unwrap().into_owned();
        assert_eq!(value("success"), Value::Bool(true));
        assert_eq!(value("received_count"), Value::U32(2));
        assert_eq!(value("batch_id"), Value::String("by-reflection".into()));

        let logs = "opentelemetry.proto.collector.logs.v1.LogsService";
        let pool = learn(forebay.otlp(), logs).await;
        let method = pool.get_service_by_name(logs).unwrap().methods().next().unwrap();
        let json = json!({"resourceLogs": [{
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "tool"}}]},
            "scopeLogs": [{"logRecords": [{"timeUnixNano": 1_431_857_103_000_000_000_u64,
                                           "body": {"stringValue": "by a tool"}}]}],
        }]});
        let path = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
        call(forebay.otlp(), path, from_json(&method.input(), &json).encode_to_vec()).await.unwrap();
    });
    let events = stored(&forebay, "tool", 3);
    let messages: Vec<_> = events.iter().map(|event| event["message"].as_str().unwrap()).collect();
    assert!(["found", "too", "by a tool"].iter().all(|message| messages.contains(message)), "{messages:?}");
    assert_eq!(request(forebay.address, "GET", "/ready", &[], b"").unwrap().status, 200);
}
