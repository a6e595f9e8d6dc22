//! The sections of a configuration beside its sinks. The doc comments are what `config defaults` prints
//! above a key and what the JSON Schema says of it; why a default is what it is stands at its constant.

use std::{net::SocketAddr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::{JetstreamConfig, units};

/// The ports that the protocol gives to both.
const OTLP_HTTP_PORT: u16 = 4318;
const OTLP_GRPC_PORT: u16 = 4317;

/// What the exporters of the Collector may send at most is not bounded; this is four times its receiver's default.
const OTLP_MAX_BODY_BYTES: usize = 64 << 20;

/// An SDK or a Collector keeps one or two; each call of gRPC is a stream on one of them.
const OTLP_MAX_CONNECTIONS: usize = 1024;

/// The port of the batch contract, the one that examples of gRPC use.
const INGEST_GRPC_PORT: u16 = 50051;

/// Four of the largest at once fit into what is held of all bodies.
const INGEST_MAX_BATCH_BYTES: usize = 16 << 20;

/// A client that tries for ever with growing pauses comes again within minutes; after an outage of its own it makes new batches.
const INGEST_DEDUPE_WINDOW: Duration = Duration::from_secs(600);

/// 166 batches a second over the window.
const INGEST_DEDUPE_BATCHES_MAX: usize = 100_000;

/// A stream for each of some hundred relays; what a client may send ahead on each is in memory before it is read.
const INGEST_MAX_STREAMS: usize = 256;

/// All of what a quiet system says about itself: starts, stops, failures.
const LOG_LEVEL: &str = "info";
/// Loopback: who wants to be reached from outside says so.
const HTTP_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
/// Eight events of the largest size, or some 50,000 of a log line's.
const HTTP_MAX_BODY_BYTES: usize = 16 << 20;
/// Twice what Kafka takes by default, so that what fits there fits here.
const HTTP_MAX_EVENT_BYTES: usize = 2 << 20;
/// Four bodies of the largest size at once; with the buffer's, the ingress part of the memory budget.
const HTTP_MAX_INFLIGHT_BYTES: usize = 64 << 20;
/// The largest body from a client with 5 Mbit/s.
const HTTP_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// What actix-web gives a client by default; headers fit in a few packets.
const HTTP_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// nginx's default. It is above the 60 s of the usual load balancers, so that they close first and never
/// send a request into a connection that is just being closed.
const HTTP_KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Several hundred producers with a few connections each, at some tens of MiB for their read buffers.
const HTTP_MAX_CONNECTIONS: usize = 4096;
/// The most that a machine may lose at a power failure in mode `interval` (promise P1).
const BUFFER_SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// Some 50 million log lines of 300 bytes at the 3x they compress: 15 hours at 1,000 a second.
const BUFFER_MAX_BYTES: u64 = 5 << 30;
/// Ten batches of the default size.
const BUFFER_MEMORY_EVENTS_MAX: usize = 50_000;
/// 50,000 events of 670 bytes: whichever is reached first.
const BUFFER_MEMORY_BYTES_MAX: usize = 32 << 20;
/// Between the 1,000 from which databases take bulk inserts well and the 10,000 after which they gain little.
const BATCH_MAX_EVENTS: usize = 5_000;
/// 5,000 events of 840 bytes; a sink's mailbox holds several, so this is also a matter of memory.
const BATCH_MAX_BYTES: usize = 4 << 20;
/// How old an event may get before it is sent although the batch is not full.
const BATCH_MAX_WAIT: Duration = Duration::from_secs(1);
/// A month: the usual time in which an incident is asked about.
const RETENTION_DAYS: u32 = 30;
/// Nightly at 03:00 UTC, when most systems are quiet.
const RETENTION_SCHEDULE: &str = "0 3 * * *";
/// A tenth of what a person notices: most panics are one bad message, and the next try succeeds.
const SUPERVISOR_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Slow enough to be no load, fast enough that nobody waits for it after a repair.
const SUPERVISOR_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Doubling from 100 ms, five waits take 3 s: who dies that often within a minute does not by chance.
const SUPERVISOR_RESTARTS_MAX: u32 = 5;
/// See [`SUPERVISOR_RESTARTS_MAX`].
const SUPERVISOR_RESTARTS_WINDOW: Duration = Duration::from_secs(60);
/// A fifth of the journal: more dead letters than that are an outage, not exceptions.
const DEAD_LETTERS_MAX_BYTES: u64 = 1 << 30;

/// What Forebay says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level (error, warn, info, debug, trace), or levels by target: `info,forebay=debug`. Applied live.
    pub level: String,
    /// text for people, json for machines.
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port; port 0 takes a free one.
    #[serde(deserialize_with = "listen")]
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Largest body of a request, before and after decompression.
    #[serde(with = "units::size")]
    #[schemars(with = "units::Size")]
    pub max_body_bytes: usize,
    /// Largest single event; at most 128 MiB.
    #[serde(with = "units::size")]
    #[schemars(with = "units::Size")]
    pub max_event_bytes: usize,
    /// Bodies being read or waiting for their commit, all clients together.
    #[serde(with = "units::size")]
    #[schemars(with = "units::Size")]
    pub max_inflight_bytes: usize,
    /// From the first byte of a request to its last: the answer to clients that send very slowly.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub request_timeout: Duration,
    /// From the first byte of a request to the end of its headers.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub header_timeout: Duration,
    /// How long an idle connection stays open; 0s closes after every answer.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub keep_alive: Duration,
    /// Open connections, all workers together.
    pub max_connections: usize,
    /// Threads that serve requests; 0 is one per core.
    pub workers: usize,
}

