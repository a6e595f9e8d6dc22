//! Connections that nobody should make: bodies that break off, frames that lie, more streams than are allowed, streams that
//! are reset as fast as they are opened, bombs. The server stays up, serves everybody else, and does not grow.

use std::{fs, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use super::{protobuf, stored};
use crate::support::{
    binary::{Forebay, Place},
    http::{Connection, request},
    http2::{
        CANCEL, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, PADDED, REFUSED_STREAM, RST_STREAM,
        frame, frame_that_says, post,
    },
    thorough, until,
};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

/// More than all this is what an attack must not cost: the bodies that may be in memory are less by far here.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// The most memory the process ever had.
fn peak_bytes(forebay: &Forebay) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", forebay.id())).expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A client like any other is served.
#[track_caller]
fn serves(forebay: &Forebay, service: &str) {
    let headers = [("Content-Type", "application/x-protobuf")];
    request(forebay.otlp(), "POST", "/v1/logs", &headers, &protobuf(service, &["served"])).unwrap().ok(200);
    assert_eq!(stored(forebay, service, 1)[0]["message"], "served");
}

/// Bodies that end before their end, over HTTP/1.1 with and without a length and over HTTP/2 by a reset and by the end of the
/// connection: nothing of them is kept, and a stream beside them on the same connection is served.
#[test]
fn a_stream_that_breaks_off_leaves_nothing() {
    let forebay = Place::new().start();
    let (broken, body) = (protobuf("broken", &["never"; 50]), protobuf("beside", &["kept"]));
    let half = broken.len() / 2;
    let head = "POST /v1/logs HTTP/1.1\r\nHost: t\r\nContent-Type: application/x-protobuf\r\n";
    for framing in [
        format!("Content-Length: {}\r\n\r\n", broken.len()),
        "Transfer-Encoding: chunked\r\n\r\n1000\r\n".into(),
    ] {
        let mut connection = Connection::open(forebay.otlp()).unwrap();
        connection.write(format!("{head}{framing}").as_bytes()).unwrap();
        connection.write(&broken[..half]).unwrap();
    }
    let mut connection = Http2::open(forebay.otlp());
    connection.send(HEADERS, END_HEADERS, 1, &post("/v1/logs", &[PROTOBUF])).unwrap();
    connection.send(DATA, 0, 1, &broken[..half]).unwrap();
    connection.send(HEADERS, END_HEADERS, 3, &post("/v1/logs", &[PROTOBUF])).unwrap();
    connection.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).unwrap();
    connection.send(DATA, END_STREAM, 3, &body).unwrap();
    assert!(connection.next_of(3).expect("it is answered").is_ok());
    connection.send(HEADERS, END_HEADERS, 5, &post("/v1/logs", &[PROTOBUF])).unwrap();
    connection.send(DATA, 0, 5, &broken[..half]).unwrap();
    drop(connection);
    stored(&forebay, "beside", 1);
    serves(&forebay, "other");
    // What came before the break is whole as protobuf in no case, so it would be an error at most.
    assert!(forebay.all_events("service=broken").is_empty());
    until("the breaks were noticed", || {
        forebay.metric("forebay_receiver_rejected_total", "incomplete_body") >= 3.0
    });
}

/// 1,000 calls at once on one connection, each with a record of its own: all are answered, and all records are there.
#[test]
fn a_thousand_streams_at_once_are_served() {
    const STREAMS: usize = 1000;
    let forebay = Place::new().start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = TokioIo::new(tokio::net::TcpStream::connect(forebay.otlp()).await.unwrap());
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
        tokio::spawn(connection);
        let calls = (0..STREAMS).map(|index| {
            let mut sender = sender.clone();
            let body = Full::new(Bytes::from(protobuf("streams", &[&format!("{index:04}")])));
            let request =
                http::Request::post("http://test/v1/logs").header(PROTOBUF.0, PROTOBUF.1).body(body);
            async move {
                let response = sender.send_request(request.unwrap()).await.expect("it is answered");
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.expect("it has an end");
            }
        });
        futures::future::join_all(calls).await;
    });
    let events = stored(&forebay, "streams", STREAMS);
    let mut found: Vec<_> =
        events.iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect();
    found.sort();
    assert!((0..STREAMS).map(|index| format!("{index:04}")).eq(found));
}

