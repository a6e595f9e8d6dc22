use forebay_actors::{event::Events, otlp::wire::put_bytes};
use forebay_proto::ingest::v1::{Event, EventBatchRequest, event::MetadataForm};
use prost_types::{ListValue, Struct, Value, value::Kind};

use super::*;

const MAX: usize = 1000;

/// Of a sender who may relay.
fn read(message: &[u8], max_event_bytes: usize, tenant: Option<&Tenant>) -> Result<Batch, ApiError> {
    super::read(message, max_event_bytes, tenant, || Ok(()))
}

fn good(message: &str) -> Event {
    Event { service: "s".into(), message: message.into(), ..Event::default() }
}

fn batch(events: Vec<Event>) -> Vec<u8> {
    EventBatchRequest {
        batch_id: "b".into(),
        source: "here".into(),
        events,
        compression_hint: 7,
        otlp: Vec::new(),
    }
    .encode_to_vec()
}

fn number(number: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(number)) }
}

fn tree(fields: &[(&str, Value)]) -> Struct {
    Struct { fields: fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect() }
}

fn with_tree(tree: Struct) -> Event {
    Event { metadata_form: Some(MetadataForm::Metadata(tree)), ..good("m") }
}

fn with_json(text: &str) -> Event {
    Event { metadata_form: Some(MetadataForm::MetadataJson(text.into())), ..good("m") }
}

/// What is wrong with the one event.
fn wrong(event: Event) -> (String, String) {
    let read = read(&batch(vec![event.clone()]), MAX, None).unwrap();
    assert_eq!((read.accepted, read.rejected_count), (0, 1), "{event:?}");
    let [rejected] = &read.rejected[..] else { panic!("{:?}", read.rejected) };
    (rejected.field.clone(), rejected.reason.clone())
}

/// The metadata of the one event, as it will be delivered.
fn metadata(event: Event) -> Option<String> {
    let read = read(&batch(vec![event]), MAX, None).unwrap();
    assert_eq!(read.rejected, []);
    let stamp =
        forebay_actors::event::Stamp { first_id: uuid::Uuid::nil(), ingested_at: Timestamp::from_nanos(0) };
    let block = read.blocks.into_iter().next().unwrap().stamped(stamp);
    let mut events = Events::new(block.bytes());
    events.next_event().unwrap().unwrap().metadata.map(str::to_owned)
}

/// A wrong event among right ones is rejected alone, by its place, its id, its field and the words that `POST /events` has.
#[test]
fn a_wrong_event_is_rejected_alone() {
    let nameless = Event { event_id: "mine".into(), service: String::new(), ..good("m") };
    let read = read(&batch(vec![good("a"), nameless, good("b")]), MAX, None).unwrap();
    assert_eq!((read.accepted, read.rejected_count), (2, 1));
    let rejected = &read.rejected[0];
    assert_eq!((rejected.index, &*rejected.event_id, &*rejected.field), (1, "mine", "service"));
    assert_eq!(rejected.reason, "it is empty; 1 to 256 characters are needed");
    assert_eq!((&*read.batch_id, &*read.source), ("b", "here"));
}

/// Every rule, field by field.
#[test]
fn every_field_is_judged() {
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    for (event, field, reason) in [
        (Event { service: "x".repeat(257), ..good("m") }, "service", "it has 257 characters"),
        (Event { event_id: "x".repeat(129), ..good("m") }, "event_id", "1 to 128"),
        (Event { timestamp: time(1, 1_000_000_000), ..good("m") }, "timestamp", "it has 1000000000 ns"),
        (Event { timestamp: time(i64::MAX, 0), ..good("m") }, "timestamp", "1677 to 2262"),
        (Event { ingested_at: time(0, -1), ..good("m") }, "ingested_at", "it has -1 ns"),
        (good(&"x".repeat(MAX)), "message", "http.max_event_bytes"),
        (with_json("[]"), "metadata", "an object is needed, this is an array"),
        (with_json("{\"a\":}"), "metadata", "it is not valid JSON"),
        (with_json("{\"a\":\"\\ud800\"}"), "metadata", "half of a character"),
        (with_json(&format!("{}1{}", "{\"a\":".repeat(65), "}".repeat(65))), "metadata", "nests 65 levels"),
        (with_tree(tree(&[("a", number(f64::NAN))])), "metadata", "at \"a\": the number is NaN"),
    ] {
        let (found, said) = wrong(event);
        assert!(found == field && said.contains(reason), "{field}: {reason}: {found}: {said}");
    }
    let both = Event { event_id: "x".repeat(129), service: String::new(), ..good("m") };
    let (field, reason) = wrong(both);
    assert_eq!(field, "event_id");
    assert!(reason.contains("event_id: it has 129") && reason.contains("; service: it is empty"), "{reason}");
}

