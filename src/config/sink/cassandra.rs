//! The keys of `type: cassandra`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Secret, units};

const EVENTS: &str = "events";
const METRICS: &str = "metrics";
const TRACES: &str = "traces_overflow";
const HELD: &str = "held";

/// A partition of a service that says a hundred things a second is some 100 MB large then, which is as much as Cassandra
/// bears well; one of a day would be that at four a second.
const EVENTS_BUCKET: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The first of these attributes that a resource has says where it runs.
const NODE_ID: [&str; 4] = ["host.name", "host.id", "k8s.node.name", "service.instance.id"];
/// And these for whom; the last one is what a token's tenant is put under.
const CUSTOMER_ID: [&str; 4] = ["customer.id", "customer_id", "tenant.id", "tenant"];

/// As many as keep some nodes busy without filling their queues.
const REQUESTS_MAX: usize = 64;
/// A batch of rows takes some milliseconds; a node that collects its garbage may take seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// `type: cassandra`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CassandraSink {
    /// Some nodes of the cluster, as host or host:port; the others are asked for there.
    pub hosts: Vec<String>,
    /// The datacenter that is written to; where absent, the only one there is.
    pub datacenter: Option<String>,
    /// The keyspace.
    pub keyspace: String,
    /// Who writes, where the cluster asks.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Replicas that have to have a row before it counts as delivered.
    #[serde(default)]
    pub consistency: Consistency,
    /// Copies of each row in a keyspace that Forebay makes; where absent 3, or as many as the datacenter has nodes.
    pub replication_factor: Option<usize>,
    /// Whether Forebay makes the keyspace, the tables, and columns of theirs that are missing.
    #[serde(default = "yes")]
    pub manage_schema: bool,
    /// The table of events and log records.
    #[serde(default = "events")]
    pub events_table: String,
    /// The table of data points of metrics.
    #[serde(default = "metrics")]
    pub metrics_table: String,
    /// The table of spans.
    #[serde(default = "traces")]
    pub traces_table: String,
    /// The table of batches that are held for other sinks.
    #[serde(default = "held")]
    pub held_table: String,
    /// Whether the events of such a batch are rows of the other tables, too.
    #[serde(default = "yes")]
    pub held_rows: bool,
    /// Time after which a row is gone, in a table of events that Forebay makes; null keeps it.
    #[serde(with = "units::duration_option", default = "month")]
    #[schemars(with = "Option<units::Span>")]
    pub events_ttl: Option<Duration>,
    /// The same for metrics.
    #[serde(with = "units::duration_option", default = "month")]
    #[schemars(with = "Option<units::Span>")]
    pub metrics_ttl: Option<Duration>,
    /// The same for spans.
    #[serde(with = "units::duration_option", default = "week")]
    #[schemars(with = "Option<units::Span>")]
    pub traces_ttl: Option<Duration>,
    /// Time whose events of one service are one partition; who reads has to know it.
    #[serde(with = "units::duration", default = "events_bucket")]
    #[schemars(with = "units::Span")]
    pub events_bucket: Duration,
    /// Attributes of a resource, the first of which that is there is a metric's node_id; its service where none is.
    #[serde(default = "node_id")]
    pub node_id: Vec<String>,
    /// The same for its customer_id; there is none where none is there.
    #[serde(default = "customer_id")]
    pub customer_id: Vec<String>,
    /// How requests are compressed.
    #[serde(default)]
    pub compression: CassandraCompression,
    /// Requests of one delivery at the same time.
    #[serde(default = "requests_max")]
    pub requests_max: usize,
    /// Time for one request; a delivery takes several.
    #[serde(with = "units::duration", default = "timeout")]
    #[schemars(with = "units::Span")]
    pub timeout: Duration,
}

/// Replicas that have to have a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Not even one: a note of it at any node will do.
    Any,
    /// One.
    One,
    /// Two.
    Two,
    /// Three.
    Three,
    /// Most of all.
    Quorum,
    /// All.
    All,
    /// Most of those of the datacenter.
    #[default]
    LocalQuorum,
    /// Most of those of each datacenter.
    EachQuorum,
    /// One of the datacenter.
    LocalOne,
}

/// Compression of requests to Cassandra.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CassandraCompression {
    /// As they are.
    #[default]
    None,
    /// LZ4.
    Lz4,
}

// Defaults as the derives want them.

fn yes() -> bool {
    true
}

fn events() -> String {
    EVENTS.to_owned()
}

fn metrics() -> String {
    METRICS.to_owned()
}

fn traces() -> String {
    TRACES.to_owned()
}

fn held() -> String {
    HELD.to_owned()
}

fn month() -> Option<Duration> {
    Some(30 * DAY)
}

fn week() -> Option<Duration> {
    Some(7 * DAY)
}

fn events_bucket() -> Duration {
    EVENTS_BUCKET
}

fn node_id() -> Vec<String> {
    NODE_ID.map(str::to_owned).into()
}

fn customer_id() -> Vec<String> {
    CUSTOMER_ID.map(str::to_owned).into()
}

fn requests_max() -> usize {
    REQUESTS_MAX
}

fn timeout() -> Duration {
    TIMEOUT
}

impl CassandraSink {
    /// A sink to this keyspace, with the defaults of every other key.
    pub fn to(host: String, keyspace: String) -> Self {
        Self {
            hosts: vec![host],
            datacenter: None,
            keyspace,
            user: None,
            password: None,
            consistency: Consistency::default(),
            replication_factor: None,
            manage_schema: true,
            events_table: events(),
            metrics_table: metrics(),
            traces_table: traces(),
            held_table: held(),
            held_rows: true,
            events_ttl: month(),
            metrics_ttl: month(),
            traces_ttl: week(),
            events_bucket: EVENTS_BUCKET,
            node_id: node_id(),
            customer_id: customer_id(),
            compression: CassandraCompression::None,
            requests_max: REQUESTS_MAX,
            timeout: TIMEOUT,
        }
    }
}
