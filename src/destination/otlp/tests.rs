//! What goes into calls, and what answers mean. Servers are in the integration tests.

use std::time::Duration;

use ::http::HeaderMap;
use forebay_actors::{
    destination::{Cause, Verdict},
    event::{Block, BlockBuilder, Draft, Stamp, Timestamp},
    otlp::{
        Items,
        wire::{put_bytes, put_varint},
    },
    record::{Position, Record, Selection, Span},
};

use super::*;
use crate::destination::grpc::status::GrpcStatus;

/// A request of so many records (or spans, which look the same so far), each a text.
fn request(texts: &[&str]) -> Vec<u8> {
    let mut records = Vec::new();
    for text in texts {
        let (mut body, mut record) = (Vec::new(), Vec::new());
        put_bytes(&mut body, 1, text.as_bytes());
        put_bytes(&mut record, 5, &body);
        put_bytes(&mut records, 2, &record);
    }
    let (mut group, mut request) = (Vec::new(), Vec::new());
    put_bytes(&mut group, 2, &records);
    put_bytes(&mut request, 1, &group);
    request
}

fn otlp(signal: Signal, texts: &[&str]) -> Block {
    Block::otlp(signal, &request(texts), texts.len() as u32)
}

fn events(texts: &[&str]) -> Block {
    let mut builder = BlockBuilder::default();
    for message in texts {
        builder.push(&Draft { event_id: None, timestamp: None, service: "s", message, metadata: None });
    }
    builder.finish().remove(0)
}

/// One batch over one record.
fn batch(blocks: Vec<Block>) -> Batch {
    let count = blocks.iter().map(Block::count).sum();
    let stamp = Stamp { first_id: uuid::Uuid::from_u128(1), ingested_at: Timestamp::from_nanos(5) };
    let payload: Vec<u8> =
        blocks.into_iter().flat_map(|block| block.stamped(stamp).bytes().to_vec()).collect();
    let (first, written_at) = (Position(100), Timestamp::from_nanos(0));
    let record = Record { first, count, written_at, payload: payload.into() };
    Batch::new(Span { first, end: record.end() }, vec![Arc::new(record)])
}

fn mixed() -> Batch {
    batch(vec![
        otlp(Signal::Logs, &["a", "b"]),
        otlp(Signal::Traces, &["t"]),
        events(&["c", "d"]),
        otlp(Signal::Metrics, &[]),
        otlp(Signal::Traces, &["u", "v"]),
        otlp(Signal::Logs, &["e"]),
    ])
}

/// What a call has in it: its signal, the texts of its items, and its spans.
type Seen = (Signal, Vec<String>, Vec<(u64, u64)>);

fn seen(call: &Call) -> Seen {
    let message: Vec<u8> = call.pieces.concat();
    assert_eq!(message.len(), call.bytes);
    let text = |item: forebay_actors::otlp::Item<'_>| {
        let body = item.bytes.iter().position(|byte| *byte == 0x2a).unwrap();
        let length = usize::from(item.bytes[body + 3]);
        String::from_utf8(item.bytes[body + 4..body + 4 + length].to_vec()).unwrap()
    };
    let texts = Items::of(&message, call.signal).map(text).collect();
    (call.signal, texts, call.spans.iter().map(|span| (span.first.0, span.end.0)).collect())
}