/// Scenario: a client that sends many requests over one connection of HTTP/2, one after the other, and calls that fail.
/// Guarantee: no answer has an empty frame that does not end it, and a call's error is one frame that ends the stream.
/// After some hundreds of empty frames a client's library ends the connection, and some know no error that came in two.
#[test]
fn r0457_answers_had_empty_frames() {
    let forebay = Place::new().start();
    let mut connection = Http2::open(forebay.otlp());
    let json = ("content-type", "application/json");
    let call = ("content-type", "application/grpc");
    let mut stream = 1;
    for (path, header) in
        [("/v1/logs", PROTOBUF), ("/v1/logs", json), ("/v1/nothing", PROTOBUF), ("/nothing", call)]
    {
        connection.send(HEADERS, END_HEADERS, stream, &post(path, &[header])).unwrap();
        let body: &[u8] = if header == json { b"{}" } else { b"" };
        connection.send(DATA, END_STREAM, stream, body).unwrap();
        loop {
            let frame = connection.next_of(stream).expect("it is answered");
            let is_end = frame.flags & END_STREAM != 0;
            assert!(
                is_end || frame.kind != DATA || !frame.payload.is_empty(),
                "{path} {header:?}: {frame:?}"
            );
            assert!(is_end || header != call, "{frame:?}");
            if is_end {
                break;
            }
        }
        stream += 2;
    }
}

/// A client that opens 1,000 streams without waiting for any: those over the limit are refused in the way that says they
/// were not looked at, the others are served.
#[test]
fn streams_over_the_limit_are_refused_one_by_one() {
    let forebay = Place::new().start();
    let mut connection = Http2::open(forebay.otlp());
    let head = post("/v1/logs", &[PROTOBUF]);
    let heads: Vec<u8> =
        (0..1000).flat_map(|index| frame(HEADERS, END_HEADERS, 2 * index + 1, &head)).collect();
    connection.write(&heads).unwrap();
    let mut refused = 0;
    while refused < 1000 - 256 {
        let frame = connection.next().expect("the connection lives");
        assert_eq!(frame.reset_code(), Some(REFUSED_STREAM), "{frame:?}");
        assert!(frame.stream > 2 * 256, "{frame:?}");
        refused += 1;
    }
    for index in 0..256 {
        let body = protobuf("first", &[&format!("{index}")]);
        connection.send(DATA, END_STREAM, 2 * index + 1, &body).unwrap();
    }
    let answered = std::iter::from_fn(|| connection.next()).filter(|frame| frame.is_ok()).take(256).count();
    assert_eq!(answered, 256);
    stored(&forebay, "first", 256);
    serves(&forebay, "other");
}

/// Rapid reset: streams opened and reset at once, by the ten thousand and on several connections. The server ends such
/// connections or bears them; others are served meanwhile, and its memory stays where it was.
#[test]
fn rapid_resets_are_borne() {
    let forebay = Place::new().start();
    serves(&forebay, "before");
    let before = peak_bytes(&forebay);
    let resets: u32 = thorough(10_000, 200_000);
    std::thread::scope(|scope| {
        let attackers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| reset_rapidly(forebay.otlp(), resets))).collect();
        for index in 0..5 {
            serves(&forebay, &format!("meanwhile-{index}"));
        }
        let sent: Vec<_> = attackers.into_iter().map(|attacker| attacker.join().unwrap()).collect();
        eprintln!("streams opened until the server ended the connection: {sent:?}");
    });
    serves(&forebay, "after");
    let grown = peak_bytes(&forebay).saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "it took {grown} bytes more");
}

/// Opens and resets streams until that is enough, or the server ends the connection; how many it were.
fn reset_rapidly(address: SocketAddr, resets: u32) -> u32 {
    let mut connection = Http2::open(address);
    let head = post("/v1/logs", &[PROTOBUF]);
    for index in 0..resets {
        let stream = 2 * index + 1;
        let both =
            [frame(HEADERS, END_HEADERS, stream, &head), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())];
        if connection.write(&both.concat()).is_err() {
            return index;
        }
    }
    // What it says about it, if it does: that the client should calm down.
    while let Some(frame) = connection.next() {
        if frame.kind == GOAWAY || frame.stream == 2 * resets - 1 {
            break;
        }
    }
    resets
}

