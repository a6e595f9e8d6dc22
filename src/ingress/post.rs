//! `POST /events`.

use std::sync::Arc;

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use forebay_actors::{
    message::{Accepted, Refusal},
    receiver::{Receiver, ReceiverMetrics},
    runtime::mailbox::Mailbox,
};
use prometheus::{Histogram, HistogramVec, Registry};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{
    body::{self, Body, BodyLimits, Head},
    courier::Courier,
    events::{Framing, ParseError, Parsed, parse_of},
    limits::{Limits, RouteClass},
};
use crate::{api::error::ApiError, security::Caller};

/// Seconds from the request's head to its answer.
const REQUEST_BUCKETS_S: &[f64] =
    &[5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What the ingress stands on; one for all workers.
#[derive(Debug)]
pub struct Ingress {
    /// Who admits.
    pub receiver: Mailbox<Receiver>,
    /// Bounds of bodies.
    pub body: BodyLimits,
    /// Bytes an event may have.
    pub max_event_bytes: usize,
    /// Rates.
    pub limits: Limits,
    /// What is refused here is counted where `Receiver` counts.
    pub received: ReceiverMetrics,
    /// Times of requests.
    pub times: RequestTimes,
}

/// Times of requests, by protocol and class of answer.
#[derive(Debug, Clone)]
pub struct IngressMetrics {
    request_seconds: HistogramVec,
}

/// Times of the requests of one protocol.
#[derive(Debug, Clone)]
pub struct RequestTimes {
    ok: Histogram,
    refused: Histogram,
    failed: Histogram,
}

impl IngressMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let help = "Time from a request's head to its answer, the commit included";
        let name = "forebay_receiver_request_seconds";
        let labels = &["protocol", "status"];
        let request_seconds =
            forebay_actors::runtime::metrics::histograms(registry, name, help, REQUEST_BUCKETS_S, labels);
        Self { request_seconds }
    }

    /// Those of one protocol.
    pub fn of(&self, protocol: &str) -> RequestTimes {
        let class = |status: &str| self.request_seconds.with_label_values(&[protocol, status]);
        RequestTimes { ok: class("2xx"), refused: class("4xx"), failed: class("5xx") }
    }
}

impl RequestTimes {
    /// Notes a request that has this answer.
    pub fn observe(&self, status: u16, began: Instant) {
        let class = match status {
            200..300 => &self.ok,
            500.. => &self.failed,
            _ => &self.refused,
        };
        class.observe(began.elapsed().as_secs_f64());
    }
}

/// The query of `POST /events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostQuery {
    /// Whether the answer lists the ids of the events.
    #[serde(default = "yes")]
    ids: bool,
}

fn yes() -> bool {
    true
}

/// Takes events; answers when they are durable.
///
/// # Errors
/// As [`ApiError`], with nothing kept of a body that is refused as a whole.
pub async fn post_events(
    request: HttpRequest,
    query: web::Query<PostQuery>,
    payload: web::Payload,
    ingress: web::Data<Arc<Ingress>>,
    courier: web::ThinData<Courier>,
) -> Result<HttpResponse, ApiError> {
    let began = Instant::now();
    let answer = take(&request, query.ids, payload, &ingress, &courier).await;
    let status = match &answer {
        Ok(response) => response.status(),
        Err(error) => {
            ingress.received.rejected.with_label_values(&[error.code()]).inc();
            actix_web::ResponseError::status_code(error)
        }
    };
    ingress.times.observe(status.as_u16(), began);
    answer
}

