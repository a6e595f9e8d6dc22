//! The sinks of a configuration: what every sink has, and what each type adds.

mod cassandra;
mod clickhouse;
mod concurrency;
mod fields;
mod forebay;
mod http;
mod nats;
mod otlp;
mod postgres;
mod pushgateway;
mod read;
mod s3;
mod when;

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    cassandra::{CassandraCompression, CassandraSink, Consistency},
    clickhouse::{ClickhouseCompression, ClickhouseOtel, ClickhouseSink},
    concurrency::Concurrency,
    fields::{Fields, FieldsProblem},
    forebay::{ForebayCompression, ForebaySink},
    http::{HttpEncoding, HttpSink},
    nats::{NatsEncoding, NatsSink, SubjectTemplate},
    otlp::{OtlpProtocol, OtlpSink, TlsClient},
    postgres::{Partitions, PostgresSink, Table as PostgresTable},
    pushgateway::{PushMethod, PushgatewaySink},
    s3::{Cloud, KeyParts, KeyTemplate, S3Encryption, S3Format, S3Place, S3Sink},
    when::{FieldTests, Literal, Tests, When, WhenProblem, WhenSignal},
};
use super::{BatchConfig, units};

/// One request at a time keeps a destination's order.
const CONCURRENCY: usize = 1;
/// Broadcast batches of 512 KiB: 4 MiB for a sink that is just slow; one that lags reads the journal.
const MAILBOX_BATCHES: usize = 8;
/// Longer than a connection's hiccup, shorter than a restart.
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(500);
/// After an outage of any length, delivery goes on within half a minute.
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Doubling from 500 ms, five failures are 15 s: no hiccup any more.
const BREAKER_FAILURES: u32 = 5;
/// One probe in half a minute is no load for a destination that is coming up.
const BREAKER_OPEN_FOR: Duration = Duration::from_secs(30);
/// One success may be chance.
const BREAKER_SUCCESSES: u32 = 2;
/// The usual time after which proxies give up; a healthy destination answers in one.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// One sink: where events go, and how patiently. `type` says what keys there are beside the common ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SinkConfig {
    /// The type and its own keys.
    #[serde(flatten)]
    pub kind: SinkKind,
    /// Which events it takes; all of them where absent.
    pub when: Option<When>,
    /// Which keys of their metadata go out, and under which name; all of them where absent.
    pub fields: Option<Fields>,
    /// What happens when the journal is full because this sink lags.
    #[schemars(default)]
    pub when_full: WhenFull,
    /// Limits of its batches, where they differ from `batch`.
    pub batch: Option<BatchOverride>,
    /// Deliveries at the same time: a number, or bounds within which the destination's answers decide. With more than 1,
    /// events may arrive out of order.
    #[schemars(default = "concurrency")]
    pub concurrency: Concurrency,
    /// Batches that may wait in memory; a sink that is further behind reads the journal.
    #[schemars(default = "mailbox_batches")]
    pub mailbox_batches: usize,
    /// What happens after a failure that may pass.
    #[schemars(default)]
    pub retry: RetryConfig,
    /// When to stop trying for a while.
    #[schemars(default)]
    pub breaker: BreakerConfig,
    /// The sink that holds batches while the breaker is open; they are read back when it has closed.
    pub fallback: Option<String>,
    /// The sink that batches go to instead, for good, while the breaker is open.
    pub on_failure: Option<String>,
    /// Whether it gets nothing of its own, and is only there for sinks that name it.
    #[schemars(default)]
    pub only_as_fallback: bool,
}

/// The keys that every type of sink has; beside them, `type`.
pub(super) const COMMON_KEYS: [&str; 12] = [
    "type",
    "when",
    "fields",
    "when_full",
    "batch",
    "concurrency",
    "mailbox_batches",
    "retry",
    "breaker",
    "fallback",
    "on_failure",
    "only_as_fallback",
];

/// What `type` may be, for people.
pub(super) const SINK_TYPES: &str = "store, http, otlp, forebay, postgres, clickhouse, s3, nats, pushgateway, cassandra, file, console or blackhole";

