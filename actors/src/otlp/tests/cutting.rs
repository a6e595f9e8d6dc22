//! Requests cut into several, and items selected from them.

use proptest::prelude::*;

use super::*;

proptest! {
    /// A request cut at any item is two requests with the same items, in the same surroundings.
    #[test]
    fn a_request_can_be_cut_anywhere(cut in 0_u32..8, which in 0_usize..3) {
        let (signal, json, _) = &every_signal()[which];
        let bytes = request(*signal, json);
        let seen = |request: &[u8]| -> Vec<_> {
            let mut rows = Rows::of(request, *signal);
            let mut found = Vec::new();
            while let Some(row) = rows.next_row() {
                found.push((row.message.to_owned(), row.metadata.to_owned(), row.service.to_owned()));
            }
            found
        };
        let (left, right) = (select(&bytes, *signal, |i| i < cut), select(&bytes, *signal, |i| i >= cut));
        prop_assert!(check(&left, *signal).is_ok() && check(&right, *signal).is_ok());
        let mut both = seen(&left);
        prop_assert!(both.len() <= cut as usize);
        both.extend(seen(&right));
        prop_assert_eq!(both, seen(&bytes));
        prop_assert_eq!(select(&bytes, *signal, |_| true), bytes);
    }

    /// Runs of items are what selecting the items of each makes, and no more bytes than may be.
    #[test]
    fn runs_are_what_selecting_makes(
        which in 0_usize..3,
        times in 1_usize..4,
        wanted in proptest::collection::vec(any::<bool>(), 40),
    ) {
        let (signal, json, _) = &every_signal()[which];
        let bytes = request(*signal, json).repeat(times);
        let items = Items::of(&bytes, *signal).count();
        let mut runs: Vec<std::ops::Range<u32>> = Vec::new();
        for index in (0..items as u32).filter(|index| wanted[*index as usize % wanted.len()]) {
            match runs.last_mut() {
                Some(run) if run.end == index => run.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        let found = select_runs(&bytes, *signal, &runs, usize::MAX).unwrap();
        let each = |run: &std::ops::Range<u32>| select(&bytes, *signal, |index| run.contains(&index));
        prop_assert_eq!(&found, &runs.iter().map(each).collect::<Vec<_>>());
        let all: usize = found.iter().map(Vec::len).sum();
        prop_assert!(select_runs(&bytes, *signal, &runs, all).is_some());
        prop_assert!(all == 0 || select_runs(&bytes, *signal, &runs, all - 1).is_none());
    }

    /// How large a request is by its items is what a request of each of them alone comes to, but for the lengths of groups.
    #[test]
    fn an_extent_is_that_of_each_item_alone(which in 0_usize..3, times in 1_usize..4) {
        let (signal, json, _) = &every_signal()[which];
        let bytes = request(*signal, json).repeat(times);
        let found = Extent::of(&bytes, *signal);
        let items = Items::of(&bytes, *signal).count() as u64;
        prop_assert_eq!(found.items, items);
        let alone = |wanted: u64| select(&bytes, *signal, |index| u64::from(index) == wanted).len() as u64;
        let all: u64 = (0..items).map(alone).sum();
        prop_assert!(found.expanded_bytes <= all && all <= found.expanded_bytes + items * 12, "{:?}, {}", found, all);
    }

    /// A request cut in one pass is, part by part, what selecting the items of each part makes of it, whatever stands
    /// between, before and behind the items; the parts are no larger than wanted, and no smaller than they must be.
    #[test]
    fn cuts_are_what_selecting_makes(
        bytes_max in 1_usize..900,
        which in 0_usize..3,
        times in 1_usize..4,
        unknown in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..3), 0..6),
    ) {
        let (signal, json, _) = &every_signal()[which];
        let mut bytes = with_unknown(&request(*signal, json), signal.levels(), &unknown);
        bytes = bytes.repeat(times);
        prop_assert_eq!(check(&bytes, *signal), Ok(()));
        let ranges = ranges(&bytes, *signal, bytes_max);
        let found: Vec<_> = cut(&bytes, *signal, bytes_max).collect();
        prop_assert_eq!(found.len(), ranges.len());
        for ((part, count), range) in found.iter().zip(ranges) {
            prop_assert_eq!(*count as usize, range.len());
            prop_assert_eq!(part, &select(&bytes, *signal, |index| range.contains(&index)));
        }
    }
}

