//! TLS of every listener: who gets through a handshake, and what becomes of everything else.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use rustls::ClientConfig;

use super::{Authority, LOGS, SEND_BATCH, batch, call, place, start, tls_connect, tls_request, tls_send};
use crate::{
    otlp::protobuf,
    support::{PATIENCE, binary::Forebay, http::Connection},
};

const EVENT: &[u8] = br#"{"service":"s","message":"m"}"#;
const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];
const PROTOBUF: [(&str, &str); 1] = [("Content-Type", "application/x-protobuf")];

/// Which listeners take what this client sends: HTTP, OTLP over HTTP/1.1, OTLP over gRPC, batches.
fn taken(forebay: &Forebay, client: &Arc<ClientConfig>) -> [bool; 4] {
    let http = tls_request(forebay.address, client, "POST", "/events", &JSON, EVENT);
    let otlp = tls_request(forebay.otlp(), client, "POST", "/v1/logs", &PROTOBUF, &protobuf("s", &["m"]));
    let grpc = call(forebay.otlp(), Some(client), LOGS, &[], &protobuf("s", &["m"]));
    let sent = call(forebay.ingest(), Some(client), SEND_BATCH, &[], &batch("", &[("", "{}")]));
    [
        http.is_ok_and(|answer| answer.status == 202),
        otlp.is_ok_and(|answer| answer.status == 200),
        grpc.is_ok_and(|called| called.status == "0"),
        sent.is_ok_and(|called| called.status == "0"),
    ]
}

fn listeners(forebay: &Forebay) -> [SocketAddr; 3] {
    [forebay.address, forebay.otlp(), forebay.ingest()]
}

/// Scenario: every listener has the certificate; clients that believe its authority, and one that believes another.
/// Guarantee: the first are served, over HTTP/1.1, and over HTTP/2 where there is gRPC, by what the client offers; the other
/// refuses the server.
#[test]
fn every_listener_speaks_tls() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let place = place(&authority.identity("server"), "");
    let client = authority.client(None);
    let forebay = start(&place, &client);
    assert!(forebay.output().contains("listening on https://"), "{}", forebay.output());
    assert_eq!(taken(&forebay, &client), [true; 4]);
    assert_eq!(taken(&forebay, &stranger.client(None)), [false; 4]);
    for address in listeners(&forebay) {
        let best = if address == forebay.address { "http/1.1" } else { "h2" };
        for (offered, chosen) in
            [(&["h2", "http/1.1"][..], Some(best)), (&["http/1.1"], Some("http/1.1")), (&[], None)]
        {
            let mut client = (*client).clone();
            client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let stream = tls_connect(address, &Arc::new(client)).unwrap();
            assert_eq!(
                stream.get_ref().conn.alpn_protocol(),
                chosen.map(str::as_bytes),
                "{address} {offered:?}"
            );
        }
    }
    let health = tls_request(forebay.address, &client, "GET", "/health", &[], b"").unwrap().ok(200).json();
    let tls = &health["checks"]["tls"];
    assert_eq!(
        (&tls["status"], &tls["certificate_expires"]),
        (&"healthy".into(), &"2049-01-01T00:00:00Z".into())
    );
    let metrics = tls_request(forebay.address, &client, "GET", "/metrics", &[], b"").unwrap().text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("forebay_tls_certificate_expiry_seconds "));
    assert_eq!(line.and_then(|seconds| seconds.parse::<i64>().ok()).map(|s| s > 30 * 24 * 3600), Some(true));
}

/// Scenario: clients have to have a certificate; they have a good one, none, one of another authority, one that expired.
/// Guarantee: only the first is served, by every listener.
#[test]
fn clients_need_a_certificate_where_it_is_required() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let place = place(&authority.identity("server"), "client_ca_file: ca.pem");
    super::file(&place, "ca.pem", &authority.pem());
    let good = authority.client(Some(&authority.identity("client")));
    let forebay = start(&place, &good);
    assert_eq!(taken(&forebay, &good), [true; 4]);
    assert_eq!(taken(&forebay, &authority.client(None)), [false; 4]);
    assert_eq!(taken(&forebay, &authority.client(Some(&stranger.identity("client")))), [false; 4]);
    let expired = authority.identity_until("client", 2021);
    assert_eq!(taken(&forebay, &authority.client(Some(&expired))), [false; 4]);
    assert_eq!(taken(&forebay, &good), [true; 4]);
}

