//! The keys of `type: pushgateway`.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TlsClient;
use crate::config::units;

/// A push of a few hundred series takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// About 40,000 series of the usual kind.
const STATE_BYTES: usize = 16 << 20;
/// The label that tells processes of one job apart, and the attribute that OpenTelemetry has for it.
const INSTANCE: (&str, &str) = ("instance", "{service.instance.id}");

/// `type: pushgateway`: the latest values of OpenTelemetry metrics, in a Prometheus Pushgateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushgatewaySink {
    /// The gateway, like http://pushgateway:9091; /metrics and the grouping labels are appended.
    pub url: String,
    /// The label `job` of every group; service.namespace and service.name of the resource, with a slash between them, where
    /// absent.
    pub job: Option<String>,
    /// Labels that groups have beside `job`: a text, or {attribute} for an attribute of the resource. A resource that has not got
    /// the attribute is in a group without the label.
    #[serde(default = "grouping")]
    pub grouping: BTreeMap<String, String>,
    /// Whether a push replaces the whole group, or only metrics of the same names.
    #[serde(default)]
    pub method: PushMethod,
    /// Whether the groups that were pushed to are deleted when the sink ends: with the process, or because a reload removes it or
    /// changes a key of its gateway.
    #[serde(default)]
    pub delete_on_exit: bool,
    /// How often the metrics of this process, as GET /metrics has them, are pushed as well: in a group of their own, with the job
    /// `forebay` where `job` is absent, and host:port of the HTTP API for {service.instance.id}. Not at all where absent.
    #[serde(default, with = "units::duration_option")]
    #[schemars(with = "Option<units::Span>")]
    pub own_metrics: Option<Duration>,
    /// Headers added to every request, like an authorization.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Memory for the latest values. Where they are more, groups that were not heard of for the longest time are forgotten; the
    /// gateway keeps what was pushed of them, until the end where they are deleted then: of groups that were forgotten a sixteenth
    /// of this is kept for their names.
    #[serde(with = "units::size", default = "state_bytes")]
    #[schemars(with = "units::Size")]
    pub state_bytes: usize,
    /// From sending a push to having its answer.
    #[serde(with = "units::duration", default = "timeout")]
    #[schemars(with = "units::Span")]
    pub timeout: Duration,
    /// Certificates, for a URL that begins with https.
    #[serde(default)]
    pub tls: TlsClient,
}

/// How a group is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PushMethod {
    /// Metrics of other names that are in the group stay, until the last series of one of Forebay's ends: only `put` takes that out.
    #[default]
    Post,
    /// The group has only what Forebay knows of it.
    Put,
}

// Defaults as the derives want them.

fn grouping() -> BTreeMap<String, String> {
    BTreeMap::from([(INSTANCE.0.to_owned(), INSTANCE.1.to_owned())])
}

fn state_bytes() -> usize {
    STATE_BYTES
}

fn timeout() -> Duration {
    TIMEOUT
}

impl PushgatewaySink {
    /// A sink to this gateway, with the defaults of every other key.
    pub fn to(url: String) -> Self {
        let (headers, tls) = Default::default();
        Self {
            url,
            job: None,
            grouping: grouping(),
            method: PushMethod::Post,
            delete_on_exit: false,
            own_metrics: None,
            headers,
            state_bytes: STATE_BYTES,
            timeout: TIMEOUT,
            tls,
        }
    }
}
