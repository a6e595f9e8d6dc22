use super::*;
use crate::event::{BlockBuilder, Draft};

fn stamp() -> Stamp {
    Stamp { first_id: Uuid::from_u128(7), ingested_at: Timestamp::from_nanos(42) }
}

/// Read part by part, with so many items at most, each part read again as a payload.
fn read_parts(payload: &[u8], most: u64) -> Vec<(String, Option<String>)> {
    let (mut events, mut found) = (Events::new(payload), Vec::new());
    while let Some(part) = events.next_part(most, |_| true) {
        match part.unwrap() {
            Part::Event(event) => found.push((event.message.to_owned(), event.metadata.map(str::to_owned))),
            Part::Otlp { signal, request, passed, last, .. } => {
                assert!(passed > 0 && u64::from(passed) <= most && last == passed);
                let block = Block::otlp(signal, &request, passed).stamped(stamp());
                found.extend(read(block.bytes()).into_iter().map(|event| {
                    let (_, _, message, metadata) = event.unwrap();
                    (message, metadata)
                }));
            }
        }
    }
    found
}

/// Parts have the events in their order, whole requests as they are, and pieces of them where less is wanted.
#[test]
fn parts_are_the_events_in_order() {
    let payload = mixed();
    let expected: Vec<_> = read(&payload).into_iter().map(Result::unwrap).map(|e| (e.2, e.3)).collect();
    for most in [1, 2, u64::MAX] {
        assert_eq!(read_parts(&payload, most), expected, "at most {most}");
    }
    let mut events = Events::new(&payload);
    events.skip(3);
    let next = events.next_part(9, |_| true);
    let Some(Ok(Part::Otlp { passed: 1, last: 1, request: Cow::Owned(_), .. })) = next else { panic!() };
    assert_eq!(events.next_event().unwrap().unwrap().message, "fifth");
    assert!(events.next_part(9, |_| true).is_none());
}

fn draft(message: &str) -> Draft<'_> {
    Draft { event_id: None, timestamp: None, service: "api", message, metadata: None }
}

fn payload(blocks: Vec<Block>) -> Vec<u8> {
    blocks.into_iter().flat_map(|block| block.stamped(stamp()).bytes().clone()).collect()
}

/// Id, time, message and metadata.
type Fields = (String, i64, String, Option<String>);

/// Read as texts, which has to be what a look into what is unread finds.
fn read(payload: &[u8]) -> Vec<Result<Fields, DecodeError>> {
    let (mut events, mut unread, mut found) = (Events::new(payload), Events::new(payload), Vec::new());
    while let Some(event) = events.next_event() {
        let looked_into = unread.next_unread().unwrap().and_then(|event| event.read());
        assert_eq!(format!("{event:?}"), format!("{looked_into:?}"));
        found.push(event.map(|event| {
            let metadata = event.metadata.map(str::to_owned);
            (event.event_id.to_string(), event.timestamp.nanos(), event.message.to_owned(), metadata)
        }));
    }
    found
}

fn id(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}

/// An event, a request of OpenTelemetry of two log records, and an event again.
fn mixed() -> Vec<u8> {
    let mut builder = BlockBuilder::default();
    builder.push(&Draft {
        event_id: Some("mine"),
        timestamp: Some(Timestamp::from_nanos(-1)),
        service: "web",
        message: "h\u{e9}llo",
        metadata: Some("{\"a\":1}"),
    });
    builder.push(&draft("second"));
    let mut blocks = builder.finish();
    // Bodies of text in a record, in a scope's logs, in a resource's, in a request.
    let record =
        |text: &str| [vec![0x2a, text.len() as u8 + 2, 0x0a, text.len() as u8], text.into()].concat();
    let around =
        |number: u8, inner: &[u8]| [vec![number << 3 | 2, inner.len() as u8], inner.to_vec()].concat();
    let records = [around(2, &record("third")), around(2, &record("fourth"))].concat();
    blocks.push(Block::otlp(Signal::Logs, &around(1, &around(2, &records)), 2));
    let mut builder = BlockBuilder::default();
    builder.push(&draft("fifth"));
    blocks.extend(builder.finish());
    payload(blocks)
}

