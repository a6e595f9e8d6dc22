//! Pages, searches and single events.

use std::collections::HashSet;

use forebay::store::{Order, PAGE_BYTES_MAX, Page, Query, QueryError, StoreError};
use forebay_actors::event::{Draft, Timestamp};

use super::{Subject, draft, time};

fn query(order: Order, limit: usize) -> Query {
    Query { order, limit, ..Query::default() }
}

/// Events of three services; up to seven of each share a time, and they come in no order of time.
fn many(subject: &Subject, count: usize) -> Vec<(i64, String, String)> {
    let events: Vec<_> = (0..count)
        .map(|i| ((i * 31 % (count / 7 + 1)) as i64, format!("e{i:04}"), format!("s{}", i % 3)))
        .collect();
    for (i, part) in events.chunks(50).enumerate() {
        let drafts: Vec<_> = part.iter().map(|(at, id, service)| draft(id, *at, service)).collect();
        subject.deliver(i as u64 * 50, &drafts);
    }
    events
}

/// Whatever the order, the limit and the filters, paging returns exactly the events that match, each once,
/// in order, also where many have the same time.
pub fn paging_returns_every_event_once_in_order(subject: &Subject) {
    let mut expected = many(subject, 300);
    // Stored one after the other, events of one time stand in the order of their ids here.
    expected.sort();
    for (order, limit) in [(Order::Oldest, 1), (Order::Oldest, 7), (Order::Newest, 2), (Order::Newest, 300)] {
        for service in [None, Some("s1"), Some("none")] {
            for (from, to) in [(None, None), (Some(3), Some(20)), (None, Some(20)), (Some(20), None)] {
                let is_in = |event: &&(i64, String, String)| {
                    from.is_none_or(|from| event.0 >= from)
                        && to.is_none_or(|to| event.0 < to)
                        && service.is_none_or(|service| event.2 == service)
                };
                let mut ids: Vec<_> = expected.iter().filter(is_in).map(|e| e.1.clone()).collect();
                if order == Order::Newest {
                    ids.reverse();
                }
                let service = service.map(str::to_owned);
                let (from, to) = (from.map(time), to.map(time));
                let found = subject.walk(&Query { service, from, to, ..query(order, limit) });
                let found: Vec<_> = found.into_iter().map(|e| e.event_id).collect();
                assert_eq!(found, ids, "{order} {limit} {from:?} {to:?}");
            }
        }
    }
}

/// Scenario: between two pages events arrive, before, behind and at the place reached, and events already
/// read are deleted. Those that were there at the start are still all returned, and none twice.
pub fn paging_stands_fast_while_the_store_changes(subject: &Subject) {
    let there = many(subject, 200);
    for order in [Order::Newest, Order::Oldest] {
        let there: HashSet<_> = there.iter().map(|e| e.1.clone()).collect();
        let mut query = query(order, 9);
        let mut seen = Vec::new();
        for round in 0.. {
            let page = subject.page(&query).unwrap();
            seen.extend(page.events.iter().map(|e| e.event_id.clone()));
            query.cursor = page.next_cursor;
            if query.cursor.is_none() || round > 200 {
                break;
            }
            let at = page.events.last().unwrap().timestamp.nanos() / 1_000_000_000;
            let ids: Vec<_> = (0..3).map(|i| format!("new{order}{round:03}{i}")).collect();
            let drafts =
                [draft(&ids[0], at - 1, "s0"), draft(&ids[1], at, "s0"), draft(&ids[2], at + 1, "s0")];
            subject.deliver(10_000 + round, &drafts);
            if order == Order::Oldest {
                subject.purge(time(at));
            }
        }
        let distinct: HashSet<_> = seen.iter().cloned().collect();
        assert_eq!(distinct.len(), seen.len(), "an event came twice");
        assert!(distinct.is_superset(&there), "an event was passed over");
    }
}

/// The last page has no cursor, also where it is full: a cursor promises that something lies behind it.
pub fn a_cursor_means_that_there_is_more(subject: &Subject) {
    assert_eq!(subject.page(&query(Order::Newest, 5)).unwrap(), Page::default());
    many(subject, 10);
    let first = subject.page(&query(Order::Newest, 5)).unwrap();
    assert!(!first.partial);
    let last = Query { cursor: first.next_cursor, ..query(Order::Newest, 5) };
    let last = subject.page(&last).unwrap();
    assert_eq!((last.events.len(), last.next_cursor, last.partial), (5, None, false));
}

/// A search that is out of time at once still goes on by some events a page, says that it is partial, and
/// finds everything in the end.
pub fn a_search_out_of_time_goes_on_with_the_next_page(subject: &Subject) {
    let ids: Vec<_> = (0..300).map(|i| format!("e{i:03}")).collect();
    let mut drafts: Vec<_> = ids.iter().zip(0..).map(|(id, at)| draft(id, at, "s")).collect();
    drafts[0].message = "a NEEDLE in the hay";
    drafts[150].message = "needle";
    subject.deliver(0, &drafts);
    let mut query = Query { q: Some("Needle".into()), ..query(Order::Newest, 10) };
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let page = subject.page_at_once(&query);
        assert_eq!(page.partial, page.next_cursor.is_some());
        found.extend(page.events.into_iter().map(|e| e.event_id));
        pages += 1;
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!((found, pages), (vec!["e150".to_owned(), "e000".to_owned()], 5));
}