/// Frames of HTTP/2 that lie about their length, and messages of gRPC that do: the stream or the connection ends with an
/// error, and the next one is served.
#[test]
fn frames_that_lie_are_refused() {
    let forebay = Place::new().start();
    let head = post("/v1/logs", &[PROTOBUF]);
    let long = post("/v1/logs", &[PROTOBUF, ("content-length", "1000")]);
    let short = post("/v1/logs", &[PROTOBUF, ("content-length", "1")]);
    let body = protobuf("lie", &["never"]);
    for (what, head, data) in [
        ("longer than a frame may be", &head, frame_that_says(0x00ff_ffff, DATA, END_STREAM, 1, &body)),
        ("more padding than there are bytes", &head, frame(DATA, PADDED | END_STREAM, 1, &[0xff, 1, 2])),
        ("data of no stream", &head, frame(DATA, END_STREAM, 0, &body)),
        ("data of a stream that is not open", &head, frame(DATA, END_STREAM, 99, &body)),
        ("a reset of the wrong length", &head, frame(RST_STREAM, 0, 1, &[0; 3])),
        ("more bytes than the head says", &short, frame(DATA, END_STREAM, 1, &body)),
        ("fewer bytes than the head says", &long, frame(DATA, END_STREAM, 1, &body)),
        ("a head that is no HPACK", &vec![0xff; 20], frame(DATA, END_STREAM, 1, &body)),
    ] {
        let mut connection = Http2::open(forebay.otlp());
        connection.send(HEADERS, END_HEADERS, 1, head).unwrap();
        // It may have ended the connection already.
        let _ = connection.write(&data);
        let answer = std::iter::from_fn(|| connection.next()).find(|frame| frame.kind != DATA);
        let is_refused = answer.as_ref().is_none_or(|frame| {
            frame.kind == GOAWAY || frame.kind == RST_STREAM || frame.kind == HEADERS && !frame.is_ok()
        });
        assert!(is_refused, "{what}: {answer:?}");
    }
    for (what, message) in [
        ("a message shorter than it says", [&[0, 0, 0, 0xff, 0xff][..], &body].concat()),
        ("a message of 4 GiB", [&[0, 0xff, 0xff, 0xff, 0xff][..], &body].concat()),
        ("a message longer than it says", [&[0, 0, 0, 0, 1][..], &body].concat()),
        ("a flag that there is not", [&[7, 0, 0, 0, body.len() as u8][..], &body].concat()),
    ] {
        let (status, message) = export(&forebay, &[], message);
        assert_eq!(status, "3", "{what}: {message}");
        assert!(message.contains("message"), "{what}: {message}");
    }
    serves(&forebay, "honest");
    assert!(forebay.all_events("service=lie").is_empty(), "nothing of all this was kept");
}

/// A call over HTTP/1.1, where the trailers of an error are headers: the status and the message.
fn export(forebay: &Forebay, headers: &[(&str, &str)], body: Vec<u8>) -> (String, String) {
    let path = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
    let headers = [&[("Content-Type", "application/grpc")], headers].concat();
    let response = request(forebay.otlp(), "POST", path, &headers, &body).unwrap().ok(200);
    let header = |name| response.header(name).unwrap_or_default().to_owned();
    (header("grpc-status"), header("grpc-message"))
}

