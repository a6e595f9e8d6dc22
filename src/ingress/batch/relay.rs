//! Requests of OpenTelemetry in a batch: those that a relay hands on, with the ids and the time that their items have from there.

use std::ops::Range;

use forebay_actors::{
    event::{Block, Stamp, Timestamp},
    otlp::{
        Items, Signal, select, stamp, survey,
        wire::{self, Value},
    },
};
use uuid::Uuid;

use super::read::{another_kind, bad_batch, time_of, undecodable};
use crate::{
    api::error::ApiError,
    ingress::otlp::{cut_into, invalid},
    security::Tenant,
};

/// A request that was understood.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// The items that are right.
    pub(super) blocks: Vec<Block>,
    /// How many there are, right and wrong.
    pub(super) count: u32,
    /// The items that are not, by their place in the request, and why.
    pub(super) rejected: Vec<(u32, String)>,
}

/// Reads an `OtlpRequest` of this tenant.
///
/// # Errors
/// 400 where it is none, or its request cannot be decoded.
pub(super) fn read(
    message: &[u8],
    max_event_bytes: usize,
    tenant: Option<&Tenant>,
) -> Result<Request, ApiError> {
    let (mut signal, mut request, mut first_id, mut ingested_at) = (None, &[][..], &[][..], None);
    for entry in wire::Fields::of(message) {
        let entry = entry.map_err(undecodable)?;
        match (entry.number, entry.value) {
            (1, Value::Varint(number)) => signal = u8::try_from(number).ok().and_then(Signal::from_u8),
            (2, Value::Bytes(bytes)) => request = bytes,
            (3, Value::Bytes(bytes)) => first_id = bytes,
            (4, Value::Bytes(bytes)) => {
                ingested_at = Some(time_of(bytes).map_err(|error| bad_batch("otlp.ingested_at", &error))?);
            }
            (1..=4, _) => return Err(undecodable(another_kind(entry.end))),
            _ => {}
        }
    }
    let signal = signal.ok_or_else(|| bad_batch("otlp.signal", "it is no signal that Forebay knows"))?;
    let first = first(first_id, ingested_at)?;
    let survey = survey(request, signal).map_err(|error| {
        bad_batch("otlp.request", &format!("it is no request of {} in protobuf: {error}", signal.as_str()))
    })?;
    let stamped = tenant.map(|tenant| stamp(request, &tenant.key, &tenant.value));
    let request = stamped.as_deref().unwrap_or(request);
    let is_plain = survey.item_bytes_max <= max_event_bytes && !survey.has_odd_ids;
    let mut found = Request::default();
    if is_plain && signal != Signal::Metrics {
        found.count = survey.items;
    } else {
        for item in Items::of(request, signal) {
            found.rejected.extend(invalid(signal, &item, max_event_bytes).map(|why| (found.count, why)));
            found.count += 1;
        }
    }
    for run in kept(found.count, &found.rejected) {
        let count = run.end - run.start;
        // The ids of a run are one after the other, so each is a request of its own.
        let part = (count < found.count).then(|| select(request, signal, |index| run.contains(&index)));
        let mut at = run.start;
        let block = |part: &[u8], count: u32| {
            let first = first.map(|first| Stamp { first_id: first.id_at(at), ..first });
            at += count;
            match first {
                Some(first) => Block::relayed_otlp(signal, part, count, first),
                None => Block::otlp(signal, part, count),
            }
        };
        found.blocks.extend(cut_into(signal, part.as_deref().unwrap_or(request), count, block));
    }
    Ok(found)
}

/// The id and the time of the first item, where they are given.
fn first(first_id: &[u8], ingested_at: Option<Timestamp>) -> Result<Option<Stamp>, ApiError> {
    match (first_id, ingested_at) {
        ([], None) => Ok(None),
        (id, Some(ingested_at)) if !id.is_empty() => {
            let first_id = Uuid::from_slice(id).map_err(|_| {
                bad_batch("otlp.first_id", &format!("it has {} bytes; 16 are needed", id.len()))
            })?;
            Ok(Some(Stamp { first_id, ingested_at }))
        }
        _ => Err(bad_batch("otlp", "first_id and ingested_at are given together, or neither is")),
    }
}

/// The runs of items that are not rejected.
fn kept(count: u32, rejected: &[(u32, String)]) -> Vec<Range<u32>> {
    let mut from = 0;
    let ends = rejected.iter().map(|(index, _)| *index).chain([count]);
    let runs = ends.map(|end| std::mem::replace(&mut from, end + 1)..end);
    runs.filter(|run| !run.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_lie_between_what_is_rejected() {
        let rejected =
            |indexes: &[u32]| indexes.iter().map(|index| (*index, String::new())).collect::<Vec<_>>();
        for (count, without, expected) in [
            (0, vec![], vec![]),
            (3, vec![], vec![(0, 3)]),
            (3, vec![0], vec![(1, 3)]),
            (5, vec![1, 2, 4], vec![(0, 1), (3, 4)]),
            (2, vec![0, 1], vec![]),
        ] {
            let found: Vec<_> =
                kept(count, &rejected(&without)).iter().map(|run| (run.start, run.end)).collect();
            assert_eq!(found, expected, "{without:?} of {count}");
        }
    }
}
