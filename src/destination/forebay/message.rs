//! A batch as the message that carries it: `forebay.ingest.v1.EventBatchRequest`.
//!
//! Written by hand, for the sake of OpenTelemetry: its requests go out as the slices of the journal's records that they are.

use std::{io::Write as _, ops::Range};

use bytes::Bytes;
use forebay_actors::{
    destination::{Cause, DeliveryError},
    event::{Event, Stamp, Timestamp},
    otlp::{
        self, Signal,
        wire::{put_bytes, put_varint},
    },
    record::{Batch, Part, Position, Span},
};

use crate::{config::ForebayCompression, destination::unreadable};

// Fields of the contract; a signal has the number that it has in the journal.
const BATCH_ID: u32 = 1;
const SOURCE: u32 = 2;
const EVENTS: u32 = 3;
const OTLP: u32 = 5;

/// A message, in pieces which together are one.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) pieces: Vec<Bytes>,
    pub(super) bytes: usize,
}

/// The message of a batch; without its pieces where it has `bytes_max` bytes or more, and then not all of them are counted.
///
/// # Errors
/// Where a record is damaged.
pub(super) fn of(batch: &Batch, source: &str, bytes_max: usize) -> Result<Message, DeliveryError> {
    let too_large = || Message { pieces: Vec::new(), bytes: bytes_max };
    let (mut pieces, mut out) = (Vec::new(), Vec::with_capacity(batch.payload_bytes()));
    put_bytes(&mut out, BATCH_ID, batch.id().to_string().as_bytes());
    put_bytes(&mut out, SOURCE, source.as_bytes());
    let (mut entry, mut bytes) = (Vec::new(), 0);
    let mut parts = batch.events();
    while let Some(at) = parts.position() {
        // A record that holds fewer events than it says must not pass as delivered.
        let part = parts.next_part().ok_or_else(|| unreadable(batch, &format!("there is none at {at}")))?;
        match part.map_err(|error| unreadable(batch, &error.to_string()))? {
            Part::Event(event) => {
                put_event(&event, &mut entry);
                put_bytes(&mut out, EVENTS, &entry);
            }
            Part::Otlp { signal, request, span, stamp } => {
                // The ids of items that are behind one another are, too: where some are left out, what is left is several.
                let (before, items): (Vec<_>, Vec<_>) = runs(batch, span).into_iter().unzip();
                let requests = match &items[..] {
                    [_] => vec![request],
                    _ => match otlp::select_runs(&request, signal, &items, bytes_max) {
                        Some(requests) => requests.into_iter().map(Bytes::from).collect(),
                        None => return Ok(too_large()),
                    },
                };
                for (before, request) in before.into_iter().zip(requests) {
                    let stamp = Stamp { first_id: stamp.id_at(before), ..stamp };
                    put_head(signal, stamp, request.len(), &mut entry);
                    put_varint(&mut out, u64::from(OTLP) << 3 | 2);
                    put_varint(&mut out, (entry.len() + request.len()) as u64);
                    out.extend_from_slice(&entry);
                    bytes += out.len() + request.len();
                    pieces.push(std::mem::take(&mut out).into());
                    pieces.push(request);
                }
            }
        }
        if bytes + out.len() >= bytes_max {
            return Ok(too_large());
        }
    }
    bytes += out.len();
    pieces.push(out.into());
    Ok(Message { pieces, bytes })
}

/// The runs of positions that the batch has of a request's span: how many positions stand before each, and which items of the
/// request it is.
fn runs(batch: &Batch, span: Span) -> Vec<(u32, Range<u32>)> {
    let mut runs: Vec<(u32, Range<u32>)> = Vec::new();
    let places = (0..).zip(span.first.0..span.end.0).filter(|(_, at)| batch.has(Position(*at)));
    for (item, (before, _)) in (0..).zip(places) {
        match runs.last_mut() {
            Some((first, items)) if *first + (items.end - items.start) == before => items.end += 1,
            _ => runs.push((before, item..item + 1)),
        }
    }
    runs
}

/// The message of a relay that hands nothing on: who may not do so is told that.
pub(super) fn nothing(source: &str) -> Message {
    let (mut request, mut out) = (Vec::new(), Vec::new());
    put_varint(&mut request, 1 << 3);
    put_varint(&mut request, Signal::Logs as u64);
    put_bytes(&mut out, SOURCE, source.as_bytes());
    put_bytes(&mut out, OTLP, &request);
    Message { bytes: out.len(), pieces: vec![out.into()] }
}

impl Message {
    /// The same, packed.
    ///
    /// # Errors
    /// Where the packing fails.
    pub(super) fn packed(self, how: ForebayCompression) -> Result<Self, DeliveryError> {
        let packed = match how {
            ForebayCompression::None => return Ok(self),
            ForebayCompression::Gzip => crate::destination::pieces::gzip(&self.pieces),
            ForebayCompression::Zstd => zstd(&self).map_err(|error| {
                DeliveryError::transient(Cause::Encode, format!("a batch cannot be compressed: {error}"))
            })?,
        };
        Ok(Self { bytes: packed.len(), pieces: vec![packed] })
    }
}

fn zstd(message: &Message) -> std::io::Result<Bytes> {
    let mut packed = zstd::stream::Encoder::new(Vec::with_capacity(message.bytes / 4), 1)?;
    for piece in &message.pieces {
        packed.write_all(piece)?;
    }
    packed.finish().map(Bytes::from)
}

/// An `Event`, in the place of what `out` had.
fn put_event(event: &Event<'_>, out: &mut Vec<u8>) {
    out.clear();
    let mut id = Vec::with_capacity(36);
    event.event_id.write(&mut id);
    put_bytes(out, 1, &id);
    put_time(out, 2, event.timestamp);
    put_bytes(out, 3, event.service.as_bytes());
    put_bytes(out, 4, event.message.as_bytes());
    if let Some(metadata) = event.metadata {
        put_bytes(out, 6, metadata.as_bytes());
    }
    put_time(out, 7, event.ingested_at);
}

/// An `OtlpRequest` up to where its request begins, in the place of what `out` had.
fn put_head(signal: Signal, stamp: Stamp, request_bytes: usize, out: &mut Vec<u8>) {
    out.clear();
    put_varint(out, 1 << 3);
    put_varint(out, signal as u64);
    put_bytes(out, 3, stamp.first_id.as_bytes());
    put_time(out, 4, stamp.ingested_at);
    put_varint(out, 2 << 3 | 2);
    put_varint(out, request_bytes as u64);
}

/// A `google.protobuf.Timestamp`.
fn put_time(out: &mut Vec<u8>, number: u32, time: Timestamp) {
    let mut inner = Vec::with_capacity(24);
    let (seconds, nanos) = (time.nanos().div_euclid(1_000_000_000), time.nanos().rem_euclid(1_000_000_000));
    put_varint(&mut inner, 1 << 3);
    put_varint(&mut inner, seconds as u64);
    put_varint(&mut inner, 2 << 3);
    put_varint(&mut inner, nanos as u64);
    put_bytes(out, number, &inner);
}
