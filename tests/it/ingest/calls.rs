//! `SendBatch` and `HealthCheck`: one call at a time.

use forebay_proto::ingest::v1::{EventBatchRequest, HealthCheckRequest, ServingStatus, event::MetadataForm};
use prost_types::{Struct, Timestamp, Value, value::Kind};
use tonic::{Code, codec::CompressionEncoding};

use super::{batch, block_on, call, client, event, says_retry, stored, taken};
use crate::support::{
    binary::Place,
    http::{Destination, request},
    until,
};

const SEND_BATCH: &str = "/forebay.ingest.v1.IngestService/SendBatch";

/// A section that takes batches of this many bytes.
fn up_to(bytes: &str) -> String {
    format!("ingest: {{ grpc: {{ listen: \"127.0.0.1:0\" }}, max_batch_bytes: {bytes} }}")
}

/// An event comes back from the store field for field, whichever way its metadata were given; what a relay says of its arrival is
/// kept.
#[test]
fn events_come_back_field_for_field() {
    let forebay = Place::new().start();
    let mut first = event("audit", "h\u{e9}llo");
    first.event_id = "mine".into();
    first.timestamp = Some(Timestamp { seconds: 1_431_857_103, nanos: 250_000_000 });
    first.ingested_at = Some(Timestamp { seconds: 1_431_857_104, nanos: 0 });
    let seven = Value { kind: Some(Kind::NumberValue(7.0)) };
    first.metadata_form = Some(MetadataForm::Metadata(Struct { fields: [("n".into(), seven)].into() }));
    let mut second = event("audit", "second");
    second.metadata_form = Some(MetadataForm::MetadataJson("{\"big\":12345678901234567890}".into()));
    let request = EventBatchRequest { events: vec![first, second], ..batch("audit", "b1", &[]) };
    let answer = block_on(async { client(forebay.ingest()).await.send_batch(request).await.unwrap() });
    assert_eq!(answer.into_inner(), taken("b1", 2));
    let events = stored(&forebay, "audit", 2);
    let mine = events.iter().find(|event| event["event_id"] == "mine").unwrap();
    assert_eq!(mine["message"], "h\u{e9}llo");
    assert_eq!(mine["timestamp"], "2015-05-17T10:05:03.250Z");
    assert_eq!(mine["ingested_at"], "2015-05-17T10:05:04Z");
    assert_eq!(mine["metadata"].to_string(), "{\"n\":7}");
    let other = events.iter().find(|event| event["message"] == "second").unwrap();
    assert_eq!(other["metadata"]["big"].to_string(), "12345678901234567890");
    assert_eq!(other["timestamp"], other["ingested_at"], "no time of its own");
}

/// Wrong events are told one by one, with their field and the reason; the others are taken. Where all are wrong nothing is.
#[test]
fn wrong_events_are_rejected_alone() {
    let forebay = Place::new().start();
    let mut request = batch("mixed", "b1", &["good", "bad", "good too"]);
    request.events[1].service.clear();
    request.events[1].event_id = "bad-1".into();
    let all_bad =
        EventBatchRequest { events: vec![request.events[1].clone(); 2], ..batch("mixed", "b2", &[]) };
    let (mixed, all_bad, empty) = block_on(async {
        let mut client = client(forebay.ingest()).await;
        let mixed = client.send_batch(request).await.unwrap().into_inner();
        let all_bad = client.send_batch(all_bad).await.unwrap().into_inner();
        (mixed, all_bad, client.send_batch(batch("mixed", "", &[])).await.unwrap().into_inner())
    });
    assert!(mixed.success);
    assert_eq!((mixed.received_count, mixed.rejected_count), (2, 1));
    assert_eq!(mixed.message, "1 of 3 events are invalid and were not accepted");
    let rejected = &mixed.rejected[0];
    assert_eq!((rejected.index, &*rejected.event_id, &*rejected.field), (1, "bad-1", "service"));
    assert!(rejected.reason.contains("1 to 256 characters are needed"), "{rejected:?}");
    assert!(!all_bad.success);
    assert_eq!((all_bad.received_count, all_bad.rejected_count), (0, 2));
    assert_eq!(empty, taken("", 0));
    stored(&forebay, "mixed", 2);
    assert_eq!(forebay.metric("forebay_receiver_rejected_total", "invalid_event"), 3.0);
    assert_eq!(forebay.metric("forebay_receiver_request_seconds_count", "ingest_grpc"), 3.0);
}

