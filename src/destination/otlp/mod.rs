//! `type: otlp`: passes OpenTelemetry on as the bytes that came, over gRPC or HTTP.
//!
//! The requests of a batch are put one behind the other, which is how protobuf joins messages: nothing is decoded, and
//! nothing is encoded again. A batch becomes one call for each signal, or several where that would be larger than
//! `max_request_bytes`; they go one after the other, so that each signal keeps its order. Events that came as such become log
//! records (`event.rs`).
//!
//! | answer | what it means here |
//! |---|---|
//! | OK, 2xx | delivered; of a partial success, what was refused is counted and logged, and not sent again |
//! | CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS; RESOURCE_EXHAUSTED with RetryInfo; 429, 502, 503, 504; no answer | tried again, not before RetryInfo or `Retry-After` |
//! | UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED; 3xx, 401, 403, 404, 405, 407 | refused: tried again, since whatever were sent would fail the same way |
//! | any other | these events are rejected, with the server's own words |
//!
//! That is the protocol's own list, with two exceptions: what is about the sender waits until somebody has mended it, and an
//! OUT_OF_RANGE that says "too large", which is how some servers answer a request over their limit, is a rejection: the sink
//! halves the batch then, and further calls stay below.
//!
//! Where some calls of a batch were taken and one was not, those that were are not sent again, as long as this process lives.
//!
//! Limits: an answer is read for at most `ANSWER_BYTES_MAX`, and a wait that the server asks for counts for at most an hour.
//! A call holds no copy of what it passes on, unless it is compressed. Over gRPC no proxy is used.

mod answer;
pub(super) mod calls;
mod event;
mod http;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use forebay_actors::{
    destination::{Delivery, DeliveryError, Destination, Receipt},
    examination::{ClockReading, Examination},
    otlp::Signal,
    record::Batch,
};
use futures::{FutureExt as _, future::LocalBoxFuture};

use self::{
    answer::{Partial, Refusal},
    calls::{Call, calls},
};
use super::{
    INLINE_BYTES_MAX, blocking,
    grpc::{self, Failure, Grpc},
    pieces,
    taken::Taken,
    unbuildable,
};
use crate::config::{Compression, OtlpProtocol, OtlpSink};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Headers that follow from what is sent, so that no configured value could be right.
const OWN_HEADERS: [&str; 7] =
    ["content-type", "content-length", "content-encoding", "grpc-encoding", "grpc-timeout", "te", "host"];

/// Delivers to one endpoint.
pub struct OtlpDestination {
    exporter: Arc<Exporter>,
}

struct Exporter {
    transport: Transport,
    compression: Compression,
    /// Bytes of a call: as configured, or less where the server has said that it is too much.
    call_bytes_max: AtomicUsize,
    taken: Taken,
}

enum Transport {
    Grpc(Grpc),
    Http(http::Http),
}

/// A request as it goes out.
struct Message {
    signal: Signal,
    pieces: Vec<Bytes>,
    /// Whether it is compressed.
    is_packed: bool,
}

/// What a request that was taken was answered with.
struct Answered {
    partial: Partial,
    clock: Option<ClockReading>,
}

/// A request without records, which succeeds by the protocol wherever one with records would be looked at.
const NOTHING: Message = Message { signal: Signal::Logs, pieces: Vec::new(), is_packed: false };

// === impl OtlpDestination ===

impl OtlpDestination {
    /// A destination that has not connected yet. Reads the certificates that it needs.
    ///
    /// # Errors
    /// `Cause::Build` where the endpoint, a header or a certificate cannot be used.
    pub fn new(options: &OtlpSink) -> Result<Self, DeliveryError> {
        let headers = headers(options)?;
        let transport = match options.protocol {
            OtlpProtocol::Grpc => Transport::Grpc(Grpc::new(grpc::Options {
                endpoint: &options.endpoint,
                example: "http://collector:4317",
                hint: "is `protocol: http` meant, or another port?",
                timeout: options.timeout,
                tls: &options.tls,
                answer_bytes_max: ANSWER_BYTES_MAX,
                headers,
            })?),
            OtlpProtocol::Http => Transport::Http(http::Http::new(options, headers)?),
        };
        let call_bytes_max = AtomicUsize::new(options.max_request_bytes);
        let (compression, taken) = (options.compression, Taken::default());
        Ok(Self { exporter: Arc::new(Exporter { transport, compression, call_bytes_max, taken }) })
    }
}

impl fmt::Debug for OtlpDestination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Transport::Grpc(Grpc { shown, .. }) | Transport::Http(http::Http { shown, .. })) =
            &self.exporter.transport;
        f.debug_tuple("OtlpDestination").field(shown).finish()
    }
}