/// OpenTelemetry: logs, metrics and traces, over HTTP and gRPC. Every address takes both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OtlpConfig {
    /// One address for both protocols, instead of the two below.
    #[serde(deserialize_with = "listen_or_not")]
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
    /// Where exporters for HTTP look.
    pub http: OtlpListen,
    /// Where exporters for gRPC look.
    pub grpc: OtlpListen,
    /// Largest body of a request, before and after decompression; at most 128 MiB.
    #[serde(with = "units::size")]
    #[schemars(with = "units::Size")]
    pub max_body_bytes: usize,
    /// Open connections, all addresses together, that of `ingest` included.
    pub max_connections: usize,
    /// Browsers that may send.
    pub cors: CorsConfig,
}

/// Batches over gRPC, by the contract forebay.ingest.v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Where clients look. It takes OpenTelemetry, too, as the addresses of OpenTelemetry take batches.
    pub grpc: OtlpListen,
    /// Largest batch, before and after decompression; at most 128 MiB.
    #[serde(with = "units::size")]
    #[schemars(with = "units::Size")]
    pub max_batch_bytes: usize,
    /// How long a batch is remembered, so that it is accepted once when it is sent again.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub dedupe_window: Duration,
    /// Batches that are remembered; the oldest are forgotten first.
    pub dedupe_batches_max: usize,
    /// Open streams, all clients together.
    pub max_streams: usize,
}

/// An address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpListen {
    /// Address and port; port 0 takes a free one, null does not listen.
    #[serde(deserialize_with = "listen_or_not")]
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
}

/// Which pages may send from a browser.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    /// Origins like `https://app.example.com`, or `*` for every one.
    pub allowed_origins: Vec<String>,
    /// Headers beside `Content-Type`, `Content-Encoding`, `Authorization` and `X-Api-Key` that requests may have.
    pub allowed_headers: Vec<String>,
    /// How long a browser may remember the answer.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub max_age: Duration,
}

/// What makes events durable before they are answered for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BufferConfig {
    /// Where the journal is: disk (in `data_dir`) or jetstream (on servers of NATS, shared by all processes that name the
    /// same stream).
    pub backend: Backend,
    /// What a success answer means: fsync (on disk, synced), interval (written, synced every
    /// `sync_interval`) or memory (held in memory only).
    pub durability: Durability,
    /// Time between two syncs; for durability: interval.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub sync_interval: Duration,
    /// Largest journal on disk. When it is reached, `when_full` of the sinks that lag decides. With backend: jetstream, the
    /// size of the stream that Forebay makes.
    #[serde(with = "units::size")]
    #[schemars(with = "units::Size")]
    pub max_bytes: u64,
    /// Events accepted but not yet committed; with durability: memory, all events held.
    pub memory_events_max: usize,
    /// Bytes of the same events.
    #[serde(with = "units::size")]
    #[schemars(with = "units::Size")]
    pub memory_bytes_max: usize,
    /// The servers; for backend: jetstream.
    pub jetstream: JetstreamConfig,
}

/// Where the journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// On this machine's disk.
    #[default]
    Disk,
    /// In a stream of NATS JetStream.
    Jetstream,
}

/// What a success answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On disk and synced: survives a power failure.
    #[default]
    Fsync,
    /// Taken, and synced every `sync_interval`: a crash of the process or the machine loses at most that much.
    Interval,
    /// In memory only: survives nothing.
    Memory,
}

/// When a batch is sent: at whichever limit is reached first. A sink may have limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Events in a batch.
    pub max_events: usize,
    /// Encoded bytes in a batch.
    #[serde(with = "units::size")]
    #[schemars(with = "units::Size")]
    pub max_bytes: usize,
    /// How long an event waits for others.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub max_wait: Duration,
}

/// How long events are kept. Applied live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Days that the store keeps an event.
    pub days: u32,
    /// When older events are removed: minute, hour, day of month, month, day of week; UTC.
    pub schedule: String,
    /// How long the journal keeps events that every sink has, for replay; 0s removes them at once.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub journal_keep: Duration,
}

/// Limits of request rates by the class of the route; no limit where a class is absent. Applied live.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Requests that bring events.
    pub ingest: Option<RateLimit>,
    /// Requests that ask for events.
    pub query: Option<RateLimit>,
    /// Probes and metrics.
    pub health: Option<RateLimit>,
}