async fn take(
    request: &HttpRequest,
    ids: bool,
    payload: web::Payload,
    ingress: &Ingress,
    courier: &Courier,
) -> Result<HttpResponse, ApiError> {
    ingress
        .limits
        .check(RouteClass::Ingest, request.peer_addr().map(|peer| peer.ip()))
        .map_err(ApiError::closing)?;
    let content_type = request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or(""));
    let framing = Framing::of(content_type).ok_or_else(|| unsupported(content_type.unwrap_or("")))?;
    let head = Head::of(|name| request.headers().get(name).map(|value| value.as_bytes()))?;
    let body = body::read(head, payload, &ingress.body).await?;
    let tenant = request.extensions().get::<Caller>().and_then(Caller::tenant).cloned();
    let parsed = parse_of(tenant.as_deref(), &body.bytes, framing, ingress.max_event_bytes);
    let mut parsed = parsed.map_err(unparsable)?;
    // The bytes are not needed while the commit is waited for, but the events are in memory as long.
    let Body { bytes, reserved: _until_answered } = body;
    drop(bytes);
    if parsed.rejected_count > 0 {
        ingress.received.rejected.with_label_values(&["invalid_event"]).inc_by(parsed.rejected_count as u64);
    }
    if parsed.accepted == 0 && parsed.rejected_count > 0 {
        return Err(all_rejected(&parsed));
    }
    let accepted = if parsed.accepted == 0 {
        Accepted { stamps: Vec::new() }
    } else {
        courier.admit(std::mem::take(&mut parsed.blocks)).await.map_err(refusal)?
    };
    Ok(HttpResponse::Accepted().content_type("application/json").body(success(&parsed, &accepted, ids)))
}

/// The body of a success answer, written by hand: ids of a full batch would be as many strings.
fn success(parsed: &Parsed, accepted: &Accepted, ids: bool) -> Vec<u8> {
    if !ids {
        let mut counts = json!({"accepted": parsed.accepted, "rejected": parsed.rejected});
        if parsed.rejected_count > parsed.rejected.len() {
            counts["rejected_count"] = json!(parsed.rejected_count);
        }
        return counts.to_string().into_bytes();
    }
    let mut given = parsed.given_ids.iter().peekable();
    let mut index = 0;
    let mut list = Vec::with_capacity(parsed.accepted * 39 + 2);
    for (stamp, count) in &accepted.stamps {
        for i in 0..*count {
            if index > 0 {
                list.push(b',');
            }
            match given.next_if(|(at, _)| *at == index) {
                Some((_, id)) => list.extend_from_slice(json!(id).to_string().as_bytes()),
                None => {
                    list.push(b'"');
                    forebay_actors::event::EventId::Assigned(stamp.id_at(i)).write(&mut list);
                    list.push(b'"');
                }
            }
            index += 1;
        }
    }
    let mut out = Vec::with_capacity(list.len() + 64);
    if parsed.single {
        out.extend_from_slice(b"{\"event_id\":");
        out.append(&mut list);
    } else {
        out.extend_from_slice(format!("{{\"accepted\":{},\"event_ids\":[", parsed.accepted).as_bytes());
        out.append(&mut list);
        out.extend_from_slice(b"],\"rejected\":");
        out.extend_from_slice(json!(parsed.rejected).to_string().as_bytes());
        if parsed.rejected_count > parsed.rejected.len() {
            out.extend_from_slice(format!(",\"rejected_count\":{}", parsed.rejected_count).as_bytes());
        }
    }
    out.push(b'}');
    out
}

fn all_rejected(parsed: &Parsed) -> ApiError {
    let count = parsed.rejected_count;
    if let [only] = &parsed.rejected[..]
        && parsed.single
    {
        let message = format!("the event is invalid: {}", only.error);
        return ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_event", message)
            .with_details(json!({ "fields": only.fields }));
    }
    let message = format!("all {count} events are invalid; nothing was accepted");
    ApiError::bad_request("invalid_events", message).with_details(json!({ "rejected": parsed.rejected }))
}

fn unsupported(content_type: &str) -> ApiError {
    let message =
        format!("Content-Type {content_type:?} is not taken; application/json and application/x-ndjson are");
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message).closing()
}

fn unparsable(error: ParseError) -> ApiError {
    let message = error.to_string();
    match error {
        ParseError::Syntax(json) => ApiError::bad_request("malformed_json", message)
            .with_details(json!({"line": json.line(), "column": json.column()})),
        ParseError::Utf8 { at } => {
            ApiError::bad_request("invalid_utf8", message).with_details(json!({"byte": at}))
        }
        ParseError::Empty => ApiError::bad_request("empty_body", message),
        ParseError::Kind(_) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_event", message),
    }
}

/// What a client is told whose events were not taken.
pub(super) fn refusal(refusal: Refusal) -> ApiError {
    ApiError::unavailable(refusal.as_str(), refusal.to_string(), refusal.retry_after())
}
