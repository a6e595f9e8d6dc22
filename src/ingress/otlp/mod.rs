//! OpenTelemetry, over HTTP and over gRPC: one admission for both, the same as that of `POST /events`.
//!
//! - Owns: nothing between requests.
//! - Sends: the request's own bytes, checked and cut into blocks, to `Receiver`; answers when they are durable.
//! - Limits: of a body, of all bodies in memory together with those of `POST /events`, of a single item, of rates and of
//!   connections.
//!
//! A request is never decoded: `forebay_actors::otlp` walks over its bytes.

mod grpc;
mod http;
pub mod server;
mod status;

use std::net::IpAddr;

use actix_web::http::StatusCode;
use bytes::Bytes;
use forebay_actors::{
    event::{BLOCK_BYTES, Block},
    message::{Admit, Refusal},
    otlp::{self, Item, Items, Signal, WireError, check, select, wire},
    receiver::{Receiver, ReceiverMetrics},
    runtime::mailbox::{Mailbox, NotTaken},
};
use tokio::sync::oneshot;

use super::{
    body::{Body, BodyLimits},
    limits::{Limits, RouteClass},
    post::{IngressMetrics, RequestTimes, refusal},
};
use crate::{api::error::ApiError, config::CorsConfig};

/// Bytes of a request up to which it is checked where it was read: about 100 µs of work.
const INLINE_BYTES_MAX: usize = 512 * 1024;

/// What the ingress stands on; one for all connections.
#[derive(Debug)]
pub struct OtlpIngress {
    /// Who admits.
    pub receiver: Mailbox<Receiver>,
    /// Bounds of bodies.
    pub body: BodyLimits,
    /// Bytes an item may have.
    pub max_event_bytes: usize,
    /// Rates.
    pub limits: Limits,
    /// What is refused here is counted where `Receiver` counts.
    pub received: ReceiverMetrics,
    /// Pages that may send from a browser.
    pub cors: CorsConfig,
    http_times: RequestTimes,
    grpc_times: RequestTimes,
}

/// What a success answer says: items that were refused on their own, if there were any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Partial {
    rejected: u32,
    message: String,
}

/// A request as blocks.
#[derive(Debug, Default)]
struct Shaped {
    blocks: Vec<Block>,
    partial: Partial,
}

impl OtlpIngress {
    /// An ingress that admits through this receiver.
    pub fn new(
        receiver: Mailbox<Receiver>,
        body: BodyLimits,
        max_event_bytes: usize,
        limits: Limits,
        received: ReceiverMetrics,
        cors: CorsConfig,
        metrics: &IngressMetrics,
    ) -> Self {
        let (http_times, grpc_times) = (metrics.of("otlp_http"), metrics.of("otlp_grpc"));
        Self { receiver, body, max_event_bytes, limits, received, cors, http_times, grpc_times }
    }

    fn check_rate(&self, peer: IpAddr) -> Result<(), ApiError> {
        self.limits.check(RouteClass::Ingest, Some(peer))
    }

    /// Makes a request durable.
    ///
    /// # Errors
    /// 400 where it is none, 503 where it is not taken; nothing of it is kept then.
    async fn admit(&self, signal: Signal, body: Body) -> Result<Partial, ApiError> {
        let Body { bytes, reserved: _until_answered } = body;
        let max_event_bytes = self.max_event_bytes;
        let shaped = if bytes.len() <= INLINE_BYTES_MAX {
            shape(signal, &bytes, max_event_bytes)
        } else {
            let shaping = tokio::task::spawn_blocking(move || shape(signal, &bytes, max_event_bytes));
            shaping.await.map_err(|_| ApiError::internal("the request could not be read"))?
        };
        let Shaped { blocks, partial } = shaped.map_err(|error| undecodable(&error))?;
        if partial.rejected > 0 {
            self.received.rejected.with_label_values(&["invalid_event"]).inc_by(u64::from(partial.rejected));
        }
        if !blocks.is_empty() {
            self.commit(blocks).await.map_err(refusal)?;
        }
        Ok(partial)
    }