/// What a sender may make long is cut in the answer.
#[test]
fn reasons_are_short() {
    let (_, reason) = wrong(with_tree(tree(&[(&"k\u{e9}".repeat(450), number(f64::INFINITY))])));
    assert_eq!(reason.chars().count(), REASON_CHARS_MAX + 1, "{reason}");
}

/// Scenario: an event has a very long id, and is not well-formed behind it.
/// Guarantee: the answer does not have the id. Of a thousand such events it was as long as the request.
#[test]
fn r0586_the_id_of_a_malformed_event_was_repeated_however_long_it_was() {
    for (chars, expected) in [(EVENT_ID_CHARS_MAX, EVENT_ID_CHARS_MAX), (EVENT_ID_CHARS_MAX + 1, 0)] {
        let mut event = Event { event_id: "x".repeat(chars), ..good("m") }.encode_to_vec();
        // A text that is longer than what is left.
        event.extend([0x12, 0x7f]);
        let mut message = batch(Vec::new());
        put_bytes(&mut message, 3, &event);
        let read = read(&message, MAX, None).unwrap();
        let [rejected] = &read.rejected[..] else { panic!("{:?}", read.rejected) };
        assert_eq!((rejected.event_id.len(), rejected.reason.contains("it is no event")), (expected, true));
    }
}

/// Scenario: events that are not even well-formed between right ones.
/// Guarantee: they are rejected alone; a message that is no batch is refused whole.
#[test]
fn an_event_that_is_no_protobuf_is_rejected_alone() {
    let mut bytes = batch(vec![good("a")]);
    let latin1 = [0x0a, 1, b'i', 0x1a, 1, b's', 0x22, 1, 0xff];
    for event in [&b"\xff"[..], &[0x0a, 9, b'x'], &[0x18, 1], &latin1] {
        put_bytes(&mut bytes, 3, event);
    }
    bytes.extend_from_slice(&batch(vec![good("b")]));
    let found = read(&bytes, MAX, None).unwrap();
    assert_eq!((found.accepted, found.rejected_count), (2, 4));
    let fields: Vec<_> = found.rejected.iter().map(|r| (r.index, &*r.event_id, &*r.field)).collect();
    assert_eq!(fields, [(1, "", ""), (2, "", ""), (3, "", ""), (4, "i", "message")]);
    assert!(found.rejected[3].reason.contains("not UTF-8"));
    for broken in [&b"\xff\xff"[..], &[0x1a, 9, 1], &[0x18, 1], &[0x0a, 1, 0xff]] {
        assert!(read(broken, MAX, None).is_err(), "{broken:?}");
    }
    let long = EventBatchRequest { batch_id: "x".repeat(257), ..EventBatchRequest::default() };
    assert!(read(&long.encode_to_vec(), MAX, None).unwrap_err().message().contains("batch_id: it has 257"));
}

/// A tree becomes the JSON that everybody would write for it; a text stays as it is.
#[test]
fn metadata_becomes_json() {
    let list = ListValue { values: vec![number(1.0), number(0.5), number(-9e15), number(1e300)] };
    let value = |kind| Value { kind: Some(kind) };
    let inner = tree(&[
        ("b", value(Kind::BoolValue(true))),
        ("n", value(Kind::NullValue(0))),
        ("q\"", value(Kind::StringValue("l\n".into()))),
    ]);
    let outer = tree(&[("a", value(Kind::ListValue(list))), ("s", value(Kind::StructValue(inner)))]);
    assert_eq!(
        metadata(with_tree(outer)).unwrap(),
        r#"{"a":[1,0.5,-9000000000000000,1e+300],"s":{"b":true,"n":null,"q\"":"l\n"}}"#
    );
    assert_eq!(
        metadata(with_json(" {\"n\": 12345678901234567890} ")).unwrap(),
        "{\"n\": 12345678901234567890}"
    );
    assert_eq!(metadata(with_json("")), None);
    assert_eq!(metadata(good("m")), None);
}

