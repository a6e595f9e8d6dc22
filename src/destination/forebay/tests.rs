//! What a batch is as a message, and what answers mean. Another Forebay is in the integration tests.

use forebay_actors::{
    event::{Block, BlockBuilder, Draft, Stamp, Timestamp},
    otlp::{Signal, wire::put_bytes},
    record::{Position, Record, Selection},
};
use forebay_proto::ingest::v1::{
    EventBatchRequest, OtlpRequest, OtlpSignal, RejectedEvent, event::MetadataForm,
};
use uuid::Uuid;

use super::*;

const STAMP: Stamp = Stamp { first_id: Uuid::from_u128(7), ingested_at: Timestamp::from_nanos(-1) };

/// A request of log records without anything in them.
fn request(count: usize) -> Vec<u8> {
    let (mut group, mut request) = (Vec::new(), Vec::new());
    put_bytes(&mut group, 2, &[0x12, 0].repeat(count));
    put_bytes(&mut request, 1, &group);
    request
}

/// A batch from position 100 on: two events, a request of three records, an event.
fn batch() -> Batch {
    let event = |event_id, message, ingested_at| {
        let mut builder = BlockBuilder::default();
        let timestamp = Some(Timestamp::from_nanos(1_500_000_000));
        let draft = Draft { event_id, timestamp, service: "s", message, metadata: Some("{\"a\":1}") };
        builder.push_relayed(&draft, ingested_at);
        builder.finish().remove(0)
    };
    let blocks = vec![
        event(Some("mine"), "one", None),
        event(None, "two", Some(Timestamp::from_nanos(2_000_000_001))),
        Block::otlp(Signal::Logs, &request(3), 3),
        event(None, "three", None),
    ];
    let count = blocks.iter().map(Block::count).sum();
    let payload: Vec<u8> =
        blocks.into_iter().flat_map(|block| block.stamped(STAMP).bytes().to_vec()).collect();
    let (first, written_at) = (Position(100), Timestamp::from_nanos(0));
    let record = Record { first, count, written_at, payload: payload.into() };
    Batch::new(Span { first, end: record.end() }, vec![Arc::new(record)])
}

fn decoded(batch: &Batch) -> EventBatchRequest {
    let message = message::of(batch, "edge", usize::MAX).unwrap();
    let bytes = message.pieces.concat();
    assert_eq!(bytes.len(), message.bytes);
    EventBatchRequest::decode(&*bytes).unwrap()
}

fn time(seconds: i64, nanos: i32) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos })
}

/// Every field of every event is there, with the ids and times that they have here; requests are those of the journal.
#[test]
fn a_message_has_everything() {
    let request = decoded(&batch());
    assert_eq!((&*request.batch_id, &*request.source), ("100-106", "edge"));
    let id = Uuid::from_u128(7).to_string();
    let events: Vec<_> = request.events.iter().map(|e| (&*e.event_id, &*e.service, &*e.message)).collect();
    assert_eq!(events, [("mine", "s", "one"), (&id, "s", "two"), (&id, "s", "three")]);
    let times: Vec<_> = request.events.iter().map(|e| (e.timestamp, e.ingested_at)).collect();
    let (happened, accepted) = (time(1, 500_000_000), time(-1, 999_999_999));
    assert_eq!(times, [(happened, accepted), (happened, time(2, 1)), (happened, accepted)]);
    let metadata = Some(MetadataForm::MetadataJson("{\"a\":1}".to_owned()));
    assert!(request.events.iter().all(|event| event.metadata_form == metadata));
    let [OtlpRequest { signal, request, first_id, ingested_at }] = &request.otlp[..] else { panic!() };
    assert_eq!((*signal, request), (i32::from(OtlpSignal::Logs), &self::request(3)));
    assert_eq!((&first_id[..], *ingested_at), (&STAMP.first_id.as_bytes()[..], accepted));
}

/// A part from the middle of a request has the ids of its own items, and its own name; a replay has another.
#[test]
fn parts_have_their_own_names_and_ids() {
    let (first, second) = batch().halves().unwrap();
    let (first, second) = (decoded(&first), decoded(&second));
    assert_eq!((&*first.batch_id, &*second.batch_id), ("100-103", "103-106"));
    assert_eq!((first.events.len(), first.otlp[0].request.clone()), (2, request(1)));
    assert_eq!((second.events.len(), second.otlp[0].request.clone()), (1, request(2)));
    assert_eq!(second.otlp[0].first_id, Uuid::from_u128(8).as_bytes());
    assert_eq!(decoded(&batch().replayed(5)).batch_id, "100-106-replay-0000000000000005");
}

