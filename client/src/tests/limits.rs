//! Batches by size and age, the bounded queue, flush and close.

use std::time::Duration;

use super::{Act, BUSY, LONG, Server, send, send_all, taking};
use crate::{DeadlineError, Event, Failure, Outcome, Retry, SendReason};

/// A batch goes when it has its number of events, at once; the rest goes when its first event has waited long enough.
#[tokio::test(start_paused = true)]
async fn batches_go_by_number_and_age() {
    let server = taking();
    let client = server.start(server.builder().batch_events(4));
    let began = tokio::time::Instant::now();
    let receipts = send_all(&client, 0..10).await;
    for receipt in receipts {
        assert_eq!(receipt.await, Ok(Outcome::Delivered));
    }
    assert_eq!(server.sizes(), [4, 4, 2]);
    let times: Vec<_> = server.calls().iter().map(|call| (call.at - began).as_millis()).collect();
    assert_eq!(times[..2], [0, 0]);
    assert!((50..60).contains(&times[2]), "{times:?}");
}

/// A batch goes when it has its bytes.
#[tokio::test(start_paused = true)]
async fn batches_go_by_bytes() {
    let server = taking();
    let client = server.start(server.builder().batch_bytes(10_000));
    for _ in 0..6 {
        let _receipt = client.send(Event::new("s", "m".repeat(4_000))).await.unwrap();
    }
    client.flush(LONG).await.unwrap();
    assert_eq!(server.sizes(), [3, 3]);
}

/// While as many batches are on their way as may be, the next one grows to its bound and no further, then the queue, and
/// then `send` waits and `try_send` gives the event back. Nothing is lost when it goes on.
#[tokio::test(start_paused = true)]
async fn a_full_queue_waits_or_says_so() {
    let server = taking();
    server.gate(false);
    let client = server.start(server.builder().batch_events(2).queue_events(3).attempt_timeout(LONG * 2));
    let mut receipts = send_all(&client, 0..2).await;
    server.came(1).await;
    // Two in the batch that is gathered, three in the queue.
    receipts.extend(send_all(&client, 2..7).await);
    tokio::task::yield_now().await;
    let error = client.try_send(Event::new("s", "m").with_id("x")).unwrap_err();
    assert_eq!((error.reason, error.event.id()), (SendReason::Full, Some("x")));
    let waits = tokio::time::timeout(LONG, send(&client, 7)).await;
    assert!(waits.is_err(), "send waits while it is full");
    server.gate(true);
    receipts.push(send(&client, 8).await);
    for receipt in receipts {
        assert_eq!(receipt.await, Ok(Outcome::Delivered));
    }
    let ids: Vec<_> = server.calls().into_iter().flat_map(|call| call.events).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6", "8"]);
    assert!(server.sizes().iter().all(|size| *size <= 2));
}

/// Bytes bound the queue as well, until events have their outcome; an event that never fits is refused at once.
#[tokio::test(start_paused = true)]
async fn bytes_bound_the_queue() {
    let server = taking();
    server.gate(false);
    let client = server.start(server.builder().queue_bytes(10_000));
    let event = || Event::new("s", "m".repeat(4_000));
    let receipts = [client.try_send(event()).unwrap(), client.try_send(event()).unwrap()];
    server.came(1).await;
    assert_eq!(client.try_send(event()).unwrap_err().reason, SendReason::Full);
    let large = client.send(Event::new("s", "m".repeat(10_000))).await.unwrap_err();
    assert!(matches!(large.reason, SendReason::TooLarge { allowed: 10_000, .. }));
    assert_eq!(large.event.message().len(), 10_000);
    server.gate(true);
    for receipt in receipts {
        receipt.await.unwrap();
    }
    client.try_send(event()).unwrap().await.unwrap();
}

