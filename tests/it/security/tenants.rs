//! Whose an event is: what a token says, whatever its sender says.

use serde_json::{Value, json};

use super::{LOGS, SEND_BATCH, auth, batch, bearer, call, token};
use crate::{
    otlp::{logs, text},
    support::{
        binary::{Forebay, Place},
        eventually,
        http::request,
    },
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use prost::Message as _;

struct Tried {
    forebay: Forebay,
    reader: String,
}

impl Tried {
    fn events(&self, service: &str, count: usize) -> Vec<Value> {
        let headers = [("Authorization", &*bearer(&self.reader))];
        eventually(&format!("{count} events of {service}"), || {
            let target = format!("/events?service={service}&order=oldest");
            let page = request(self.forebay.address, "GET", &target, &headers, b"").unwrap().ok(200).json();
            let events = page["events"].as_array().unwrap().clone();
            (events.len() >= count).then_some(events)
        })
    }
}

/// Scenario: the token of a tenant sends events and log records by every protocol, some of which say that they are
/// another's; a token without a tenant sends the same.
/// Guarantee: what comes from the first is his, whatever it says, and otherwise as it was sent; what comes from the second
/// is as it was sent.
#[test]
fn what_a_token_sends_is_its_tenants() {
    let (acme, of_acme) = token("acme", "ingest", ", tenant: \"acme \\\"1\\\"\"");
    let (gateway, of_many) = token("gateway", "ingest", "");
    let (reader, reading) = token("reader", "query", "");
    let forebay = Place::new().section(&auth(&[&of_acme, &of_many, &reading], "")).start();
    let tried = Tried { forebay, reader };
    let forebay = &tried.forebay;
    let key =
        |key: &str, value: &str| KeyValue { key: key.into(), value: text(value), ..KeyValue::default() };
    for (name, token, own) in [("acme", &acme, Some("acme \"1\"")), ("gateway", &gateway, None)] {
        let bearer = bearer(token);
        let with = |media: &'static str| [("Content-Type", media), ("Authorization", bearer.as_str())];
        let whose = |said: Option<&str>| json!(own.or(said));

        let service = format!("json-{name}");
        let events = json!([
            {"service": service, "message": "1"},
            {"service": service, "message": "2", "metadata": {"tenant": "other", "a": 1}},
            {"service": service, "message": "3", "tenant": "other"},
        ]);
        let lines =
            format!(r#"{{"service":"{service}","message":"4","metadata":{{"te\u006eant":"other"}}}}"#);
        let post = |media, body: &str| {
            request(forebay.address, "POST", "/events", &with(media), body.as_bytes()).unwrap().ok(202)
        };
        post("application/json", &events.to_string());
        post("application/x-ndjson", &lines);
        let stored = tried.events(&service, 4);
        let tenants: Vec<_> = stored.iter().map(|event| event["metadata"]["tenant"].clone()).collect();
        let (none, other) = (whose(None), whose(Some("other")));
        assert_eq!(tenants, [none.clone(), other.clone(), other.clone(), other.clone()]);
        assert_eq!(stored[1]["metadata"]["a"], 1);

        let service = format!("otlp-{name}");
        let mut request_of = logs(&service, &["1"]);
        request_of.resource_logs.push(logs(&service, &["2"]).resource_logs.remove(0));
        let resource = request_of.resource_logs[1].resource.as_mut().unwrap();
        resource.attributes.extend([key("tenant", "other"), key("host.name", "h"), key("tenant", "third")]);
        let body = request_of.encode_to_vec();
        request(forebay.otlp(), "POST", "/v1/logs", &with("application/x-protobuf"), &body).unwrap().ok(200);
        let called = call(forebay.otlp(), None, LOGS, &[("authorization", &bearer)], &body).unwrap();
        assert_eq!(called.status, "0", "{called:?}");
        let json =
            json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "bare"}}]}]}]});
        let bare = with("application/json");
        request(forebay.otlp(), "POST", "/v1/logs", &bare, json.to_string().as_bytes()).unwrap().ok(200);
        let stored = tried.events(&service, 4);
        for pair in stored.chunks(2) {
            let resource = |at: usize| &pair[at]["metadata"]["resource"]["attributes"];
            assert_eq!(resource(0).get("tenant").cloned().unwrap_or_default(), none, "{pair:?}");
            assert_eq!(resource(1)["host.name"], "h");
            if own.is_some() {
                assert_eq!(resource(1)["tenant"], other, "{pair:?}");
            }
        }

        let message = batch(&format!("of-{name}"), &[("", r#"{"b":2}"#), ("", r#"{"tenant":"other"}"#)]);
        let called =
            call(forebay.ingest(), None, SEND_BATCH, &[("authorization", &bearer)], &message).unwrap();
        assert_eq!(called.status, "0", "{called:?}");
    }
    let bare = tried.events("unknown_service", 2);
    let tenants: Vec<_> =
        bare.iter().map(|event| event["metadata"]["resource"]["attributes"]["tenant"].clone()).collect();
    assert_eq!(tenants, [json!("acme \"1\""), Value::Null], "a group without a resource gets one");
    let batches = tried.events("batch", 4);
    let tenants: Vec<_> = batches.iter().map(|event| event["metadata"]["tenant"].clone()).collect();
    assert_eq!(tenants, [json!("acme \"1\""), json!("acme \"1\""), Value::Null, json!("other")]);
    assert_eq!(batches[0]["metadata"]["b"], 2);
}

/// Scenario: two tenants send batches of the same name, and one sends his again, over another token of his.
/// Guarantee: nobody takes a batch away from another, and what comes again is taken once.
#[test]
fn batches_are_named_within_their_tenant() {
    let (one, first) = token("one", "ingest", ", tenant: acme");
    let (rotated, again) = token("one-rotated", "ingest", ", tenant: acme");
    let (two, second) = token("two", "ingest", ", tenant: other");
    let (reader, reading) = token("reader", "query", "");
    let forebay = Place::new().section(&auth(&[&first, &again, &second, &reading], "")).start();
    let send = |token: &str| {
        let headers = [("authorization", &*bearer(token))];
        let called =
            call(forebay.ingest(), None, SEND_BATCH, &headers, &batch("same", &[("", "{}")])).unwrap();
        assert_eq!(called.status, "0", "{called:?}");
        let response = forebay_proto::ingest::v1::EventBatchResponse::decode(&called.body[5..]).unwrap();
        (response.received_count, response.duplicate)
    };
    assert_eq!([send(&one), send(&two), send(&rotated)], [(1, false), (1, false), (1, true)]);
    let tried = Tried { forebay, reader };
    let stored = tried.events("batch", 2);
    let mut tenants: Vec<_> =
        stored.iter().map(|event| event["metadata"]["tenant"].as_str().unwrap()).collect();
    tenants.sort_unstable();
    assert_eq!(tenants, ["acme", "other"]);
}

/// The key of the tenant can be another one, for both kinds of events.
#[test]
fn the_key_of_the_tenant_can_be_chosen() {
    let (sender, entry) = token("a", "ingest, query", ", tenant: acme");
    let place = Place::new().section(&auth(&[&entry], ", tenant_key: customer.id"));
    let forebay = place.start();
    let bearer = bearer(&sender);
    let headers = [("Content-Type", "application/json"), ("Authorization", bearer.as_str())];
    let event = r#"{"service":"s","message":"m","tenant":"mine","customer.id":"other"}"#;
    request(forebay.address, "POST", "/events", &headers, event.as_bytes()).unwrap().ok(202);
    let tried = Tried { forebay, reader: sender };
    assert_eq!(tried.events("s", 1)[0]["metadata"], json!({"customer.id": "acme", "tenant": "mine"}));
}
