//! The floor: an actix-web server that parses what comes and forgets it.
//!
//! It keeps, orders and delivers nothing, so its rate is what HTTP, parsing and the load generator leave
//! possible on this machine. It runs as a child process of the bench, like the server under test.

use std::{borrow::Cow, io::Read, net::Ipv4Addr};

use actix_web::{App, HttpMessage as _, HttpRequest, HttpResponse, HttpServer, web};
use serde::Deserialize;
use serde_json::value::RawValue;

use forebay_actors::otlp::{Items, Signal, check};

use super::Failure;

const WORKERS: usize = 2;
/// Far above the largest request of the bench.
const BODY_BYTES_MAX: usize = 8 << 20;

/// Serves until standard input ends, which it does when the bench is gone, however it went.
///
/// # Errors
/// Where the port cannot be had.
pub fn serve() -> Result<(), Failure> {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        // The bench never writes: whatever comes back, the other end is closed.
        let _ = std::io::stdin().read_to_end(&mut rest);
        std::process::exit(0);
    });
    actix_web::rt::System::new().block_on(async {
        let server = HttpServer::new(|| {
            App::new()
                .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
                .route("/events", web::post().to(take))
                .route("/v1/logs", web::post().to(take_logs))
                .route("/health/ready", web::get().to(HttpResponse::Ok))
        })
        .workers(WORKERS)
        .bind((Ipv4Addr::LOCALHOST, 0))
        .map_err(Failure::io("bind the floor"))?;
        for address in server.addrs() {
            println!("listening on http://{address}");
        }
        server.run().await.map_err(Failure::io("serve the floor"))
    })
}

async fn take(request: HttpRequest, body: web::Bytes) -> HttpResponse {
    match parse(request.content_type(), &body) {
        Some(accepted) => HttpResponse::Accepted().body(format!("{{\"accepted\":{accepted}}}")),
        None => HttpResponse::BadRequest().finish(),
    }
}

/// Checks and counts log records, which is the least that somebody does who answers for them.
async fn take_logs(body: web::Bytes) -> HttpResponse {
    match check(&body, Signal::Logs) {
        Ok(()) => {
            std::hint::black_box(Items::of(&body, Signal::Logs).count());
            HttpResponse::Ok().finish()
        }
        Err(_) => HttpResponse::BadRequest().finish(),
    }
}

/// Events of the body; None where it is not what its type says.
fn parse(content_type: &str, body: &[u8]) -> Option<usize> {
    if content_type == "application/x-ndjson" {
        let lines = body.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        return lines.map(|line| serde_json::from_slice(line).ok().map(count)).sum();
    }
    if body.first() == Some(&b'[') {
        let events: Vec<Event<'_>> = serde_json::from_slice(body).ok()?;
        return Some(events.into_iter().map(count).sum());
    }
    serde_json::from_slice(body).ok().map(count)
}

/// 1, and a look at every field, so that none of them is optimised away.
fn count(event: Event<'_>) -> usize {
    std::hint::black_box(event);
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the fields are parsed, which is all that a floor does")]
struct Event<'a> {
    #[serde(borrow)]
    event_id: Option<Text<'a>>,
    #[serde(borrow)]
    timestamp: Option<Text<'a>>,
    #[serde(borrow)]
    service: Text<'a>,
    #[serde(borrow)]
    message: Text<'a>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// serde borrows into a `Cow` field, but not into one that stands in an `Option`; into this it does.
#[derive(Debug, Deserialize)]
struct Text<'a>(
    #[serde(borrow)]
    #[expect(dead_code, reason = "the fields are parsed, which is all that a floor does")]
    Cow<'a, str>,
);