/// Where a sink delivers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SinkKind {
    /// The embedded event store behind `GET /events`.
    Store(StoreSink),
    /// POST requests.
    Http(HttpSink),
    /// OpenTelemetry, over gRPC or HTTP.
    Otlp(OtlpSink),
    /// Another Forebay.
    Forebay(ForebaySink),
    /// A table of PostgreSQL.
    Postgres(PostgresSink),
    /// Tables of ClickHouse.
    Clickhouse(ClickhouseSink),
    /// Objects in S3, in Google's or Azure's store, or in a directory.
    S3(S3Sink),
    /// Messages in a stream of NATS JetStream.
    Nats(NatsSink),
    /// The latest values of metrics, in a Prometheus Pushgateway.
    Pushgateway(PushgatewaySink),
    /// Tables of Cassandra.
    Cassandra(CassandraSink),
    /// NDJSON files.
    File(FileSink),
    /// NDJSON on standard output.
    Console(ConsoleSink),
    /// Nowhere.
    Blackhole(BlackholeSink),
}

/// Limits of a sink's batches; those of [`BatchConfig`] where absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchOverride {
    /// Events in a batch.
    pub max_events: Option<usize>,
    /// Encoded bytes in a batch.
    #[serde(with = "units::size_option")]
    #[schemars(with = "Option<units::Size>")]
    pub max_bytes: Option<usize>,
    /// How long an event waits for others.
    #[serde(with = "units::duration_option")]
    #[schemars(with = "Option<units::Span>")]
    pub max_wait: Option<Duration>,
}

/// What happens after a failure that may pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Pause before the first retry; doubled at every further one.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub backoff_min: Duration,
    /// Longest pause.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub backoff_max: Duration,
    /// Age at which a batch that still fails is given to the dead letters; null retries for ever.
    #[serde(with = "units::duration_option")]
    #[schemars(with = "Option<units::Span>")]
    pub max_age: Option<Duration>,
}

/// When to stop trying for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// Failures in a row that open it: nothing is sent any more.
    pub failures: u32,
    /// How long it stays open before the destination is probed.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub open_for: Duration,
    /// Successes in a row that close it again.
    pub successes: u32,
}

/// What to do for this sink when the journal's own byte cap is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Refuse new events (503) until this sink has caught up. Nothing is lost.
    #[default]
    Block,
    /// Let this sink skip its oldest events; they are counted and dead-lettered by range.
    DropOldest,
}

/// Compression of what a sink writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// gzip, the fastest level.
    Gzip,
}

/// `type: file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSink {
    /// The file being written, NDJSON; rotated files get the time of their rotation into the name.
    pub path: PathBuf,
    /// Rotate before the file would grow past this many bytes.
    #[serde(with = "units::size_option", default)]
    #[schemars(with = "Option<units::Size>")]
    pub rotate_bytes: Option<u64>,
    /// Rotate when the file is this old.
    #[serde(with = "units::duration_option", default)]
    #[schemars(with = "Option<units::Span>")]
    pub rotate_every: Option<Duration>,
    /// Compression of rotated files.
    #[serde(default)]
    pub compression: Compression,
    /// Rotated files kept; the oldest beyond are removed. null keeps all.
    pub keep_files: Option<usize>,
}

/// `type: store`: the embedded event store behind `GET /events`, at `<data_dir>/store/events.db`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreSink {}

/// `type: console`: NDJSON on standard output.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsoleSink {}

/// `type: blackhole`: takes everything, keeps nothing; for emergencies and for measuring.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlackholeSink {
    /// Events a second it lets pass; as fast as they come where absent.
    pub rate_events_per_second: Option<u32>,
}

// Defaults as the derives want them.

fn http_timeout() -> Duration {
    HTTP_TIMEOUT
}

fn concurrency() -> Concurrency {
    CONCURRENCY.into()
}

fn mailbox_batches() -> usize {
    MAILBOX_BATCHES
}

// === impl SinkConfig ===

impl SinkConfig {
    /// A sink with the defaults of every key that is not its type's own.
    pub fn new(kind: SinkKind) -> Self {
        Self {
            kind,
            when: None,
            fields: None,
            when_full: WhenFull::default(),
            batch: None,
            concurrency: concurrency(),
            mailbox_batches: MAILBOX_BATCHES,
            retry: RetryConfig::default(),
            breaker: BreakerConfig::default(),
            fallback: None,
            on_failure: None,
            only_as_fallback: false,
        }
    }

    /// The sinks that it names for the time when its breaker is open, by the keys that name them.
    pub fn standbys(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let fallback = self.fallback.as_deref().map(|name| ("fallback", name));
        let on_failure = self.on_failure.as_deref().map(|name| ("on_failure", name));
        fallback.into_iter().chain(on_failure)
    }