/// A request of logs with so many bytes of resource, and records of so many bytes each.
fn logs_of(resource_bytes: usize, records: usize, record_bytes: usize) -> Vec<u8> {
    let message = |entries: &[(u32, &[u8])]| {
        let mut out = Vec::new();
        entries.iter().for_each(|(number, bytes)| put_bytes(&mut out, *number, bytes));
        out
    };
    let record = match record_bytes {
        0 => Vec::new(),
        bytes => message(&[(3, &vec![b's'; bytes - 3])]),
    };
    let scope = message(&vec![(2, &record[..]); records]);
    let resource = message(&[(1, &message(&[(1, &vec![b'k'; resource_bytes])]))]);
    message(&[(1, &message(&[(1, &resource), (2, &scope)]))])
}

/// Scenario: very many records without a byte of their own; a resource as large as all records together.
/// Guarantee: the first are several requests, by what they take; the second is not repeated more often than there is as much
/// beside it. Records without bytes never filled a request, and a large resource was in a hundred of them.
#[test]
fn r0273_cutting_went_by_items_alone() {
    let request = logs_of(0, 300_000, 0);
    let parts: Vec<_> = cut(&request, Signal::Logs, 100_000).collect();
    assert_eq!(parts.iter().map(|(_, count)| count).sum::<u32>(), 300_000);
    assert!(parts.len() >= 6 && parts.iter().all(|(part, _)| part.len() < 101_000));
    for (resource_bytes, record_bytes) in [(2_000_000, 100), (1_000_000, 10_000), (10_000, 10_000)] {
        let request = logs_of(resource_bytes, 200, record_bytes);
        let all: usize = cut(&request, Signal::Logs, 1_000).map(|(part, _)| part.len()).sum();
        assert!(all <= 3 * request.len() + 1_000, "{all} of {}", request.len());
    }
}

/// Ranges of items whose own bytes come to at most so many each; an item that is larger stands alone.
fn ranges(request: &[u8], signal: Signal, bytes_max: usize) -> Vec<std::ops::Range<u32>> {
    let mut ranges = Vec::new();
    let (mut first, mut end, mut bytes) = (0, 0, 0);
    // With its tag and its length.
    let taken = |item: Item<'_>| item.bytes.len() + if item.bytes.len() < 128 { 2 } else { 3 };
    let own: usize = Items::of(request, signal).map(taken).sum();
    let bytes_max = bytes_max.max(request.len() - own);
    for item in Items::of(request, signal).map(taken) {
        if end > first && bytes + item > bytes_max {
            ranges.push(first..end);
            (first, bytes) = (end, 0);
        }
        bytes += item;
        end += 1;
    }
    if end > first {
        ranges.push(first..end);
    }
    ranges
}

/// The message with fields that the protocol does not know, at some places of every level.
fn with_unknown(message: &[u8], levels: &[&[u32]], unknown: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let Some((here, deeper)) = levels.split_first() else { return message.to_vec() };
    let entries: Vec<_> = wire::Fields::of(message).map(Result::unwrap).collect();
    let mut out = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        for (place, _) in unknown.iter().filter(|(place, _)| place.index(entries.len()) == index) {
            put_bytes(&mut out, 900, format!("{place:?}").as_bytes());
        }
        match entry.value {
            wire::Value::Bytes(inner) if here.contains(&entry.number) && !deeper.is_empty() => {
                put_bytes(&mut out, entry.number, &with_unknown(inner, deeper, unknown));
            }
            _ => out.extend_from_slice(entry.raw),
        }
    }
    for (_, number) in unknown {
        put_varint(&mut out, u64::from(901 + u32::from(*number)) << 3);
        put_varint(&mut out, 1);
    }
    out
}

/// A request without items, or of empty groups, is cut into nothing.
#[test]
fn nothing_is_cut_into_nothing() {
    for (signal, _, _) in every_signal() {
        assert_eq!(cut(b"", signal, 100).count(), 0);
        assert_eq!(cut(&[0x0a, 0x02, 0x12, 0x00], signal, 100).count(), 0);
    }
}
