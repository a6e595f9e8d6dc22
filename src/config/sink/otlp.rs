//! The keys of `type: otlp`, and those of TLS that sinks share.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Compression, HTTP_TIMEOUT, http_timeout};
use crate::config::units;

/// What a Collector and most servers of gRPC take by default. A larger request they would refuse.
const OTLP_MAX_REQUEST_BYTES: usize = 4 << 20;

/// `type: otlp`: a Collector, another Forebay, or whoever else takes OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpSink {
    /// Where to, like http://collector:4317. With http, `/v1/logs` and so on are appended.
    pub endpoint: String,
    /// How requests are carried.
    #[serde(default)]
    pub protocol: OtlpProtocol,
    /// How requests are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// Headers added to every request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// From sending a request to having its answer.
    #[serde(with = "units::duration", default = "http_timeout")]
    #[schemars(with = "units::Span")]
    pub timeout: Duration,
    /// Largest request, before compression; a single record that is larger goes alone.
    #[serde(with = "units::size", default = "otlp_max_request_bytes")]
    #[schemars(with = "units::Size")]
    pub max_request_bytes: usize,
    /// Certificates, for an endpoint that begins with https.
    #[serde(default)]
    pub tls: TlsClient,
}

/// How `type: otlp` carries requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtlpProtocol {
    /// gRPC, usually on port 4317.
    #[default]
    Grpc,
    /// POST requests with protobuf, usually on port 4318.
    Http,
}

/// Certificates of a destination, in files of PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsClient {
    /// Authorities that the server's certificate may be of; those of the system where absent.
    pub ca_file: Option<PathBuf>,
    /// A certificate to show, with its chain; `key_file` has its key.
    pub cert_file: Option<PathBuf>,
    /// The key of the certificate.
    pub key_file: Option<PathBuf>,
}

// Defaults as the derives want them.

fn otlp_max_request_bytes() -> usize {
    OTLP_MAX_REQUEST_BYTES
}

impl OtlpSink {
    /// A sink that sends to this endpoint over gRPC, with the defaults of every other key.
    pub fn to(endpoint: String) -> Self {
        let (protocol, compression, headers, tls) = Default::default();
        let (timeout, max_request_bytes) = (HTTP_TIMEOUT, OTLP_MAX_REQUEST_BYTES);
        Self { endpoint, protocol, compression, headers, timeout, max_request_bytes, tls }
    }
}