/// Scenario: clients may have a certificate.
/// Guarantee: who has none is served, and who has a wrong one is not.
#[test]
fn a_certificate_that_is_sent_has_to_be_right() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let place = place(&authority.identity("server"), "client_ca_file: ca.pem, client_auth: optional");
    super::file(&place, "ca.pem", &authority.pem());
    let none = authority.client(None);
    let forebay = start(&place, &none);
    assert_eq!(taken(&forebay, &none), [true; 4]);
    assert_eq!(taken(&forebay, &authority.client(Some(&authority.identity("client")))), [true; 4]);
    assert_eq!(taken(&forebay, &authority.client(Some(&stranger.identity("client")))), [false; 4]);
}

/// A certificate that has expired is served, because some clients do not mind, and said to be so.
#[test]
fn an_expired_certificate_is_said_to_be() {
    let authority = Authority::new();
    let place = place(&authority.identity_until("server", 2021), "");
    place.write();
    let mut forebay = place.spawn();
    forebay.wait_until_it_listens();
    assert_eq!(taken(&forebay, &authority.client(None)), [false; 4]);
    forebay.says("the certificate has expired");
}

/// The first message of a client that knows TLS 1.1 at most, and perhaps names algorithms of signatures, as a later one must.
fn hello_of_tls_1_1(algorithms: bool) -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    // No session, two suites, no compression.
    hello.extend([0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0]);
    if algorithms {
        hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    }
    let length = hello.len() as u8;
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &hello[..]].concat()
}

/// Scenario: a client of TLS 1.1; bytes that are nothing; a handshake that stops in the middle; HTTP in the clear; while
/// another client's connection is open.
/// Guarantee: each ends its own connection, the first with the alert that says why, and the other goes on.
#[test]
fn what_is_no_tls_ends_its_own_connection() {
    let authority = Authority::new();
    let place = place(&authority.identity("server"), "");
    let client = authority.client(None);
    let forebay = start(&place, &client);
    for address in listeners(&forebay) {
        let mut open = tls_connect(address, &client).unwrap();
        let target = if address == forebay.address { "/events" } else { "/v1/logs" };
        let mut post = || tls_send(&mut open, "POST", target, &JSON, b"[]").unwrap().status;
        let before = post();
        let answer = |bytes: &[u8]| {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(bytes).unwrap();
            let mut answer = Vec::new();
            // It may be reset over what was not read.
            let _ = socket.read_to_end(&mut answer);
            answer
        };
        // Alerts, fatal: 70 is protocol_version, 40 handshake_failure.
        for (algorithms, reason) in [(true, 70), (false, 40)] {
            let alert = answer(&hello_of_tls_1_1(algorithms));
            assert_eq!((alert.first(), alert.get(5..7)), (Some(&21), Some(&[2, reason][..])), "{alert:?}");
        }
        for garbage in [&b"\x16\x03\x01\xff\xff"[..], &[0xff; 300], &[22, 3, 1, 0, 5, 1, 0xff, 0xff, 0xff, 0]]
        {
            let answer = if garbage.len() == 5 {
                // It says that more comes, and nothing does.
                let mut socket = TcpStream::connect(address).unwrap();
                socket.write_all(garbage).unwrap();
                Vec::new()
            } else {
                answer(garbage)
            };
            assert!(answer.is_empty() || answer[0] == 21, "{garbage:?}: {answer:?}");
        }
        let clear = answer(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let clear = String::from_utf8_lossy(&clear);
        assert!(!clear.contains("status\""), "{clear}");
        if address != forebay.address {
            assert!(clear.starts_with("HTTP/1.1 400") && clear.contains("https://"), "{clear}");
        }
        assert_eq!(post(), before, "{address}: the other connection goes on");
    }
}

/// Scenario: there may be one connection, and a client opens it and never says anything, or begins a handshake and never
/// ends it.
/// Guarantee: after the handshake's time it is closed, and the next one is served.
#[test]
fn a_slow_handshake_holds_no_connection_for_ever() {
    let authority = Authority::new();
    let place = place(&authority.identity("server"), "handshake_timeout: 300ms")
        .http("workers: 1")
        .http("max_connections: 1")
        .section("otlp: { listen: \"127.0.0.1:0\", max_connections: 1 }")
        .section("ingest: { grpc: { listen: null } }");
    let client = authority.client(None);
    let forebay = start(&place, &client);
    for (address, target) in [(forebay.address, "/ready"), (forebay.otlp(), "/v1/logs")] {
        for said in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
            let mut slow = Connection::open(address).unwrap();
            slow.write(said).unwrap();
            let served = tls_request(address, &client, "GET", target, &[], b"").unwrap();
            assert!(matches!(served.status, 200 | 405), "{}", served.text());
            assert!(slow.is_at_end(), "it was closed");
        }
    }
}