/// Bombs of a gigabyte over gRPC and over HTTP, several at once: refused as over-size or told to come again, and never
/// unpacked as a whole.
#[test]
fn bombs_are_not_unpacked() {
    let forebay = Place::new().start();
    serves(&forebay, "before");
    let (bomb, zstd_bomb) = (gzip_bomb(), zstd_bomb());
    for (coding, bomb) in [("gzip", &bomb), ("zstd", &zstd_bomb)] {
        let message = [&[1][..], &(bomb.len() as u32).to_be_bytes(), bomb].concat();
        std::thread::scope(|scope| {
            let call = || export(&forebay, &[("grpc-encoding", coding)], message.clone());
            let calls: Vec<_> = (0..3).map(|_| scope.spawn(call)).collect();
            for (status, message) in calls.into_iter().map(|call| call.join().unwrap()) {
                // Who comes while the others fill what all bodies may take is told to come again.
                let is_too_large = status == "8" && message.contains("max_inflight_bytes");
                assert!(is_too_large || status == "14", "{coding}: {status} {message}");
            }
        });
        let headers = [("Content-Type", "application/x-protobuf"), ("Content-Encoding", coding)];
        let response = request(forebay.otlp(), "POST", "/v1/logs", &headers, bomb).unwrap();
        assert_eq!(response.status, 413, "{coding}: {}", response.text());
    }
    serves(&forebay, "after");
    let peak = peak_bytes(&forebay);
    assert!(peak < 512 << 20, "bombs of 1 GiB each took {peak} bytes");
}

/// A gigabyte of zeros: parts of 16 MiB that follow each other, which is one gzip file.
fn gzip_bomb() -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&vec![0; 16 << 20]).unwrap();
    encoder.finish().unwrap().repeat(64)
}

fn zstd_bomb() -> Vec<u8> {
    zstd::encode_all(&vec![0; 16 << 20][..], 3).unwrap().repeat(64)
}

/// Scenario: a request whose records, each with the resource, come to more than any sink has room and time for.
/// Guarantee: it is refused with what would be right.
#[test]
fn r0274_a_request_could_keep_a_sink_busy_for_days() {
    let forebay = Place::new().start();
    let attribute = json!({"key": "k", "value": {"stringValue": "v".repeat(100_000)}});
    let records = vec![json!({}); 50_000];
    let body = json!({"resourceLogs": [
        {"resource": {"attributes": [attribute]}, "scopeLogs": [{"logRecords": records}]}
    ]});
    let headers = [("Content-Type", "application/json")];
    let body = body.to_string();
    let refused =
        request(forebay.otlp(), "POST", "/v1/logs", &headers, body.as_bytes()).unwrap().ok(400).text();
    assert!(
        refused.contains("the 50000 items of the request") && refused.contains("send it in parts"),
        "{refused}"
    );
    serves(&forebay, "other");
}

/// Scenario: a small request of many records below a resource of 400 KB, for sinks that write a record as a row with all of it.
/// Guarantee: every record arrives, in memory as bounded as ever. All rows of a batch were made at once, of any size: a request
/// of some megabytes could end the process, and it would have ended again after each start.
#[test]
fn r0272_a_large_resource_stood_in_memory_once_for_each_record() {
    const RECORDS: usize = 500;
    let place = Place::empty();
    let file = place.file("out.ndjson");
    let place = place.sink("out", &format!("{{ type: file, path: {} }}", file.display()));
    let place = place.sink("events", "{ type: store }");
    let forebay = place.start();
    let before = peak_bytes(&forebay);
    let attribute = json!({"key": "k", "value": {"stringValue": "v".repeat(400_000)}});
    let records: Vec<_> = (0..RECORDS).map(|i| json!({"body": {"intValue": i}})).collect();
    let request_body = json!({"resourceLogs": [
        {"resource": {"attributes": [attribute]}, "scopeLogs": [{"logRecords": records}]}
    ]});
    let headers = [("Content-Type", "application/json")];
    let body = request_body.to_string();
    request(forebay.otlp(), "POST", "/v1/logs", &headers, body.as_bytes()).unwrap().ok(200);
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
    let grown = peak_bytes(&forebay) - before;
    for sink in ["out", "events"] {
        assert_eq!(forebay.metric("forebay_sink_sent_events_total", sink), RECORDS as f64);
        assert_eq!(forebay.metric("forebay_sink_dead_letters_total", sink), 0.0);
    }
    let lines = fs::read(&file).unwrap().iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines, RECORDS);
    assert!(grown < GROWTH_BYTES_MAX, "{} MiB more", grown >> 20);
}
