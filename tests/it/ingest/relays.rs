//! What relays hand on: times of arrival, and requests of OpenTelemetry within batches. From one Forebay to another is in `edge`.

use forebay_proto::ingest::v1::{EventBatchRequest, EventBatchResponse, OtlpRequest, OtlpSignal};
use prost_types::Timestamp;
use tonic::{Code, Request, Status};

use super::{batch, block_on, client, event, stored};
use crate::{
    otlp::protobuf,
    support::binary::{Forebay, Place},
};

const TOKEN: &str = "fby_this-one-may-send-and-nothing-else-x";

fn send(forebay: &Forebay, batch: EventBatchRequest) -> Result<EventBatchResponse, Status> {
    let mut request = Request::new(batch);
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    block_on(async {
        let mut client = client(forebay.ingest()).await;
        client.send_batch(request).await.map(tonic::Response::into_inner)
    })
}

fn otlp(bodies: &[&str]) -> OtlpRequest {
    let signal = OtlpSignal::Logs.into();
    OtlpRequest { signal, request: protobuf("web", bodies), ..OtlpRequest::default() }
}

fn first_id(last: u8) -> Vec<u8> {
    [&[0; 15][..], &[last]].concat()
}

/// Scenario: a batch of events and of requests with ids and without; one record is too large.
/// Guarantee: records have the ids and times that were given, also behind the one that was left out, or ids of the batch; the
/// one is named by its place, and sent again the batch is known.
#[test]
fn requests_in_a_batch_keep_their_ids() {
    let forebay = Place::new().http("max_event_bytes: 1KiB").start();
    let long = "x".repeat(2_000);
    let given = OtlpRequest {
        first_id: first_id(7),
        ingested_at: Some(Timestamp { seconds: 1_431_857_104, nanos: 0 }),
        ..otlp(&["a", &long, "b", "c"])
    };
    let request =
        EventBatchRequest { otlp: vec![given, otlp(&["d"])], ..batch("web", "b1", &["first", "second"]) };
    let answer = send(&forebay, request.clone()).unwrap();
    assert_eq!((answer.received_count, answer.rejected_count), (6, 1), "{answer:?}");
    assert_eq!(answer.rejected[0].index, 3, "behind two events and a record: {answer:?}");
    assert!(answer.rejected[0].reason.contains("http.max_event_bytes"), "{answer:?}");
    let events = stored(&forebay, "web", 6);
    let of = |message: &str| events.iter().find(|event| event["message"] == message).unwrap();
    for (message, id) in [("a", 7), ("b", 9), ("c", 10)] {
        assert_eq!(of(message)["event_id"], format!("00000000-0000-0000-0000-{id:012x}"));
        assert_eq!(of(message)["ingested_at"], "2015-05-17T10:05:04Z");
    }
    assert_eq!(of("d")["event_id"].as_str().unwrap().as_bytes()[14], b'8', "an id of the batch");
    let again = send(&forebay, request).unwrap();
    assert!(again.duplicate && !again.other_events && again.rejected == answer.rejected, "{again:?}");
}

/// A request that cannot be read is the whole batch's fault, and said with its field.
#[test]
fn what_is_no_request_is_refused() {
    let forebay = Place::new().start();
    let time = Some(Timestamp { seconds: 1, nanos: 0 });
    for (wrong, words) in [
        (OtlpRequest { signal: 0, ..otlp(&["a"]) }, "otlp.signal: it is no signal"),
        (OtlpRequest { signal: 9, ..otlp(&["a"]) }, "otlp.signal: it is no signal"),
        (OtlpRequest { request: b"\xff".to_vec(), ..otlp(&[]) }, "otlp.request: it is no request of logs"),
        (
            OtlpRequest { first_id: first_id(1), ..otlp(&["a"]) },
            "first_id and ingested_at are given together",
        ),
        (OtlpRequest { ingested_at: time, ..otlp(&["a"]) }, "first_id and ingested_at are given together"),
        (
            OtlpRequest { first_id: vec![1; 15], ingested_at: time, ..otlp(&["a"]) },
            "otlp.first_id: it has 15 bytes",
        ),
        (
            OtlpRequest {
                first_id: first_id(1),
                ingested_at: Some(Timestamp { seconds: 1, nanos: -1 }),
                ..otlp(&["a"])
            },
            "otlp.ingested_at: it has -1 ns",
        ),
    ] {
        let request = EventBatchRequest { otlp: vec![wrong], ..batch("web", "b1", &["first"]) };
        let status = send(&forebay, request).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(words), "{words}: {status}");
    }
    stored(&forebay, "web", 0);
}

/// More invalid events than are listed are at least named by their places.
#[test]
fn every_invalid_event_has_a_place() {
    let forebay = Place::new().start();
    let mut request = batch("s", "b1", &["good"; 1_010]);
    request.events[5..1_008].iter_mut().for_each(|event| event.service.clear());
    let answer = send(&forebay, request).unwrap();
    assert_eq!((answer.received_count, answer.rejected_count, answer.rejected.len()), (7, 1_003, 1_000));
    assert_eq!(answer.rejected_further, [1_005, 1_006, 1_007]);
}

/// Scenario: a token that may send, and not relay.
/// Guarantee: it sends; what says when it arrived elsewhere, and requests of OpenTelemetry in a batch, are refused with the
/// scope that is missing, and nothing of the batch is taken.
#[test]
fn only_a_relay_says_when_something_arrived() {
    let hash = ring::digest::digest(&ring::digest::SHA256, TOKEN.as_bytes());
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let auth = format!(
        "auth: {{ tokens: [{{ name: shop, hash: \"sha256:{hash}\", scopes: [ingest, query] }}], public: [health, metrics] }}"
    );
    let forebay = Place::new().section(&auth).start();
    assert_eq!(send(&forebay, batch("s", "b1", &["a"])).unwrap().received_count, 1);
    let mut timed = event("s", "b");
    timed.ingested_at = Some(Timestamp { seconds: 1, nanos: 0 });
    let timed = EventBatchRequest { events: vec![event("s", "c"), timed], ..batch("s", "b2", &[]) };
    let otlp = EventBatchRequest { otlp: vec![otlp(&[])], ..batch("s", "b3", &["d"]) };
    for request in [timed, otlp] {
        let status = send(&forebay, request).unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(
            status.message().contains("\"shop\"") && status.message().contains("the scope relay may"),
            "{status}"
        );
    }
    assert_eq!(forebay.metric("forebay_receiver_events_total", ""), 1.0);
    assert_eq!(forebay.metric("forebay_auth_refused_total", "scope"), 2.0);
}
