//! The requests that are sent, built once as bytes: the load generator only copies them into sockets.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use fastrand::Rng;
use forebay_actors::otlp::wire::{put_bytes, put_varint};

use super::Failure;

/// Events of a batch request.
const BATCH_EVENTS: usize = 500;
/// Different batch requests: 16 are more bytes than the caches hold, so nobody parses from them.
const BATCH_REQUESTS: usize = 16;
/// Different single requests.
const SINGLE_REQUESTS: usize = 4096;
/// Decompressed bytes of the access log; beyond is not the file we know.
const ACCESS_LOG_BYTES_MAX: u64 = 64 << 20;

/// One request as it goes over the wire.
#[derive(Debug)]
pub struct Request {
    /// Head and body.
    pub bytes: Vec<u8>,
    /// The body as a message of gRPC, in its frame.
    pub message: Bytes,
    /// Events in the body.
    pub events: u64,
}

/// A request for `POST /events` that asks for no ids back where `path` says so.
fn request(path: &str, content_type: &str, body: &[u8], events: usize) -> Request {
    let length = body.len();
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: {content_type}\r\n\
         content-length: {length}\r\n\r\n"
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    let length = u32::try_from(body.len()).expect("a request is far below 4 GiB").to_be_bytes();
    let message = [&[0][..], &length, body].concat().into();
    Request { bytes, message, events: events as u64 }
}

/// Arrays of [`BATCH_EVENTS`] events.
pub fn batches() -> Vec<Request> {
    let mut random = Rng::with_seed(1);
    let mut batch = || {
        let mut body = vec![b'['];
        for index in 0..BATCH_EVENTS {
            if index > 0 {
                body.push(b',');
            }
            write_event(&mut random, &mut body);
        }
        body.push(b']');
        request("/events?ids=false", "application/json", &body, BATCH_EVENTS)
    };
    (0..BATCH_REQUESTS).map(|_| batch()).collect()
}

/// OpenTelemetry requests of [`BATCH_EVENTS`] log records, as heads and bodies.
pub fn otlp_logs() -> Vec<Request> {
    let mut random = Rng::with_seed(3);
    let mut logs = || {
        let mut records = Vec::new();
        // A scope's name.
        put_bytes(&mut records, 1, b"\x0a\x0echeckout.logger");
        for _ in 0..BATCH_EVENTS {
            put_bytes(&mut records, 2, &log_record(&mut random));
        }
        let mut resource = Vec::new();
        let attributes =
            [("service.name", "checkout"), ("host.name", "node-07"), ("cloud.region", "eu-central-1")];
        attributes.iter().for_each(|(key, value)| put_attribute(&mut resource, 1, key, value));
        let (mut group, mut body) = (Vec::new(), Vec::new());
        put_bytes(&mut group, 1, &resource);
        put_bytes(&mut group, 2, &records);
        put_bytes(&mut body, 1, &group);
        request("/v1/logs", "application/x-protobuf", &body, BATCH_EVENTS)
    };
    (0..BATCH_REQUESTS).map(|_| logs()).collect()
}

/// A log record of about 230 bytes.
fn log_record(random: &mut Rng) -> Vec<u8> {
    let routes = ["orders", "customers", "baskets", "products", "shipments"];
    let status = ["200", "200", "200", "201", "204", "404", "500"][random.usize(..7)];
    let (route, customer) = (routes[random.usize(..5)], random.u32(10_000..100_000));
    let nanos = 1_769_846_400_000_000_000 + random.u64(..3_600_000_000_000);
    let mut record = Vec::new();
    let time = |number: u32, nanos: u64, record: &mut Vec<u8>| {
        put_varint(record, u64::from(number) << 3 | 1);
        record.extend_from_slice(&nanos.to_le_bytes());
    };
    time(1, nanos, &mut record);
    put_varint(&mut record, 2 << 3);
    put_varint(&mut record, 9);
    put_bytes(&mut record, 3, b"INFO");
    let text = format!("GET /api/v2/{route}/{customer} answered {status} in {} ms", random.u32(1..400));
    let mut body = Vec::new();
    put_bytes(&mut body, 1, text.as_bytes());
    put_bytes(&mut record, 5, &body);
    put_attribute(&mut record, 6, "http.request.method", "GET");
    put_attribute(&mut record, 6, "http.response.status_code", status);
    put_attribute(&mut record, 6, "client.address", &format!("192.0.2.{}", random.u8(..)));
    put_bytes(&mut record, 9, &random.u128(..).to_be_bytes());
    put_bytes(&mut record, 10, &random.u64(..).to_be_bytes());
    time(11, nanos + 1_000_000, &mut record);
    record
}

