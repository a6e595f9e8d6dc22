//! Tokens at every listener: whose are good for what, before anything of a body is read.

use std::net::SocketAddr;

use super::{LOGS, SEND_BATCH, auth, batch, bearer, call, token};
use crate::{
    otlp::protobuf,
    support::{
        binary::{Forebay, Place},
        http::{Connection, Response, request},
        until,
    },
};

const EVENT: &[u8] = br#"{"service":"s","message":"m"}"#;

fn ask(address: SocketAddr, method: &str, target: &str, token: &str, body: &[u8]) -> Response {
    let media = if target.starts_with("/v1/") { "application/x-protobuf" } else { "application/json" };
    let bearer = bearer(token);
    let all = [("Content-Type", media), ("Authorization", bearer.as_str())];
    request(address, method, target, &all[..if token.is_empty() { 1 } else { 2 }], body).unwrap()
}

/// What each listener says to this token: HTTP's status, OTLP's status, and the codes of gRPC for OTLP and for batches.
fn said(forebay: &Forebay, token: &str) -> (u16, u16, String, String) {
    let headers = [("authorization", &*bearer(token))];
    let headers = &headers[..usize::from(!token.is_empty())];
    (
        ask(forebay.address, "POST", "/events", token, EVENT).status,
        ask(forebay.otlp(), "POST", "/v1/logs", token, &protobuf("s", &["m"])).status,
        call(forebay.otlp(), None, LOGS, headers, &protobuf("s", &["m"])).unwrap().status,
        call(forebay.ingest(), None, SEND_BATCH, headers, &batch("", &[("", "{}")])).unwrap().status,
    )
}

fn all(http: u16, otlp: u16, grpc: &str) -> (u16, u16, String, String) {
    (http, otlp, grpc.to_owned(), grpc.to_owned())
}

/// Scenario: tokens for sending, for asking, one that has expired; none; a wrong one.
/// Guarantee: every listener says the same of each, in the form of its protocol.
#[test]
fn every_listener_asks_for_tokens() {
    let (sender, sending) = token("sender", "ingest", "");
    let (reader, reading) = token("reader", "query", "");
    let (gone, expired) = token("gone", "ingest", ", expires: \"2020-01-01T00:00:00Z\"");
    let (admin, administering) = token("boss", "admin", "");
    let forebay = Place::new()
        .section(&auth(&[&sending, &reading, &expired, &administering], ", refusals: { burst: 1000 }"))
        .section("admin: { chaos: true, token: the-token-of-admin }")
        .start();
    assert_eq!(said(&forebay, &sender), all(202, 200, "0"));
    assert_eq!(said(&forebay, ""), all(401, 401, "16"));
    assert_eq!(said(&forebay, "fby_wrong"), all(401, 401, "16"));
    assert_eq!(said(&forebay, &gone), all(401, 401, "16"));
    assert_eq!(said(&forebay, &reader), all(403, 403, "7"));

    let refused = ask(forebay.address, "POST", "/events", "", EVENT);
    refused.error(401, "unauthorized");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"forebay\""));
    let refused = ask(forebay.otlp(), "POST", "/v1/logs", "", &[]);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"forebay\""));
    assert_eq!(refused.header("content-type"), Some("application/x-protobuf"));
    let refused = ask(forebay.address, "POST", "/events", &reader, EVENT).error(403, "forbidden");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("\"reader\" may not do this; the scope ingest or relay may")
    );

    let get = |target: &str, token: &str| ask(forebay.address, "GET", target, token, b"").status;
    for (target, none, sender_s, reader_s, admin_s) in [
        ("/events", 401, 403, 200, 403),
        ("/events/stats", 401, 403, 200, 403),
        ("/metrics", 401, 403, 200, 403),
        ("/health", 200, 200, 200, 200),
        ("/ready", 200, 200, 200, 200),
        ("/live", 200, 200, 200, 200),
        ("/nothing", 401, 404, 404, 404),
        ("/admin/actors", 401, 403, 403, 200),
        // There is no second way of writing a path that another scope would open.
        ("/%65vents", 401, 403, 200, 403),
        ("/%61dmin/actors", 401, 403, 403, 200),
    ] {
        let statuses = [get(target, ""), get(target, &sender), get(target, &reader), get(target, &admin)];
        assert_eq!(statuses, [none, sender_s, reader_s, admin_s], "{target}");
    }
    assert_eq!(get("/admin/actors", "the-token-of-admin"), 200);
    assert_eq!(get("/events", "the-token-of-admin"), 401, "it is for actors alone");
    let key = [("x-api-key", reader.as_str())];
    request(forebay.address, "GET", "/events", &key, b"").unwrap().ok(200);

    let health = call(forebay.ingest(), None, "/grpc.health.v1.Health/Check", &[], b"").unwrap();
    assert_eq!(health.status, "0", "probes have no token: {health:?}");
    let metrics = ask(forebay.address, "GET", "/metrics", &reader, b"").text();
    assert!(metrics.contains("forebay_auth_refused_total{cause=\"expired\"} 4"), "{metrics}");
    assert!(metrics.contains("forebay_auth_accepted_total{token=\"sender\"}"), "{metrics}");
}

/// What is public is said by the configuration: metrics, and not even probes.
#[test]
fn what_is_public_can_be_chosen() {
    let (_, entry) = token("a", "ingest", "");
    let place = Place::new().section(&auth(&[&entry], ", public: [metrics]"));
    place.write();
    let mut forebay = place.spawn();
    forebay.wait_until_it_listens();
    forebay.get("/metrics").ok(200);
    forebay.get("/health").error(401, "unauthorized");
    assert_eq!(call(forebay.otlp(), None, "/grpc.health.v1.Health/Check", &[], b"").unwrap().status, "16");
}

