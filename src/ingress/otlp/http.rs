//! OTLP/HTTP: `POST /v1/logs`, `/v1/metrics` and `/v1/traces`.

use std::{io::Write as _, net::IpAddr};

use actix_web::{ResponseError as _, http::StatusCode};
use forebay_actors::otlp::{
    Signal,
    json::RequestSeed,
    wire::{put_bytes, put_varint},
};
use futures::Stream;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response,
    header::{self, HeaderName},
};
use serde::de::DeserializeSeed as _;
use serde_json::json;
use tokio::time::Instant;

use super::{OtlpIngress, Partial, Payload, Pieces};
use crate::{
    api::error::ApiError,
    ingress::{
        body::{self, Body, Head},
        grpc::status::{Status, retryable},
    },
};

/// In what a request is written, and so its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

impl Encoding {
    /// By the media type, whatever its parameters.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        match value.split(';').next()?.trim().to_ascii_lowercase().as_str() {
            "application/x-protobuf" | "application/protobuf" => Some(Self::Protobuf),
            "application/json" => Some(Self::Json),
            _ => None,
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }
}

/// Answers one request.
pub(in crate::ingress) async fn answer(
    ingress: &OtlpIngress,
    peer: IpAddr,
    request: Request<hyper::body::Incoming>,
) -> Response<Payload> {
    let began = Instant::now();
    let (head, incoming) = request.into_parts();
    let origin = head.headers.get(header::ORIGIN).and_then(|origin| allowed(ingress, origin));
    let encoding = Encoding::of(&head.headers);
    let mut response = match (&head.method, signal_of(head.uri.path())) {
        (&Method::OPTIONS, Some(_)) if head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) => {
            preflight(ingress, origin.is_some())
        }
        (method, signal) => {
            let pieces = Pieces::new(incoming);
            let taken = take(ingress, peer, method, signal, encoding, &head.headers, pieces).await;
            // An error about the encoding is told in the one that every client can show.
            let encoding = encoding.unwrap_or(Encoding::Json);
            match taken {
                Ok((signal, partial)) => success(signal, &partial, encoding),
                Err(error) => {
                    let error = retryable(error);
                    ingress.received.rejected.with_label_values(&[error.code()]).inc();
                    failure(&error, encoding, signal.is_some())
                }
            }
        }
    };
    if let Some(origin) = origin {
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin"));
    }
    if wants_gzip(&head.headers) {
        pack(&mut response);
    }
    let length = response.body().len();
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    ingress.http_times.observe(response.status().as_u16(), began);
    response
}

async fn take(
    ingress: &OtlpIngress,
    peer: IpAddr,
    method: &Method,
    signal: Option<Signal>,
    encoding: Option<Encoding>,
    headers: &HeaderMap,
    pieces: impl Stream<Item = Result<bytes::Bytes, hyper::Error>>,
) -> Result<(Signal, Partial), ApiError> {
    let signal = signal.ok_or_else(|| {
        let message = "there is nothing here; /v1/logs, /v1/metrics and /v1/traces there are";
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    })?;
    if *method != Method::POST {
        let message = format!("the method {method} is not known here; POST is");
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message));
    }
    ingress.check_rate(peer)?;
    let encoding = encoding.ok_or_else(|| {
        let message = "the Content-Type is not taken; application/x-protobuf and application/json are";
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    })?;
    let head = Head::of(|name| headers.get(name).map(HeaderValue::as_bytes))?;
    let body = body::read(head, pieces, &ingress.body).await?;
    let body = match encoding {
        Encoding::Protobuf => body,
        Encoding::Json => from_json(signal, body).await?,
    };
    ingress.admit(signal, body).await.map(|partial| (signal, partial))
}

/// The same request in protobuf.
async fn from_json(signal: Signal, body: Body) -> Result<Body, ApiError> {
    let Body { bytes, reserved } = body;
    let read = move || {
        let mut from = serde_json::Deserializer::from_slice(&bytes);
        // How deep messages may nest is checked by the reader itself.
        let request = RequestSeed(signal).deserialize(&mut from)?;
        from.end().map(|()| request)
    };
    let request = tokio::task::spawn_blocking(read).await;
    let request = request.map_err(|_| ApiError::internal("the body could not be read"))?;
    let request = request.map_err(|error| {
        let place = json!({"line": error.line(), "column": error.column()});
        ApiError::bad_request("malformed_json", error.to_string()).with_details(place)
    })?;
    Ok(Body { bytes: request.into(), reserved })
}

