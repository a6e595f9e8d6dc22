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

/// `type: s3`: objects in S3, in a store that speaks its protocol (MinIO and others), in Google's or Azure's, or in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Sink {
    /// The bucket and what all keys begin with, like s3://bucket/prefix, gs://bucket/prefix (Google) or az://container/prefix
    /// (Azure); or a directory, like file:///var/archive.
    pub url: String,
    /// The server, where it is not the vendor's own, like http://minio:9000; Azure's has the account in it, like
    /// http://azurite:10000/account.
    pub endpoint: Option<String>,
    /// The region, of s3://; AWS_REGION, or us-east-1, where absent.
    pub region: Option<String>,
    /// Who writes to s3://. Without it, AWS_ACCESS_KEY_ID and the other variables of Amazon's tools count, then the machine's
    /// role.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<Secret>,
    /// The token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Who writes to gs://: the file of a service account, or of a user. Without it and `credentials_json`,
    /// GOOGLE_APPLICATION_CREDENTIALS counts, then gcloud's own file, then the machine's service account.
    pub credentials_file: Option<PathBuf>,
    /// The same, of a service account, as the text of such a file.
    pub credentials_json: Option<Secret>,
    /// The storage account of az://; AZURE_STORAGE_ACCOUNT where absent.
    pub account: Option<String>,
    /// The account's key. Without it and `sas_token`, AZURE_STORAGE_KEY and the other variables of Azure's tools count, then
    /// the machine's identity.
    pub account_key: Option<Secret>,
    /// A shared access signature instead of the key, like sv=2022-11-02&sr=c&sp=rcw&sig=….
    pub sas_token: Option<Secret>,
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
    /// The storage class, like STANDARD_IA (s3://) or NEARLINE (gs://), or the access tier, like Cool (az://).
    pub storage_class: Option<String>,
    /// How the store of s3:// encrypts what it keeps; as the bucket says where absent, and in the other stores.
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

/// Whose store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// S3, or what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure's Blob Storage.
    Azure,
}

/// Where objects go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Place {
    /// A bucket, or a container, and what keys begin with.
    Bucket {
        /// Whose.
        cloud: Cloud,
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

impl Cloud {
    /// What URLs of its buckets begin with.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3://",
            Self::Google => "gs://",
            Self::Azure => "az://",
        }
    }

    /// What is wrong with the name of a bucket, or of a container.
    fn unfit(self, bucket: &str) -> Option<&'static str> {
        let is_of = |others: &str| {
            bucket.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || others.contains(c))
        };
        match self {
            Self::S3 | Self::Google if bucket.len() < 3 || !is_of(".-_") => {
                Some("has no usable bucket; at least three of a-z, 0-9, `.` and `-` are")
            }
            Self::Azure if bucket.len() < 3 || !is_of("-") => {
                Some("has no usable container; at least three of a-z, 0-9 and `-` are")
            }
            Self::S3 | Self::Google | Self::Azure => None,
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
            credentials_file: None,
            credentials_json: None,
            account: None,
            account_key: None,
            sas_token: None,
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
        const RIGHT: &str = "like `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///var/archive`";
        let Some((scheme, rest)) = self.url.split_once("://") else {
            return Err(format!("is not a URL; {RIGHT}"));
        };
        let cloud = match scheme {
            "s3" => Cloud::S3,
            "gs" => Cloud::Google,
            "az" => Cloud::Azure,
            "file" if rest.starts_with('/') => return Ok(S3Place::Directory(rest.into())),
            "file" => return Err("is not an absolute path; like `file:///var/archive`".to_owned()),
            _ => return Err(format!("begins with none of s3://, gs://, az:// and file://; {RIGHT}")),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some(why) = cloud.unfit(bucket) {
            return Err(format!("{why}, {RIGHT}"));
        }
        Ok(S3Place::Bucket { cloud, bucket: bucket.into(), prefix: prefix.trim_matches('/').into() })
    }
}
