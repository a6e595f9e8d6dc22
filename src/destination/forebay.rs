//! `type: forebay`: hands batches on to another Forebay, over gRPC by `forebay.ingest.v1`.
//!
//! Events keep their ids and the time at which this Forebay, or one before it, accepted them; requests of OpenTelemetry go as
//! the bytes that came, with the same. A batch is one `SendBatch`, under the batch's own id and with this data directory's
//! identity as its source, so the other side takes it once however often it comes.
//!
//! Where a batch is too large for a call it goes in halves, and these in halves where they are. Each part is known by its own
//! positions, and which parts there are depends on nothing but the batch and what the two sides allow: after a crash they are
//! the same.
//!
//! | answer | what it means here |
//! |---|---|
//! | OK | taken; events that it names as invalid become dead letters with its words |
//! | RESOURCE_EXHAUSTED without RetryInfo | the part goes in halves; an event that is too large alone is invalid |
//! | UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED; other events had this name before | refused: tried again, since an operator has to mend it |
//! | INVALID_ARGUMENT | the batch is rejected; the sink halves it |
//! | any other, and none | tried again, not before RetryInfo |
//!
//! Limits: the other side knows a batch again for its `ingest.dedupe_window`. Whoever comes again later is taken again, under the
//! same ids of events. A batch is held once more as a message, without the requests of OpenTelemetry in it, and once packed.

mod message;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, Receipt, Rejection, Verdict},
    examination::{ClockReading, Examination},
    record::{Batch, BatchId, Span},
};
use forebay_proto::ingest::v1::EventBatchResponse;
use futures::{FutureExt as _, future::LocalBoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use prost::Message as _;

use self::message::Message;
use super::{
    encoding,
    grpc::{self, Failure, Grpc, status::GrpcStatus},
    unbuildable,
};
use crate::config::{ForebayCompression, ForebaySink};

/// Bytes of an answer that are read: a thousand reasons of the longest kind, and the places of a batch that is all wrong.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

const SEND_BATCH: &str = "/forebay.ingest.v1.IngestService/SendBatch";

/// Headers that follow from what is sent, so that no configured value could be right.
const OWN_HEADERS: [&str; 7] =
    ["content-type", "content-length", "content-encoding", "grpc-encoding", "grpc-timeout", "te", "host"];

/// Delivers to one Forebay.
pub struct ForebayDestination {
    relay: Arc<Relay>,
}

struct Relay {
    gateway: Grpc,
    /// Whose batches these are; empty where nobody said.
    source: String,
    compression: ForebayCompression,
    /// From so many bytes on a message is known to be too large: as configured, or where the other side has refused one. Only
    /// what it refused counts, so that whoever does not know it yet comes to the same parts.
    too_large_bytes: AtomicUsize,
    /// Parts that were taken of batches that are not yet whole, and what was invalid in them: tried again, they would be
    /// known only for so long.
    taken: Mutex<HashMap<BatchId, (Span, Vec<Rejection>)>>,
}

/// What became of one part.
enum Sent {
    Taken(Vec<Rejection>),
    TooLarge(GrpcStatus),
}

// === impl ForebayDestination ===

impl ForebayDestination {
    /// A destination that has not connected yet. Reads the certificates that it needs.
    ///
    /// # Errors
    /// [`Cause::Build`] where the endpoint, a header or a certificate cannot be used.
    pub fn new(options: &ForebaySink) -> Result<Self, DeliveryError> {
        let gateway = Grpc::new(grpc::Options {
            endpoint: &options.endpoint,
            example: "https://gateway.example.com:50051",
            hint: "is another port meant?",
            timeout: options.timeout,
            tls: &options.tls,
            answer_bytes_max: ANSWER_BYTES_MAX,
            headers: headers(options)?,
        })?;
        let too_large_bytes = AtomicUsize::new(options.max_request_bytes.saturating_add(1));
        let (source, compression, taken) = (String::new(), options.compression, Mutex::default());
        Ok(Self { relay: Arc::new(Relay { gateway, source, compression, too_large_bytes, taken }) })
    }

    /// The same with `stream` as the source of every batch: positions begin at 0 in every data directory, so alone they do not
    /// tell two of them apart.
    pub fn of_stream(mut self, stream: &str) -> Self {
        let relay =
            Arc::get_mut(&mut self.relay).expect("nobody else holds a destination that is being built");
        stream.clone_into(&mut relay.source);
        self
    }
}

impl fmt::Debug for ForebayDestination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ForebayDestination").field(&self.relay.gateway.shown).finish()
    }
}

