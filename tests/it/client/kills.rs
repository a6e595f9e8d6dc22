//! The client while the server is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use forebay_client::{Client, Event, Outcome, Retry};

use crate::support::{
    PATIENCE,
    binary::{Forebay, Place},
    thorough, until,
};

/// Starts the process with this address for the client's protocol, where it was before: an application's client goes on where
/// it was, too.
fn start_at(place: &Place, scheme: &str, address: SocketAddr) -> Forebay {
    let file = place.write();
    let text = std::fs::read_to_string(&file).unwrap();
    let key = if scheme == "grpc" { "ingest: { grpc: { listen: \"" } else { "listen: \"" };
    let changed = text.replacen(&format!("{key}127.0.0.1:0"), &format!("{key}{address}"), 1);
    assert_ne!(changed, text);
    std::fs::write(&file, changed).unwrap();
    let mut forebay = place.spawn();
    forebay.wait_until_it_listens();
    until("the process is ready", || forebay.get("/ready").status == 200);
    forebay
}

/// An address that nobody else takes meanwhile: ports below those that the kernel gives to whoever asks for any.
fn address() -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let begin = std::process::id() as usize * 7 + NEXT.fetch_add(1, Ordering::Relaxed);
    let candidates = (0..10_000).map(|i| 20_000 + ((begin + i) % 10_000) as u16);
    let mut free = candidates.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    free.next().expect("a port is free").local_addr().unwrap()
}

fn client(url: String, spool: Option<&Path>, retry: Retry) -> Client {
    let builder = Client::builder(url)
        .batch_events(50)
        .batch_age(Duration::from_millis(5))
        .in_flight(3)
        .retry(retry.first_wait(Duration::from_millis(20)).longest_wait(Duration::from_millis(200)));
    match spool {
        Some(dir) => builder.spool(dir, 64 << 20).build(),
        None => builder.build(),
    }
    .unwrap()
}

/// How often the store has each number.
fn stored(forebay: &Forebay, events: u64) -> BTreeMap<u64, usize> {
    until("the store has all", || forebay.counted() >= events);
    let mut numbers = BTreeMap::new();
    for event in forebay.all_events("limit=1000") {
        *numbers.entry(event["metadata"]["number"].as_u64().unwrap()).or_default() += 1;
    }
    numbers
}

/// Sends numbered events while the process is killed and started again; gives back those whose receipt said that they are
/// delivered, and those that are spooled.
fn send_under_kills(
    events: u64,
    kills: usize,
    place: &Place,
    (scheme, address): (&str, SocketAddr),
    client: impl FnOnce() -> Client + Send,
) -> (Forebay, BTreeSet<u64>, BTreeSet<u64>) {
    let mut forebay = start_at(place, scheme, address);
    let outcomes = Arc::new(Mutex::new((BTreeSet::new(), BTreeSet::new())));
    let durable = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (told, count) = (outcomes.clone(), durable.clone());
        let sending = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let client = client();
                let mut tasks = tokio::task::JoinSet::new();
                for number in 0..events {
                    let event = Event::new("client", "m".repeat(100)).with("number", number);
                    let receipt = client.send(event).await.unwrap();
                    let (told, count) = (told.clone(), count.clone());
                    tasks.spawn(async move {
                        let outcome = receipt.await.expect("nothing is given up");
                        let (delivered, spooled) = &mut *told.lock().unwrap_or_else(PoisonError::into_inner);
                        match outcome {
                            Outcome::Delivered => delivered.insert(number),
                            Outcome::Spooled => spooled.insert(number),
                        };
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                    if number % 64 == 0 {
                        // So that kills come between batches, and the whole is not over before the first.
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
                client.flush(PATIENCE).await.unwrap();
                while let Some(ended) = tasks.join_next().await {
                    ended.unwrap();
                }
                // Not by `until`: the client's own tasks need this thread.
                while client.spool_bytes() > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                client.close(PATIENCE).await.unwrap();
            });
        });
        for life in 1..=kills {
            let enough = events as usize * life / (kills + 1);
            until("events are safe", || durable.load(Ordering::Relaxed) >= enough || sending.is_finished());
            forebay.kill();
            forebay = start_at(place, scheme, address);
        }
        sending.join().unwrap();
    });
    let (delivered, spooled) = std::mem::take(&mut *outcomes.lock().unwrap_or_else(PoisonError::into_inner));
    (forebay, delivered, spooled)
}

fn kills_cost_nothing(scheme: &str) {
    let (events, kills) = thorough((4_000, 4), (40_000, 30));
    let (place, address) = (Place::new(), address());
    let start = || client(format!("{scheme}://{address}"), None, Retry::for_ever());
    let (mut forebay, delivered, spooled) = send_under_kills(events, kills, &place, (scheme, address), start);
    assert_eq!((delivered.len() as u64, spooled.len()), (events, 0));
    let numbers = stored(&forebay, events);
    assert!(delivered.iter().all(|number| numbers.get(number) == Some(&1)), "each is stored once");
    assert_eq!(numbers.len() as u64, events);
    assert_eq!(forebay.stop(), Some(0));
}

/// Promise P1 as an application sees it: while a client sends, the process is killed with SIGKILL again and again. Attempts
/// without end deliver every event, and the store has each of them once, however often it was sent: the answers that
/// the kills cost are asked for again under the same ids.
#[test]
fn kills_cost_a_client_nothing_over_http() {
    kills_cost_nothing("http");
}

/// The same over gRPC.
#[test]
fn kills_cost_a_client_nothing_over_grpc() {
    kills_cost_nothing("grpc");
}

/// The same with one attempt and a spool: what a kill costs goes to the disk of the client, and arrives all the same.
#[test]
fn kills_fill_the_spool_and_cost_nothing() {
    let (events, kills) = thorough((4_000, 4), (40_000, 30));
    let (place, address) = (Place::new(), address());
    let spool = place.file("spool");
    let start = || client(format!("http://{address}"), Some(&spool), Retry::attempts(1));
    let (mut forebay, delivered, spooled) = send_under_kills(events, kills, &place, ("http", address), start);
    assert_eq!((delivered.len() + spooled.len()) as u64, events);
    assert!(!spooled.is_empty(), "a kill is noticed");
    let numbers = stored(&forebay, events);
    assert_eq!(numbers.len() as u64, events);
    assert!(numbers.values().all(|count| *count == 1));
    assert_eq!(forebay.stop(), Some(0));
}
