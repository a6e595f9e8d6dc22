//! The keys of `type: postgres`.

mod table;

use std::{error::Error as _, str::FromStr as _, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_postgres::config::{Config, Host, SslMode, SslNegotiation};

pub use self::table::Table;
use super::TlsClient;
use crate::config::units;

/// Where nobody says another name.
const TABLE: &str = "events";
/// A fifth of the connections that a server takes by default.
const POOL_MAX: usize = 20;
/// A batch of the default size takes well under a second; a server that is busy may take many.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Time to reach one address of a server, where the URL does not say; several are tried after each other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// `type: postgres`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresSink {
    /// Where the server is, as libpq takes it: `postgres://user:password@host:5432/database?sslmode=require`. Without
    /// `sslmode`, TLS is required but for hosts on this machine; a server's certificate is always checked.
    pub url: String,
    /// The table, alone or as `schema.table`.
    #[serde(default = "table")]
    pub table: String,
    /// Whether a batch that comes twice, after a crash or an answer that got lost, makes no second rows. It costs a
    /// unique index over `event_id` and a copy through a table of the session.
    #[serde(default = "yes")]
    pub idempotent: bool,
    /// Whether Forebay makes the table, its indexes and columns that are missing.
    #[serde(default = "yes")]
    pub manage_schema: bool,
    /// Whether a table that Forebay makes is partitioned by the events' time. Then an event is one row by its id and its
    /// timestamp together, which PostgreSQL wants of such a key.
    #[serde(default)]
    pub partitions: Partitions,
    /// Whether the table is the event store: `GET /events` is answered from it, and rows older than `retention.days` are
    /// deleted. At most one sink is the store.
    #[serde(default)]
    pub store: bool,
    /// Connections at most: one for each delivery at the same time (`concurrency`) and one for probes; with `store`, the
    /// others are for questions.
    #[serde(default = "pool_max")]
    pub pool_max: usize,
    /// From taking a connection to the word that the batch is there. The server itself gives a statement up after it.
    #[serde(with = "units::duration", default = "timeout")]
    #[schemars(with = "units::Span")]
    pub timeout: Duration,
    /// Certificates, for a connection with TLS.
    #[serde(default)]
    pub tls: TlsClient,
}

/// How a table is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Partitions {
    /// Not at all.
    #[default]
    None,
    /// One partition for each month (UTC) of the events' time, made when the first event of it comes. What is older
    /// than ten years or lies further ahead than one stands in a partition of its own.
    Monthly,
}

// Defaults as the derives want them.

fn table() -> String {
    TABLE.to_owned()
}

fn yes() -> bool {
    true
}

fn pool_max() -> usize {
    POOL_MAX
}

fn timeout() -> Duration {
    TIMEOUT
}

impl PostgresSink {
    /// A sink to this server, with the defaults of every other key.
    pub fn to(url: String) -> Self {
        Self {
            url,
            table: table(),
            idempotent: true,
            manage_schema: true,
            partitions: Partitions::None,
            store: false,
            pool_max: POOL_MAX,
            timeout: TIMEOUT,
            tls: TlsClient::default(),
        }
    }

    /// How to reach the server.
    ///
    /// # Errors
    /// What is wrong with the URL, without the URL: it may have a password in it.
    pub fn connection(&self) -> Result<Config, String> {
        let mut config = Config::from_str(&self.with_known_mode()).map_err(|error| {
            let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            let is_of_file = why.contains("sslrootcert") || why.contains("sslcert") || why.contains("sslkey");
            let hint = if is_of_file { "; certificates are named under `tls`" } else { "" };
            format!("cannot be read: {why}{hint}")
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("names no host; like `postgres://user@host/database`".to_owned());
        }
        if config.get_application_name().is_none() {
            config.application_name("forebay");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        // The library's default would go on without TLS where somebody in between says that the server has none.
        if config.get_ssl_mode() == SslMode::Prefer {
            let is_near = config.get_hosts().iter().all(is_this_machine);
            config.ssl_mode(if is_near { SslMode::Disable } else { SslMode::Require });
        }
        if config.get_ssl_negotiation() == SslNegotiation::Direct && config.get_ssl_mode() != SslMode::Require
        {
            return Err("has sslnegotiation=direct, which needs sslmode=require".to_owned());
        }
        Ok(config)
    }

    /// The URL in words that the library knows. A user or a password, which stand before any parameter, stay as they are.
    fn with_known_mode(&self) -> String {
        let start = if self.url.contains("://") { self.url.find('?').unwrap_or(self.url.len()) } else { 0 };
        let (before, parameters) = self.url.split_at(start);
        let known = CHECKING_MODES
            .iter()
            .fold(parameters.to_owned(), |known, mode| known.replace(mode, "sslmode=require"));
        format!("{before}{known}")
    }
}

/// The modes of libpq that check a certificate, which the library does not know by name and we always do.
const CHECKING_MODES: [&str; 2] = ["sslmode=verify-full", "sslmode=verify-ca"];

fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}