    async fn commit(&self, blocks: Vec<Block>) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        match self.receiver.offer(Admit::one(blocks, reply)) {
            Ok(()) => {}
            Err(NotTaken::Full(_)) => return Err(Refusal::Overloaded),
            Err(NotTaken::Ended(_)) => return Err(Refusal::ShuttingDown),
        }
        answer.await.unwrap_or(Err(Refusal::JournalFailed)).map(drop)
    }
}

fn undecodable(error: &WireError) -> ApiError {
    let message = format!("the body is no request of this signal in protobuf: {error}");
    ApiError::bad_request("undecodable", message)
}

/// Checks a request and cuts it into blocks.
fn shape(signal: Signal, request: &[u8], max_event_bytes: usize) -> Result<Shaped, WireError> {
    check(request, signal)?;
    let mut rejected = Vec::new();
    let mut partial = Partial::default();
    let mut count = 0;
    for item in Items::of(request, signal) {
        if let Some(reason) = invalid(signal, &item, max_event_bytes) {
            if rejected.is_empty() {
                partial.message = format!("the item at {count}: {reason}");
            }
            rejected.push(count);
        }
        count += 1;
    }
    if rejected.is_empty() {
        return Ok(Shaped { blocks: cut(signal, request, count), partial });
    }
    partial.rejected = u32::try_from(rejected.len()).unwrap_or(u32::MAX);
    partial.message = format!("{} of {count} items were refused; {}", rejected.len(), partial.message);
    let kept = select(request, signal, |index| rejected.binary_search(&index).is_err());
    Ok(Shaped { blocks: cut(signal, &kept, count - partial.rejected), partial })
}

fn cut(signal: Signal, request: &[u8], count: u32) -> Vec<Block> {
    if count == 0 {
        return Vec::new();
    }
    if request.len() <= BLOCK_BYTES {
        return vec![Block::otlp(signal, request, count)];
    }
    // What stands around the items comes on top, in every block.
    let parts = otlp::cut(request, signal, BLOCK_BYTES / 8 * 7);
    parts.map(|(part, count)| Block::otlp(signal, &part, count)).collect()
}

/// What makes an item unusable on its own.
fn invalid(signal: Signal, item: &Item<'_>, max_event_bytes: usize) -> Option<String> {
    let bytes = item.bytes.len();
    if bytes > max_event_bytes {
        return Some(format!(
            "it has {bytes} bytes, and {max_event_bytes} are allowed (http.max_event_bytes)"
        ));
    }
    // Trace and span; a log record needs none.
    let (fields, optional) = match signal {
        Signal::Logs => ([(9, 16, "trace"), (10, 8, "span")], true),
        Signal::Traces => ([(1, 16, "trace"), (2, 8, "span")], false),
        Signal::Metrics => return None,
    };
    let mut lengths = [0; 2];
    for entry in wire::Fields::of(item.bytes).map_while(Result::ok) {
        for ((number, _, _), length) in fields.iter().zip(&mut lengths) {
            if entry.number == *number {
                *length = if let wire::Value::Bytes(id) = entry.value { id.len() } else { 0 };
            }
        }
    }
    fields.into_iter().zip(lengths).find_map(|((_, wanted, what), length)| {
        let fits = length == wanted || optional && length == 0;
        (!fits).then(|| format!("its {what} id has {length} bytes instead of {wanted}"))
    })
}

/// A body in pieces, as one connection reads it.
type Pieces = http_body_util::BodyDataStream<hyper::body::Incoming>;

/// The status of an error, for clients that would otherwise give up or never give up.
fn retryable(error: ApiError) -> ApiError {
    match actix_web::ResponseError::status_code(&error) {
        // The client may have been slow for a moment only, and a request that timed out is not tried again.
        StatusCode::REQUEST_TIMEOUT => {
            ApiError::unavailable(error.code(), error.message().to_owned(), std::time::Duration::from_secs(1))
        }
        _ => error,
    }
}

/// Bytes of an answer.
type Payload = Bytes;