/// Scenario: a client without a token says that a large body comes, and sends none of it.
/// Guarantee: it is refused at once.
#[test]
fn refusals_do_not_wait_for_bodies() {
    let (_, entry) = token("a", "ingest", "");
    let forebay = Place::new().section(&auth(&[&entry], "")).start();
    for (address, target) in [(forebay.address, "/events"), (forebay.otlp(), "/v1/logs")] {
        for framing in ["Content-Length: 9000000", "Transfer-Encoding: chunked"] {
            let mut connection = Connection::open(address).unwrap();
            let head = format!(
                "POST {target} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
            );
            connection.write(head.as_bytes()).unwrap();
            assert_eq!(connection.response().unwrap().status, 401, "{target} {framing}");
            assert!(connection.is_at_end(), "{target} {framing}: nothing can follow a body that is not read");
        }
    }
}

/// A token in the address is refused by every listener, also where nobody is asked for one, and is not repeated.
#[test]
fn a_token_in_the_address_is_refused() {
    let (good, entry) = token("a", "ingest, query", "");
    for place in [Place::new(), Place::new().section(&auth(&[&entry], ""))] {
        let forebay = place.start();
        for (address, method, target) in [
            (forebay.address, "GET", "/events?limit=1&token="),
            (forebay.address, "POST", "/events?access_token="),
            (forebay.address, "GET", "/health?api_key="),
            (forebay.otlp(), "POST", "/v1/logs?x-api-key="),
        ] {
            let refused = ask(address, method, &format!("{target}{good}"), &good, EVENT);
            assert_eq!(refused.status, 400, "{target}: {}", refused.text());
            let text = refused.text();
            assert!(text.contains("Authorization: Bearer") && !text.contains(&good), "{text}");
        }
        assert!(!forebay.log().contains(&good));
    }
}

/// A token's own rate holds over all listeners and addresses, and another token is not touched.
#[test]
fn a_token_has_its_own_rate() {
    let (slow, limited) = token("slow", "ingest", ", limits: { per_second: 1, burst: 3 }");
    let (free, unlimited) = token("free", "ingest", "");
    let forebay = Place::new().section(&auth(&[&limited, &unlimited], "")).start();
    let mut refused = None;
    until("it is used up", || {
        let answer = ask(forebay.address, "POST", "/events", &slow, EVENT);
        refused = (answer.status != 202).then_some(answer);
        refused.is_some()
    });
    let refused = refused.unwrap();
    let error = refused.error(429, "rate_limited");
    assert!(error["message"].as_str().unwrap().contains("\"slow\""), "{error}");
    assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u64>().is_ok_and(|s| s >= 1)));
    // All four listeners' answers within a second of the first; one may be let in meanwhile.
    let (http, otlp, grpc, batches) = said(&forebay, &slow);
    let used_up = [http == 429, otlp == 429, grpc == "8", batches == "8"];
    assert!(used_up.iter().filter(|used_up| **used_up).count() >= 2, "{used_up:?}");
    assert_eq!(said(&forebay, &free), all(202, 200, "0"));
}

/// Who comes from a network that is not allowed is refused by every listener, probes included, whatever he says of where he
/// comes from; a reload lets him in.
#[test]
fn networks_are_allowed_or_not() {
    let place = |allow: &str| Place::new().section(&format!("auth: {{ allow: [{allow}] }}"));
    let closed = place("10.0.0.0/8");
    closed.write();
    let mut forebay = closed.spawn();
    forebay.wait_until_it_listens();
    assert_eq!(said(&forebay, ""), all(403, 403, "7"));
    forebay.get("/health").error(403, "address_not_allowed");
    let headers = [("X-Forwarded-For", "10.1.2.3"), ("Forwarded", "for=10.1.2.3")];
    request(forebay.address, "GET", "/health", &headers, b"").unwrap().error(403, "address_not_allowed");
    let preflight = [("Origin", "https://app.example.com"), ("Access-Control-Request-Method", "POST")];
    assert_eq!(request(forebay.otlp(), "OPTIONS", "/v1/logs", &preflight, b"").unwrap().status, 403);

    let text = std::fs::read_to_string(closed.config_file()).unwrap();
    std::fs::write(closed.config_file(), text.replace("10.0.0.0/8", "\"::ffff:127.0.0.0/104\"")).unwrap();
    let changes = closed.run(&["reload"]).ok();
    assert!(changes.contains("\"auth\"") && changes.contains("\"needs_restart\": []"), "{changes}");
    assert_eq!(said(&forebay, ""), all(202, 200, "0"));
}

/// A browser asks without a token before it sends with one, and may read what it is told then.
#[test]
fn browsers_ask_before_they_send() {
    let (_, entry) = token("a", "ingest", "");
    let otlp = "otlp: { listen: \"127.0.0.1:0\", cors: { allowed_origins: [\"https://app.example.com\"] } }";
    let forebay = Place::new().section(otlp).section(&auth(&[&entry], "")).start();
    let origin = ("Origin", "https://app.example.com");
    let headers = [origin, ("Access-Control-Request-Method", "POST")];
    let preflight = request(forebay.otlp(), "OPTIONS", "/v1/logs", &headers, b"").unwrap().ok(204);
    let allowed = preflight.header("access-control-allow-headers").unwrap();
    assert!(allowed.contains("authorization") && allowed.contains("x-api-key"), "{allowed}");
    let headers = [origin, ("Content-Type", "application/json")];
    let refused = request(forebay.otlp(), "POST", "/v1/logs", &headers, b"{}").unwrap().ok(401);
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(refused.json()["code"], 16);
}
