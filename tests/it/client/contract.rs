//! What the client sends is what the real process takes, over both protocols.

use std::time::{Duration, UNIX_EPOCH};

use forebay_client::{Builder, Client, Event, Failure, Outcome};
use serde_json::json;

use crate::support::{
    PATIENCE,
    binary::{Forebay, Place},
    until,
};

/// One client for each protocol.
fn each(forebay: &Forebay) -> [(&'static str, Builder); 2] {
    let (http, grpc) = (format!("http://{}", forebay.address), format!("grpc://{}", forebay.ingest()));
    [("http", Client::builder(http)), ("grpc", Client::builder(grpc))]
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Every field comes out of the store as the application gave it, packed or not, and the receipt's id finds it.
#[test]
fn an_event_comes_out_as_it_went_in() {
    let forebay = Place::new().start();
    block_on(async {
        for gzip in [false, true] {
            for (protocol, builder) in each(&forebay) {
                let client = builder.gzip(gzip).build().unwrap();
                let event = Event::new("shop \u{1F600}", "two\nlines")
                    .at(UNIX_EPOCH + Duration::from_nanos(1_500_000_000_123_456_789));
                let event = event.with("large", u64::MAX).with("nested", json!({"a": [1, null, "\""]}));
                let receipt = client.send(event).await.unwrap();
                let id = receipt.event_id().to_owned();
                assert_eq!(receipt.await, Ok(Outcome::Delivered), "{protocol}");
                client.close(PATIENCE).await.unwrap();
                let stored = forebay.stored(&id);
                assert_eq!(stored["service"], "shop \u{1F600}", "{protocol}");
                assert_eq!(stored["message"], "two\nlines", "{protocol}");
                assert_eq!(stored["timestamp"], "2017-07-14T02:40:00.123456789Z", "{protocol}");
                let metadata = json!({"large": u64::MAX, "nested": {"a": [1, null, "\""]}});
                assert_eq!(stored["metadata"], metadata, "{protocol}");
            }
        }
    });
}

/// The events that the server refuses come back alone, with the field and what would be right; the others of the batch are
/// delivered. A batch of nothing else comes back whole.
#[test]
fn wrong_events_come_back_alone() {
    let forebay = Place::new().http("max_event_bytes: 4KiB").start();
    block_on(async {
        for (protocol, builder) in each(&forebay) {
            let client = builder.build().unwrap();
            let events = [
                Event::new("s", "right"),
                Event::new("", "no service"),
                Event::new("s", "m".repeat(5_000)),
                Event::new("s", "right, too"),
                Event::new("s", "m").with_id("i".repeat(129)),
            ];
            let receipts: Vec<_> =
                events.iter().map(|event| client.try_send(event.clone()).unwrap()).collect();
            let mut rejected = Vec::new();
            for receipt in receipts {
                match receipt.await {
                    Ok(outcome) => assert_eq!(outcome, Outcome::Delivered),
                    Err(back) => rejected.push(back),
                }
            }
            let all: Vec<_> = rejected.iter().map(|back| back.failure.to_string()).collect();
            let [service, large, id] = &all[..] else { panic!("{protocol}: {all:?}") };
            assert!(service.contains("service") && service.contains("1 to 256"), "{protocol}: {service}");
            assert!(large.contains("max_event_bytes"), "{protocol}: {large}");
            assert!(id.contains("event_id"), "{protocol}: {id}");
            assert!(rejected.iter().all(|back| matches!(back.failure, Failure::Rejected(_))), "{protocol}");
            assert_eq!(rejected[0].event.message(), "no service");

            let alone = client.send(Event::new("", "alone")).await.unwrap().await.unwrap_err();
            assert!(matches!(alone.failure, Failure::Rejected(_)), "{protocol}: {alone:?}");
            client.close(PATIENCE).await.unwrap();
        }
    });
    until("both have delivered", || forebay.counted() == 4);
}

/// Batches over the server's bound go in halves until they fit: nothing is refused for being in too large a company.
#[test]
fn too_large_batches_go_in_halves() {
    let sections = Place::new().http("max_body_bytes: 64KiB").http("max_event_bytes: 32KiB");
    let forebay =
        sections.section("ingest: { grpc: { listen: \"127.0.0.1:0\" }, max_batch_bytes: 64KiB }").start();
    block_on(async {
        for (protocol, builder) in each(&forebay) {
            let client = builder.build().unwrap();
            let events = (0..40).map(|_| Event::new("s", "m".repeat(10_000)));
            let receipts: Vec<_> = events.map(|event| client.try_send(event).unwrap()).collect();
            for receipt in receipts {
                assert_eq!(receipt.await, Ok(Outcome::Delivered), "{protocol}");
            }
            client.close(PATIENCE).await.unwrap();
        }
    });
    until("all are stored", || forebay.counted() == 80);
}
