//! Requests of OpenTelemetry in a batch: those that a relay hands on, with the ids and the time that their items have from there.

use std::{borrow::Cow, ops::Range};

use forebay_actors::{
    event::{Block, Stamp, Timestamp},
    otlp::{
        Items, Signal, select_runs, survey,
        wire::{self, Value},
    },
};
use uuid::Uuid;

use super::read::{another_kind, bad_batch, time_of, undecodable};
use crate::{
    api::error::ApiError,
    ingress::{
        events::REJECTIONS_MAX,
        otlp::{check_extent, cut_into, invalid, stamped},
    },
    security::Tenant,
};

/// Times its own bytes up to which a request may grow when its invalid items are left out. Each place where valid ones are left
/// becomes a request with all that stands around them, so some bytes could become very many.
const SCATTERED_MAX: usize = 4;

/// A request that was understood.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// The items that are right.
    pub(super) blocks: Vec<Block>,
    /// How many there are, right and wrong.
    pub(super) count: u32,
    /// The places of the items that are not.
    pub(super) rejected: Vec<u32>,
    /// Why, of the first [`REJECTIONS_MAX`] of them.
    pub(super) reasons: Vec<String>,
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
    check_extent(signal, request)?;
    let stamped = tenant.map(|tenant| stamped(tenant, request)).transpose()?;
    let request = stamped.as_deref().unwrap_or(request);
    let is_plain = survey.item_bytes_max <= max_event_bytes && !survey.has_odd_ids;
    let mut found = Request::default();
    if is_plain && signal != Signal::Metrics {
        found.count = survey.items;
    } else {
        for item in Items::of(request, signal) {
            if let Some(why) = invalid(signal, &item, max_event_bytes) {
                if found.reasons.len() < REJECTIONS_MAX {
                    found.reasons.push(why);
                }
                found.rejected.push(found.count);
            }
            found.count += 1;
        }
    }
    // The ids of a run are one after the other, so each is a request of its own.
    let runs = kept(found.count, &found.rejected);
    let parts = match &runs[..] {
        [run] if run.end - run.start == found.count => vec![Cow::Borrowed(request)],
        _ => select_runs(request, signal, &runs, request.len().saturating_mul(SCATTERED_MAX))
            .ok_or_else(|| {
                let (invalid, places) = (found.rejected.len(), runs.len());
                let what = format!("{invalid} invalid items leave the valid ones in {places} places, each with all that stands around them");
                bad_batch("otlp.request", &format!("{what}: too much for one request, send it in parts"))
            })?
            .into_iter()
            .map(Cow::Owned)
            .collect(),
    };
    for (run, part) in runs.into_iter().zip(parts) {
        let count = run.end - run.start;
        let mut at = run.start;
        let block = |part: &[u8], count: u32| {
            let first = first.map(|first| Stamp { first_id: first.id_at(at), ..first });
            at += count;
            match first {
                Some(first) => Block::relayed_otlp(signal, part, count, first),
                None => Block::otlp(signal, part, count),
            }
        };
        found.blocks.extend(cut_into(signal, &part, count, block));
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
fn kept(count: u32, rejected: &[u32]) -> Vec<Range<u32>> {
    let mut from = 0;
    let ends = rejected.iter().copied().chain([count]);
    let runs = ends.map(|end| std::mem::replace(&mut from, end + 1)..end);
    runs.filter(|run| !run.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of these fields.
    fn message(entries: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        entries.iter().for_each(|(number, bytes)| wire::put_bytes(&mut out, *number, bytes));
        out
    }

    #[test]
    fn runs_lie_between_what_is_rejected() {
        for (count, without, expected) in [
            (0, vec![], vec![]),
            (3, vec![], vec![(0, 3)]),
            (3, vec![0], vec![(1, 3)]),
            (5, vec![1, 2, 4], vec![(0, 1), (3, 4)]),
            (2, vec![0, 1], vec![]),
        ] {
            let found: Vec<_> = kept(count, &without).iter().map(|run| (run.start, run.end)).collect();
            assert_eq!(found, expected, "{without:?} of {count}");
        }
    }

    /// Scenario: valid and invalid items take turns, below a resource of many bytes.
    /// Guarantee: a few are taken apart; of many it is said that they are too scattered. Each valid one became a request with all
    /// of the resource, so a request of some megabytes could become gigabytes.
    #[test]
    fn r0553_scattered_items_multiplied_what_stands_around_them() {
        let read = |records: usize| {
            let resource = message(&[(1, &message(&[(1, &[b'k'; 20_000])]))]);
            let wrong = message(&[(9, b"abc")]);
            let records: Vec<_> =
                (0..records).map(|i| (2, if i % 2 == 1 { &wrong[..] } else { &[] })).collect();
            let scope = message(&records);
            let request = message(&[(1, &message(&[(1, &resource), (2, &scope)]))]);
            let mut relayed = Vec::new();
            wire::put_varint(&mut relayed, 1 << 3);
            wire::put_varint(&mut relayed, Signal::Logs as u64);
            wire::put_bytes(&mut relayed, 2, &request);
            super::read(&relayed, 1 << 20, None)
        };
        let few = read(5).unwrap();
        assert_eq!((few.count, few.rejected.len(), few.blocks.len()), (5, 2, 3));
        let error = read(100).unwrap_err().to_string();
        assert!(error.contains("50 invalid items leave the valid ones in 50 places"), "{error}");
    }

    /// Scenario: nearly all of very many items are invalid.
    /// Guarantee: all of them are told, and why only of as many as an answer has. A text was kept for each, many times its bytes.
    #[test]
    fn r0587_every_invalid_item_kept_a_text() {
        let wrong = message(&[(9, b"abc")]);
        let records = vec![(2, &wrong[..]); REJECTIONS_MAX + 10];
        let request = message(&[(1, &message(&[(2, &message(&records))]))]);
        let mut relayed = Vec::new();
        wire::put_varint(&mut relayed, 1 << 3);
        wire::put_varint(&mut relayed, Signal::Logs as u64);
        wire::put_bytes(&mut relayed, 2, &request);
        let read = super::read(&relayed, 1 << 20, None).unwrap();
        assert_eq!((read.rejected.len(), read.reasons.len()), (REJECTIONS_MAX + 10, REJECTIONS_MAX));
        assert!(read.blocks.is_empty());
    }

    /// Scenario: very many groups with nothing in them, from a sender whose token has a tenant.
    /// Guarantee: they are refused, and it is said why. Each became a resource of the tenant, many times the bytes that came.
    #[test]
    fn r0294_every_empty_group_became_a_resource() {
        let tenant = Tenant { key: "tenant".to_owned(), value: "acme".to_owned() };
        let read = |groups: usize, tenant| {
            let mut relayed = Vec::new();
            wire::put_varint(&mut relayed, 1 << 3);
            wire::put_varint(&mut relayed, Signal::Logs as u64);
            wire::put_bytes(&mut relayed, 2, &[0x0a, 0].repeat(groups));
            super::read(&relayed, 1 << 20, tenant)
        };
        assert_eq!(read(1_000, Some(&tenant)).unwrap().count, 0);
        assert_eq!(read(100_000, None).unwrap().count, 0);
        let error = read(100_000, Some(&tenant)).unwrap_err().to_string();
        assert!(error.contains("has 200000 bytes") && error.contains("`tenant`, 4 bytes"), "{error}");
    }
}
