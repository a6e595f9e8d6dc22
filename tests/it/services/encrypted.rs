//! Sinks that speak HTTPS, each to its real server with TLS before it: whom they trust, and that it works.
//!
//! How `otlp`, `postgres` and `nats` do it is beside their own tests.

use serde_json::{Value, json};

use super::{
    clickhouse::Clickhouse,
    complains, event, post,
    pushgateway::Gateway,
    s3::bucket::{Bucket, Kind},
};
use crate::support::{
    binary::{Forebay, Place},
    http::{Response, request},
    tls_front::TlsFront,
    until,
};

/// What the URLs of the tests' sinks begin with, before the port.
const IN_THE_CLEAR: &str = "http://127.0.0.1:";

/// The port of the server that a sink is written for.
fn port_of(sink: &str) -> u16 {
    let (_, behind) = sink.split_once(IN_THE_CLEAR).expect("a server on loopback");
    behind.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// Asks a server directly.
#[track_caller]
fn ask(port: u16, method: &str, path: &str, body: &str) -> Response {
    request(([127, 0, 0, 1], port).into(), method, path, &[], body.as_bytes()).unwrap()
}

/// Scenario: the server's certificate is of an authority that the sink does not know; then that is configured, and the URL has
/// a name that the certificate has not; then it has the right one.
/// Guarantee: the first two times nothing arrives, and the health says why. The last time what was sent at the first arrives.
#[track_caller]
fn only_whom_it_trusts_gets_it(
    sink: impl Fn(&str) -> String,
    send: impl FnOnce(&Forebay),
    arrived: impl Fn() -> usize,
) {
    let server = port_of(&sink(""));
    let front = TlsFront::to(server);
    let mut place = Place::empty();
    let ca = place.file("ca.pem");
    std::fs::write(&ca, &front.authority).unwrap();
    let trusting = format!(", tls: {{ ca_file: {ca:?} }}");
    let encrypted = |host: &str, keys: &str| {
        sink(keys).replace(&format!("{IN_THE_CLEAR}{server}"), &format!("https://{host}:{}", front.port))
    };

    place.set_sink("db", Some(&encrypted("localhost", "")));
    let mut forebay = place.start();
    send(&forebay);
    complains(&forebay, "UnknownIssuer");
    forebay.kill();

    place.set_sink("db", Some(&encrypted("127.0.0.1", &trusting)));
    let mut forebay = place.start();
    complains(&forebay, "not valid for name");
    forebay.kill();
    assert_eq!(arrived(), 0);

    place.set_sink("db", Some(&encrypted("localhost", &trusting)));
    let forebay = place.start();
    until("it has its outcome", || forebay.metric("forebay_buffer_events", "") == 0.0);
    assert_eq!(arrived(), 1);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

#[test]
fn clickhouse_is_known_by_its_certificate() {
    let Some(clickhouse) = Clickhouse::start("clickhouse_is_known_by_its_certificate") else { return };
    let port = port_of(&clickhouse.sink(""));
    let arrived = || -> usize {
        let answer = ask(port, "POST", "/", "SELECT count() FROM events");
        // Before the first batch there is no table.
        if answer.status == 200 { answer.text().trim().parse().unwrap() } else { 0 }
    };
    let send = |forebay: &Forebay| post(forebay, &[event("a")]);
    only_whom_it_trusts_gets_it(|keys| clickhouse.sink(keys), send, arrived);
}

#[test]
fn a_bucket_is_known_by_its_certificate() {
    let Some(bucket) = Bucket::start(Kind::Minio, "a_bucket_is_known_by_its_certificate") else { return };
    only_whom_it_trusts_gets_it(
        |keys| bucket.sink(&format!(", batch: {{ max_wait: 20ms }}{keys}")),
        |forebay| post(forebay, &[event("a")]),
        || bucket.objects().len(),
    );
}

#[test]
fn a_pushgateway_is_known_by_its_certificate() {
    let Some(gateway) = Gateway::start("a_pushgateway_is_known_by_its_certificate") else { return };
    let port = port_of(&gateway.sink(""));
    let send = |forebay: &Forebay| {
        let json = [("Content-Type", "application/json")];
        let body = a_gauge().to_string();
        request(forebay.otlp(), "POST", "/v1/metrics", &json, body.as_bytes()).unwrap().ok(200);
    };
    let groups = || ask(port, "GET", "/api/v1/metrics", "").json()["data"].as_array().unwrap().len();
    only_whom_it_trusts_gets_it(|keys| gateway.sink(keys), send, groups);
}

/// One value of one service.
fn a_gauge() -> Value {
    let name = json!([{"key": "service.name", "value": {"stringValue": "shop"}}]);
    let point = json!({"timeUnixNano": "1778051289000000000", "asInt": "7"});
    json!({"resourceMetrics": [{"resource": {"attributes": name},
        "scopeMetrics": [{"metrics": [{"name": "queue", "gauge": {"dataPoints": [point]}}]}]}]})
}