impl Destination for ForebayDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let relay = self.relay.clone();
        async move { relay.deliver(batch).await }.boxed_local()
    }

    /// Hands on nothing, which needs the rights of whoever hands on something.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let relay = self.relay.clone();
        async move { relay.ask().await.map(drop) }.boxed_local()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        let relay = self.relay.clone();
        async move {
            match relay.ask().await {
                Ok(clock) => Examination::fit().with_clock(clock),
                Err(error) => Examination::failed(&error),
            }
        }
        .boxed_local()
    }
}

// === impl Relay ===

impl Relay {
    async fn deliver(&self, batch: Arc<Batch>) -> Result<Receipt, DeliveryError> {
        let mut receipt = Receipt::of(0);
        // The next part is the last one here.
        let mut parts = vec![batch.clone()];
        while let Some(part) = parts.pop() {
            if let Some(rejected) = self.taken_before(&part) {
                receipt.rejected.extend(rejected);
                continue;
            }
            let source = self.source.clone();
            let halves = part.halves();
            // One event is sent, however large it is: whether it is too large is for the gateway to say.
            let bytes_max = match &halves {
                Some(_) => self.too_large_bytes.load(Ordering::Relaxed),
                None => usize::MAX,
            };
            let message = encoding(part.clone(), move |part| message::of(part, &source, bytes_max)).await?;
            let bytes = message.bytes;
            if let Some(halves) = &halves
                && bytes >= bytes_max
            {
                parts.extend([&halves.1, &halves.0].map(|half| Arc::new(half.clone())));
                continue;
            }
            let how = self.compression;
            let message = match how {
                ForebayCompression::None => message,
                _ => encoding(part.clone(), move |_| message.packed(how)).await?,
            };
            receipt.bytes += message.bytes as u64;
            match (self.send(&part, message).await?, halves) {
                (Sent::Taken(rejected), _) => {
                    self.take(&part, rejected.clone());
                    receipt.rejected.extend(rejected);
                }
                (Sent::TooLarge(_), Some((first, second))) => {
                    self.too_large_bytes.fetch_min(bytes, Ordering::Relaxed);
                    parts.extend([second, first].map(Arc::new));
                }
                (Sent::TooLarge(status), None) => {
                    let (error, status) = (status.words(&self.gateway.shown), Some(status.code));
                    let rejection = |position| Rejection { position, error: error.clone(), status };
                    receipt.rejected.extend(part.positions().map(rejection));
                }
            }
        }
        self.forget(batch.span());
        Ok(receipt)
    }

    /// Sends one part, and reads what became of each of its events.
    async fn send(&self, part: &Batch, message: Message) -> Result<Sent, DeliveryError> {
        let answer = match self.call(message).await {
            Ok((answer, _)) => answer,
            Err(Failure::Refused(status)) if is_too_large(&status) => return Ok(Sent::TooLarge(status)),
            Err(failure) => return Err(self.failed(failure)),
        };
        let answer = EventBatchResponse::decode(answer).map_err(|error| {
            let message =
                format!("{}: an answer that is none of forebay.ingest.v1: {error}", self.gateway.shown);
            DeliveryError::transient(Cause::Server, message)
        })?;
        self.judge(part, answer).map(Sent::Taken)
    }

