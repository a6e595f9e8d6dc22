//! The keys of `type: clickhouse`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TlsClient;
use crate::config::{Secret, units};

const DATABASE: &str = "default";
const TABLE: &str = "events";
const USER: &str = "default";
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
    /// The table.
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
    /// are written all the same.
    #[serde(default)]
    pub async_insert: bool,
    /// Whether Forebay makes the table where it is missing.
    #[serde(default = "yes")]
    pub manage_schema: bool,
    /// From sending a batch to the word that it is there.
    #[serde(with = "units::duration", default = "timeout")]
    #[schemars(with = "units::Span")]
    pub timeout: Duration,
    /// Certificates, for a URL that begins with https.
    #[serde(default)]
    pub tls: TlsClient,
}

/// Compression of rows on their way to ClickHouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClickhouseCompression {
    /// As they are.
    #[default]
    None,
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
            manage_schema: true,
            timeout: TIMEOUT,
            tls: TlsClient::default(),
        }
    }
}
