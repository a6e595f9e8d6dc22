//! Batches over gRPC: `forebay.ingest.v1`.
//!
//! - Owns: the batches of the last minutes, by which one that comes again is known.
//! - Sends: the events of a batch, each judged on its own, to `Receiver`; answers when they are durable.
//! - Limits: of a batch, of all bodies in memory together with those of every other ingress, of a single event, of rates, of
//!   streams, and of the batches that are remembered.

mod messages;
mod read;
mod recall;
mod relay;
pub mod seen;
mod stream;
mod tree;

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_actors::{
    event::Block,
    receiver::{Receiver, ReceiverMetrics},
    runtime::{mailbox::Mailbox, metrics::counters},
};
use forebay_proto::ingest::v1::{EventBatchResponse, HealthCheckResponse, ServingStatus};
use http::Request;
use hyper::body::Incoming;
use prometheus::{IntCounterVec, Registry};
use prost::Message as _;
use ring::digest;
use tokio::{sync::Semaphore, time::Instant};
use uuid::Uuid;

use self::{
    read::Batch,
    recall::Recalled,
    seen::{Claim, Key, Seen, Taken},
};
use super::{
    body::{Body, BodyLimits, Reserved},
    commit,
    grpc::{
        Outcome, Readiness, frame,
        status::{Status, retryable},
    },
    limits::{Limits, RouteClass},
    post::RequestTimes,
};
use crate::{
    api::error::ApiError,
    config::IngestConfig,
    pipeline::View,
    security::{Caller, Tenant},
};

/// Bytes of a batch up to which it is read where it came in: about a millisecond of work.
const INLINE_BYTES_MAX: usize = 256 * 1024;

/// When a client should come again where something failed that should not.
const AFTER_A_BUG: Duration = Duration::from_secs(1);

/// Bits of a derived id that count the events of a batch: more than the largest body can have.
const INDEX_BITS: u32 = 26;

/// A body in pieces, as one connection reads it.
type Pieces = http_body_util::BodyDataStream<Incoming>;

/// What the ingress stands on; one for all connections.
pub struct BatchIngress {
    /// Who admits.
    pub receiver: Mailbox<Receiver>,
    /// Bounds of batches.
    pub body: BodyLimits,
    /// Bytes an event may have.
    pub max_event_bytes: usize,
    /// Rates.
    pub limits: Limits,
    /// What is refused here is counted where `Receiver` counts.
    pub received: ReceiverMetrics,
    /// Times of batches.
    pub times: RequestTimes,
    /// Whether events would be taken.
    pub readiness: Readiness,
    /// What this ingress alone has.
    pub own: Own,
}

/// What the ingress of batches has of its own: the batches it remembers, and the streams it lets in.
pub struct Own {
    seen: Seen,
    /// Those of the life before, as long as they count.
    recalled: Recalled,
    recalled_until: Instant,
    streams: Arc<Semaphore>,
    duplicates: IntCounterVec,
}

impl Own {
    /// As configured.
    pub fn new(config: &IngestConfig, view: &View, registry: &Registry) -> Self {
        let help = "Batches that had been accepted before, so that nothing was taken; by whether their events were the same";
        let duplicates = counters(registry, "forebay_receiver_duplicate_batches_total", help, &["events"]);
        ["same", "different"].iter().for_each(|events| duplicates.with_label_values(&[events]).inc_by(0));
        let (window, max) = (config.dedupe_window, config.dedupe_batches_max);
        Self {
            seen: Seen::new(window, max),
            recalled: Recalled::from(&*view.journal, window, max),
            recalled_until: Instant::now() + window,
            streams: Arc::new(Semaphore::new(config.max_streams)),
            duplicates,
        }
    }
}

impl BatchIngress {
    /// Answers one call of `SendBatch`.
    pub(super) async fn send_batch(self: Arc<Self>, peer: IpAddr, request: Request<Incoming>) -> Outcome {
        let began = Instant::now();
        let (head, incoming) = request.into_parts();
        let caller = Caller::of(&head.extensions);
        let answer = async {
            self.limits.check(RouteClass::Ingest, Some(peer))?;
            let body = frame::only_message(&head.headers, Pieces::new(incoming), &self.body).await?;
            self.clone().admit(&caller, body).await
        };
        let answer = answer.await.map_err(retryable);
        let status = match &answer {
            Ok(response) if response.success => 200,
            Ok(_) => 400,
            Err(error) => {
                self.received.rejected.with_label_values(&[error.code()]).inc();
                actix_web::ResponseError::status_code(error).as_u16()
            }
        };
        self.times.observe(status, began);
        answer.map(|response| response.encode_to_vec()).map_err(|error| Status::of(&error))
    }

    /// The answer to `HealthCheck`.
    pub(super) fn health(&self) -> Vec<u8> {
        let why_not = self.readiness.why_not();
        let status = if why_not.is_none() { ServingStatus::Serving } else { ServingStatus::NotServing };
        let message = why_not.unwrap_or_default().to_owned();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        HealthCheckResponse { status: status.into(), message, version }.encode_to_vec()
    }

    /// Makes a batch durable, as that of whoever calls.
    ///
    /// # Errors
    /// 400 where it is none, 503 where it is not taken; nothing of it is kept then.
    async fn admit(self: Arc<Self>, caller: &Caller, body: Body) -> Result<EventBatchResponse, ApiError> {
        let Body { bytes, reserved } = body;
        let (max_event_bytes, tenant) = (self.max_event_bytes, caller.tenant().cloned());
        let batch = if bytes.len() <= INLINE_BYTES_MAX {
            read::read(&bytes, max_event_bytes, tenant.as_deref(), || caller.check_relay())?
        } else {
            let (of, caller) = (tenant.clone(), caller.clone());
            let reading = tokio::task::spawn_blocking(move || {
                read::read(&bytes, max_event_bytes, of.as_deref(), || caller.check_relay())
            });
            reading.await.map_err(|_| ApiError::internal("the batch could not be read"))??
        };
        // A client that goes must not take the answer with it: whoever sends the batch again needs it.
        let settled = tokio::spawn(self.settle(tenant, batch, reserved)).await;
        settled.map_err(|_| ApiError::internal("the batch could not be settled"))?
    }

