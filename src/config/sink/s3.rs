//! The keys of `type: s3`.

mod key;

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::key::{KeyParts, KeyTemplate};
use super::TlsClient;
use crate::config::{BatchConfig, Secret, units};

/// One directory a day and hour, as table formats find them, below one for each service.
const KEY: &str = "{signal}/{service}/date=%Y-%m-%d/hour=%H/{stream}-{first}-{last}.{extension}";
/// An object of the default size takes a second or two; a store that throttles may take many.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What an object is made of where nobody says otherwise: the default batch would make thousands of small objects an
/// hour, which cost by the request and are slow to read.
const BATCH: BatchConfig =
    BatchConfig { max_events: 1_000_000, max_bytes: 16 * 1024 * 1024, max_wait: Duration::from_secs(300) };

/// `type: s3`: objects in S3, in a store that speaks its protocol (MinIO and others), or in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Sink {
    /// The bucket and what all keys begin with, like s3://bucket/prefix; or a directory, like file:///var/archive.
    pub url: String,
    /// The server, where it is not Amazon's, like http://minio:9000.
    pub endpoint: Option<String>,
    /// The region; AWS_REGION, or us-east-1, where absent.
    pub region: Option<String>,
    /// Who writes. Without it, AWS_ACCESS_KEY_ID and the other variables of Amazon's tools count, then the machine's role.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<Secret>,
    /// The token of temporary credentials.
    pub session_token: Option<Secret>,
    /// What objects are made of.
    #[serde(default)]
    pub format: S3Format,
    /// The key of an object, behind the prefix: {signal} (events, logs, metrics or traces), {service}, {stream} (this data
    /// directory), {first} and {last} (positions of the batch), {extension}, and %Y, %m, %d, %H of the events' time in UTC.
    #[serde(default = "key_default")]
    pub key: String,
    /// Whether an object that is there already is written again. Where not, it counts as delivered: a key is that of the
    /// same events.
    #[serde(default = "yes")]
    pub overwrite: bool,
    /// The storage class, like STANDARD_IA or GLACIER_IR.
    pub storage_class: Option<String>,
    /// How the store encrypts what it keeps; as the bucket says where absent.
    pub encryption: Option<S3Encryption>,
    /// The key for `encryption: kms`; the account's own where absent.
    pub kms_key_id: Option<String>,
    /// Time for one request; a large object takes several.
    #[serde(with = "units::duration", default = "timeout")]
    #[schemars(with = "units::Span")]
    pub timeout: Duration,
    /// Certificates, for an endpoint that begins with https.
    #[serde(default)]
    pub tls: TlsClient,
}

/// What an object is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum S3Format {
    /// One event a line, in JSON, compressed by gzip.
    #[default]
    Ndjson,
    /// Parquet, compressed by zstd.
    Parquet,
}

/// Encryption by the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum S3Encryption {
    /// With keys of the store's own (SSE-S3).
    Aes256,
    /// With a key of the key service (SSE-KMS).
    Kms,
}

/// Where objects go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Place {
    /// A bucket, and what keys begin with.
    Bucket {
        /// Its name.
        bucket: String,
        /// Without slashes around it.
        prefix: String,
    },
    /// A directory of this machine.
    Directory(PathBuf),
}

// Defaults as the derives want them.

fn key_default() -> String {
    KEY.to_owned()
}

fn yes() -> bool {
    true
}

fn timeout() -> Duration {
    TIMEOUT
}

impl S3Format {
    /// What the names of its objects end with.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson.gz",
            Self::Parquet => "parquet",
        }
    }
}

impl S3Sink {
    /// Its batches, where nobody says otherwise.
    pub const fn batch_default() -> BatchConfig {
        BATCH
    }

    /// A sink to this bucket or directory, with the defaults of every other key.
    pub fn to(url: String) -> Self {
        Self {
            url,
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            format: S3Format::Ndjson,
            key: key_default(),
            overwrite: true,
            storage_class: None,
            encryption: None,
            kms_key_id: None,
            timeout: TIMEOUT,
            tls: TlsClient::default(),
        }
    }

    /// Where objects go.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn place(&self) -> Result<S3Place, String> {
        const RIGHT: &str = "like `s3://bucket/prefix` or `file:///var/archive`";
        let Some((scheme, rest)) = self.url.split_once("://") else {
            return Err(format!("is not a URL; {RIGHT}"));
        };
        match scheme {
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let allowed =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
                if bucket.len() < 3 || !bucket.chars().all(allowed) {
                    return Err(format!(
                        "has no usable bucket; at least three of a-z, 0-9, `.` and `-` are, {RIGHT}"
                    ));
                }
                Ok(S3Place::Bucket { bucket: bucket.into(), prefix: prefix.trim_matches('/').into() })
            }
            "file" if rest.starts_with('/') => Ok(S3Place::Directory(rest.into())),
            "file" => Err("is not an absolute path; like `file:///var/archive`".to_owned()),
            _ => Err(format!("begins with neither s3:// nor file://; {RIGHT}")),
        }
    }
}
