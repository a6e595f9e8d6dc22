//! OTLP/gRPC: `Export` of the three services.
//!
//! A call is one message each way, so gRPC is a frame of five bytes around it and trailers behind. Doing that here, not by a
//! framework, lets the message through as the bytes that came, and gives bodies the same bounds as everywhere: also one
//! that is packed, while it is unpacked.

use std::net::IpAddr;

use actix_web::http::StatusCode;
use bytes::{Buf as _, Bytes};
use forebay_actors::otlp::Signal;
use http::{HeaderMap, HeaderValue, Request, header};
use tokio::time::Instant;

use super::{OtlpIngress, Pieces, http::partial_success, retryable, status::Status};
use crate::{
    api::error::ApiError,
    ingress::body::{self, Body, Coding, Head},
};

/// Before every message: whether it is packed, and its bytes.
const FRAME_BYTES: usize = 5;

/// What a call came to: a message, or why there is none.
pub(super) type Outcome = Result<Vec<u8>, Status>;

/// The media type of calls, which the encoding of the messages may follow.
const MEDIA_TYPE: &str = "application/grpc";

/// Whether a request is a call of gRPC. `application/grpc-web` is another protocol.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    subtype(headers)
        .is_some_and(|subtype| matches!(subtype.as_bytes().first(), None | Some(b'+' | b';' | b' ')))
}

/// What follows the media type of calls.
fn subtype(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()?.strip_prefix(MEDIA_TYPE)
}

/// Answers one call.
pub(super) async fn answer(
    ingress: &OtlpIngress,
    peer: IpAddr,
    request: Request<hyper::body::Incoming>,
) -> Outcome {
    let began = Instant::now();
    let (head, incoming) = request.into_parts();
    let done = call(ingress, peer, head.uri.path(), &head.headers, Pieces::new(incoming)).await;
    let done = done.map_err(|error| {
        let error = retryable(error);
        ingress.received.rejected.with_label_values(&[error.code()]).inc();
        (actix_web::ResponseError::status_code(&error).as_u16(), Status::of(&error))
    });
    ingress.grpc_times.observe(done.as_ref().map_or_else(|(status, _)| *status, |_| 200), began);
    done.map_err(|(_, status)| status)
}

async fn call(
    ingress: &OtlpIngress,
    peer: IpAddr,
    path: &str,
    headers: &HeaderMap,
    pieces: Pieces,
) -> Result<Vec<u8>, ApiError> {
    let signal = signal_of(path).ok_or_else(|| {
        let message = format!("there is no method {path}");
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "not_found", message)
    })?;
    ingress.check_rate(peer)?;
    if let Some(subtype) = subtype(headers)
        && let Some(other) = subtype.strip_prefix('+').filter(|name| !name.starts_with("proto"))
    {
        let message = format!("messages in {other:?} are not taken; {MEDIA_TYPE}+proto is");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let coding = coding_of(headers)?;
    // The frame is not packed, only the message in it.
    let head = Head { coding: Coding::Identity, length: None };
    let body = body::read(head, pieces, &ingress.body).await?;
    let message = message(body, coding, ingress).await?;
    let partial = ingress.admit(signal, message).await?;
    Ok(partial_success(&partial))
}

fn signal_of(path: &str) -> Option<Signal> {
    match path {
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Some(Signal::Logs),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Some(Signal::Metrics),
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Some(Signal::Traces),
        _ => None,
    }
}

/// How a message is packed that says it is.
fn coding_of(headers: &HeaderMap) -> Result<Coding, ApiError> {
    let name = headers.get("grpc-encoding").map(HeaderValue::as_bytes);
    Head::of(|header| (header == "content-encoding").then_some(name).flatten()).map(|head| head.coding)
}

/// The one message of a call.
async fn message(body: Body, coding: Coding, ingress: &OtlpIngress) -> Result<Body, ApiError> {
    let bad_frame =
        |what: &str| ApiError::bad_request("bad_frame", format!("a call has one message; {what}"));
    let Body { mut bytes, reserved } = body;
    if bytes.len() < FRAME_BYTES {
        return Err(bad_frame("here is none"));
    }
    let (packed, length) = (bytes.get_u8(), bytes.get_u32() as usize);
    if bytes.len() != length {
        return Err(bad_frame(&format!("it should have {length} bytes, and {} are there", bytes.len())));
    }
    let coding = match packed {
        0 => Coding::Identity,
        1 => coding,
        _ => return Err(bad_frame("its first byte is neither 0 nor 1")),
    };
    body::unpacked(Body { bytes, reserved }, coding, &ingress.body).await
}

/// A message in its frame.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(FRAME_BYTES + message.len());
    out.push(0);
    out.extend_from_slice(&u32::try_from(message.len()).expect("answers are short").to_be_bytes());
    out.extend_from_slice(message);
    out.into()
}
