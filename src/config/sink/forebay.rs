//! The keys of `type: forebay`.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HTTP_TIMEOUT, TlsClient, http_timeout};
use crate::config::{Secret, units};

/// Half of what a Forebay takes by default (`ingest.max_batch_bytes`), and more than a usual batch has.
const MAX_REQUEST_BYTES: usize = 8 << 20;

/// `type: forebay`: another Forebay, which gets events with their ids and times, and OpenTelemetry as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForebaySink {
    /// Its gRPC, like `https://gateway.example.com:50051`; any of its gRPC ports will do.
    pub endpoint: String,
    /// The token to show, where it asks for one: of the scope `relay`.
    pub token: Option<Secret>,
    /// Further headers of every call.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// How batches are compressed.
    #[serde(default)]
    pub compression: ForebayCompression,
    /// From sending a call to having its answer.
    #[serde(with = "units::duration", default = "http_timeout")]
    #[schemars(with = "units::Span")]
    pub timeout: Duration,
    /// Largest call, before compression; the other side's `ingest.max_batch_bytes` is the most it takes. A larger batch goes in
    /// several; a single event that is larger goes alone.
    #[serde(with = "units::size", default = "max_request_bytes")]
    #[schemars(with = "units::Size")]
    pub max_request_bytes: usize,
    /// Certificates, for an endpoint that begins with https.
    #[serde(default)]
    pub tls: TlsClient,
}

/// Compression of batches on their way to another Forebay, which takes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForebayCompression {
    /// As they are.
    None,
    /// gzip, the fastest level; proxies know it.
    Gzip,
    /// zstd, the fastest level.
    #[default]
    Zstd,
}

// Defaults as the derives want them.

fn max_request_bytes() -> usize {
    MAX_REQUEST_BYTES
}

impl ForebaySink {
    /// A sink that sends to this endpoint, with the defaults of every other key.
    pub fn to(endpoint: String) -> Self {
        let (token, headers, compression, tls) = Default::default();
        let (timeout, max_request_bytes) = (HTTP_TIMEOUT, MAX_REQUEST_BYTES);
        Self { endpoint, token, headers, compression, timeout, max_request_bytes, tls }
    }
}
