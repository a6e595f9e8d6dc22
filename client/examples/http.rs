//! Sends a few events over HTTP, and waits until each is durable.
//!
//! ```sh
//! cargo run &                                                        # a Forebay on 127.0.0.1:8080
//! cargo run -p forebay-client --example http -- http://127.0.0.1:8080
//! ```

use std::time::Duration;

use forebay_client::{Client, Event, Retry};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let client = Client::builder(url).retry(Retry::attempts(5)).build()?;

    let mut receipts = Vec::new();
    for number in 0..100 {
        let event = Event::new("example-http", "sold").with("number", number).with("price", 12.5);
        // Waits while the queue is full. `try_send` would give the event back instead.
        receipts.push(client.send(event).await?);
    }
    let mut durable = 0;
    for receipt in receipts {
        match receipt.await {
            Ok(_) => durable += 1,
            Err(undelivered) => eprintln!("{}: {undelivered}", undelivered.event.id().unwrap_or_default()),
        }
    }
    println!("{durable} of 100 events are durable");
    client.close(Duration::from_secs(5)).await?;
    Ok(())
}
