//! The configuration: what can be said in `forebay.yaml`, what holds where nothing is said, and what is
//! wrong with it, in words that name the file, the line and the key.
//!
//! A file (YAML, TOML or JSON by its extension) becomes a tree with lines (`tree`), variables are
//! substituted in it (`substitute`), typed values are read out of it (`typed`), and these are checked
//! (`check`). The environment is looked at through `${VAR}` only.

mod admin;
mod check;
mod diff;
mod jetstream;
mod load;
mod schema;
mod sections;
mod security;
mod sink;
mod substitute;
mod toml;
mod tree;
mod typed;
mod units;
mod write;
mod yaml;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use admin::{AdminConfig, Secret};
pub use diff::Changes;
pub use jetstream::JetstreamConfig;
pub use load::{ConfigError, Format, Problem, TokensFile};
pub use schema::json_schema;
pub use sections::{
    Backend, BatchConfig, BufferConfig, CorsConfig, DeadLettersConfig, Durability, HttpConfig, IngestConfig,
    LimitsConfig, LogConfig, LogFormat, OtlpConfig, OtlpListen, RateLimit, RetentionConfig, SupervisorConfig,
};
pub use security::{
    AuthConfig, ClientAuth, Network, PublicRoute, RefusalLimit, Scope, TlsConfig, TokenConfig, TokenHash,
    TokenLimits,
};
pub use sink::{
    BatchOverride, BlackholeSink, BreakerConfig, CassandraCompression, CassandraSink, ClickhouseCompression,
    ClickhouseOtel, ClickhouseSink, Cloud, Compression, Concurrency, Consistency, ConsoleSink, FieldTests,
    Fields, FieldsProblem, FileSink, ForebayCompression, ForebaySink, HttpEncoding, HttpSink, KeyParts,
    KeyTemplate, Literal, NatsEncoding, NatsSink, OtlpProtocol, OtlpSink, Partitions, PostgresSink,
    PostgresTable, PushMethod, PushgatewaySink, RetryConfig, S3Encryption, S3Format, S3Place, S3Sink,
    SinkConfig, SinkKind, StoreSink, SubjectTemplate, Tests, TlsClient, When, WhenFull, WhenProblem,
    WhenSignal,
};
pub use substitute::Environment;
pub use tree::KeyPath;
pub(crate) use units::parse_duration;
pub use write::defaults_yaml;
pub(crate) use write::quoted;

/// Kubernetes gives a pod 30 s by default before it kills it; 5 s stay for the process itself.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);

/// The configuration of Forebay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where everything that has to survive is kept; relative to the working directory.
    pub data_dir: PathBuf,
    /// Time for an orderly end. What is not delivered by then stays in the journal.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub shutdown_timeout: Duration,
    /// What Forebay says about itself.
    pub log: LogConfig,
    /// The HTTP server.
    pub http: HttpConfig,
    /// OpenTelemetry.
    pub otlp: OtlpConfig,
    /// Batches over gRPC.
    pub ingest: IngestConfig,
    /// TLS of every listener; on where there is a certificate.
    pub tls: TlsConfig,
    /// Who may do what: tokens, and the networks they may come from. Applied live.
    pub auth: AuthConfig,
    /// What makes events durable before they are answered for.
    pub buffer: BufferConfig,
    /// When a batch is sent: at whichever limit is reached first. A sink may have limits of its own.
    pub batch: BatchConfig,
    /// How long events are kept. Applied live.
    pub retention: RetentionConfig,
    /// Limits of request rates by the class of the route; no limit where a class is absent. Applied live.
    pub limits: LimitsConfig,
    /// How actors that panicked are restarted.
    pub supervisor: SupervisorConfig,
    /// Events that a destination refused for good; they can be looked at and replayed.
    pub dead_letters: DeadLettersConfig,
    /// What may be done to the running process over HTTP.
    pub admin: AdminConfig,
    /// Where events go, by name: every sink gets every event.
    pub sinks: BTreeMap<String, SinkConfig>,
}

impl Config {
    /// Where gRPC and OpenTelemetry are listened for, by the key that says so.
    pub fn grpc_addresses(&self) -> Vec<(&'static str, std::net::SocketAddr)> {
        let ingest = self.ingest.grpc.listen.map(|address| ("ingest.grpc.listen", address));
        self.otlp.addresses().into_iter().chain(ingest).collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "./data".into(),
            shutdown_timeout: SHUTDOWN_TIMEOUT,
            log: LogConfig::default(),
            http: HttpConfig::default(),
            otlp: OtlpConfig::default(),
            ingest: IngestConfig::default(),
            tls: TlsConfig::default(),
            auth: AuthConfig::default(),
            buffer: BufferConfig::default(),
            batch: BatchConfig::default(),
            retention: RetentionConfig::default(),
            limits: LimitsConfig::default(),
            supervisor: SupervisorConfig::default(),
            dead_letters: DeadLettersConfig::default(),
            admin: AdminConfig::default(),
            sinks: [("events".to_owned(), SinkConfig::new(SinkKind::Store(StoreSink {})))].into(),
        }
    }
}