/// A flush sends what is gathered without waiting for its age, and ends when everything that was queued before it has its
/// outcome; with a deadline that is too short it says so, and delivery goes on.
#[tokio::test(start_paused = true)]
async fn a_flush_waits_for_what_was_before() {
    let server = taking();
    let client = server.start(server.builder().batch_age(LONG).in_flight(3));
    client.flush(LONG).await.unwrap();
    let receipt = send(&client, 1).await;
    let began = tokio::time::Instant::now();
    client.flush(LONG).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "its age was not waited for");
    assert_eq!(receipt.await, Ok(Outcome::Delivered));
    server.gate(false);
    let receipt = send(&client, 2).await;
    assert_eq!(client.flush(Duration::from_secs(1)).await, Err(DeadlineError::Flush));
    server.gate(true);
    assert_eq!(receipt.await, Ok(Outcome::Delivered));
    client.flush(LONG).await.unwrap();
}

/// With several batches on their way, a flush waits for the slowest of them, and not for what is sent behind it.
#[tokio::test(start_paused = true)]
async fn a_flush_waits_for_every_batch_on_its_way() {
    let server = Server::new(Act::Hang);
    server.then([BUSY, Act::Take(vec![]), Act::Take(vec![])]);
    let client = server.start(server.builder().batch_events(1).in_flight(5));
    let first = send_all(&client, 0..2).await;
    // The first is tried again; only then the third act is for it.
    client.flush(LONG).await.unwrap();
    for receipt in first {
        assert_eq!(receipt.await, Ok(Outcome::Delivered));
    }
    assert_eq!(server.calls().len(), 3);
}

/// `close` delivers everything, ends all clones, and refuses what comes later.
#[tokio::test(start_paused = true)]
async fn close_delivers_and_ends() {
    let server = taking();
    let client = server.start(server.builder().batch_age(LONG));
    let receipts = send_all(&client, 0..5).await;
    let other = client.clone();
    client.close(LONG).await.unwrap();
    for receipt in receipts {
        assert_eq!(receipt.await, Ok(Outcome::Delivered));
    }
    let error = other.send(Event::new("s", "late")).await.unwrap_err();
    assert_eq!((error.reason, error.event.message()), (SendReason::Closed, "late"));
    assert_eq!(other.try_send(Event::new("s", "m")).unwrap_err().reason, SendReason::Closed);
    other.close(LONG).await.unwrap();
    assert_eq!(other.flush(LONG).await, Err(DeadlineError::Closed));
}

/// At the deadline of `close` every event comes back, wherever it was: on its way, between attempts, gathered, queued, and
/// before the queue. Nothing waits for the server any longer.
#[tokio::test(start_paused = true)]
async fn the_deadline_of_close_gives_everything_back() {
    let server = Server::new(Act::Hang);
    server.then([BUSY]);
    let builder = server.builder().retry(Retry::for_ever().first_wait(LONG).longest_wait(LONG));
    let client = server.start(builder.batch_events(2).queue_events(3).in_flight(2).attempt_timeout(LONG * 2));
    let receipts = send_all(&client, 0..4).await;
    server.came(2).await;
    let mut receipts = receipts;
    receipts.extend(send_all(&client, 4..9).await);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.send(Event::new("s", "m").with_id("9")).await }
    });
    tokio::task::yield_now().await;
    let began = tokio::time::Instant::now();
    let ended = client.close(Duration::from_secs(5)).await;
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(ended, Err(DeadlineError::Close { undelivered: 9 }));
    for (number, receipt) in receipts.into_iter().enumerate() {
        let back = receipt.await.unwrap_err();
        assert_eq!((back.event.id(), back.failure), (Some(&*number.to_string()), Failure::Closed));
    }
    assert_eq!(waiting.await.unwrap().unwrap_err().reason, SendReason::Closed);
}

/// Without a `close`, what is queued when the last client is dropped is delivered all the same.
#[tokio::test(start_paused = true)]
async fn dropping_the_client_delivers() {
    let server = taking();
    let client = server.start(server.builder().batch_events(3));
    let receipts = send_all(&client, 0..10).await;
    drop(client);
    for receipt in receipts {
        assert_eq!(receipt.await, Ok(Outcome::Delivered));
    }
}
