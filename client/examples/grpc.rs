//! Sends events over gRPC without waiting for each: a hook is told what fails, counters say how it goes.
//!
//! ```sh
//! cargo run &                                                        # a Forebay with ingest.grpc on 127.0.0.1:50051
//! cargo run -p forebay-client --example grpc -- grpc://127.0.0.1:50051
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use forebay_client::{Client, Event, Metrics, Retry};

/// Where an application would use its own metrics.
#[derive(Default)]
struct Counters {
    sent: AtomicUsize,
    retried: AtomicUsize,
}

struct Counting(Arc<Counters>);

impl Metrics for Counting {
    fn sent(&self, events: usize, took: Duration) {
        self.0.sent.fetch_add(events, Ordering::Relaxed);
        println!("a batch of {events} is durable after {took:?}");
    }

    fn retried(&self, cause: &str, wait: Duration) {
        self.0.retried.fetch_add(1, Ordering::Relaxed);
        println!("again in {wait:?}: {cause}");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "grpc://127.0.0.1:50051".to_owned());
    let counters = Arc::new(Counters::default());
    let client = Client::builder(url)
        .source("example-grpc")
        .gzip(true)
        .batch_events(200)
        .in_flight(4)
        .retry(Retry::for_ever().longest_wait(Duration::from_secs(5)))
        .metrics(Counting(counters.clone()))
        .on_failed(|event, failure| eprintln!("{}: {failure}", event.id().unwrap_or_default()))
        .build()?;

    for number in 0..1_000 {
        let event = Event::new("example-grpc", "measured").with("number", number);
        // The hook and `close` say what becomes of it.
        drop(client.send(event).await?);
    }
    client.flush(Duration::from_secs(10)).await?;
    client.close(Duration::from_secs(5)).await?;
    let (sent, retried) = (counters.sent.load(Ordering::Relaxed), counters.retried.load(Ordering::Relaxed));
    println!("{sent} events are durable, {retried} batches were tried again");
    Ok(())
}