/// Scenario: a condition of the sink leaves out an event, and an item from the middle of a request.
/// Guarantee: what is left has the ids that it has here: the request goes in two, on both sides of what is left out. What the
/// answer says is told of the right positions.
#[test]
fn a_selection_keeps_ids_and_positions() {
    let mut selection = Selection::none_of(batch().span());
    for at in [100, 102, 104, 105] {
        selection.insert(Span { first: Position(at), end: Position(at + 1) });
    }
    let selected = batch().select(selection).unwrap();
    let request = decoded(&selected);
    let ids: Vec<_> = request.otlp.iter().map(|otlp| (otlp.first_id.clone(), otlp.request.clone())).collect();
    let id = |id| Uuid::from_u128(id).as_bytes().to_vec();
    assert_eq!(ids, [(id(7), self::request(1)), (id(9), self::request(1))]);
    assert_eq!(request.events.iter().map(|event| &*event.message).collect::<Vec<_>>(), ["one", "three"]);
    let rejected = vec![RejectedEvent { index: 2, ..RejectedEvent::default() }];
    let answer = EventBatchResponse {
        received_count: 3,
        rejected_count: 1,
        rejected,
        ..EventBatchResponse::default()
    };
    assert_eq!(relay().judge(&selected, answer).unwrap()[0].position, Position(104));
}

/// Scenario: a batch is larger than the gateway takes, in a request of many places of which each has all that stands around the
/// items, or in its events.
/// Guarantee: that is known before all of it is written.
#[test]
fn r0552_scattered_items_were_written_before_they_were_found_too_many() {
    let whole = message::of(&batch(), "edge", usize::MAX).unwrap();
    for bytes_max in 1..whole.bytes {
        let found = message::of(&batch(), "edge", bytes_max).unwrap();
        assert!(found.pieces.is_empty() && found.bytes == bytes_max, "{bytes_max} of {}", whole.bytes);
    }
    let mut selection = Selection::none_of(batch().span());
    for at in [102, 104] {
        selection.insert(Span { first: Position(at), end: Position(at + 1) });
    }
    let scattered = batch().select(selection).unwrap();
    assert!(message::of(&scattered, "edge", 2 * request(1).len() - 1).unwrap().pieces.is_empty());
}

/// A packed message unpacks to what it was.
#[test]
fn packed_messages_unpack() {
    let plain = || message::of(&batch(), "edge", usize::MAX).unwrap();
    let expected = plain().pieces.concat();
    let gzip = plain().packed(ForebayCompression::Gzip).unwrap();
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*gzip.pieces[0]), &mut unpacked).unwrap();
    assert_eq!(unpacked, expected);
    let zstd = plain().packed(ForebayCompression::Zstd).unwrap();
    assert_eq!(zstd::decode_all(&*zstd.pieces[0]).unwrap(), expected);
}

fn relay() -> Relay {
    let options = ForebaySink::to("http://127.0.0.1:1".to_owned());
    let destination = ForebayDestination::new(&options).unwrap().of_stream("edge");
    Arc::into_inner(destination.relay).unwrap()
}

/// What the answer says of single events is told of their positions, in the other side's words.
#[test]
fn rejected_events_are_told_by_their_positions() {
    let rejected = RejectedEvent {
        index: 1,
        field: "service".to_owned(),
        reason: "it is empty".to_owned(),
        ..RejectedEvent::default()
    };
    let answer = EventBatchResponse {
        received_count: 4,
        rejected_count: 2,
        rejected: vec![rejected],
        rejected_further: vec![3],
        ..EventBatchResponse::default()
    };
    let found = relay().judge(&batch(), answer).unwrap();
    assert_eq!(
        (found[0].position, &*found[0].error),
        (Position(101), "http://127.0.0.1:1: service: it is empty")
    );
    assert_eq!((found.len(), found[1].position), (2, Position(103)));
}