impl Destination for OtlpDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let exporter = self.exporter.clone();
        async move { exporter.deliver(&batch).await }.boxed_local()
    }

    /// Sends a request without records, which succeeds by the protocol wherever one with records would be looked at.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let exporter = self.exporter.clone();
        async move { exporter.send(NOTHING).await.map(drop).map_err(DeliveryError::from) }.boxed_local()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        let exporter = self.exporter.clone();
        async move {
            match exporter.send(NOTHING).await {
                Ok(Answered { clock, .. }) => Examination::fit().with_clock(clock),
                Err(refusal) => Examination::failed(&refusal.error),
            }
        }
        .boxed_local()
    }
}

// === impl Exporter ===

impl Exporter {
    async fn deliver(&self, batch: &Batch) -> Result<Receipt, DeliveryError> {
        let is_taken = |position| self.taken.has(position);
        let calls = calls(batch, self.call_bytes_max.load(Ordering::Relaxed), is_taken)?;
        let (mut bytes, mut refused) = (0, 0);
        let last = calls.len().saturating_sub(1);
        for (index, call) in calls.into_iter().enumerate() {
            let Call { signal, pieces, bytes: call_bytes, spans } = call;
            let message = self.packed(signal, pieces, call_bytes).await?;
            bytes += message.pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
            match self.send(message).await {
                Ok(taken) => refused += taken.partial.rejected,
                Err(refusal) => {
                    if refusal.is_too_large {
                        self.call_bytes_max.fetch_min((call_bytes / 2).max(1), Ordering::Relaxed);
                    }
                    return Err(refusal.into());
                }
            }
            if index < last {
                self.taken.add(spans);
            }
        }
        self.taken.forget(batch.span());
        Ok(Receipt { refused: refused.min(batch.count()), ..Receipt::of(bytes) })
    }

    async fn packed(
        &self,
        signal: Signal,
        pieces: Vec<Bytes>,
        bytes: usize,
    ) -> Result<Message, DeliveryError> {
        if self.compression == Compression::None {
            return Ok(Message { signal, pieces, is_packed: false });
        }
        let packed = if bytes <= INLINE_BYTES_MAX {
            pieces::gzip(&pieces)
        } else {
            blocking(move || Ok(pieces::gzip(&pieces))).await?
        };
        Ok(Message { signal, pieces: vec![packed], is_packed: true })
    }

    /// One call. What is left out of a partial success is said here.
    async fn send(&self, message: Message) -> Result<Answered, Refusal> {
        let signal = message.signal;
        let (taken, shown) = match &self.transport {
            Transport::Grpc(grpc) => (export(grpc, message).await?, &grpc.shown),
            Transport::Http(http) => (http.export(message).await?, &http.shown),
        };
        let partial = &taken.partial;
        if partial.rejected > 0 {
            tracing::warn!(endpoint = %shown, signal = signal.as_str(), rejected = partial.rejected, said = %partial.message, "records were refused out of a request that was taken; by the protocol they are not sent again");
        } else if !partial.message.is_empty() {
            tracing::warn!(endpoint = %shown, signal = signal.as_str(), said = %partial.message, "the destination warns");
        }
        Ok(taken)
    }
}

/// A call over gRPC.
async fn export(grpc: &Grpc, message: Message) -> Result<Answered, Refusal> {
    let service = match message.signal {
        Signal::Logs => "logs.v1.LogsService",
        Signal::Metrics => "metrics.v1.MetricsService",
        Signal::Traces => "trace.v1.TraceService",
    };
    let path = format!("/opentelemetry.proto.collector.{service}/Export");
    let packing = message.is_packed.then_some("gzip");
    match grpc.call(&path, grpc::Message { pieces: message.pieces, packing }).await {
        Ok(answer) => Ok(Answered { partial: Partial::of_protobuf(&answer.message), clock: answer.clock }),
        Err(Failure::Refused(status)) => Err(status.refusal(&grpc.shown)),
        Err(Failure::Unanswered(error)) => Err(error.into()),
    }
}

/// The configured headers.
fn headers(options: &OtlpSink) -> Result<HeaderMap, DeliveryError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &options.headers {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| unbuildable(format!("headers: {name:?} is not the name of a header")))?;
        if OWN_HEADERS.contains(&key.as_str()) {
            return Err(unbuildable(format!("headers: {name} is set by Forebay itself")));
        }
        // The value is likely a token, so no message shows it.
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            unbuildable(format!("headers: the value of {name} has characters a header cannot"))
        })?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests;