    /// The limits of this sink's batches: its own, and where it has none those of its type or of `all`.
    pub fn batch(&self, all: &BatchConfig) -> BatchConfig {
        let own = self.batch.unwrap_or_default();
        let all = &match self.kind {
            SinkKind::S3(_) => S3Sink::batch_default(),
            SinkKind::Clickhouse(_) => ClickhouseSink::batch_default(all),
            _ => *all,
        };
        BatchConfig {
            max_events: own.max_events.unwrap_or(all.max_events),
            max_bytes: own.max_bytes.unwrap_or(all.max_bytes),
            max_wait: own.max_wait.unwrap_or(all.max_wait),
        }
    }
}

impl SinkKind {
    /// What `type` says.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Store(_) => "store",
            Self::Http(_) => "http",
            Self::Otlp(_) => "otlp",
            Self::Forebay(_) => "forebay",
            Self::Postgres(_) => "postgres",
            Self::Clickhouse(_) => "clickhouse",
            Self::S3(_) => "s3",
            Self::Nats(_) => "nats",
            Self::Pushgateway(_) => "pushgateway",
            Self::Cassandra(_) => "cassandra",
            Self::File(_) => "file",
            Self::Console(_) => "console",
            Self::Blackhole(_) => "blackhole",
        }
    }

    /// Where it keeps batches that it holds for other sinks; `None` where it cannot. While it holds some, this must stay the
    /// same, or they would not be found again.
    pub fn holds_at(&self) -> Option<String> {
        match self {
            Self::S3(s3) => {
                let endpoint = s3.endpoint.as_deref().unwrap_or_default();
                Some(format!("{} {}", s3.url, endpoint.trim_end_matches('/')))
            }
            Self::File(file) => Some(file.path.display().to_string()),
            // By its nodes, since a cluster has no name here; in which order they are tried is all the same.
            Self::Cassandra(cassandra) => {
                let mut hosts: Vec<_> = cassandra.hosts.iter().map(String::as_str).collect();
                hosts.sort_unstable();
                Some(format!("{} {}.{}", hosts.join(","), cassandra.keyspace, cassandra.held_table))
            }
            Self::Store(_)
            | Self::Http(_)
            | Self::Otlp(_)
            | Self::Forebay(_)
            | Self::Postgres(_)
            | Self::Clickhouse(_)
            | Self::Nats(_)
            | Self::Pushgateway(_)
            | Self::Console(_)
            | Self::Blackhole(_) => None,
        }
    }
}

/// The types that can hold batches of other sinks, for people.
pub(super) const HOLDING_TYPES: &str = "file, s3 and cassandra";

impl Default for RetryConfig {
    fn default() -> Self {
        Self { backoff_min: RETRY_BACKOFF_MIN, backoff_max: RETRY_BACKOFF_MAX, max_age: None }
    }
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: BREAKER_FAILURES, open_for: BREAKER_OPEN_FOR, successes: BREAKER_SUCCESSES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink is the same after it was written and read, by our own formats and by serde's others.
    #[test]
    fn sinks_round_trip_through_json() {
        let mut sink = SinkConfig::new(SinkKind::File(FileSink {
            path: "out.ndjson".into(),
            rotate_bytes: Some(1 << 20),
            rotate_every: None,
            compression: Compression::Gzip,
            keep_files: Some(3),
        }));
        sink.batch = Some(BatchOverride { max_bytes: Some(1000), ..BatchOverride::default() });
        sink.retry.max_age = Some(Duration::from_secs(7200));
        let text = serde_json::to_string(&sink).unwrap();
        assert!(text.contains(r#""rotate_bytes":"1MiB""#) && text.contains(r#""max_age":"2h""#), "{text}");
        assert_eq!(serde_json::from_str::<SinkConfig>(&text).unwrap(), sink);
    }

    /// The list that errors propose from is what a sink really has.
    #[test]
    fn the_common_keys_are_all_keys_of_a_bare_sink() {
        let sink = serde_json::to_value(SinkConfig::new(SinkKind::Store(StoreSink {}))).unwrap();
        let mut keys: Vec<_> = sink.as_object().unwrap().keys().map(String::as_str).collect();
        let mut common = COMMON_KEYS;
        keys.sort_unstable();
        common.sort_unstable();
        assert_eq!(keys, common);
    }

    #[test]
    fn a_batch_override_replaces_only_what_it_names() {
        let mut sink = SinkConfig::new(SinkKind::Console(ConsoleSink {}));
        let all = BatchConfig::default();
        assert_eq!(sink.batch(&all), all);
        sink.batch = Some(BatchOverride { max_events: Some(7), ..BatchOverride::default() });
        assert_eq!(sink.batch(&all), BatchConfig { max_events: 7, ..all });
    }
}
