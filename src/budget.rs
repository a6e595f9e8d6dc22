//! The memory budget: what each part may take at most, whatever the backlog and however many clients there are.

use std::fmt;

use forebay_actors::{batcher, buffer, journal, record};

use crate::{
    allocator,
    config::{Backend, Config, Durability, SinkConfig, SinkKind, When},
    destination,
    ingress::{batch::seen::BATCH_BYTES, server::STREAM_WINDOW_BYTES},
    pipeline::queue_messages,
    shared_journal,
    store::{self, embedded},
};

const MIB: u64 = 1024 * 1024;

/// Code, threads' stacks as far as they are touched, allocator slack, TLS, metrics: measured 20 to 30 MiB idle. Behind load the
/// spare segments of the journal stay as well.
const PROCESS_BYTES: u64 = 40 * MIB + (allocator::SPARES_MAX * journal::SEGMENT_BYTES) as u64;

/// What a connection takes beside its body: actix-web's read and write buffers, and what of a body that is refused has come
/// by then. 4,000 busy ones took 27 KiB each more than 1,000 did, and the whole process 440 MiB, measured with bodies of 60
/// KB of which most were refused.
const CONNECTION_BYTES: u64 = 48 * 1024;

/// What TLS adds to a connection: a record of 16 KiB each way, and the session. 800 idle ones took no more than as many
/// in the clear, measured, so this is for busy ones.
const TLS_CONNECTION_BYTES: u64 = 40 * 1024;

/// What an open generation takes over its stored bytes: sled's pages and tables, what it has freed and the allocator has
/// not given back, and the record at hand. 172 MiB were measured with three generations of 16 MiB open, while a backlog
/// of incompressible records was read and written at the same time, before what sled leaves was freed (ARCHITECTURE.md, 59).
const SLED_OVERHEAD_PERCENT: u64 = 260;

/// Copies of a batch while a sink sends it: the records, the encoded body, and what the destination adds.
const COPIES_IN_FLIGHT: u64 = 3;

/// One part of the budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: String,
    /// Bytes at most.
    pub bytes: u64,
    /// The configuration keys that set it.
    pub keys: &'static str,
}

/// All parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryBudget(pub Vec<Part>);

