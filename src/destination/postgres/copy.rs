//! Events as rows of `COPY … BINARY`.
//!
//! The form is that of the server's own documentation: a head, for each row the number of its fields and each field
//! behind its length (-1 is NULL), all big-endian, and -1 at the end. Written by hand it is one pass over the batch
//! without an allocation for an event.

use std::collections::BTreeSet;

use forebay_actors::{
    destination::DeliveryError,
    event::{Event, Timestamp},
    record::Batch,
};

use super::{super::unreadable, micros::Micros, month::Month};

/// What is written of an event, in this order.
pub(super) const COLUMNS: [&str; 6] =
    ["event_id", "timestamp", "service", "message", "metadata", "ingested_at"];

/// The head: the signature, no flags, no extension.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Bytes of a row beside its texts: the count, six lengths, two times and the version of the metadata.
const ROW_OVERHEAD_BYTES: usize = 2 + 6 * 4 + 2 * 8 + 1;

/// Bytes of an id that the record does not spell out.
const ID_BYTES: usize = 36;

const NULL: i32 = -1;

/// The version of `jsonb`'s binary form: the text follows.
const JSONB_VERSION: u8 = 1;

/// A batch as it goes over the wire.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) bytes: Vec<u8>,
    /// The months that have a partition of their own, where they were asked for.
    pub(super) months: BTreeSet<Month>,
}

/// Writes the batch, and collects the months of its events where `by_month` is set.
///
/// # Errors
/// [`Cause::Encode`](forebay_actors::destination::Cause::Encode) where a record is damaged.
pub(super) fn rows(batch: &Batch, by_month: bool) -> Result<Rows, DeliveryError> {
    let overhead = batch.count() as usize * (ROW_OVERHEAD_BYTES + ID_BYTES);
    let mut bytes = Vec::with_capacity(HEAD.len() + batch.payload_bytes() + overhead + 2);
    bytes.extend_from_slice(HEAD);
    let mut months = BTreeSet::new();
    let mut count = 0;
    let mut events = batch.events();
    while let Some(event) = events.next_event() {
        let event = event.map_err(|error| unreadable(batch, &error.to_string()))?;
        row(&event, &mut bytes);
        if by_month {
            let month = Month::of(event.timestamp);
            if month.is_near(event.ingested_at) {
                months.insert(month);
            }
        }
        count += 1;
    }
    // A record that holds fewer events than it says must not pass as delivered.
    if count != batch.count() {
        return Err(unreadable(batch, &format!("only {count} are there")));
    }
    bytes.extend_from_slice(&(-1_i16).to_be_bytes());
    Ok(Rows { bytes, months })
}

fn row(event: &Event<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&(COLUMNS.len() as i16).to_be_bytes());
    let id = out.len();
    put_length(0, out);
    event.event_id.write(out);
    let length = length(out.len() - id - 4);
    out[id..id + 4].copy_from_slice(&length.to_be_bytes());
    put_time(event.timestamp, out);
    put(event.service.as_bytes(), out);
    put(event.message.as_bytes(), out);
    match event.metadata {
        None => out.extend_from_slice(&NULL.to_be_bytes()),
        Some(text) => {
            put_length(text.len() + 1, out);
            out.push(JSONB_VERSION);
            out.extend_from_slice(text.as_bytes());
        }
    }
    put_time(event.ingested_at, out);
}

fn put(bytes: &[u8], out: &mut Vec<u8>) {
    put_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn put_length(bytes: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&length(bytes).to_be_bytes());
}

fn length(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("an event is smaller than its batch, which memory bounds far below 2 GiB")
}

/// A `timestamptz`.
fn put_time(time: Timestamp, out: &mut Vec<u8>) {
    put_length(8, out);
    out.extend_from_slice(&Micros::from(time).0.to_be_bytes());
}
