//! A batch as it stands on the wire: every event is judged on its own, also one that is not even well-formed.

use std::borrow::Cow;

use forebay_actors::{
    event::{Block, BlockBuilder, EVENT_ID_CHARS_MAX, Timestamp, TimestampError},
    otlp::{
        WireError,
        wire::{self, Value},
    },
};
use forebay_proto::ingest::v1::RejectedEvent;
use prost::Message as _;

use super::{relay, tree};
use crate::{
    api::error::ApiError,
    ingress::{
        events::REJECTIONS_MAX,
        fields::{FieldError, Fields, Parts, field},
    },
    security::Tenant,
};

/// Characters of `batch_id` and of `source`: an id and a name, not a text.
const NAME_CHARS_MAX: usize = 256;

/// Characters of what is said of a rejected event: it may name keys, which their sender chose.
const REASON_CHARS_MAX: usize = 500;

/// A batch that was understood.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) batch_id: String,
    pub(super) source: String,
    /// The events that are right.
    pub(super) blocks: Vec<Block>,
    /// How many these are.
    pub(super) accepted: u32,
    /// The events that are not, at most [`REJECTIONS_MAX`] of them.
    pub(super) rejected: Vec<RejectedEvent>,
    /// The places of those for which there is no room there.
    pub(super) rejected_further: Vec<u32>,
    /// How many these are.
    pub(super) rejected_count: u32,
}

/// Reads a batch of this tenant, and encodes the events that are right, each with his name. Whether the sender may hand on
/// what another accepted, with the ids and times from there, is asked before more is done for it.
///
/// # Errors
/// 400 where it cannot be told what the events are, or the batch's own names are wrong; what `check_relay` says.
pub(super) fn read(
    message: &[u8],
    max_event_bytes: usize,
    tenant: Option<&Tenant>,
    check_relay: impl Fn() -> Result<(), ApiError>,
) -> Result<Batch, ApiError> {
    let (mut batch_id, mut source) = ("", "");
    let mut builder = BlockBuilder::with_capacity(message.len());
    let (mut blocks, mut rejections, mut index) = (Vec::new(), Rejections::default(), 0);
    for entry in wire::Fields::of(message) {
        let entry = entry.map_err(undecodable)?;
        match (entry.number, entry.value) {
            (1, Value::Bytes(text)) => batch_id = name("batch_id", text)?,
            (2, Value::Bytes(text)) => source = name("source", text)?,
            (3, Value::Bytes(event)) => {
                match take(event, max_event_bytes, tenant, &mut builder) {
                    Ok(true) => check_relay()?,
                    Ok(false) => {}
                    Err((event_id, fields)) => {
                        rejections.add(index, || rejection(index, event_id, &fields));
                    }
                }
                index += 1;
            }
            (5, Value::Bytes(request)) => {
                check_relay()?;
                let request = relay::read(request, max_event_bytes, tenant)?;
                if !request.blocks.is_empty() {
                    // What stands before it stays before it. Nobody knows how much stands behind it: the next block grows.
                    blocks.extend(std::mem::take(&mut builder).finish());
                    blocks.extend(request.blocks);
                }
                let mut reasons = request.reasons.into_iter();
                for item in request.rejected {
                    let reason = reasons.next();
                    rejections.add(index + item, || RejectedEvent {
                        index: index + item,
                        reason: shortened(reason.unwrap_or_default()),
                        ..RejectedEvent::default()
                    });
                }
                index += request.count;
            }
            (1..=3 | 5, _) => return Err(undecodable(another_kind(entry.end))),
            // A hint that is not acted on, and what a later contract may have.
            _ => {}
        }
    }
    blocks.extend(builder.finish());
    let Rejections { listed: rejected, further: rejected_further, count: rejected_count } = rejections;
    Ok(Batch {
        batch_id: batch_id.to_owned(),
        source: source.to_owned(),
        blocks,
        accepted: index - rejected_count,
        rejected,
        rejected_further,
        rejected_count,
    })
}

/// The events of a batch that are invalid.
#[derive(Default)]
struct Rejections {
    listed: Vec<RejectedEvent>,
    /// Places only, behind those that are listed.
    further: Vec<u32>,
    count: u32,
}

impl Rejections {
    fn add(&mut self, index: u32, rejection: impl FnOnce() -> RejectedEvent) {
        self.count += 1;
        if self.listed.len() < REJECTIONS_MAX {
            self.listed.push(rejection());
        } else {
            self.further.push(index);
        }
    }
}

/// The `batch_id` of a message of which perhaps only the beginning is there; empty where it cannot be read.
pub(super) fn batch_id(message: &[u8]) -> String {
    let entries = wire::Fields::of(message).map_while(Result::ok);
    let ids = entries.filter_map(|entry| match (entry.number, entry.value) {
        (1, Value::Bytes(text)) => std::str::from_utf8(text).ok(),
        _ => None,
    });
    ids.last().filter(|id| id.chars().count() <= NAME_CHARS_MAX).unwrap_or_default().to_owned()
}

pub(super) fn undecodable(error: WireError) -> ApiError {
    let message = format!("the message is no forebay.ingest.v1.EventBatchRequest: {error}");
    ApiError::bad_request("undecodable", message)
}

pub(super) fn another_kind(offset: usize) -> WireError {
    WireError { offset, reason: "a field is of another type than the contract says" }
}

/// A batch that is none, because of what stands at this key.
pub(super) fn bad_batch(key: &str, what: &str) -> ApiError {
    ApiError::bad_request("bad_batch", format!("{key}: {what}"))
}

