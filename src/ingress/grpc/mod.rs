//! gRPC: which call is answered by whom.
//!
//! - Exports of OpenTelemetry and batches of events are answered here by hand: a call is a frame of five bytes around each
//!   message and trailers behind. That lets a message through as the bytes that came, and gives messages the same bounds as bodies
//!   everywhere: also one that is packed, while it is unpacked, and one of a stream.
//! - Health and reflection, whose messages are small and few, are tonic's.

pub(in crate::ingress) mod frame;
mod health;
mod reflection;
pub(in crate::ingress) mod status;

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use actix_web::http::StatusCode;
use bytes::Bytes;
use futures::{future::BoxFuture, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use tonic::body::Body;
use tower_service::Service;

pub use self::health::Readiness;
use self::status::{Status, retryable};
use super::{
    batch::BatchIngress,
    limits::RouteClass,
    otlp::{self, OtlpIngress},
};
use crate::api::error::ApiError;

/// Bytes of a message to health and reflection: a name or two.
const QUESTION_BYTES_MAX: usize = 64 * 1024;

/// What a call came to: a message, or why there is none.
pub(in crate::ingress) type Outcome = Result<Vec<u8>, Status>;

/// A service of tonic's.
type Answering = Box<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// Everybody who answers calls; one for all connections.
pub struct Calls {
    otlp: OtlpIngress,
    batches: Arc<BatchIngress>,
    readiness: Readiness,
    health: Answering,
    reflection: Answering,
    /// The same, for clients that know only the version before.
    reflection_alpha: Answering,
}

impl Calls {
    /// Answers by these.
    ///
    /// # Errors
    /// Where what reflection should tell does not fit together.
    pub fn new(otlp: OtlpIngress, batches: BatchIngress) -> Result<Self, String> {
        let unfit = |error: tonic_reflection::server::Error| format!("gRPC reflection: {error}");
        let descriptors = reflection::descriptors();
        let sets = || {
            let ours = [forebay_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, &descriptors];
            ours.into_iter().fold(tonic_reflection::server::Builder::configure(), |builder, set| {
                builder.register_encoded_file_descriptor_set(set)
            })
        };
        let (v1, alpha) = (sets().build_v1().map_err(unfit)?, sets().build_v1alpha().map_err(unfit)?);
        let readiness = batches.readiness.clone();
        Ok(Self {
            health: answering(
                health::server(readiness.clone()).max_decoding_message_size(QUESTION_BYTES_MAX),
            ),
            reflection: answering(v1.max_decoding_message_size(QUESTION_BYTES_MAX)),
            reflection_alpha: answering(alpha.max_decoding_message_size(QUESTION_BYTES_MAX)),
            otlp,
            batches: Arc::new(batches),
            readiness,
        })
    }

    /// Who takes OpenTelemetry.
    pub(in crate::ingress) fn otlp(&self) -> &OtlpIngress {
        &self.otlp
    }

    /// Whether a request is a call of gRPC.
    pub(in crate::ingress) fn takes(&self, headers: &HeaderMap) -> bool {
        headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
    }

    /// Answers one call.
    pub(in crate::ingress) async fn answer(
        &self,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let path = request.uri().path();
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        match (service, method) {
            ("forebay.ingest.v1.IngestService", "SendBatch") => {
                unary(self.batches.clone().send_batch(peer, request).await)
            }
            ("forebay.ingest.v1.IngestService", "SendBatches") => {
                match self.batches.clone().send_batches(peer, request) {
                    Ok(frames) => with_headers(Response::new(Body::new(StreamBody::new(frames)))),
                    Err(status) => unary(Err(status)),
                }
            }
            ("forebay.ingest.v1.IngestService", "HealthCheck") => {
                unary(self.questioned(peer).map(|()| self.batches.health()))
            }
            // Younger than the others, and not yet in the library.
            ("grpc.health.v1.Health", "List") => {
                unary(self.questioned(peer).map(|()| health::list(&self.readiness)))
            }
            ("grpc.health.v1.Health", _) => self.question(peer, &self.health, request).await,
            ("grpc.reflection.v1.ServerReflection", _) => {
                self.question(peer, &self.reflection, request).await
            }
            ("grpc.reflection.v1alpha.ServerReflection", _) => {
                self.question(peer, &self.reflection_alpha, request).await
            }
            _ if service.starts_with("opentelemetry.") => {
                unary(otlp::grpc::answer(&self.otlp, peer, request).await)
            }
            _ => {
                let message = format!("there is no method {path}");
                let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "not_found", message);
                unary(Err(Status::of(&error)))
            }
        }
    }

    /// Counts a question that brings no events.
    fn questioned(&self, peer: IpAddr) -> Result<(), Status> {
        let checked = self.batches.limits.check(RouteClass::Health, Some(peer));
        checked.map_err(|error| Status::of(&retryable(error)))
    }

    async fn question(&self, peer: IpAddr, to: &Answering, request: Request<Incoming>) -> Response<Body> {
        match self.questioned(peer) {
            Ok(()) => to(request).await,
            Err(status) => unary(Err(status)),
        }
    }
}

fn answering<S>(service: S) -> Answering
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    Box::new(move |request| {
        let mut service = service.clone();
        // They are always ready.
        let answer = service.call(request);
        Box::pin(async move {
            match answer.await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        })
    })
}

/// An answer of one message and the trailers, or only the trailers, which then are headers.
fn unary(outcome: Outcome) -> Response<Body> {
    let response = match outcome {
        Ok(message) => {
            let frames = [Frame::data(frame::framed(&message)), done()];
            Response::new(Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)))))
        }
        Err(status) => {
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = trailers(&status);
            response
        }
    };
    with_headers(response)
}

fn with_headers(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip,zstd"));
    response
}

/// The end of a call that went well.
pub(in crate::ingress) fn done() -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Frame::trailers(trailers)
}

/// The end of a call that did not.
pub(in crate::ingress) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    for (name, value) in status.trailers() {
        if let Ok(value) = HeaderValue::from_str(&value) {
            trailers.insert(HeaderName::from_static(name), value);
        }
    }
    trailers
}
