//! From one Forebay to another: an edge with a sink of `type: otlp`, and a gateway that it delivers to.

use std::{collections::BTreeSet, net::SocketAddr};

use serde_json::Value;

use super::{messages::example, protobuf};
use crate::support::{
    binary::{Forebay, Place},
    eventually,
    http::request,
    thorough, until,
};

/// A gateway that can come back at the address that it had.
pub(crate) struct Gateway {
    first: Place,
    pub(crate) process: Forebay,
    pub(crate) address: SocketAddr,
}

impl Gateway {
    pub(crate) fn start() -> Self {
        let first = Place::new();
        let process = first.start();
        let address = process.otlp();
        Self { first, process, address }
    }

    /// Ends it as a crash would, and starts it again.
    fn crash(&mut self) {
        self.down();
        self.up();
    }

    pub(crate) fn down(&mut self) {
        self.process.kill();
    }

    pub(crate) fn up(&mut self) {
        let listen = format!("otlp: {{ listen: \"{}\" }}", self.address);
        let again = Place::new().with_data_dir(self.first.data_dir().to_path_buf()).section(&listen);
        self.process = again.start();
    }
}

fn sink(to: SocketAddr, protocol: &str, more: &str) -> String {
    format!(
        "{{ type: otlp, endpoint: \"http://{to}\", protocol: {protocol}, retry: {{ backoff_min: 20ms, backoff_max: 200ms }}, \
         breaker: {{ open_for: 100ms }}{more} }}"
    )
}

/// The events of a store without what each Forebay gives them itself.
fn stored(forebay: &Forebay) -> Vec<String> {
    let without = |mut event: Value| {
        let event = event.as_object_mut().unwrap();
        ["event_id", "ingested_at"].iter().for_each(|key| drop(event.remove(*key)));
        serde_json::to_string(event).unwrap()
    };
    let mut events: Vec<_> = forebay.all_events("limit=1000").into_iter().map(without).collect();
    events.sort_unstable();
    events
}

/// Scenario: the published examples of all three signals are posted to the edge, over each protocol, packed and not.
/// Guarantee: what the gateway's store has is what the edge's own store has, field by field.
#[test]
fn the_gateway_has_what_the_edge_has() {
    for (protocol, more) in
        [("grpc", ""), ("http", ""), ("grpc", ", compression: gzip"), ("http", ", compression: gzip")]
    {
        let gateway = Gateway::start();
        let edge = Place::new().sink("up", &sink(gateway.address, protocol, more)).start();
        let mut count = 0;
        for (name, path) in [
            ("logs.json", "logs"),
            ("events.json", "logs"),
            ("metrics.json", "metrics"),
            ("trace.json", "traces"),
        ] {
            let Some(json) = example(name) else { return };
            let headers = [("Content-Type", "application/json")];
            request(edge.otlp(), "POST", &format!("/v1/{path}"), &headers, json.as_bytes()).unwrap().ok(200);
            count += 1;
        }
        let own = eventually("the edge has stored all", || {
            let done = edge.metric("forebay_sink_lag_events", "events") == 0.0;
            done.then(|| stored(&edge)).filter(|events| events.len() >= count)
        });
        until("the gateway has stored all", || stored(&gateway.process).len() >= own.len());
        assert_eq!(stored(&gateway.process), own, "{protocol}{more}");
        assert_eq!(edge.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    }
}

/// Scenario: events that came as such go to the gateway, too.
/// Guarantee: service, message, time and metadata are there as the documentation says.
#[test]
fn plain_events_arrive_as_log_records() {
    let gateway = Gateway::start();
    let edge = Place::empty().sink("up", &sink(gateway.address, "grpc", "")).start();
    edge.post_json(
        r#"{"event_id": "mine", "service": "web", "message": "h\u00e9llo", "timestamp": "2026-01-31T08:00:00.123456789Z",
            "metadata": {"n": 1, "deep": {"list": [true, null, 1.5]}}}"#,
    )
    .ok(202);
    let events = eventually("it arrives", || {
        let events = gateway.process.all_events("service=web");
        (!events.is_empty()).then_some(events)
    });
    assert_eq!(events[0]["message"], "h\u{e9}llo");
    assert_eq!(events[0]["timestamp"], "2026-01-31T08:00:00.123456789Z");
    let expected =
        serde_json::json!({"forebay.event_id": "mine", "n": 1, "deep": {"list": [true, null, 1.5]}});
    assert_eq!(events[0]["metadata"]["attributes"], expected);
}

/// Scenario: the gateway is killed again and again while requests come to the edge and go on from there.
/// Guarantee: everything that the edge said yes to is in the gateway's store.
#[test]
fn a_gateway_that_crashes_loses_nothing() {
    for protocol in ["grpc", "http"] {
        let mut gateway = Gateway::start();
        let more = ", batch: { max_events: 50 }";
        let edge = Place::empty().sink("up", &sink(gateway.address, protocol, more)).start();
        let mut sent = BTreeSet::new();
        for round in 0..thorough(3, 12) {
            for request_number in 0..20 {
                let texts: Vec<_> = (0..7).map(|n| format!("{round}-{request_number}-{n}")).collect();
                let bodies: Vec<_> = texts.iter().map(String::as_str).collect();
                let headers = [("Content-Type", "application/x-protobuf")];
                let body = protobuf("edge", &bodies);
                request(edge.otlp(), "POST", "/v1/logs", &headers, &body).unwrap().ok(200);
                sent.extend(texts);
                if request_number == 10 {
                    gateway.crash();
                }
            }
        }
        until("the edge has delivered all", || edge.metric("forebay_sink_lag_events", "up") == 0.0);
        until("the gateway has stored all", || {
            gateway.process.metric("forebay_sink_lag_events", "events") == 0.0
        });
        let events = gateway.process.all_events("service=edge&limit=1000");
        let found: BTreeSet<_> =
            events.iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect();
        assert_eq!(found, sent, "{protocol}");
    }
}