/// What was encoded is read back field for field, with ids and times filled in where the client sent none.
#[test]
fn events_round_trip() {
    let logs = Some("{\"signal\":\"logs\"}".to_owned());
    let found: Vec<_> = read(&mixed()).into_iter().map(Result::unwrap).collect();
    assert_eq!(
        found,
        [
            ("mine".into(), -1, "h\u{e9}llo".into(), Some("{\"a\":1}".into())),
            (id(8), 42, "second".into(), None),
            (id(7), 42, "third".into(), logs.clone()),
            (id(8), 42, "fourth".into(), logs),
            (id(7), 42, "fifth".into(), None),
        ]
    );
}

/// Scenario: an event that a relay accepted before, between two that came by themselves.
/// Guarantee: it keeps that time, also alone, and has it as its own where its sender gave none; the others have the block's.
#[test]
fn a_relayed_event_keeps_its_time_of_arrival() {
    let mut builder = BlockBuilder::default();
    builder.push(&draft("before"));
    builder.push_relayed(&draft("relayed"), Some(Timestamp::from_nanos(5)));
    builder.push(&draft("after"));
    let payload = payload(builder.finish());
    let mut events = Events::new(&payload);
    let mut times = Vec::new();
    while let Some(event) = events.next_event() {
        let event = event.unwrap();
        times.push((event.ingested_at.nanos(), event.timestamp.nanos()));
    }
    assert_eq!(times, [(42, 42), (5, 5), (42, 42)]);
    let mut events = Events::new(&payload);
    let _before = events.next_single();
    let alone = events.next_single().unwrap().unwrap();
    let mut alone = Events::new(&alone);
    let event = alone.next_event().unwrap().unwrap();
    assert_eq!((event.message, event.ingested_at.nanos()), ("relayed", 5));
    assert_eq!(event.event_id.to_string(), id(8));
}

/// Scenario: a request of OpenTelemetry that a relay accepted before, in a block of another time and with another id.
/// Guarantee: its items have the ids and the time that they had there: read as events, as parts from the middle on, and
/// alone. The stamps of the block stay the block's.
#[test]
fn a_relayed_request_keeps_its_ids_and_its_time() {
    let mixed = mixed();
    let mut events = Events::new(&mixed);
    events.skip(2);
    let part = events.next_part(9, |_| true);
    let Some(Ok(Part::Otlp { signal, request, passed: 2, .. })) = part else { panic!() };
    let first = Stamp { first_id: Uuid::from_u128(70), ingested_at: Timestamp::from_nanos(5) };
    let payload = payload(vec![Block::relayed_otlp(signal, &request, 2, first)]);
    let mut events = Events::new(&payload);
    for id in [70, 71] {
        let event = events.next_event().unwrap().unwrap();
        assert_eq!((event.event_id.to_string(), event.ingested_at.nanos()), (self::id(id), 5));
    }
    assert_eq!(stamps(&payload).collect::<Vec<_>>(), [(stamp(), 2)]);
    let mut events = Events::new(&payload);
    events.skip(1);
    let part = events.next_part(9, |_| true);
    let Some(Ok(Part::Otlp { passed: 1, stamp, .. })) = part else { panic!() };
    assert_eq!((stamp.first_id, stamp.ingested_at), (Uuid::from_u128(71), first.ingested_at));
    let mut events = Events::new(&payload);
    events.skip(1);
    let single = events.next_single().unwrap().unwrap();
    let mut alone = Events::new(&single);
    let event = alone.next_event().unwrap().unwrap();
    assert_eq!((event.event_id.to_string(), event.ingested_at.nanos()), (id(71), 5));
    assert_eq!(event.message, "fourth");
}