fn all(batch: &Batch, bytes_max: usize) -> Vec<Seen> {
    calls(batch, bytes_max, |_| false).unwrap().iter().map(seen).collect()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// One call a signal, in the order in which the batch has its events, events among the logs.
#[test]
fn a_batch_is_one_call_for_each_signal() {
    let found = all(&mixed(), usize::MAX);
    assert_eq!(
        found,
        [
            (Signal::Logs, strings(&["a", "b", "c", "d", "e"]), vec![(100, 102), (103, 105), (107, 108)]),
            (Signal::Traces, strings(&["t", "u", "v"]), vec![(102, 103), (105, 107)]),
        ]
    );
}

/// Scenario: of requests and events, only some items are selected.
/// Guarantee: calls have these alone, also of a request of which some are left out; spans reach from the first to the last.
#[test]
fn a_view_is_called_with_its_own_items() {
    let mut selection = Selection::none_of(Span { first: Position(100), end: Position(108) });
    for at in [101, 103, 105, 107] {
        selection.insert(Span { first: Position(at), end: Position(at + 1) });
    }
    let view = mixed().select(selection).unwrap();
    assert_eq!(
        all(&view, usize::MAX),
        [
            (Signal::Logs, strings(&["b", "c", "e"]), vec![(101, 102), (103, 104), (107, 108)]),
            (Signal::Traces, strings(&["u"]), vec![(105, 106)]),
        ]
    );
    let three = batch(vec![otlp(Signal::Logs, &["a", "b", "c", "d"])]);
    let mut selection = Selection::none_of(three.span());
    for at in [100, 102] {
        selection.insert(Span { first: Position(at), end: Position(at + 1) });
    }
    let view = three.select(selection).unwrap();
    assert_eq!(all(&view, usize::MAX), [(Signal::Logs, strings(&["a", "c"]), vec![(100, 103)])]);
}

/// Whole requests are the bytes of the journal's record themselves, not copies of them.
#[test]
fn requests_are_not_copied() {
    let batch = batch(vec![otlp(Signal::Logs, &["a", "b"]), otlp(Signal::Logs, &["c"])]);
    let record = batch.records()[0].payload.as_ptr_range();
    let calls = calls(&batch, usize::MAX, |_| false).unwrap();
    assert_eq!(calls[0].pieces.len(), 2);
    assert!(calls[0].pieces.iter().all(|piece| record.contains(&piece.as_ptr())));
}

/// Calls end before they would be too large; what alone is too large goes alone; signals keep their order.
#[test]
fn calls_end_before_they_are_too_large() {
    let long = "x".repeat(100);
    let texts = ["1", "2", &long, "3", "4"];
    let batch = batch(texts.iter().map(|text| otlp(Signal::Logs, &[text])).collect());
    let found = all(&batch, 2 * request(&["1"]).len());
    let texts: Vec<_> = found.into_iter().map(|(_, texts, _)| texts).collect();
    assert_eq!(texts, [strings(&["1", "2"]), strings(&[&long]), strings(&["3", "4"])]);
}

/// Parts of a batch, down to one item, have what is theirs, whatever kind of block they are cut out of.
#[test]
fn halves_have_their_share() {
    let (mut todo, mut singles) = (vec![mixed()], Vec::new());
    while let Some(batch) = todo.pop() {
        match batch.halves() {
            Some((first, second)) => todo.extend([second, first]),
            None => singles.extend(all(&batch, usize::MAX)),
        }
    }
    let texts: Vec<_> = singles.iter().map(|(_, texts, _)| texts.concat()).collect();
    assert_eq!(texts, ["a", "b", "t", "c", "d", "u", "v", "e"]);
}

/// What was taken is left out, and what was taken is forgotten with its batch.
#[test]
fn what_was_taken_is_not_sent_again() {
    let destination = OtlpDestination::new(&OtlpSink::to("http://127.0.0.1:1".to_owned())).unwrap();
    let exporter = &destination.exporter;
    let batch = mixed();
    let logs = calls(&batch, usize::MAX, |_| false).unwrap().remove(0);
    exporter.taken.add(logs.spans);
    let left = |batch: &Batch| -> Vec<_> {
        calls(batch, usize::MAX, |at| exporter.taken.has(at))
            .unwrap()
            .iter()
            .map(|call| seen(call).1)
            .collect()
    };
    assert_eq!(left(&batch), [strings(&["t", "u", "v"])]);
    let (first, second) = batch.halves().unwrap();
    assert_eq!((left(&first), left(&second)), (vec![strings(&["t"])], vec![strings(&["u", "v"])]));
    exporter.taken.forget(second.span());
    assert_eq!(left(&second), [strings(&["d", "e"]), strings(&["u", "v"])]);
    assert_eq!(left(&first), [strings(&["t"])]);
}

/// A record that holds less than it says is a rejection, never a success.
#[test]
fn a_damaged_record_is_rejected() {
    for batch in [crate::destination::test_batch::damaged(), crate::destination::test_batch::short()] {
        let error = calls(&batch, usize::MAX, |_| false).unwrap_err();
        assert_eq!((error.cause, error.verdict), (Cause::Encode, Verdict::Reject));
    }
}

/// Trailers with a code, a message and a RetryInfo of so many seconds.
fn trailers(code: u16, message: &'static str, retry_seconds: Option<u64>) -> HeaderMap {
    use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", code.into());
    headers.insert("grpc-message", HeaderValue::from_static(message));
    if let Some(seconds) = retry_seconds {
        let (mut delay, mut info, mut any, mut status) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        put_varint(&mut delay, 1 << 3);
        put_varint(&mut delay, seconds);
        put_varint(&mut delay, 2 << 3);
        put_varint(&mut delay, 500_000_000);
        put_bytes(&mut info, 1, &delay);
        put_bytes(&mut any, 1, b"type.googleapis.com/google.rpc.RetryInfo");
        put_bytes(&mut any, 2, &info);
        put_varint(&mut status, 1 << 3);
        put_varint(&mut status, u64::from(code));
        put_bytes(&mut status, 3, &any);
        let status = STANDARD_NO_PAD.encode(status);
        headers.insert("grpc-status-details-bin", status.parse().unwrap());
    }
    headers
}

/// The protocol's list of what may be tried again, code by code, and what is about the sender.
#[test]
fn codes_mean_what_the_protocol_says() {
    let verdict = |code, retry| {
        let error = GrpcStatus::of(&trailers(code, "why", retry)).unwrap().refusal("here").error;
        assert_eq!(error.status, Some(code));
        assert!(error.message.starts_with("here: answered ") && error.message.ends_with(": why"), "{error}");
        (error.cause, error.verdict)
    };
    let retry = Verdict::Retry { after: None };
    for code in [1, 10, 11, 14, 15] {
        assert_eq!(verdict(code, None), (Cause::Server, retry), "{code}");
    }
    assert_eq!(verdict(4, None), (Cause::Timeout, retry));
    for code in [7, 12, 16] {
        assert_eq!(verdict(code, None), (Cause::Refused, retry), "{code}");
    }
    for code in [2, 3, 5, 6, 8, 9, 13, 17, 99] {
        assert_eq!(verdict(code, None), (Cause::Rejected, Verdict::Reject), "{code}");
    }
    let named = Verdict::Retry { after: Some(Duration::from_millis(7500)) };
    assert_eq!(verdict(8, Some(7)), (Cause::Throttled, named));
    assert_eq!(verdict(14, Some(7)), (Cause::Throttled, named));
    assert_eq!(verdict(3, Some(7)), (Cause::Rejected, Verdict::Reject), "a wait makes nothing right");
    let hour = Verdict::Retry { after: Some(Duration::from_secs(3600)) };
    assert_eq!(verdict(14, Some(u64::MAX >> 1)), (Cause::Throttled, hour));
    assert_eq!(verdict(14, Some(u64::MAX)).1, Verdict::Retry { after: Some(Duration::from_millis(500)) });
}

/// What servers of every kind say about a message over their limit is a rejection, so that the batch is halved.
#[test]
fn too_large_is_not_tried_again_as_it_is() {
    for (code, message) in [
        (8, "grpc: received message larger than max (5000000 vs. 4194304)"),
        (11, "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes"),
    ] {
        let refusal = GrpcStatus::of(&trailers(code, message, None)).unwrap().refusal("here");
        assert!(refusal.is_too_large && refusal.error.verdict == Verdict::Reject, "{refusal:?}");
    }
    let full = GrpcStatus::of(&trailers(8, "the queue is full", None)).unwrap().refusal("here");
    assert!(!full.is_too_large);
}

/// Texts in percent escapes, details that are no base64, a status that is no number: nothing of it does harm.
#[test]
fn trailers_are_read_leniently() {
    let mut headers = trailers(14, "50%25 of %E2%82%AC, %zz %4", None);
    headers.insert("grpc-status-details-bin", HeaderValue::from_static("!!!"));
    let status = GrpcStatus::of(&headers).unwrap();
    assert_eq!((&*status.message, status.retry_after), ("50% of \u{20ac}, %zz %4", None));
    headers.insert("grpc-status", HeaderValue::from_static("many"));
    assert_eq!(GrpcStatus::of(&headers).unwrap().code, 2);
    assert_eq!(GrpcStatus::of(&HeaderMap::new()), None);
}

/// A partial success says the same in both encodings; an empty answer says nothing.
#[test]
fn partial_successes_are_read() {
    let (mut inner, mut response) = (Vec::new(), Vec::new());
    put_varint(&mut inner, 1 << 3);
    put_varint(&mut inner, 3);
    put_bytes(&mut inner, 2, b"too\nold");
    put_bytes(&mut response, 1, &inner);
    let expected = Partial { rejected: 3, message: "too old".to_owned() };
    assert_eq!(Partial::of_protobuf(&response), expected);
    for json in [
        "{\"partialSuccess\":{\"rejectedSpans\":\"3\",\"errorMessage\":\"too old\"}}",
        "{\"partialSuccess\":{\"rejectedLogRecords\":3,\"errorMessage\":\"too old\"}}",
    ] {
        assert_eq!(Partial::of_json(json.as_bytes()), expected);
    }
    for nothing in [&b""[..], b"{}", b"\xff", b"null", b"<html>"] {
        assert_eq!(Partial::of_protobuf(nothing), Partial::default());
        assert_eq!(Partial::of_json(nothing), Partial::default());
    }
}

/// Options that cannot work say why, without the secret in them.
#[test]
fn unusable_options_say_why() {
    let mut headers = OtlpSink::to("http://127.0.0.1:4317".to_owned());
    headers.headers.insert("te".to_owned(), "x".to_owned());
    let mut authority = OtlpSink::to("https://127.0.0.1:4317".to_owned());
    authority.tls.ca_file = Some("/nonexistent/ca.pem".into());
    for (options, expected) in [
        (OtlpSink::to("http://127.0.0.1:4317/v1/logs".to_owned()), "gRPC has none"),
        (OtlpSink::to("collector:4317".to_owned()), "like http://collector:4317"),
        (headers, "te is set by Forebay itself"),
        (authority, "tls.ca_file: /nonexistent/ca.pem"),
    ] {
        let error = OtlpDestination::new(&options).unwrap_err();
        assert_eq!(error.cause, Cause::Build);
        assert!(error.to_string().contains(expected), "{error}");
    }
    let mut secret = OtlpSink::to("http://127.0.0.1:4317".to_owned());
    secret.headers.insert("authorization".to_owned(), "Bearer s3cret".to_owned());
    assert!(!format!("{:?}", OtlpDestination::new(&secret).unwrap()).contains("s3cret"));
}
