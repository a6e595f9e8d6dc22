//! The clients of the stores: who writes, as each vendor has it, and below them one HTTP client, which hears what the library
//! keeps to itself. They try everything once: trying again is the sink's.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use forebay_actors::{destination::DeliveryError, examination::ClockReading};
use http::HeaderMap;
use object_store::{
    ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService},
    gcp::GoogleCloudStorageBuilder,
};
use tokio::time::Instant;

use super::super::{
    chain,
    http::{IDLE_MAX, clock_of, endpoint_url, is_loopback, retry_after},
    tls, unbuildable,
};
use crate::config::{Cloud, S3Encryption, S3Sink};

/// Where neither the configuration nor the environment says; also what stores of others take for granted.
const REGION: &str = "us-east-1";
const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
/// Variables that say who writes, and where the bucket is, where the configuration does not. All others of the vendors' tools
/// are left alone: those for endpoints would win over the configuration's own.
const AMAZONS: [&str; 9] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
const GOOGLES: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// The names of Azure's command line, and those of its libraries.
const AZURES: [(&str, AzureConfigKey); 8] = [
    ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey),
    ("AZURE_STORAGE_ACCOUNT_KEY", AzureConfigKey::AccessKey),
    ("AZURE_STORAGE_SAS_TOKEN", AzureConfigKey::SasKey),
    ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
    ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
    ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
    ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
    ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
];
const ACCOUNTS: [&str; 2] = ["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"];

/// What the store said beside its answers, whichever request it was that it answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Last>>);

#[derive(Debug, Default)]
struct Last {
    clock: Option<ClockReading>,
    /// When it wants to be asked again.
    not_before: Option<Instant>,
}

/// Gives the library's clients the HTTP client of all destinations: its TLS, its roots, no redirects.
#[derive(Debug, Clone)]
struct Connector {
    client: reqwest::Client,
    heard: Heard,
}

/// The client of a bucket.
///
/// # Errors
/// [`Cause::Build`](forebay_actors::destination::Cause::Build) where options, certificates or credentials cannot be used.
pub(super) fn of(
    options: &S3Sink,
    cloud: Cloud,
    bucket: &str,
    heard: &Heard,
) -> Result<Arc<dyn ObjectStore>, DeliveryError> {
    let connector = Connector::new(options, heard.clone())?;
    // Without the slash, which would stand twice in every request.
    let endpoint = options.endpoint.as_deref().map(|endpoint| endpoint.trim_end_matches('/'));
    match cloud {
        Cloud::S3 => amazon(options, bucket, endpoint, connector),
        Cloud::Google => google(options, bucket, endpoint, connector),
        Cloud::Azure => azure(options, bucket, endpoint, connector),
    }
}

fn amazon(
    options: &S3Sink,
    bucket: &str,
    endpoint: Option<&str>,
    connector: Connector,
) -> Result<Arc<dyn ObjectStore>, DeliveryError> {
    let region = options.region.clone().or_else(|| REGIONS.into_iter().find_map(variable));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_http_connector(connector)
        .with_retry(once())
        .with_region(region.unwrap_or_else(|| REGION.to_owned()));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    if let (Some(id), Some(secret)) = (&options.access_key_id, &options.secret_access_key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret.reveal());
        if let Some(token) = &options.session_token {
            builder = builder.with_token(token.reveal());
        }
    } else {
        for name in AMAZONS {
            let key = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>();
            if let (Ok(key), Some(value)) = (key, variable(name)) {
                builder = builder.with_config(key, value);
            }
        }
    }
    builder = match (options.encryption, &options.kms_key_id) {
        (None, _) => builder,
        (Some(S3Encryption::Aes256), _) => encrypted(builder, "AES256")?,
        (Some(S3Encryption::Kms), Some(key)) => builder.with_sse_kms_encryption(key),
        (Some(S3Encryption::Kms), None) => encrypted(builder, "aws:kms")?,
    };
    Ok(Arc::new(builder.build().map_err(|error| no_client(&error))?))
}

fn encrypted(builder: AmazonS3Builder, how: &str) -> Result<AmazonS3Builder, DeliveryError> {
    let key = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>();
    let key =
        key.map_err(|error| unbuildable(format!("encryption cannot be asked for: {}", chain(&error))))?;
    Ok(builder.with_config(key, how))
}

fn google(
    options: &S3Sink,
    bucket: &str,
    endpoint: Option<&str>,
    connector: Connector,
) -> Result<Arc<dyn ObjectStore>, DeliveryError> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_http_connector(connector)
        .with_retry(once());
    if let Some(endpoint) = endpoint {
        builder = builder.with_base_url(endpoint);
    }
    let named = options.credentials_file.as_ref().map(|path| path.display().to_string());
    builder = match (&options.credentials_json, named.or_else(|| variable(GOOGLES))) {
        (Some(json), _) => builder.with_service_account_key(json.reveal()),
        (None, Some(path)) => builder.with_application_credentials(path),
        // The library looks for gcloud's own file, and asks the machine.
        (None, None) => builder,
    };
    Ok(Arc::new(builder.build().map_err(|error| no_client(&error))?))
}

