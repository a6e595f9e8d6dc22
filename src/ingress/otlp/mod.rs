//! OpenTelemetry, over HTTP and over gRPC: one admission for both, the same as that of `POST /events`.
//!
//! - Owns: nothing between requests.
//! - Sends: the request's own bytes, checked and cut into blocks, to `Receiver`; answers when they are durable.
//! - Limits: of a body, of all bodies in memory together with those of `POST /events`, of a single item, of rates and of
//!   connections.
//!
//! A request is never decoded: `forebay_actors::otlp` walks over its bytes.

pub(super) mod grpc;
pub(super) mod http;

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use forebay_actors::{
    event::{BLOCK_BYTES, Block},
    otlp::{self, Extent, Item, Items, Signal, WireError, select, stamp, survey, wire},
    receiver::{Receiver, ReceiverMetrics},
    runtime::mailbox::Mailbox,
};

use super::{
    body::{Body, BodyLimits},
    commit,
    limits::{Limits, RouteClass},
    post::{IngressMetrics, RequestTimes},
};
use crate::{api::error::ApiError, config::CorsConfig, security::Tenant};

/// Bytes that the items of a request may come to where each has all that stands around it, as they have as rows. A request of a
/// large resource and very many items would keep a sink busy for days.
const EXPANDED_BYTES_MAX: u64 = 4 << 30;

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

    /// Makes a request durable, as that of this tenant.
    ///
    /// # Errors
    /// 400 where it is none, 503 where it is not taken; nothing of it is kept then.
    async fn admit(
        &self,
        signal: Signal,
        tenant: Option<Arc<Tenant>>,
        body: Body,
    ) -> Result<Partial, ApiError> {
        let Body { bytes, reserved: _until_answered } = body;
        let max_event_bytes = self.max_event_bytes;
        let shaped = if bytes.len() <= INLINE_BYTES_MAX {
            shape(signal, tenant.as_deref(), &bytes, max_event_bytes)
        } else {
            let shaping = move || shape(signal, tenant.as_deref(), &bytes, max_event_bytes);
            let shaping = tokio::task::spawn_blocking(shaping);
            shaping.await.map_err(|_| ApiError::internal("the request could not be read"))?
        };
        let Shaped { blocks, partial } = shaped?;
        if partial.rejected > 0 {
            self.received.rejected.with_label_values(&["invalid_event"]).inc_by(u64::from(partial.rejected));
        }
        if !blocks.is_empty() {
            commit(&self.receiver, blocks).await?;
        }
        Ok(partial)
    }
}

fn undecodable(error: &WireError) -> ApiError {
    let message = format!("the body is no request of this signal in protobuf: {error}");
    ApiError::bad_request("undecodable", message)
}

/// Whether there is room anywhere for the items of a request as rows.
///
/// # Errors
/// 400 where there is not.
pub(in crate::ingress) fn check_extent(signal: Signal, request: &[u8]) -> Result<(), ApiError> {
    let Extent { items, expanded_bytes, .. } = Extent::of(request, signal);
    if expanded_bytes <= EXPANDED_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "the {items} items of the request, each with all that stands around it (resource, scope, metric), come to {expanded_bytes} \
         bytes; {EXPANDED_BYTES_MAX} are the most: send it in parts, or less around the items"
    );
    Err(ApiError::bad_request("too_expanded", message))
}

/// The request with whose it is on each of its resources.
///
/// # Errors
/// 400 where it would become much larger by that.
pub(in crate::ingress) fn stamped(tenant: &Tenant, request: &[u8]) -> Result<Vec<u8>, ApiError> {
    let Tenant { key, value } = tenant;
    stamp(request, key, value).ok_or_else(|| {
        let message = format!(
            "the request has {} bytes and would have more than 4 times as many, and 64 KiB, with the tenant on each of its resources              (`{key}`, {} bytes): put more items below each resource, or send it in parts",
            request.len(),
            value.len()
        );
        ApiError::bad_request("too_expanded", message)
    })
}

/// Checks a request, puts on it whose it is, and cuts it into blocks.
fn shape(
    signal: Signal,
    tenant: Option<&Tenant>,
    request: &[u8],
    max_event_bytes: usize,
) -> Result<Shaped, ApiError> {
    let survey = survey(request, signal).map_err(|error| undecodable(&error))?;
    check_extent(signal, request)?;
    let stamped = tenant.map(|tenant| stamped(tenant, request)).transpose()?;
    let request = stamped.as_deref().unwrap_or(request);
    let is_plain = survey.item_bytes_max <= max_event_bytes && !survey.has_odd_ids;
    if is_plain && signal != Signal::Metrics {
        return Ok(Shaped { blocks: cut(signal, request, survey.items), partial: Partial::default() });
    }
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
    cut_into(signal, request, count, |part, count| Block::otlp(signal, part, count))
}

/// Cuts a request of so many items into what `block` makes of its parts.
pub(in crate::ingress) fn cut_into(
    signal: Signal,
    request: &[u8],
    count: u32,
    mut block: impl FnMut(&[u8], u32) -> Block,
) -> Vec<Block> {
    if count == 0 {
        return Vec::new();
    }
    if request.len() <= BLOCK_BYTES {
        return vec![block(request, count)];
    }
    // What stands around the items is in every block.
    let parts = otlp::cut(request, signal, BLOCK_BYTES / 8 * 7);
    parts.map(|(part, count)| block(&part, count)).collect()
}

/// What makes an item unusable on its own.
pub(in crate::ingress) fn invalid(signal: Signal, item: &Item<'_>, max_event_bytes: usize) -> Option<String> {
    let bytes = item.bytes.len();
    if bytes > max_event_bytes {
        return Some(format!(
            "it has {bytes} bytes, and {max_event_bytes} are allowed (http.max_event_bytes)"
        ));
    }
    // An id of a wrong length would make a decoder of the protocol refuse the whole request. One that is empty or all zeros
    // is none, which costs a span its place in a trace and nothing else: Collectors take it, too.
    let ids: &[(u32, usize, &str)] = match signal {
        Signal::Logs => &[(9, 16, "trace"), (10, 8, "span")],
        Signal::Traces => &[(1, 16, "trace"), (2, 8, "span"), (4, 8, "parent span")],
        Signal::Metrics => return None,
    };
    let mut lengths = [0; 3];
    for entry in wire::Fields::of(item.bytes).map_while(Result::ok) {
        for ((number, _, _), length) in ids.iter().zip(&mut lengths) {
            // Of several, the last one counts.
            if entry.number == *number {
                *length = if let wire::Value::Bytes(id) = entry.value { id.len() } else { 0 };
            }
        }
    }
    ids.iter().zip(lengths).find_map(|(&(_, wanted, what), length)| {
        let fits = length == wanted || length == 0;
        (!fits).then(|| format!("its {what} id has {length} bytes instead of {wanted}"))
    })
}

/// A body in pieces, as one connection reads it.
type Pieces = http_body_util::BodyDataStream<hyper::body::Incoming>;

/// Bytes of an answer.
type Payload = Bytes;
