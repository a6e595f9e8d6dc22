//! What does not come as a post of events: OpenTelemetry, and batches over gRPC.

use forebay_proto::ingest::v1::{
    Event, EventBatchRequest, EventBatchResponse, ingest_service_client::IngestServiceClient,
};
use tonic::transport::Endpoint;

use super::*;
use crate::{
    otlp::every_signal,
    support::{binary::Forebay, http::request},
};

/// Events of the batch that is sent again and again.
const BATCH_EVENTS: u32 = 3;

/// Posts a request of every signal; what its items are called.
#[track_caller]
fn post_every_signal(forebay: &Forebay, service: &str) -> BTreeSet<String> {
    let mut posted = BTreeSet::new();
    for (signal, names, body) in every_signal(service, "0") {
        let headers = [("Content-Type", "application/x-protobuf")];
        request(forebay.otlp(), "POST", &format!("/v1/{signal}"), &headers, &body).unwrap().ok(200);
        posted.extend(names);
    }
    posted
}

/// Everything of a service that a store has, in the order of ids, once it is so much.
#[track_caller]
fn stored(forebay: &Forebay, service: &str, count: usize) -> Vec<Value> {
    let mut events = Vec::new();
    until(&format!("{count} events of {service} are stored"), || {
        events = forebay.all_events(&format!("service={service}&limit=1000"));
        events.len() >= count
    });
    assert_eq!(events.len(), count, "{service}");
    events.sort_by_key(|event| event["event_id"].as_str().unwrap().to_owned());
    events
}

/// Sends the batch, always the same.
#[track_caller]
fn send(receiver: &Forebay) -> EventBatchResponse {
    let event = |number: u32| Event {
        service: "api".to_owned(),
        message: format!("number {number}"),
        ..Event::default()
    };
    let batch = EventBatchRequest {
        batch_id: "b".to_owned(),
        source: "api".to_owned(),
        events: (0..BATCH_EVENTS).map(event).collect(),
        ..EventBatchRequest::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let channel = Endpoint::from_shared(format!("http://{}", receiver.ingest())).unwrap();
        let mut client = IngestServiceClient::new(channel.connect().await.unwrap());
        client.send_batch(batch).await.unwrap().into_inner()
    });
    assert!(answer.success && answer.received_count == BATCH_EVENTS, "{answer:?}");
    answer
}

/// Scenario: OpenTelemetry of every signal comes to a receiver; and with events to an edge, which sends it to that receiver in
/// batches over gRPC.
/// Guarantee: the worker's store has every item, and of what came by the edge the same as the edge's own store, field by field.
#[test]
fn requests_and_batches_go_through_the_stream() {
    let Some(shared) = Shared::start("requests_and_batches_go_through_the_stream") else { return };
    let worker = shared.place().sink("events", "{ type: store }").start();
    let receiver = shared.place().start();
    let up = format!("{{ type: forebay, endpoint: \"http://{}\" }}", receiver.ingest());
    let edge = Place::new().sink("up", &up).start();
    let direct = post_every_signal(&receiver, "direct");
    let relayed = post_every_signal(&edge, "relayed");
    let mut rich = event("rich");
    rich["message"] = "Grüße, 世界 🌊 \u{0}".into();
    rich["metadata"] = json!({"a": {"b": [1.5, null, "\u{2028}"]}});
    post(&edge, &[rich, event("plain")]);
    let found: BTreeSet<_> = stored(&worker, "direct", direct.len())
        .iter()
        .map(|event| event["message"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(found, direct);
    for (service, count) in [("relayed", relayed.len()), ("api", 2)] {
        assert_eq!(stored(&worker, service, count), stored(&edge, service, count), "{service}");
    }
    until("the stream is empty", || shared.stream().state.messages == 0);
    for (process, sink) in [(&edge, "up"), (&worker, "events")] {
        assert_eq!(process.metric("forebay_sink_dead_letters_total", sink), 0.0, "{sink}");
    }
}

/// Scenario: a batch over gRPC comes again: to the receiver that took it, to one that was there already, to one that starts
/// later, to the first after a SIGKILL, and to one that starts when it is delivered and kept for a while.
/// Guarantee: who took it knows it, and who starts while the stream has it; elsewhere it is taken again, and its events have the
/// ids that they had.
#[test]
fn a_batch_that_comes_again_is_known_to_who_took_it_and_to_who_starts_later() {
    let test = "a_batch_that_comes_again_is_known_to_who_took_it_and_to_who_starts_later";
    let Some(shared) = Shared::start(test) else { return };
    // Of every process, because any of them removes what has been kept for long enough by its own word.
    let place = || shared.place().section("retention: { journal_keep: 1h }");
    let takes = place();
    let (mut taking, other) = (takes.start(), place().start());
    assert!(!send(&taking).duplicate);
    assert!(send(&taking).duplicate, "it took it");
    assert!(!send(&other).duplicate, "it was there before the batch came, and has not heard of it");
    assert!(send(&other).duplicate, "now it has taken it, too");
    assert!(send(&place().start()).duplicate, "it found it in the stream");
    taking.kill();
    assert!(send(&takes.start()).duplicate, "and so it did after a crash");
    let destination = Destination::start();
    let worker = place().sink("out", &destination.sink()).start();
    until("what was taken twice is delivered twice", || {
        let events = destination.events();
        events.len() == BATCH_EVENTS as usize && events.values().all(|(times, _)| *times == 2)
    });
    until("nothing waits", || worker.metric("forebay_sink_lag_events", "out") == 0.0);
    assert!(send(&place().start()).duplicate, "the stream still has it");
    assert_eq!(destination.count(), BATCH_EVENTS as usize);
}