fn signal_of(path: &str) -> Option<Signal> {
    match path {
        "/v1/logs" => Some(Signal::Logs),
        "/v1/metrics" => Some(Signal::Metrics),
        "/v1/traces" => Some(Signal::Traces),
        _ => None,
    }
}

fn response(status: u16, encoding: Encoding, body: Vec<u8>) -> Response<Payload> {
    let mut response = Response::new(Payload::from(body));
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(encoding.media_type()));
    response
}

/// `Export…ServiceResponse`, which has one shape for all signals.
pub(super) fn partial_success(partial: &Partial) -> Vec<u8> {
    let mut out = Vec::new();
    if partial.rejected > 0 {
        let mut inner = Vec::new();
        put_varint(&mut inner, 1 << 3);
        put_varint(&mut inner, u64::from(partial.rejected));
        put_bytes(&mut inner, 2, partial.message.as_bytes());
        put_bytes(&mut out, 1, &inner);
    }
    out
}

fn success(signal: Signal, partial: &Partial, encoding: Encoding) -> Response<Payload> {
    let body = match encoding {
        Encoding::Protobuf => partial_success(partial),
        Encoding::Json if partial.rejected == 0 => b"{}".to_vec(),
        Encoding::Json => {
            let rejected = match signal {
                Signal::Logs => "rejectedLogRecords",
                Signal::Metrics => "rejectedDataPoints",
                Signal::Traces => "rejectedSpans",
            };
            let partial = json!({rejected: partial.rejected.to_string(), "errorMessage": partial.message});
            json!({"partialSuccess": partial}).to_string().into_bytes()
        }
    };
    response(200, encoding, body)
}

fn failure(error: &ApiError, encoding: Encoding, is_route: bool) -> Response<Payload> {
    let status = Status::of(error);
    let body = match encoding {
        Encoding::Protobuf => status.to_protobuf(),
        Encoding::Json => status.to_json(),
    };
    let mut response = response(error.status_code().as_u16(), encoding, body);
    if let Some(wait) = error.retry_after() {
        // Whole seconds, rounded up: never an invitation to come too early.
        let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if is_route && error.status_code() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

/// The origin, as the answer names it, if its pages may send.
fn allowed(ingress: &OtlpIngress, origin: &HeaderValue) -> Option<HeaderValue> {
    let is_allowed = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
    ingress.cors.allowed_origins.iter().any(is_allowed).then(|| origin.clone())
}

/// What a browser asks before it sends.
fn preflight(ingress: &OtlpIngress, is_allowed: bool) -> Response<Payload> {
    let mut response = Response::new(Payload::new());
    *response.status_mut() = http::StatusCode::NO_CONTENT;
    if is_allowed {
        let names = ["content-type", "content-encoding"].into_iter();
        let names: Vec<_> = names.chain(ingress.cors.allowed_headers.iter().map(String::as_str)).collect();
        let mut set = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        };
        set(header::ACCESS_CONTROL_ALLOW_METHODS, "POST".to_owned());
        set(header::ACCESS_CONTROL_ALLOW_HEADERS, names.join(", "));
        set(header::ACCESS_CONTROL_MAX_AGE, ingress.cors.max_age.as_secs().to_string());
    }
    response
}

fn wants_gzip(headers: &HeaderMap) -> bool {
    let Some(accepted) = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    accepted.split(',').any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = quality.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
        name.trim().eq_ignore_ascii_case("gzip") && quality != Some(0.0)
    })
}

fn pack(response: &mut Response<Payload>) {
    if response.body().is_empty() {
        return;
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let packed = encoder.write_all(response.body()).and_then(|()| encoder.finish());
    // Writing to memory does not fail; if it did, the answer would go as it is.
    if let Ok(packed) = packed {
        *response.body_mut() = packed.into();
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
}
