//! OTLP/gRPC: calls as a client's library makes them, down to the trailers.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body as _;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{protobuf, stored};
use crate::support::{binary::Place, http::Destination, until};

const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// What came back of a call.
#[derive(Debug)]
struct Called {
    /// The answer ended with its headers.
    only_headers: bool,
    status: String,
    message: String,
    details: Vec<u8>,
    body: Vec<u8>,
}

fn framed(packed: bool, message: &[u8]) -> Vec<u8> {
    [&[u8::from(packed)][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

fn call(address: SocketAddr, path: &str, encoding: Option<&str>, body: Vec<u8>) -> Called {
    use base64::Engine as _;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::post(format!("http://{address}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(encoding) = encoding {
            request = request.header("grpc-encoding", encoding);
        }
        let response =
            sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let headers = response.headers().clone();
        let only_headers = response.body().is_end_stream();
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let text = |name: &str| {
            let value = trailers.get(name).or_else(|| headers.get(name));
            value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
        };
        let details =
            base64::engine::general_purpose::STANDARD_NO_PAD.decode(text("grpc-status-details-bin"));
        Called {
            only_headers,
            status: text("grpc-status"),
            message: text("grpc-message"),
            details: details.unwrap(),
            body: collected.to_bytes().to_vec(),
        }
    })
}

/// Row 8: the three services take a message, plain or packed, and answer with an empty one.
#[test]
fn calls_are_answered_with_their_trailers() {
    let forebay = Place::new().start();
    let message = protobuf("grpc", &["one", "two"]);
    let gzip = {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&message).unwrap();
        encoder.finish().unwrap()
    };
    for (encoding, body) in [
        (None, framed(false, &message)),
        (Some("gzip"), framed(true, &gzip)),
        (Some("gzip"), framed(false, &message)),
        (Some("zstd"), framed(true, &zstd::encode_all(&message[..], 3).unwrap())),
    ] {
        let called = call(forebay.otlp(), LOGS, encoding, body);
        assert_eq!((&*called.status, &called.body[..]), ("0", &[0; 5][..]), "{called:?}");
    }
    for path in [
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    ] {
        assert_eq!(call(forebay.otlp(), path, None, framed(false, b"")).status, "0");
    }
    assert_eq!(stored(&forebay, "grpc", 8)[7]["message"], "two");
}

/// Row 8: what is wrong with a call, in the codes on which clients act.
#[test]
fn errors_have_the_codes_that_clients_act_on() {
    let forebay = Place::new().section("otlp: { listen: \"127.0.0.1:0\", max_body_bytes: 10KiB }").start();
    let bad = call(forebay.otlp(), LOGS, None, framed(false, b"\xff\xff"));
    assert_eq!(bad.status, "3");
    assert!(String::from_utf8_lossy(&bad.details).contains("google.rpc.BadRequest"), "{bad:?}");
    for body in [vec![], vec![0, 0], framed(false, b"")[..4].to_vec(), [framed(false, b""), vec![0]].concat()]
    {
        let cut = call(forebay.otlp(), LOGS, None, body);
        assert_eq!(cut.status, "3", "{cut:?}");
    }
    let long = "x".repeat(20_000);
    let large = call(forebay.otlp(), LOGS, None, framed(false, &protobuf("s", &[&long])));
    assert_eq!(large.status, "8", "over-size: {large:?}");
    assert!(!String::from_utf8_lossy(&large.details).contains("RetryInfo"), "it must not be tried again");
    let bomb = {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 5_000_000]).unwrap();
        encoder.finish().unwrap()
    };
    assert!(bomb.len() < 10_000);
    assert_eq!(call(forebay.otlp(), LOGS, Some("gzip"), framed(true, &bomb)).status, "8");
    let unknown = call(
        forebay.otlp(),
        "/opentelemetry.proto.collector.logs.v1.LogsService/Import",
        None,
        framed(false, b""),
    );
    assert_eq!(unknown.status, "12", "{unknown:?}");
    assert!(unknown.message.contains("Import"), "{unknown:?}");
    assert_eq!(call(forebay.otlp(), LOGS, Some("snappy"), framed(true, b"x")).status, "3");
}

/// An error without a message is in the headers, and these have to be the end: where anything came behind them, if only
/// that nothing comes, gRPC for Go took the call for one that was cut off, and a Collector dropped what it had sent.
#[test]
fn r0443_an_error_looked_like_a_call_that_was_cut_off() {
    let forebay = Place::new().start();
    let bad = call(forebay.otlp(), LOGS, None, framed(false, b"\xff\xff"));
    assert!(bad.only_headers && bad.status == "3", "{bad:?}");
    let good = call(forebay.otlp(), LOGS, None, framed(false, b""));
    assert!(!good.only_headers && good.status == "0", "{good:?}");
}

/// Row 8: overload is UNAVAILABLE with the time after which to come again.
#[test]
fn overload_says_when_to_come_again() {
    let destination = Destination::start();
    destination.answer(500);
    let place = Place::empty()
        .sink("up", &destination.sink())
        .section("buffer: { durability: memory, memory_events_max: 20 }");
    let forebay = place.start();
    let body = framed(false, &protobuf("full", &["m"; 8]));
    let mut refused = None;
    until("it is full", || {
        let called = call(forebay.otlp(), LOGS, None, body.clone());
        refused = (called.status != "0").then_some(called);
        refused.is_some()
    });
    let refused = refused.unwrap();
    assert_eq!(refused.status, "14", "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.details).contains("google.rpc.RetryInfo"), "{refused:?}");
    destination.answer(200);
    until("there is room again", || call(forebay.otlp(), LOGS, None, body.clone()).status == "0");
}

/// Row 10: one port takes both protocols; two ports, each of them.
#[test]
fn every_port_takes_both_protocols() {
    let two = "otlp: { http: { listen: \"127.0.0.1:0\" }, grpc: { listen: \"127.0.0.1:0\" } }";
    let forebay = Place::new().section(two).start();
    let output = forebay.output();
    let line =
        output.lines().find_map(|line| line.strip_prefix("OpenTelemetry over HTTP and gRPC on ")).unwrap();
    let addresses: Vec<SocketAddr> = line.split(" and ").map(|address| address.parse().unwrap()).collect();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        assert_eq!(call(address, LOGS, None, framed(false, &protobuf("both", &["grpc"]))).status, "0");
        let headers = [("Content-Type", "application/x-protobuf")];
        let body = protobuf("both", &["http"]);
        crate::support::http::request(address, "POST", "/v1/logs", &headers, &body).unwrap().ok(200);
    }
    stored(&forebay, "both", 4);
}
