//! OTLP/gRPC: `Export` of the three services.
//!
//! The message is let through as the bytes that came.

use std::net::IpAddr;

use actix_web::http::StatusCode;
use forebay_actors::otlp::Signal;
use http::{HeaderMap, Request};
use tokio::time::Instant;

use super::{OtlpIngress, Pieces, http::partial_success};
use crate::{
    api::error::ApiError,
    ingress::grpc::{
        Outcome, frame,
        status::{Status, retryable},
    },
};

/// Answers one call.
pub(in crate::ingress) async fn answer(
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
    let message = frame::only_message(headers, pieces, &ingress.body).await?;
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