/// A search finds what stands in more events than are looked at in one go, in either case, as it stands and as no pattern.
pub fn a_text_is_found_in_either_case(subject: &Subject) {
    let ids: Vec<_> = (0..1_500).map(|i| format!("e{i:04}")).collect();
    let mut drafts: Vec<_> = ids.iter().zip(0..).map(|(id, at)| draft(id, at, "s")).collect();
    for at in (0..1_500).step_by(500) {
        drafts[at].message = "100% \u{c4}rger_GET";
    }
    subject.deliver(0, &drafts);
    for text in ["\u{e4}RGER", "_get", "0% "] {
        let found = subject.walk(&Query { q: Some(text.into()), ..query(Order::Oldest, 2) });
        let found: Vec<_> = found.into_iter().map(|e| e.event_id).collect();
        assert_eq!(found, ["e0000", "e0500", "e1000"], "{text}");
    }
    assert!(subject.walk(&Query { q: Some("%get".into()), ..query(Order::Oldest, 2) }).is_empty());
}

/// Events so large that a few fill an answer make short pages, none of which is empty.
pub fn a_page_is_bounded_in_bytes(subject: &Subject) {
    let message = "x".repeat(PAGE_BYTES_MAX / 2);
    for i in 0..5 {
        let id = format!("e{i}");
        let event = Draft { message: &message, ..draft(&id, 1, "s") };
        subject.deliver(i, &[event]);
    }
    let page = subject.page(&query(Order::Oldest, 100)).unwrap();
    assert_eq!((page.events.len(), page.partial), (2, true));
    assert_eq!(subject.walk(&query(Order::Oldest, 100)).len(), 5);
}

/// A count is of all events of a service and a time, whatever the page; with a text there is none.
pub fn a_count_is_of_all_that_matches(subject: &Subject) {
    let counted = |query: Query| subject.page(&Query { count: true, ..query }).unwrap().count;
    assert_eq!(counted(query(Order::Newest, 5)), Some(0));
    many(subject, 300);
    assert_eq!(subject.page(&query(Order::Newest, 5)).unwrap().count, None);
    let first = subject.page(&query(Order::Newest, 5)).unwrap();
    for cursor in [None, first.next_cursor] {
        assert_eq!(counted(Query { cursor, ..query(Order::Newest, 5) }), Some(300));
    }
    let service = Some("s1".to_owned());
    assert_eq!(counted(Query { service: service.clone(), ..query(Order::Oldest, 5) }), Some(100));
    let (from, to) = (Some(time(3)), Some(time(20)));
    let expected =
        subject.walk(&Query { from, to, service: service.clone(), ..query(Order::Oldest, 100) }).len();
    assert_eq!(counted(Query { from, to, service, ..query(Order::Oldest, 1) }), Some(expected as u64));
    assert_eq!(counted(Query { q: Some("m".into()), ..query(Order::Oldest, 5) }), None);
}

/// A wrong question is told what is wrong with it.
pub fn wrong_pages_are_refused(subject: &Subject) {
    many(subject, 10);
    let refused = |query: &Query| match subject.page(query).unwrap_err() {
        StoreError::Query(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(refused(&query(Order::Newest, 0)), QueryError::Limit(0));
    assert_eq!(refused(&query(Order::Newest, 1001)), QueryError::Limit(1001));
    let long = Query { q: Some("x".repeat(257)), ..query(Order::Newest, 1) };
    assert_eq!(refused(&long), QueryError::Text(257));
    let cursor = subject.page(&query(Order::Newest, 1)).unwrap().next_cursor;
    let error = refused(&Query { cursor, ..query(Order::Oldest, 1) });
    assert_eq!(error, QueryError::CursorOrder { cursor: Order::Newest, query: Order::Oldest });
    let empty = Query { from: Some(time(5)), to: Some(time(5)), ..query(Order::Newest, 1) };
    assert_eq!(subject.page(&empty).unwrap(), Page::default());
    let before_time = Query { to: Some(Timestamp::from_nanos(i64::MIN)), ..query(Order::Newest, 1) };
    assert_eq!(subject.page(&before_time).unwrap(), Page::default());
}

/// An event comes back field for field by its id, also where it has no metadata; another id has none.
pub fn an_event_is_found_by_its_id(subject: &Subject) {
    assert_eq!(subject.one("one"), None);
    let metadata = "{\"a\": [1, \"\u{20ac}\"]}";
    let mut one = draft("one", 5, "w\u{e9}b");
    (one.message, one.metadata) = ("h\u{e9}llo \u{1F600}\n", Some(metadata));
    subject.deliver(0, &[one, draft("'; --", 6, "s")]);
    let found = subject.one("one").unwrap();
    assert_eq!((found.service.as_str(), found.message.as_str()), ("w\u{e9}b", "h\u{e9}llo \u{1F600}\n"));
    assert_eq!(found.metadata, metadata);
    assert_eq!((found.timestamp, found.ingested_at), (time(5), time(1_000_000)));
    assert_eq!(subject.one("'; --").unwrap().metadata, "{}");
    for none in ["One", "", "one ", "zero\0byte"] {
        assert_eq!(subject.one(none), None, "{none:?}");
    }
}