/// A batch may be packed in either way, and every port takes every protocol.
#[test]
fn packed_batches_are_taken_on_every_port() {
    let forebay = Place::new().start();
    block_on(async {
        for (encoding, id) in [(CompressionEncoding::Gzip, "gzip"), (CompressionEncoding::Zstd, "zstd")] {
            for (address, port) in [(forebay.ingest(), "ingest"), (forebay.otlp(), "otlp")] {
                let mut client = client(address).await.send_compressed(encoding);
                let id = format!("{id}-{port}");
                let long = "x".repeat(100_000);
                let answer = client.send_batch(batch("packed", &id, &["a", &long])).await.unwrap();
                assert_eq!(answer.into_inner(), taken(&id, 2));
            }
        }
    });
    let json = br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"stringValue":"m"}}]}]}]}"#;
    let headers = [("Content-Type", "application/json")];
    request(forebay.ingest(), "POST", "/v1/logs", &headers, json).unwrap().ok(200);
    stored(&forebay, "packed", 8);
}

/// What is wrong with a call, in the codes on which clients act: over-size is not tried again.
#[test]
fn errors_have_the_codes_that_clients_act_on() {
    let forebay = Place::new().section(&up_to("10KiB")).start();
    let long = "x".repeat(20_000);
    block_on(async {
        let mut plain = client(forebay.ingest()).await;
        let mut packing = client(forebay.ingest()).await.send_compressed(CompressionEncoding::Gzip);
        for client in [&mut plain, &mut packing] {
            let large = client.send_batch(batch("s", "large", &[&long])).await.unwrap_err();
            assert_eq!(large.code(), Code::ResourceExhausted, "{large:?}");
            assert!(!says_retry(&large) && large.message().contains("ingest.max_batch_bytes"), "{large:?}");
        }
        let named = batch("s", &"x".repeat(257), &["m"]);
        let named = plain.send_batch(named).await.unwrap_err();
        assert_eq!(named.code(), Code::InvalidArgument);
        assert!(named.message().contains("batch_id: it has 257 characters"), "{named:?}");
        let garbage = call(forebay.ingest(), SEND_BATCH, b"\xff\xff".to_vec()).await.unwrap_err();
        assert_eq!(garbage.code(), Code::InvalidArgument, "{garbage:?}");
        assert!(String::from_utf8_lossy(garbage.details()).contains("google.rpc.BadRequest"));
        for nowhere in ["/forebay.ingest.v1.IngestService/Send", "/a.b/C", "/"] {
            let unknown = call(forebay.ingest(), nowhere, Vec::new()).await.unwrap_err();
            assert_eq!(unknown.code(), Code::Unimplemented, "{unknown:?}");
        }
    });
}

/// Overload is UNAVAILABLE with the time after which to come again, and a batch that was refused is not remembered: it is taken
/// when there is room. A rate limit says when, too.
#[test]
fn overload_says_when_to_come_again() {
    let destination = Destination::start();
    destination.answer(500);
    let place = Place::empty()
        .sink("up", &destination.sink())
        .section("buffer: { durability: memory, memory_events_max: 20 }");
    let forebay = place.start();
    let send = |number: usize| {
        block_on(async {
            let mut client = client(forebay.ingest()).await;
            client.send_batch(batch("full", &format!("b{number}"), &["m"; 8])).await
        })
    };
    let (mut number, mut refused) = (0, None);
    until("it is full", || {
        number += 1;
        refused = send(number).err();
        refused.is_some()
    });
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(says_retry(&refused), "{refused:?}");
    destination.answer(200);
    let mut answer = None;
    until("there is room again", || {
        answer = send(number).ok();
        answer.is_some()
    });
    assert_eq!(answer.unwrap().into_inner(), taken(&format!("b{number}"), 8), "it is no duplicate");

    let limited = Place::new().section("limits: { ingest: { global_per_second: 1 } }").start();
    let (first, second) = block_on(async {
        let mut client = client(limited.ingest()).await;
        let first = client.send_batch(batch("s", "a", &["m"])).await;
        (first, client.send_batch(batch("s", "b", &["m"])).await.unwrap_err())
    });
    assert!(first.is_ok());
    assert_eq!(second.code(), Code::ResourceExhausted);
    assert!(says_retry(&second), "{second:?}");
}

/// A port that is taken is named with its key.
#[test]
fn a_port_in_use_is_named_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new().section(&format!("ingest: {{ grpc: {{ listen: \"{address}\" }} }}"));
    place.write();
    let said = place.run(&["run"]).failed(1);
    assert!(said.contains("ingest.grpc.listen") && said.contains(&address), "{said}");
}

/// `HealthCheck` says what `/ready` says.
#[test]
fn the_health_check_is_that_of_the_process() {
    let forebay = Place::new().start();
    let answer = block_on(async {
        client(forebay.ingest()).await.health_check(HealthCheckRequest {}).await.unwrap().into_inner()
    });
    assert_eq!(answer.status(), ServingStatus::Serving, "{answer:?}");
    assert_eq!(answer.version, env!("CARGO_PKG_VERSION"));
}