fn azure(
    options: &S3Sink,
    container: &str,
    endpoint: Option<&str>,
    connector: Connector,
) -> Result<Arc<dyn ObjectStore>, DeliveryError> {
    let account = options.account.clone().or_else(|| ACCOUNTS.into_iter().find_map(variable));
    let account = account.ok_or_else(|| {
        unbuildable(format!("whose az://{container} is, is not said; give `account`, or {}", ACCOUNTS[0]))
    })?;
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(container)
        .with_http_connector(connector)
        .with_retry(once());
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.to_owned()).with_allow_http(endpoint.starts_with("http://"));
    }
    builder = match (&options.account_key, &options.sas_token) {
        (Some(key), _) => builder.with_access_key(key.reveal()),
        (None, Some(token)) => builder.with_config(AzureConfigKey::SasKey, token.reveal()),
        // Where none of them is set, the library asks the machine.
        (None, None) => AZURES
            .into_iter()
            .filter_map(|(name, key)| Some((key, variable(name)?)))
            .fold(builder, |builder, (key, value)| builder.with_config(key, value)),
    };
    Ok(Arc::new(builder.build().map_err(|error| no_client(&error))?))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn no_client(error: &object_store::Error) -> DeliveryError {
    unbuildable(format!("no client can be set up: {}", chain(error)))
}

// === impl Heard ===

impl Heard {
    /// What the store's clock said in its last answer.
    pub(super) fn clock(&self) -> Option<ClockReading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clock
    }

    /// How long it does not want to be asked.
    pub(super) fn wait(&self) -> Option<Duration> {
        let not_before = self.0.lock().unwrap_or_else(PoisonError::into_inner).not_before?;
        Some(not_before.saturating_duration_since(Instant::now())).filter(|wait| !wait.is_zero())
    }

    fn answer(&self, headers: &HeaderMap, asked: Instant) {
        let clock = clock_of(headers, asked);
        let not_before = retry_after(headers).map(|wait| Instant::now() + wait);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.clock = clock;
        // An answer that asks for less takes nothing back: others of the same batch were on their way beside it.
        last.not_before = last.not_before.max(not_before);
    }
}

// === impl Connector ===

impl Connector {
    fn new(options: &S3Sink, heard: Heard) -> Result<Self, DeliveryError> {
        let mut client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_with(&options.tls)?)
            .timeout(options.timeout)
            .connect_timeout(options.timeout.min(Duration::from_secs(10)))
            .pool_idle_timeout(IDLE_MAX)
            .redirect(reqwest::redirect::Policy::none());
        let endpoint = options.endpoint.as_deref().map(endpoint_url).transpose()?;
        if endpoint.as_ref().is_some_and(is_loopback) {
            client = client.no_proxy();
        }
        let client = client.build();
        let failed = |e: reqwest::Error| unbuildable(format!("no HTTP client can be set up: {}", chain(&e)));
        Ok(Self { client: client.map_err(failed)?, heard })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let asked = Instant::now();
        let answer = self.client.call(request).await?;
        self.heard.answer(answer.headers(), asked);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: two uploads of a batch are throttled and done side by side; the wait passes.
    /// Guarantee: the wait holds whichever answer came last, and is over when it is.
    #[tokio::test(start_paused = true)]
    async fn a_wait_is_kept_beside_other_answers() {
        let heard = Heard::default();
        assert_eq!(heard.wait(), None);
        let mut throttled = HeaderMap::new();
        throttled.insert(http::header::RETRY_AFTER, "7".parse().unwrap());
        heard.answer(&throttled, Instant::now());
        heard.answer(&HeaderMap::new(), Instant::now());
        assert_eq!(heard.wait(), Some(Duration::from_secs(7)));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(heard.wait(), None);
    }

    /// What a sink lacks to be built is said; what it has is not shown.
    #[test]
    fn what_no_client_can_be_made_of_is_said() {
        let said = |cloud: Cloud, change: &dyn Fn(&mut S3Sink)| {
            let mut sink = S3Sink::to(format!("{}archive", cloud.scheme()));
            change(&mut sink);
            of(&sink, cloud, "archive", &Heard::default()).unwrap_err().message
        };
        let missing = said(Cloud::Google, &|sink| sink.credentials_file = Some("/missing/file.json".into()));
        assert!(missing.contains("/missing/file.json") && missing.contains("No such file"), "{missing}");
        let json = said(Cloud::Google, &|sink| {
            sink.credentials_json = Some(crate::config::Secret::new(r#"{"private_key": "s3cret"}"#));
        });
        assert!(json.contains("missing field") && !json.contains("s3cret"), "{json}");
        let account = said(Cloud::Azure, &|_| ());
        assert!(account.contains("give `account`, or AZURE_STORAGE_ACCOUNT"), "{account}");
    }
}