    async fn settle(
        self: Arc<Self>,
        tenant: Option<Arc<Tenant>>,
        mut batch: Batch,
        _until_answered: Reserved,
    ) -> Result<EventBatchResponse, ApiError> {
        let blocks = std::mem::take(&mut batch.blocks);
        if blocks.is_empty() {
            return Ok(self.answer(batch));
        }
        let tenant = tenant.as_ref().map(|tenant| tenant.value.as_str());
        let Some(key) = Key::of(tenant, &batch.source, &batch.batch_id) else {
            commit(&self.receiver, blocks).await?;
            return Ok(self.answer(batch));
        };
        let digest = digest_of(&blocks);
        match self.own.seen.claim(key).await {
            Claim::Again(taken) => Ok(self.duplicate(batch, taken, digest)),
            Claim::First(ticket) => {
                let taken = Taken { digest, accepted: batch.accepted, rejected: batch.rejected_count };
                let first = first_id(key, &digest);
                if Instant::now() < self.own.recalled_until && self.own.recalled.has(first, batch.accepted) {
                    ticket.accepted(taken);
                    return Ok(self.duplicate(batch, taken, digest));
                }
                commit(&self.receiver, stamped(blocks, first)).await?;
                ticket.accepted(taken);
                Ok(self.answer(batch))
            }
        }
    }

    /// Of a batch that is durable as far as its events are right.
    fn answer(&self, batch: Batch) -> EventBatchResponse {
        let Batch { batch_id, accepted, rejected, rejected_further, rejected_count, .. } = batch;
        if rejected_count > 0 {
            self.received.rejected.with_label_values(&["invalid_event"]).inc_by(rejected_count.into());
        }
        let all = accepted + rejected_count;
        let message = match (rejected_count, accepted) {
            (0, _) => String::new(),
            (_, 0) => format!("all {all} events are invalid; nothing was accepted"),
            _ => format!("{rejected_count} of {all} events are invalid and were not accepted"),
        };
        EventBatchResponse {
            success: accepted > 0 || rejected_count == 0,
            message,
            batch_id,
            received_count: accepted,
            rejected,
            rejected_further,
            rejected_count,
            ..EventBatchResponse::default()
        }
    }

    /// Of a batch that was accepted before.
    fn duplicate(&self, batch: Batch, taken: Taken, digest: [u8; 32]) -> EventBatchResponse {
        let same = taken.digest == digest;
        let events = if same { "same" } else { "different" };
        self.own.duplicates.with_label_values(&[events]).inc();
        let message = if same {
            "duplicate: this batch was accepted before; nothing was taken again".to_owned()
        } else {
            tracing::warn!(
                batch_id = batch.batch_id,
                source = batch.source,
                "a batch came again with other events, which were not taken"
            );
            "duplicate: a batch of this batch_id was accepted before, with other events; those of this one were not taken. \
             A batch_id names one batch"
                .to_owned()
        };
        EventBatchResponse {
            success: true,
            message,
            batch_id: batch.batch_id,
            received_count: taken.accepted,
            rejected: if same { batch.rejected } else { Vec::new() },
            rejected_further: if same { batch.rejected_further } else { Vec::new() },
            rejected_count: taken.rejected,
            duplicate: true,
            other_events: !same,
            ..EventBatchResponse::default()
        }
    }
}

/// What events are: the same for the same ones, however their message was encoded.
fn digest_of(blocks: &[Block]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    blocks.iter().for_each(|block| context.update(block.events()));
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The id of the first event of a batch: it follows from the batch and what is in it.
///
/// What was accepted is remembered in memory, and a process that starts looks for the last of it in the journal. Where it does not
/// find a batch there that comes again, it accepts it again; but its events have the same ids again, by which a destination that
/// knows its events takes each of them once. A batch of the same name with other events has other ids: it is never taken for the
/// first.
fn first_id(key: Key, digest: &[u8; 32]) -> Uuid {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(key.bytes());
    context.update(digest);
    let hash: [u8; 16] = context.finish().as_ref()[..16].try_into().expect("16 of 32 bytes");
    let first = u128::from_be_bytes(hash) >> INDEX_BITS << INDEX_BITS;
    // Version 8: by a rule of one's own.
    uuid::Builder::from_custom_bytes(first.to_be_bytes()).into_uuid()
}

/// Gives the events ids, from this one on.
fn stamped(blocks: Vec<Block>, first: Uuid) -> Vec<Block> {
    let mut before = 0;
    let numbered = |block: Block| {
        let first = Uuid::from_u128(first.as_u128() + u128::from(before));
        before += block.count();
        block.with_first_id(first)
    };
    blocks.into_iter().map(numbered).collect()
}

/// The answer on a stream to a batch that cannot be taken.
fn failure(error: &ApiError, message: &Bytes) -> EventBatchResponse {
    let is_bug = actix_web::ResponseError::status_code(error).is_server_error();
    EventBatchResponse {
        message: error.message().to_owned(),
        batch_id: read::batch_id(message),
        retry_after_ms: if is_bug { AFTER_A_BUG.as_millis() as u32 } else { 0 },
        ..EventBatchResponse::default()
    }
}
