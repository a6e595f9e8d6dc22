//! Without a server: what is told to it waits for a connection that never comes.

use std::sync::atomic::{AtomicBool, AtomicU64};

use async_nats::{ConnectOptions, jetstream};
use forebay_actors::runtime::clock::Clock;
use tempfile::TempDir;

use super::*;
use crate::config::JetstreamConfig;

/// A queue to which nothing comes by itself. What damaged messages leave behind goes to the directory.
async fn queue(dir: &TempDir) -> Arc<SinkQueue> {
    let options = ConnectOptions::new().retry_on_initial_connect();
    let context = jetstream::new(options.connect("127.0.0.1:1").await.unwrap());
    let shared = Arc::new(Shared {
        stream: context.get_stream_no_info("FOREBAY").await.unwrap(),
        context,
        config: JetstreamConfig::default(),
        server: "nobody".to_owned(),
        clock: Clock::system(),
        created: 0,
        replicas: 1,
        message_bytes: 0,
        nonce: 0,
        written: AtomicU64::new(0),
        seen: Mutex::default(),
        floors: Mutex::default(),
        events_seen: AtomicU64::new(0),
        messages_seen: AtomicU64::new(0),
        damaged: AtomicU64::new(0),
        quarantine: dir.path().to_owned(),
        is_another: AtomicBool::new(false),
    });
    Arc::new_cyclic(|me: &Weak<SinkQueue>| SinkQueue {
        me: me.clone(),
        shared,
        runtime: Handle::current(),
        sink: SinkName::from("out"),
        messages_max: 10,
        state: Mutex::default(),
        arrived: Condvar::new(),
        room: Notify::new(),
    })
}

/// A message comes from the server. What is in it does not matter: it is one event, which is damaged.
fn comes(queue: &SinkQueue, sequence: u64) {
    comes_for(queue, sequence, 1);
}

/// The same, which the server gives for so many times.
fn comes_for(queue: &SinkQueue, sequence: u64, times: u64) {
    let reply = format!("$JS.ACK.FOREBAY.forebay_out.{times}.{sequence}.{sequence}.1700000000000000000.0");
    let message = async_nats::Message {
        subject: "FOREBAY.records".into(),
        reply: Some(reply.into()),
        payload: "no record".into(),
        headers: None,
        status: None,
        description: None,
        length: 0,
    };
    queue.accept(Message { message, context: queue.shared.context.clone() });
}

/// Scenario: a message is on its way from the server to the queue while this gives back all that it holds, as at a reload that
/// changes the sink.
/// Guarantee: it is given back, too. It was held, and the server was told for ever that it is being worked on: no worker got it
/// any more.
#[tokio::test]
async fn r0581_a_message_that_came_while_its_queue_was_released_was_kept_for_ever() {
    let dir = TempDir::new().unwrap();
    let queue = queue(&dir).await;
    comes(&queue, 6);
    assert_eq!(queue.state().held.len(), 1, "an open queue holds what comes");
    queue.state().held.clear();
    queue.release();
    comes(&queue, 7);
    assert!(queue.state().held.is_empty());
    assert_eq!(queue.state().ready, [6], "what was released before");
}

/// Scenario: a sink restarts while what it asked its queue for still waits for a thread, which comes when the next life has
/// already asked, too.
/// Guarantee: nothing is taken for the life that is over. What it was given nobody delivered until the next restart.
#[tokio::test]
async fn r0584_what_a_former_life_of_a_sink_had_asked_for_took_messages_from_the_next() {
    let dir = TempDir::new().unwrap();
    let queue = queue(&dir).await;
    let (before, now) = (queue.restart(), queue.restart());
    comes(&queue, 7);
    assert_eq!(queue.take(before, 1, Duration::ZERO).unwrap().len(), 0);
    assert_eq!(queue.take(now, 1, Duration::ZERO).unwrap().len(), 1);
}

/// Scenario: a stream is removed and made anew under the process, and a message of the new one has a place that a delivered one of
/// the old had.
/// Guarantee: it is not acknowledged: nobody has delivered it. It was, in the moment before the stream was seen to be another.
#[tokio::test]
async fn r0589_a_message_of_a_stream_made_anew_was_taken_for_a_delivered_one() {
    let dir = TempDir::new().unwrap();
    let queue = queue(&dir).await;
    comes(&queue, 7);
    queue.settle(Span { first: place(7), end: place(7).plus(1) });
    assert_eq!(queue.state().acknowledging, 1);
    comes(&queue, 7);
    assert_eq!(queue.state().acknowledging, 1, "it is another message");
    comes_for(&queue, 7, 2);
    assert_eq!(queue.state().acknowledging, 2, "its acknowledgement came too late, and it comes again");
    comes(&queue, 8);
    comes(&queue, 8);
    queue.settle(Span { first: place(8), end: place(8).plus(1) });
    assert_eq!(queue.state().acknowledging, 2, "the word would be taken for the new one's");
    queue.shared.is_another.store(true, Ordering::Relaxed);
    comes(&queue, 9);
    assert!(queue.state().held.is_empty());
}
