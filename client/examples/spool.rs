//! Keeps events on this machine's disk while the server is away. Run it without a server, then with one: the second run delivers
//! what the first one kept.
//!
//! ```sh
//! cargo run -p forebay-client --example spool -- http://127.0.0.1:8080 ./spool
//! ```

use std::time::Duration;

use forebay_client::{Client, Event, Outcome, Retry};

const SPOOL_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
    let dir = arguments.next().unwrap_or_else(|| "./spool".to_owned());
    let client = Client::builder(url).retry(Retry::attempts(2)).spool(dir, SPOOL_BYTES_MAX).build()?;
    println!("{} bytes are left from an earlier run", client.spool_bytes());

    let (mut delivered, mut spooled) = (0, 0);
    let mut receipts = Vec::new();
    for number in 0..100 {
        receipts.push(client.send(Event::new("example-spool", "sold").with("number", number)).await?);
    }
    for receipt in receipts {
        match receipt.await? {
            Outcome::Delivered => delivered += 1,
            Outcome::Spooled => spooled += 1,
        }
    }
    println!("{delivered} events are delivered, {spooled} are in the spool");

    // Where the server is there, the spool empties by itself.
    for _ in 0..20 {
        if client.spool_bytes() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{} bytes are left for the next run", client.spool_bytes());
    client.close(Duration::from_secs(5)).await?;
    Ok(())
}