    /// What an answer says of a part.
    ///
    /// # Errors
    /// Where it is not about these events.
    fn judge(&self, part: &Batch, answer: EventBatchResponse) -> Result<Vec<Rejection>, DeliveryError> {
        let shown = &self.gateway.shown;
        if answer.other_events {
            let message = format!(
                "{shown}: it has taken other events as the batch {} of {:?}: is this data directory a copy of one that is \
                 in use? Without its file ID it gets an identity of its own",
                part.id(),
                self.source
            );
            return Err(DeliveryError::transient(Cause::Refused, message));
        }
        let answered = u64::from(answer.received_count) + u64::from(answer.rejected_count);
        let named = answer.rejected.len() + answer.rejected_further.len();
        if answered != part.count() || named != answer.rejected_count as usize {
            let message = format!(
                "{shown}: its answer is about {answered} events, {named} of them by name, where {} were sent: is it of a \
                 version that does not know all of what was sent?",
                part.count()
            );
            return Err(DeliveryError::transient(Cause::Refused, message));
        }
        let positions: Vec<_> = part.positions().collect();
        let rejection = |index: u32, reason: String| Rejection {
            // Behind the last there is none: an answer of that kind is about no event of ours.
            position: positions.get(index as usize).copied().unwrap_or(part.span().end),
            error: format!("{shown}: {reason}"),
            status: None,
        };
        let mut rejected: Vec<_> = answer
            .rejected
            .into_iter()
            .map(|event| {
                let field = if event.field.is_empty() { String::new() } else { format!("{}: ", event.field) };
                rejection(event.index, format!("{field}{}", event.reason))
            })
            .collect();
        let further = "it is invalid, as so many of this batch that the reason is left out".to_owned();
        rejected.extend(answer.rejected_further.into_iter().map(|index| rejection(index, further.clone())));
        Ok(rejected)
    }

    async fn ask(&self) -> Result<Option<ClockReading>, DeliveryError> {
        let nothing = message::nothing(&self.source).packed(self.compression)?;
        let asked = self.call(nothing).await;
        asked.map(|(_, clock)| clock).map_err(|failure| self.failed(failure))
    }

    async fn call(&self, message: Message) -> Result<(Bytes, Option<ClockReading>), Failure> {
        let packing = match self.compression {
            ForebayCompression::None => None,
            ForebayCompression::Gzip => Some("gzip"),
            ForebayCompression::Zstd => Some("zstd"),
        };
        let message = grpc::Message { pieces: message.pieces, packing };
        self.gateway.call(SEND_BATCH, message).await.map(|answer| (answer.message, answer.clock))
    }

    fn failed(&self, failure: Failure) -> DeliveryError {
        let status = match failure {
            Failure::Unanswered(error) => return error,
            Failure::Refused(status) => status,
        };
        let retry = Verdict::Retry { after: status.retry_after };
        let (cause, verdict) = match status.code {
            3 => (Cause::Rejected, Verdict::Reject),
            4 => (Cause::Timeout, retry),
            7 | 12 | 16 => (Cause::Refused, retry),
            _ if status.retry_after.is_some() => (Cause::Throttled, retry),
            _ => (Cause::Server, retry),
        };
        let message = status.words(&self.gateway.shown);
        DeliveryError { cause, message, status: Some(status.code), verdict }
    }

    /// What was invalid of a part that was taken by an earlier attempt at its batch.
    fn taken_before(&self, part: &Batch) -> Option<Vec<Rejection>> {
        self.taken().get(&part.id()).map(|(_, rejected)| rejected.clone())
    }

    fn take(&self, part: &Batch, rejected: Vec<Rejection>) {
        self.taken().insert(part.id(), (part.span(), rejected));
    }

    /// The batch is whole. What is left of those before it is of batches that were given up.
    fn forget(&self, batch: Span) {
        self.taken().retain(|_, (part, _)| part.first >= batch.end);
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<BatchId, (Span, Vec<Rejection>)>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a smaller message would be taken: by the contract, a lack of resources without a word of when to come again.
fn is_too_large(status: &GrpcStatus) -> bool {
    const RESOURCE_EXHAUSTED: u16 = 8;
    status.code == RESOURCE_EXHAUSTED && status.retry_after.is_none()
}

/// The configured headers, and the token.
fn headers(options: &ForebaySink) -> Result<HeaderMap, DeliveryError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &options.headers {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| unbuildable(format!("headers: {name:?} is not the name of a header")))?;
        if OWN_HEADERS.contains(&key.as_str()) {
            return Err(unbuildable(format!("headers: {name} is set by Forebay itself")));
        }
        headers.insert(key, secret(value, &format!("headers: the value of {name}"))?);
    }
    if let Some(token) = &options.token {
        headers.insert(header::AUTHORIZATION, secret(&format!("Bearer {}", token.reveal()), "the token")?);
    }
    Ok(headers)
}

/// The value is likely a token, so no message shows it.
fn secret(value: &str, what: &str) -> Result<HeaderValue, DeliveryError> {
    let value = HeaderValue::from_str(value);
    let mut value = value.map_err(|_| unbuildable(format!("{what} has characters a header cannot")))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
