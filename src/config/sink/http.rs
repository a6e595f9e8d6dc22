//! `type: http`.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{super::units, Compression, HTTP_TIMEOUT, http_timeout};

/// `type: http`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSink {
    /// Where to POST.
    pub url: String,
    /// How events are written into the body.
    #[serde(default)]
    pub encoding: HttpEncoding,
    /// How the body is compressed.
    #[serde(default)]
    pub compression: Compression,
    /// Headers added to every request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// From sending a request to having its answer.
    #[serde(with = "units::duration", default = "http_timeout")]
    #[schemars(with = "units::Span")]
    pub timeout: Duration,
}

/// Bodies of `type: http`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpEncoding {
    /// One event a line, `application/x-ndjson`.
    #[default]
    Ndjson,
    /// One array, `application/json`.
    Json,
}

impl HttpSink {
    /// A sink that POSTs to this URL, with the defaults of every other key.
    pub fn to(url: String) -> Self {
        let (encoding, compression, headers) = Default::default();
        Self { url, encoding, compression, headers, timeout: HTTP_TIMEOUT }
    }
}