/// An answer that is not about these events is never taken for their delivery.
#[test]
fn answers_about_something_else_are_failures() {
    for (answer, expected) in [
        (EventBatchResponse { received_count: 3, ..EventBatchResponse::default() }, "about 3 events"),
        (
            EventBatchResponse { received_count: 5, rejected_count: 1, ..EventBatchResponse::default() },
            "0 of them by name",
        ),
        (
            EventBatchResponse { received_count: 6, other_events: true, ..EventBatchResponse::default() },
            "copy of one that is in use",
        ),
    ] {
        let error = relay().judge(&batch(), answer).unwrap_err();
        assert_eq!((error.cause, error.verdict), (Cause::Refused, Verdict::Retry { after: None }), "{error}");
        assert!(error.message.contains(expected), "{error}");
    }
}

/// Statuses mean what the contract says.
#[test]
fn statuses_mean_what_the_contract_says() {
    let status = |code, after: Option<u64>| GrpcStatus {
        code,
        message: "why".to_owned(),
        retry_after: after.map(std::time::Duration::from_secs),
    };
    let verdict = |code, after| {
        let error = relay().failed(Failure::Refused(status(code, after)));
        assert!(error.message.ends_with("why") && error.status == Some(code), "{error}");
        (error.cause, error.verdict)
    };
    let retry = Verdict::Retry { after: None };
    for code in [7, 12, 16] {
        assert_eq!(verdict(code, None), (Cause::Refused, retry), "{code}");
    }
    for code in [1, 2, 5, 8, 9, 10, 11, 13, 14, 15, 99] {
        assert_eq!(verdict(code, None), (Cause::Server, retry), "{code}");
    }
    assert_eq!(verdict(4, None), (Cause::Timeout, retry));
    assert_eq!(verdict(3, None), (Cause::Rejected, Verdict::Reject));
    let after = Verdict::Retry { after: Some(std::time::Duration::from_secs(7)) };
    assert_eq!(verdict(14, Some(7)), (Cause::Throttled, after));
    assert_eq!(verdict(8, Some(7)), (Cause::Throttled, after));
    assert!(
        is_too_large(&status(8, None))
            && !is_too_large(&status(8, Some(1)))
            && !is_too_large(&status(14, None))
    );
}

/// What was taken of a batch is known until the batch is whole.
#[test]
fn what_was_taken_is_known_until_the_batch_is_whole() {
    let relay = relay();
    let (first, second) = batch().halves().unwrap();
    let rejected = vec![Rejection { position: Position(101), error: "why".to_owned(), status: None }];
    relay.take(&first, rejected.clone());
    assert_eq!(relay.taken_before(&first), Some(rejected));
    assert_eq!((relay.taken_before(&second), relay.taken_before(&first.clone().replayed(1))), (None, None));
    relay.forget(batch().span());
    assert_eq!(relay.taken_before(&first), None);
}

/// A record that holds less than it says is a rejection, never a success.
#[test]
fn a_damaged_record_is_rejected() {
    for batch in [crate::destination::test_batch::damaged(), crate::destination::test_batch::short()] {
        let error = message::of(&batch, "edge", usize::MAX).unwrap_err();
        assert_eq!((error.cause, error.verdict), (Cause::Encode, Verdict::Reject));
    }
}

/// Options that cannot work say why, and no message has the token in it.
#[test]
fn unusable_options_say_why() {
    let mut own = ForebaySink::to("http://127.0.0.1:1".to_owned());
    own.headers.insert("te".to_owned(), "x".to_owned());
    for (options, expected) in [
        (ForebaySink::to("http://127.0.0.1:1/path".to_owned()), "gRPC has none"),
        (ForebaySink::to("gateway:50051".to_owned()), "like https://gateway.example.com:50051"),
        (own, "te is set by Forebay itself"),
    ] {
        let error = ForebayDestination::new(&options).unwrap_err();
        assert_eq!(error.cause, Cause::Build);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let mut secret = ForebaySink::to("http://127.0.0.1:1".to_owned());
    secret.token = Some(crate::config::Secret::new("s3cret"));
    assert!(!format!("{:?}", ForebayDestination::new(&secret).unwrap()).contains("s3cret"));
    secret.token = Some(crate::config::Secret::new("s3cret\n"));
    assert!(!ForebayDestination::new(&secret).unwrap_err().to_string().contains("s3cret"));
}
