//! The keys of `type: clickhouse`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TlsClient;
use crate::config::{BatchConfig, Secret, units};

const DATABASE: &str = "default";
const TABLE: &str = "events";
const USER: &str = "default";
/// What the server's authors advise for an insert are tens of thousands of rows: each makes a part that has to be merged.
const BATCH_MAX_EVENTS: usize = 50_000;
/// Of events of usual size, about as many.
const BATCH_MAX_BYTES: usize = 8 << 20;
/// A batch of the default size takes well under a second; a server that merges may take many.
const TIMEOUT: Duration = Duration::from_secs(60);

/// `type: clickhouse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClickhouseSink {
    /// The server's HTTP interface, like http://clickhouse:8123.
    pub url: String,
    /// The database; it has to be there.
    #[serde(default = "database")]
    pub database: String,
    /// The table of events.
    #[serde(default = "table")]
    pub table: String,
    /// Who writes.
    #[serde(default = "user")]
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// How rows are compressed on their way.
    #[serde(default)]
    pub compression: ClickhouseCompression,
    /// Whether the server may gather rows of several inserts before it writes them (`async_insert`). It answers when they
    /// are written all the same. Before 26.2 it does not know each of them by its token, so a batch that comes again may be there
    /// twice until the table is merged.
    #[serde(default)]
    pub async_insert: bool,
    /// Where logs, metrics and traces of OpenTelemetry go.
    #[serde(default)]
    pub otel: ClickhouseOtel,
    /// Whether Forebay makes tables where they are missing.
    #[serde(default = "yes")]
    pub manage_schema: bool,
    /// Age at which the server removes rows, in tables that Forebay makes; for ever where absent.
    #[serde(with = "units::duration_option", default)]
    #[schemars(with = "Option<units::Span>")]
    pub ttl: Option<Duration>,
    /// From sending a batch to the word that it is there.
    #[serde(with = "units::duration", default = "timeout")]
    #[schemars(with = "units::Span")]
    pub timeout: Duration,
    /// Certificates, for a URL that begins with https.
    #[serde(default)]
    pub tls: TlsClient,
}

/// Where items of OpenTelemetry go in ClickHouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClickhouseOtel {
    /// To `otel_logs`, `otel_traces` and `otel_metrics_…`, in the layout of the Collector's exporter.
    #[default]
    Tables,
    /// To the table of events, a row each.
    Events,
}

/// Compression of rows on their way to ClickHouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClickhouseCompression {
    /// As they are.
    #[default]
    None,
    /// ClickHouse's own blocks of lz4, which cost the least; every server takes them.
    Lz4,
    /// gzip, the fastest level; every server takes it.
    Gzip,
    /// zstd, the fastest level; current servers take it.
    Zstd,
}

// Defaults as the derives want them.

fn database() -> String {
    DATABASE.to_owned()
}

fn table() -> String {
    TABLE.to_owned()
}

fn user() -> String {
    USER.to_owned()
}

fn yes() -> bool {
    true
}

fn timeout() -> Duration {
    TIMEOUT
}

impl ClickhouseSink {
    /// Its batches, where nobody says otherwise: larger than those of `all`, and no later.
    pub fn batch_default(all: &BatchConfig) -> BatchConfig {
        BatchConfig { max_events: BATCH_MAX_EVENTS, max_bytes: BATCH_MAX_BYTES, max_wait: all.max_wait }
    }

    /// A sink to this server, with the defaults of every other key.
    pub fn to(url: String) -> Self {
        Self {
            url,
            database: database(),
            table: table(),
            user: user(),
            password: None,
            compression: ClickhouseCompression::None,
            async_insert: false,
            otel: ClickhouseOtel::Tables,
            manage_schema: true,
            ttl: None,
            timeout: TIMEOUT,
            tls: TlsClient::default(),
        }
    }
}
