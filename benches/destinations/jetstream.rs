//! The journal on JetStream beside a bare client that publishes the same messages: as many bytes, as many on their way, and
//! the same acknowledgement of a server that syncs each message.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_nats::jetstream::{
    Context,
    stream::{Config, DiscardPolicy},
};
use bytes::Bytes;
use forebay::{
    config::{Backend, BufferConfig},
    shared_journal::{JetStream, MESSAGE_BYTES},
};
use forebay_actors::{
    buffer::COMMIT_BYTES,
    event::{BlockBuilder, Draft, Stamp, Stamped},
    journal::{Journal as _, stored_form},
    runtime::clock::Clock,
};
use futures::{StreamExt as _, stream};
use tokio::time::Instant;
use uuid::Uuid;

use super::{ROUNDS, batches::time, service::Service};

/// Commits of a round, each as large as under full load.
const COMMITS: usize = 24;

/// As many as a `Buffer` has on their way under load.
const AT_ONCE: usize = 2;

const WANTED: f64 = 0.8;

/// Whether the journal reaches what is wanted of it.
pub async fn measure() -> bool {
    let Some(server) = Service::start("nats", 1) else { return true };
    let url = format!("nats://127.0.0.1:{}", server.ports[0]);
    let client = async_nats::connect(&url).await.expect("the server is there");
    let context = async_nats::jetstream::new(client);
    let bare = Config {
        name: "BARE".to_owned(),
        discard: DiscardPolicy::New,
        max_bytes: 1 << 30,
        ..Config::default()
    };
    context.create_stream(bare).await.expect("a stream");
    let mut buffer =
        BufferConfig { backend: Backend::Jetstream, max_bytes: 1 << 30, ..BufferConfig::default() };
    (buffer.jetstream.url, buffer.jetstream.replicas) = (url, 1);
    let journal = JetStream::open(&buffer, 1 << 20, server.dir.path(), Clock::system()).expect("it opens");

    let commits: Vec<Vec<Stamped>> = (0..COMMITS as u64).map(commit).collect();
    let events: u64 = commits.iter().flatten().map(|block| u64::from(block.count())).sum();
    let messages: Vec<Bytes> = commits
        .iter()
        .flat_map(|blocks| stored_form::encode_all(blocks, time(0), MESSAGE_BYTES))
        .map(|(_, stored)| stored.into())
        .collect();
    let bytes: usize = messages.iter().map(Bytes::len).sum();
    let on_their_way = AT_ONCE * messages.len().div_ceil(COMMITS);

    let (mut by_journal, mut by_client) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let began = Instant::now();
        commit_all(&journal, &commits);
        let journal_s = began.elapsed().as_secs_f64();
        let began = Instant::now();
        publish_all(&context, &messages, on_their_way).await;
        let client_s = began.elapsed().as_secs_f64();
        for name in ["BARE", &*buffer.jetstream.stream] {
            let stream = context.get_stream(name).await.expect("it is there");
            let purged = stream.purge().await.expect("it can be emptied");
            assert_eq!(purged.purged, messages.len() as u64, "{name} has every message once");
        }
        // The first is for caches and files.
        if round > 0 {
            by_journal.push(journal_s);
            by_client.push(client_s);
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (journal_s, client_s) = (median(&mut by_journal), median(&mut by_client));
    let ratio = client_s / journal_s;
    println!(
        "jetstream: {:.0} events/s, {:.0} MB/s as stored, {} messages of {} KB; the bare client {:.0} MB/s: {:.0} %, wanted {:.0} %",
        events as f64 / journal_s,
        bytes as f64 / journal_s / 1e6,
        messages.len(),
        bytes / messages.len() / 1000,
        bytes as f64 / client_s / 1e6,
        ratio * 100.0,
        WANTED * 100.0,
    );
    ratio >= WANTED
}

/// The blocks of one full commit.
fn commit(number: u64) -> Vec<Stamped> {
    let mut builder = BlockBuilder::default();
    let (mut bytes, mut row) = (0, number << 24);
    while bytes < COMMIT_BYTES * 9 / 10 {
        let message =
            format!("GET /item/{} HTTP/1.1 {}", row % 100_003, row.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let metadata = format!("{{\"client\":\"192.0.2.{}\",\"bytes\":{}}}", row % 250, row % 9973);
        builder.push(&Draft {
            event_id: None,
            timestamp: Some(time(row % 1000)),
            service: "service",
            message: &message,
            metadata: Some(&metadata),
        });
        bytes += message.len() + metadata.len() + 24;
        row += 1;
    }
    let stamp = |first_id| Stamp { first_id, ingested_at: time(number) };
    let blocks = builder.finish().into_iter();
    blocks.map(|block| block.stamped(stamp(Uuid::from_u128(u128::from(number) << 64)))).collect()
}

fn commit_all(journal: &JetStream, commits: &[Vec<Stamped>]) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(blocks) = commits.get(next.fetch_add(1, Ordering::Relaxed)) {
                    journal.commit(blocks).expect("the server takes it");
                }
            });
        }
    });
}

async fn publish_all(context: &Context, messages: &[Bytes], on_their_way: usize) {
    let rest = Mutex::new(messages.iter().cloned().collect::<VecDeque<_>>());
    let publish = |_| async {
        let Some(message) = rest.lock().expect("nobody panics").pop_front() else { return };
        let published = context.publish("BARE", message).await.expect("it is sent");
        published.await.expect("it is acknowledged");
    };
    stream::iter(0..messages.len()).map(publish).buffer_unordered(on_their_way).collect::<Vec<_>>().await;
}
