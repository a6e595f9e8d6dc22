//! The OpenTelemetry SDKs for Python and for JavaScript, over every transport that they have.
//!
//! They are told nothing but their own variables, as an application that is pointed at Forebay.

use std::{net::SocketAddr, path::Path, process::Command};

use serde_json::Value;

use super::content::{ITEMS, check};
use crate::{
    otlp::stored,
    support::{
        binary::{Finished, Place},
        clients::{command, installed, sources},
        http::Destination,
        thorough, until,
    },
};

/// One way to send.
pub struct Transport {
    protocol: &'static str,
    compression: Option<&'static str>,
}

pub const fn over(protocol: &'static str, compression: Option<&'static str>) -> Transport {
    Transport { protocol, compression }
}

/// Runs a program to its end, in which nothing may go wrong; the ids that it printed.
#[track_caller]
pub fn run(program: Command, to: SocketAddr, service: &str, transport: &Transport) -> Value {
    let finished = send(program, to, service, transport);
    // An exporter that could not send says so, and the program ends well all the same.
    assert_eq!(finished.stderr, "", "{finished:?}");
    serde_json::from_str(&finished.ok()).expect("it prints ids")
}

fn send(mut program: Command, to: SocketAddr, service: &str, transport: &Transport) -> Finished {
    program
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{to}"))
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", transport.protocol)
        .env("OTEL_SERVICE_NAME", service)
        .env("OTEL_RESOURCE_ATTRIBUTES", "place=Z%C3%BCrich");
    if let Some(compression) = transport.compression {
        program.env("OTEL_EXPORTER_OTLP_COMPRESSION", compression);
    }
    Finished::of(program.env("OTEL_LOG_LEVEL", "info"))
}

#[track_caller]
fn each(transports: &[Transport], program: impl Fn() -> Command) {
    let forebay = Place::new().start();
    for (number, transport) in transports.iter().enumerate() {
        let service = format!("sdk-{number}");
        let ids = run(program(), forebay.otlp(), &service, transport);
        check(&stored(&forebay, &service, ITEMS), &ids);
    }
}

pub fn python(directory: &Path) -> Command {
    let mut python = command(directory.join("bin/python"));
    python.arg(sources().join("python/client.py"));
    python
}

fn javascript(directory: &Path) -> Command {
    let mut node = command("node");
    node.arg(sources().join("javascript/client.cjs")).env("NODE_PATH", directory.join("node_modules"));
    node
}

/// What an application in Python sends is in the store, field by field, whatever the transport.
#[test]
fn the_python_sdk() {
    let Some(directory) = installed("python", "the_python_sdk") else { return };
    let transports = [
        over("http/protobuf", None),
        over("http/protobuf", Some("gzip")),
        over("http/protobuf", Some("deflate")),
        over("grpc", None),
        over("grpc", Some("gzip")),
    ];
    each(&transports, || python(&directory));
}

/// What an application in JavaScript sends is in the store, field by field, whatever the transport; also as JSON.
#[test]
fn the_javascript_sdk() {
    let Some(directory) = installed("javascript", "the_javascript_sdk") else { return };
    let transports = [
        over("http/protobuf", None),
        over("http/protobuf", Some("gzip")),
        over("http/json", None),
        over("http/json", Some("gzip")),
        over("grpc", None),
        over("grpc", Some("gzip")),
    ];
    each(&transports, || javascript(&directory));
}

/// Fills the buffer of a Forebay whose one destination is down, has a program send to it, and mends the destination when
/// the program was refused: it has to come again by itself, and to lose nothing.
#[track_caller]
fn while_the_buffer_is_full(transports: &[Transport], program: impl Fn() -> Command + Sync) {
    for transport in transports {
        let destination = Destination::start();
        destination.answer(500);
        let forebay = Place::new()
            .sink("up", &destination.sink())
            // Three times what the program sends: events that are being committed may count twice for a moment, and
            // SDKs do not come a third time.
            .section("buffer: { durability: memory, memory_events_max: 60 }")
            .start();
        until("the buffer is full", || forebay.post_json(r#"{"service":"a","message":"b"}"#).status == 503);
        let refused = || forebay.metric("forebay_receiver_rejected_total", "journal_full");
        let before = refused();
        let finished = std::thread::scope(|scope| {
            let sending = scope.spawn(|| send(program(), forebay.otlp(), "again", transport));
            until("the program is refused", || refused() > before || sending.is_finished());
            assert!(refused() > before, "it was not refused");
            destination.answer(200);
            sending.join().unwrap()
        });
        // Shown where something is missing.
        eprintln!("the program said: {}\n{}", finished.stdout, finished.stderr);
        let ids = finished.stdout.lines().find(|line| line.starts_with("{\"")).expect("it prints ids");
        let ids = serde_json::from_str(ids).unwrap();
        check(&stored(&forebay, "again", ITEMS), &ids);
    }
}

/// The SDK for Python understands a refusal that passes, over HTTP and over gRPC.
#[test]
fn the_python_sdk_comes_again_where_the_buffer_is_full() {
    let test = "the_python_sdk_comes_again_where_the_buffer_is_full";
    let Some(directory) = installed("python", test) else { return };
    let transports = [over("grpc", None), over("http/protobuf", None)];
    while_the_buffer_is_full(&transports[..thorough(1, 2)], || python(&directory));
}

/// The SDK for JavaScript does, too, over HTTP. Over gRPC it gives up at the first error, whatever that says.
#[test]
fn the_javascript_sdk_comes_again_where_the_buffer_is_full() {
    let test = "the_javascript_sdk_comes_again_where_the_buffer_is_full";
    let Some(directory) = installed("javascript", test) else { return };
    let transports = [over("http/json", None), over("http/protobuf", None)];
    while_the_buffer_is_full(&transports[..thorough(1, 2)], || javascript(&directory));
}