/// One of the batch's own names.
fn name<'a>(key: &str, text: &'a [u8]) -> Result<&'a str, ApiError> {
    let text = std::str::from_utf8(text).map_err(|error| bad_batch(key, &not_utf8(error)))?;
    match text.chars().count() {
        0..=NAME_CHARS_MAX => Ok(text),
        chars => {
            Err(bad_batch(key, &format!("it has {chars} characters; up to {NAME_CHARS_MAX} are allowed")))
        }
    }
}

fn not_utf8(error: std::str::Utf8Error) -> String {
    format!("it is not UTF-8: its byte {} is wrong", error.valid_up_to())
}

fn rejection(index: u32, event_id: &str, fields: &[FieldError]) -> RejectedEvent {
    let reason = match fields {
        [only] => only.error.clone(),
        several => several.iter().map(|e| format!("{}: {}", e.field, e.error)).collect::<Vec<_>>().join("; "),
    };
    let reason = shortened(reason);
    let field = fields.first().map(|first| first.field.clone()).unwrap_or_default();
    RejectedEvent { index, event_id: event_id.to_owned(), field, reason }
}

fn shortened(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
        reason.truncate(end);
        reason.push('…');
    }
    reason
}

/// Encodes one event, and says whether it has a time of arrival from elsewhere; or its id, where it has one, and what is
/// wrong with it.
fn take<'a>(
    event: &'a [u8],
    max_event_bytes: usize,
    tenant: Option<&Tenant>,
    builder: &mut BlockBuilder,
) -> Result<bool, (&'a str, Vec<FieldError>)> {
    let mut sent = Sent::default();
    if let Err(error) = sent.read(event) {
        // Nothing of it was looked at, also not how long this is.
        let event_id = Some(sent.parts.event_id).filter(|id| id.chars().count() <= EVENT_ID_CHARS_MAX);
        return Err((event_id.unwrap_or_default(), vec![field("", format!("it is no event: {error}"))]));
    }
    let Sent { parts, ingested_at, metadata, mut errors } = sent;
    let metadata = metadata.as_deref();
    match Fields::of_parts(Parts { metadata, ..parts }, max_event_bytes) {
        Ok(fields) if errors.is_empty() => {
            fields.with_draft(tenant, |draft| builder.push_relayed(draft, ingested_at));
            return Ok(ingested_at.is_some());
        }
        Ok(_) => {}
        // What could not be read is not also missing.
        Err(more) => {
            let new = |e: &FieldError| errors.iter().all(|known| known.field != e.field);
            let more: Vec<_> = more.into_iter().filter(|e| new(e)).collect();
            errors.extend(more);
        }
    }
    let event_id = if errors.iter().any(|e| e.field == "event_id") { "" } else { parts.event_id };
    Err((event_id, errors))
}

/// An event as it stands on the wire.
#[derive(Default)]
struct Sent<'a> {
    parts: Parts<'a>,
    metadata: Option<Cow<'a, str>>,
    ingested_at: Option<Timestamp>,
    /// What could not be read: the first of each field.
    errors: Vec<FieldError>,
}

impl<'a> Sent<'a> {
    fn read(&mut self, event: &'a [u8]) -> Result<(), WireError> {
        for entry in wire::Fields::of(event) {
            let entry = entry?;
            let bytes = match (entry.number, entry.value) {
                (1..=7, Value::Bytes(bytes)) => bytes,
                (1..=7, _) => return Err(another_kind(entry.end)),
                _ => continue,
            };
            match entry.number {
                1 => self.parts.event_id = self.text("event_id", bytes),
                2 => self.parts.timestamp = self.time("timestamp", bytes),
                3 => self.parts.service = self.text("service", bytes),
                4 => self.parts.message = self.text("message", bytes),
                5 => self.metadata = self.tree(bytes).map(Cow::Owned),
                6 => self.metadata = Some(Cow::Borrowed(self.text("metadata", bytes))),
                _ => self.ingested_at = self.time("ingested_at", bytes),
            }
        }
        Ok(())
    }

    /// A field may come again and again, wrong each time.
    fn wrong(&mut self, name: &str, error: impl FnOnce() -> String) {
        if self.errors.iter().all(|known| known.field != name) {
            self.errors.push(field(name, error()));
        }
    }

    fn text(&mut self, name: &str, bytes: &'a [u8]) -> &'a str {
        std::str::from_utf8(bytes).unwrap_or_else(|error| {
            self.wrong(name, || not_utf8(error));
            ""
        })
    }

    fn time(&mut self, name: &str, bytes: &[u8]) -> Option<Timestamp> {
        time_of(bytes).map_err(|error| self.wrong(name, || error)).ok()
    }

    fn tree(&mut self, bytes: &[u8]) -> Option<String> {
        tree::json(bytes).map_err(|error| self.wrong("metadata", || error)).ok()
    }
}

/// The instant of an encoded `Timestamp`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn time_of(bytes: &[u8]) -> Result<Timestamp, String> {
    prost_types::Timestamp::decode(bytes)
        .map_err(|error| format!("it is no google.protobuf.Timestamp: {error}"))
        .and_then(instant)
}

fn instant(time: prost_types::Timestamp) -> Result<Timestamp, String> {
    let prost_types::Timestamp { seconds, nanos } = time;
    if !(0..1_000_000_000).contains(&nanos) {
        return Err(format!("it has {nanos} ns; 0 to 999999999 are allowed"));
    }
    let instant = seconds.checked_mul(1_000_000_000).and_then(|seconds| seconds.checked_add(nanos.into()));
    let range = || TimestampError::Range(format!("{seconds} s")).to_string();
    instant.map(Timestamp::from_nanos).ok_or_else(range)
}

#[cfg(test)]
mod tests;
