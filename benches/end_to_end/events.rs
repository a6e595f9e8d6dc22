//! The requests that are sent, built once as bytes: the load generator only copies them into sockets.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use fastrand::Rng;

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
    Request { bytes, events: events as u64 }
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