/// A limit of requests; at least one of the two rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Requests a second from one client address.
    pub per_client_per_second: Option<u32>,
    /// Requests a second from all clients together.
    pub global_per_second: Option<u32>,
    /// Requests that may come at once after a pause; as many as a second's where absent.
    pub burst: Option<u32>,
}

/// How actors that panicked are restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SupervisorConfig {
    /// Pause before the first restart; doubled at every further one.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub backoff_min: Duration,
    /// Longest pause.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub backoff_max: Duration,
    /// Restarts within `restarts_window` after which the actor counts as failed; it is then still retried,
    /// every `backoff_max`.
    pub restarts_max: u32,
    /// The window in which restarts are counted.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub restarts_window: Duration,
}

/// Events that a destination refused for good; they can be looked at and replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLettersConfig {
    /// Bytes kept on disk, all sinks together. At the cap a sink that has another waits until some are replayed or
    /// dropped: nothing is removed behind anybody's back.
    #[serde(with = "units::size")]
    #[schemars(with = "units::Size")]
    pub max_bytes: u64,
}

fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    let wrong =
        |_| D::Error::custom(format_args!("{text:?} is not an address with a port; like {HTTP_LISTEN}"));
    text.parse().map_err(wrong)
}

fn listen_or_not<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let wrong = |_| {
        let what = "is not an address with a port; like 127.0.0.1:4318, or null";
        D::Error::custom(format_args!("{text:?} {what}"))
    };
    text.parse().map(Some).map_err(wrong)
}

impl OtlpConfig {
    /// Where it listens, by the key that says so.
    pub fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let one = [("otlp.listen", self.listen)];
        let two = [("otlp.http.listen", self.http.listen), ("otlp.grpc.listen", self.grpc.listen)];
        let keys = if self.listen.is_some() { &one[..] } else { &two[..] };
        keys.iter().filter_map(|(key, listen)| Some((*key, (*listen)?))).collect()
    }
}

// === impl Default ===

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: LOG_LEVEL.to_owned(), format: LogFormat::default() }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: HTTP_LISTEN,
            max_body_bytes: HTTP_MAX_BODY_BYTES,
            max_event_bytes: HTTP_MAX_EVENT_BYTES,
            max_inflight_bytes: HTTP_MAX_INFLIGHT_BYTES,
            request_timeout: HTTP_REQUEST_TIMEOUT,
            header_timeout: HTTP_HEADER_TIMEOUT,
            keep_alive: HTTP_KEEP_ALIVE,
            max_connections: HTTP_MAX_CONNECTIONS,
            workers: 0,
        }
    }
}

impl Default for OtlpConfig {
    fn default() -> Self {
        let at = |port| OtlpListen { listen: Some(SocketAddr::new(HTTP_LISTEN.ip(), port)) };
        Self {
            listen: None,
            http: at(OTLP_HTTP_PORT),
            grpc: at(OTLP_GRPC_PORT),
            max_body_bytes: OTLP_MAX_BODY_BYTES,
            max_connections: OTLP_MAX_CONNECTIONS,
            cors: CorsConfig::default(),
        }
    }
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            grpc: OtlpListen { listen: Some(SocketAddr::new(HTTP_LISTEN.ip(), INGEST_GRPC_PORT)) },
            max_batch_bytes: INGEST_MAX_BATCH_BYTES,
            dedupe_window: INGEST_DEDUPE_WINDOW,
            dedupe_batches_max: INGEST_DEDUPE_BATCHES_MAX,
            max_streams: INGEST_MAX_STREAMS,
        }
    }
}

impl Default for BufferConfig {
    fn default() -> Self {
        Self {
            backend: Backend::default(),
            durability: Durability::default(),
            sync_interval: BUFFER_SYNC_INTERVAL,
            max_bytes: BUFFER_MAX_BYTES,
            memory_events_max: BUFFER_MEMORY_EVENTS_MAX,
            memory_bytes_max: BUFFER_MEMORY_BYTES_MAX,
            jetstream: JetstreamConfig::default(),
        }
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { max_events: BATCH_MAX_EVENTS, max_bytes: BATCH_MAX_BYTES, max_wait: BATCH_MAX_WAIT }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { days: RETENTION_DAYS, schedule: RETENTION_SCHEDULE.to_owned(), journal_keep: Duration::ZERO }
    }
}

impl Default for SupervisorConfig {
    fn default() -> Self {
        Self {
            backoff_min: SUPERVISOR_BACKOFF_MIN,
            backoff_max: SUPERVISOR_BACKOFF_MAX,
            restarts_max: SUPERVISOR_RESTARTS_MAX,
            restarts_window: SUPERVISOR_RESTARTS_WINDOW,
        }
    }
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self { max_bytes: DEAD_LETTERS_MAX_BYTES }
    }
}