impl MemoryBudget {
    /// Of a configuration.
    pub fn of(config: &Config) -> Self {
        let mut parts = Vec::new();
        let mut part = |name: &str, bytes: u64, keys| parts.push(Part { name: name.to_owned(), bytes, keys });
        part("process", PROCESS_BYTES, "");
        let connection = CONNECTION_BYTES + if config.tls.is_on() { TLS_CONNECTION_BYTES } else { 0 };
        let connections = config.http.max_connections as u64 * connection;
        part("connections", connections, "http.max_connections");
        if !config.grpc_addresses().is_empty() {
            let connections = config.otlp.max_connections as u64 * connection;
            part("connections of OpenTelemetry", connections, "otlp.max_connections");
            let streams = config.ingest.max_streams as u64 * u64::from(STREAM_WINDOW_BYTES);
            part("streams of batches", streams, "ingest.max_streams");
            let batches = config.ingest.dedupe_batches_max as u64 * BATCH_BYTES;
            part("batches remembered", batches, "ingest.dedupe_batches_max");
        }
        part("request bodies", config.http.max_inflight_bytes as u64, "http.max_inflight_bytes");
        let waiting = config.buffer.memory_bytes_max as u64;
        // Events that wait, and those of the commit that is running, as records and compressed. The one request by which what
        // waits may pass its bound is within the request bodies, which it has a share of until it is answered.
        part("waiting for commit", 2 * waiting, "buffer.memory_bytes_max");
        let broadcast = (batcher::MAILBOX_COMMITS * buffer::COMMIT_BYTES) as u64;
        part("broadcast", broadcast, "");
        let shared = config.buffer.backend == Backend::Jetstream;
        match config.buffer.durability {
            // Two commits as they were encoded, and once more in the connection's buffer.
            _ if shared => part("journal (on its way)", 4 * buffer::COMMIT_BYTES as u64, ""),
            Durability::Memory => part("journal (memory)", waiting, "buffer.memory_bytes_max"),
            _ => {
                // One more is kept for who reads it where it could not be synced at its end.
                let unsynced = match config.buffer.durability {
                    Durability::Interval => journal::UNSYNCED_GENERATIONS_MAX,
                    _ => 0,
                };
                let open = (journal::OPEN_GENERATIONS_MAX + unsynced) as u64 + 1;
                let bytes = journal::GENERATION_BYTES * (100 + SLED_OVERHEAD_PERCENT) / 100;
                part("journal (open generations)", open * bytes + journal::SPARE_BYTES_MAX as u64, "");
            }
        }
        // One that only stands by is part of those that it stands by for.
        for (name, sink) in config.sinks.iter().filter(|(_, sink)| !sink.only_as_fallback) {
            let batch = sink.batch(&config.batch);
            let mailbox = (sink.mailbox_batches * batcher::BATCH_BYTES) as u64;
            // Beside its own, one batch that is read back.
            let flights = sink.concurrency.max as u64 + u64::from(sink.fallback.is_some());
            let on_their_way = COPIES_IN_FLIGHT * flights;
            let batches = match shared {
                false => batch.max_bytes as u64 * (1 + on_their_way),
                // A batch is within a message; each is there as it came, too.
                true => {
                    let message = shared_journal::MESSAGE_BYTES.max(config.http.max_event_bytes) as u64;
                    message * (2 * queue_messages(sink) as u64 + on_their_way)
                }
            };
            let mailbox = if shared { 0 } else { mailbox };
            let own = match sink.kind {
                SinkKind::Store(_) => {
                    let readers = embedded::READERS_MAX as u64;
                    let caches = u64::from(embedded::WRITER_CACHE_KIB)
                        + readers * u64::from(embedded::READER_CACHE_KIB);
                    caches * 1024 + readers * store::PAGE_BYTES_MAX as u64
                }
                SinkKind::Postgres(ref options) if options.store => {
                    let questions = store::postgres::questions_max(options.pool_max, sink.concurrency.max);
                    (questions * store::PAGE_BYTES_MAX) as u64
                }
                // The latest values, and what a batch makes of them while it is pushed.
                SinkKind::Pushgateway(ref push) => 2 * push.state_bytes as u64,
                SinkKind::Cassandra(_) => cassandra_rows(sink),
                _ => 0,
            };
            // What is held for it is rows of its fallback meanwhile.
            let fallback = sink.fallback.as_ref().and_then(|fallback| config.sinks.get(fallback));
            let shown = match fallback.map(|fallback| &fallback.kind) {
                Some(SinkKind::Cassandra(cassandra)) if cassandra.held_rows => cassandra_rows(sink),
                _ => 0,
            };
            let books = match shared && sink.fallback.is_some() {
                true => shared_journal::BOOKS_BYTES_MAX,
                false => 0,
            };
            let patterns = sink.when.as_ref().map_or(0, When::memory_bytes);
            let name = record::SinkName::from(name.as_str());
            part(
                &format!("sink {name}"),
                mailbox + batches + own + shown + books + patterns,
                "batch.max_bytes, concurrency, mailbox_batches",
            );
        }
        Self(parts)
    }

    /// The sum of all parts, in bytes.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|part| part.bytes).sum()
    }
}

/// What of the batches of a sink is there as rows of Cassandra, and the same once more as requests.
fn cassandra_rows(sink: &SinkConfig) -> u64 {
    2 * (destination::cassandra::ROWS_BYTES_MAX * sink.concurrency.max) as u64
}

impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            writeln!(f, "  {:<28} {:>6} MiB  {}", part.name, part.bytes.div_ceil(MIB), part.keys)?;
        }
        write!(f, "  {:<28} {:>6} MiB", "sum", self.sum().div_ceil(MIB))
    }
}