/// The contract promises 31 levels of a tree.
#[test]
fn a_tree_nests_as_deep_as_the_contract_says() {
    let nested = |levels: usize| {
        (1..levels).fold(tree(&[("k", number(1.0))]), |inner, _| {
            tree(&[("k", Value { kind: Some(Kind::StructValue(inner)) })])
        })
    };
    assert_eq!(metadata(with_tree(nested(31))).unwrap().matches('{').count(), 31);
    let (field, reason) = wrong(with_tree(nested(40)));
    assert!(field == "metadata" && reason.contains("metadata_json takes 64"), "{reason}");
}

/// The id of a batch of which only the beginning is there.
#[test]
fn the_id_of_a_part_is_found() {
    let bytes = batch(vec![good("a long enough message")]);
    assert_eq!(batch_id(&bytes[..10]), "b");
    assert_eq!(batch_id(b"\xff"), "");
}

/// Scenario: requests of OpenTelemetry without any item take turns with tiny events.
/// Guarantee: the events are one block. Each began one of its own, with room for the whole message.
#[test]
fn requests_without_items_begin_no_block() {
    let mut bytes = Vec::new();
    for _ in 0..100 {
        put_bytes(&mut bytes, 5, &[0x08, 1]);
        put_bytes(&mut bytes, 3, &good("m").encode_to_vec());
    }
    let found = read(&bytes, MAX, None).unwrap();
    assert_eq!((found.accepted, found.rejected_count, found.blocks.len()), (100, 0, 1));
}

/// Scenario: a sender who may not relay sends a request of OpenTelemetry, which could not be read either, or an event with the
/// time of its arrival.
/// Guarantee: he is told so, before the request is read. All of the batch was.
#[test]
fn r0296_what_a_sender_may_not_hand_on_was_read() {
    let mut request = Vec::new();
    put_bytes(&mut request, 5, b"\xff");
    let ingested_at = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    for message in [request, batch(vec![Event { ingested_at, ..good("m") }])] {
        let error = super::read(&message, MAX, None, || Err(ApiError::bad_request("forbidden", "no relay")));
        assert_eq!(error.unwrap_err().code(), "forbidden");
    }
    assert_eq!(read(&[0x2a, 1, 0xff], MAX, None).unwrap_err().code(), "undecodable");
}

/// Scenario: an event is nothing but wrong fields, two of them again and again.
/// Guarantee: of each the first is said. All were, so a message became a hundred times its bytes.
#[test]
fn r0297_every_wrong_field_of_an_event_was_kept() {
    let mut event = Vec::new();
    for _ in 0..1000 {
        put_bytes(&mut event, 4, b"m\xff");
        put_bytes(&mut event, 2, b"\xff");
    }
    let mut sent = Sent::default();
    sent.read(&event).unwrap();
    let fields: Vec<_> = sent.errors.iter().map(|error| &*error.field).collect();
    assert_eq!(fields, ["message", "timestamp"]);
    assert_eq!(sent.errors[0].error, "it is not UTF-8: its byte 1 is wrong");
}

proptest::proptest! {
    /// Whatever the bytes are, and wherever a right batch is damaged: no panic, and every event is accounted for or nothing is.
    #[test]
    fn any_bytes_are_judged(bytes: Vec<u8>, at: proptest::sample::Index, value: u8) {
        let mut damaged = batch(vec![with_json("{\"a\":[1]}"), with_tree(tree(&[("k", number(1.5))])), good("m")]);
        let at = at.index(damaged.len());
        damaged[at] = value;
        for message in [&bytes, &damaged] {
            if let Ok(found) = read(message, MAX, None) {
                let encoded: u32 = found.blocks.iter().map(Block::count).sum();
                proptest::prop_assert_eq!(encoded, found.accepted);
                proptest::prop_assert_eq!(found.rejected.len(), found.rejected_count as usize);
            }
        }
    }
}