/// Every event alone is what it was among the others.
#[test]
fn an_event_alone_is_the_same() {
    let payload = mixed();
    let (mut events, mut alone) = (Events::new(&payload), Vec::new());
    while let Some(single) = events.next_single() {
        let found = read(&single.unwrap());
        assert_eq!(found.len(), 1);
        alone.extend(found.into_iter().map(Result::unwrap));
    }
    assert_eq!(alone, read(&payload).into_iter().map(Result::unwrap).collect::<Vec<_>>());
}

/// Scenario: an event in the middle of a block is damaged, in its form or in a text, and a reader passes over it.
/// Guarantee: where it goes on in that block there is an error and nothing more; behind the block it is the next one's event.
#[test]
fn what_was_passed_over_and_is_damaged_shows() {
    let mut builder = BlockBuilder::default();
    ["first", "second", "third"].iter().for_each(|message| builder.push(&draft(message)));
    let mut whole = payload(builder.finish());
    let second = memchr::memmem::find(&whole, b"second").unwrap();
    whole.extend(mixed());
    // The marker of the text, which says that it is one, and a byte of it.
    for at in [second - 1, second] {
        let mut damaged = whole.clone();
        damaged[at] = 0xff;
        let mut events = Events::new(&damaged);
        events.skip(2);
        assert!(events.next_event().unwrap().is_err());
        assert!(events.next_event().is_none());
        let mut events = Events::new(&damaged);
        events.skip(2);
        assert!(events.next_unread().unwrap().is_err());
        let mut events = Events::new(&damaged);
        events.skip(3);
        assert_eq!(events.next_event().unwrap().unwrap().message, "h\u{e9}llo");
    }
}

/// A request far larger than a record becomes several blocks, and no event is split over two.
#[test]
fn a_large_request_becomes_several_blocks() {
    let message = "x".repeat(100_000);
    let mut builder = BlockBuilder::default();
    (0..7).for_each(|_| builder.push(&draft(&message)));
    assert_eq!(builder.count(), 7);
    let blocks = builder.finish();
    assert_eq!(blocks.iter().map(Block::count).collect::<Vec<_>>(), [2, 2, 2, 1]);
    assert_eq!(read(&payload(blocks)).into_iter().filter(Result::is_ok).count(), 7);
}

/// The stamps of all blocks are found without their events, up to where the bytes are cut.
#[test]
fn stamps_are_found_without_the_events() {
    let mixed = mixed();
    let counts: Vec<_> = stamps(&mixed).map(|(found, count)| (found == stamp(), count)).collect();
    assert_eq!(counts, [(true, 2), (true, 2), (true, 1)]);
    assert_eq!(stamps(&mixed[..mixed.len() - 1]).count(), 2);
}

/// Ids of a damaged header come round at the end of their range instead of a panic.
#[test]
fn r0324_ids_at_the_end_of_their_range_panicked() {
    let mut builder = BlockBuilder::default();
    (0..2).for_each(|_| builder.push(&draft("m")));
    let stamp = Stamp { first_id: Uuid::max(), ..stamp() };
    let blocks = builder.finish().into_iter();
    let bytes: Vec<u8> = blocks.flat_map(|block| block.stamped(stamp).bytes().clone()).collect();
    let ids: Vec<_> = read(&bytes).into_iter().map(|event| event.unwrap().0).collect();
    assert_eq!(ids, [Uuid::max(), Uuid::nil()].map(|id| id.to_string()));
}

/// Damaged bytes are an error and an end, never a panic or a loop.
#[test]
fn damaged_bytes_end_the_reading() {
    let mut builder = BlockBuilder::default();
    builder.push(&draft("whole"));
    let bytes = payload(builder.finish());
    for cut in 1..bytes.len() {
        let events = read(&bytes[..cut]);
        assert!(events.len() == 1 && events[0].is_err(), "cut at {cut}: {events:?}");
    }
    let mixed = mixed();
    for cut in 1..mixed.len() {
        let errors = read(&mixed[..cut]).into_iter().filter(Result::is_err).count();
        assert!(errors <= 1, "cut at {cut}: {errors} errors");
    }
}