fn put_attribute(out: &mut Vec<u8>, number: u32, key: &str, value: &str) {
    let (mut any, mut pair) = (Vec::new(), Vec::new());
    put_bytes(&mut any, 1, value.as_bytes());
    put_bytes(&mut pair, 1, key.as_bytes());
    put_bytes(&mut pair, 2, &any);
    put_bytes(out, number, &pair);
}

/// Single objects.
pub fn singles() -> Vec<Request> {
    let mut random = Rng::with_seed(2);
    let mut single = || {
        let mut body = Vec::new();
        write_event(&mut random, &mut body);
        request("/events", "application/json", &body, 1)
    };
    (0..SINGLE_REQUESTS).map(|_| single()).collect()
}

/// The real access log as NDJSON, [`BATCH_EVENTS`] lines a request.
///
/// # Errors
/// Where the file cannot be read.
pub fn access_log() -> Result<Vec<Request>, Failure> {
    let path = access_log_path();
    let text = read_gzip(&path).map_err(Failure::io(format!("read {}", path.display())))?;
    let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    let of_lines = |lines: &[&[u8]]| {
        request("/events?ids=false", "application/x-ndjson", &lines.join(&b'\n'), lines.len())
    };
    Ok(lines.chunks(BATCH_EVENTS).map(of_lines).collect())
}

/// Where the access log is looked for.
pub fn access_log_path() -> PathBuf {
    let dir = std::env::var_os("FOREBAY_DATA").map_or_else(|| "../shared/data".into(), PathBuf::from);
    dir.join("access_events.ndjson.gz")
}

fn read_gzip(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(File::open(path)?).take(ACCESS_LOG_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// One event of about 330 bytes, with the mixture of repetition and chance that logs have: the journal
/// compresses what it writes, and constant events would make it look better than it is.
fn write_event(random: &mut Rng, out: &mut Vec<u8>) {
    let services = ["checkout", "inventory", "payments", "web", "search"];
    let routes = ["orders", "customers", "baskets", "products", "shipments"];
    let agents = ["Mozilla/5.0 (X11; Linux x86_64; rv:128.0)", "curl/8.9.1", "okhttp/4.12.0 (Android 14)"];
    let status = [200, 200, 200, 201, 204, 404, 500][random.usize(..7)];
    let (route, customer) = (routes[random.usize(..5)], random.u32(10_000..100_000));
    let duration_ms = random.u32(1..400);
    write!(
        out,
        "{{\"timestamp\":\"2026-01-31T08:{:02}:{:02}.{:03}Z\",\"service\":\"{}\",\
         \"message\":\"GET /api/v2/{route}/{customer} answered {status} in {duration_ms} ms\",\
         \"metadata\":{{\"host\":\"node-{:02}\",\"region\":\"eu-central-1\",\"trace_id\":\"{:032x}\",\
         \"status\":{status},\"duration_ms\":{duration_ms},\"bytes\":{},\"user_agent\":\"{}\"}}}}",
        random.u8(..60),
        random.u8(..60),
        random.u16(..1000),
        services[random.usize(..5)],
        random.u8(..24),
        random.u128(..),
        random.u32(200..60_000),
        agents[random.usize(..3)],
    )
    .expect("a Vec takes every write");
}
