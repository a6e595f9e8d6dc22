//! The servers that speak the protocol of a cloud each: how a sink is written to one, and what lies in it.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use object_store::{
    ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AwsAuthorizer, AwsCredential},
    azure::MicrosoftAzureBuilder,
    client::{HttpClient, HttpConnector, HttpRequest},
    gcp::GoogleCloudStorageBuilder,
};
use ring::hmac;

use super::{Objects, PATIENCE, objects};
use crate::{services::Service, support::eventually};

/// Who may write.
const SECRET: &str = "secret-123";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::services) enum Kind {
    Minio,
    Gcs,
    Azurite,
}

/// A server with the bucket `archive`.
pub(in crate::services) struct Bucket {
    pub(super) service: Service,
    pub(super) kind: Kind,
}

/// Whom the server knows, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Writer,
    Stranger,
}

/// The library's own client would need TLS, which a server on loopback does not.
#[derive(Debug)]
struct InTheClear;

impl HttpConnector for InTheClear {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build();
        Ok(HttpClient::new(client.unwrap()))
    }
}

impl Kind {
    const fn script(self) -> &'static str {
        match self {
            Self::Minio => "minio",
            Self::Gcs => "gcs",
            Self::Azurite => "azurite",
        }
    }
}

impl Bucket {
    pub(in crate::services) fn start(kind: Kind, test: &str) -> Option<Self> {
        Some(Self { service: Service::start(kind.script(), test)?, kind })
    }

    pub(super) fn start_on_device(kind: Kind, mib: u64, test: &str) -> Option<Self> {
        Some(Self { service: Service::start_on_device(kind.script(), mib, test)?, kind })
    }

    /// Ends it as a crash would, or starts it again.
    pub(in crate::services) fn toggle(&mut self, is_down: bool) {
        match self.kind {
            _ if !is_down => self.service.up(),
            Kind::Minio | Kind::Gcs => self.service.down("kill"),
            // In order: killed, it forgets what it had confirmed.
            Kind::Azurite => self.service.down("stop"),
        }
    }

    /// A sink into `archive`, below `a/b`.
    pub(in crate::services) fn sink(&self, keys: &str) -> String {
        self.sink_as(Who::Writer, "archive", keys)
    }

    pub(super) fn sink_as(&self, who: Who, bucket: &str, keys: &str) -> String {
        self.sink_at(self.service.port, who, bucket, keys)
    }

    /// The same by way of another port.
    pub(super) fn sink_at(&self, port: u16, who: Who, bucket: &str, keys: &str) -> String {
        let own = match self.kind {
            Kind::Minio => format!("access_key_id: forebay, secret_access_key: {}", who.secret()),
            Kind::Gcs => {
                let file = if who == Who::Writer { "service-account.json" } else { "stranger.json" };
                format!("credentials_file: \"{}\"", self.service.dir.path().join(file).display())
            }
            Kind::Azurite => {
                format!("account: forebay, account_key: \"{}\"", STANDARD.encode(who.secret()))
            }
        };
        self.sink_by(port, &own, bucket, keys)
    }

    /// The same with whatever says who writes.
    pub(super) fn sink_by(&self, port: u16, own: &str, bucket: &str, keys: &str) -> String {
        let (scheme, path) = match self.kind {
            Kind::Minio => ("s3", ""),
            Kind::Gcs => ("gs", ""),
            Kind::Azurite => ("az", "/forebay"),
        };
        format!(
            "{{ type: s3, url: \"{scheme}://{bucket}/a/b\", endpoint: \"http://127.0.0.1:{port}{path}\", {own}, \
             {PATIENCE}{keys} }}"
        )
    }

    pub(in crate::services) fn objects(&self) -> Objects {
        objects(&*self.store())
    }

    fn store(&self) -> Box<dyn ObjectStore> {
        let endpoint = format!("http://127.0.0.1:{}", self.service.port);
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        match self.kind {
            Kind::Minio => Box::new(
                AmazonS3Builder::new()
                    .with_endpoint(endpoint)
                    .with_allow_http(true)
                    .with_bucket_name("archive")
                    .with_region("us-east-1")
                    .with_access_key_id("forebay")
                    .with_secret_access_key(SECRET)
                    .with_http_connector(InTheClear)
                    .with_retry(once)
                    .build()
                    .unwrap(),
            ),
            Kind::Gcs => Box::new(
                GoogleCloudStorageBuilder::new()
                    .with_base_url(&endpoint)
                    .with_bucket_name("archive")
                    .with_service_account_path(
                        self.service.dir.path().join("service-account.json").to_str().unwrap(),
                    )
                    .with_http_connector(InTheClear)
                    .with_retry(once)
                    .build()
                    .unwrap(),
            ),
            Kind::Azurite => Box::new(
                MicrosoftAzureBuilder::new()
                    .with_endpoint(format!("{endpoint}/forebay"))
                    .with_allow_http(true)
                    .with_container_name("archive")
                    .with_account("forebay")
                    .with_access_key(STANDARD.encode(SECRET))
                    .with_http_connector(InTheClear)
                    .with_retry(once)
                    .build()
                    .unwrap(),
            ),
        }
    }

    /// Keys of a sink that may read `archive` and not write to it.
    pub(super) fn reader(&self) -> String {
        match self.kind {
            Kind::Minio => self.session(),
            Kind::Azurite => format!("account: forebay, sas_token: \"{}\"", signature("rl")),
            Kind::Gcs => unreachable!("the server knows writers only"),
        }
    }

    /// Temporary credentials of MinIO, whose policy is to read.
    fn session(&self) -> String {
        // It is ready for objects before it is for this.
        let answer = eventually("there are temporary credentials", || {
            let answer = self.assume_reader();
            answer.contains("<SessionToken>").then_some(answer)
        });
        let within = |name: &str| {
            let behind = answer.split_once(&format!("<{name}>")).unwrap().1;
            behind.split_once('<').unwrap().0
        };
        format!(
            "access_key_id: \"{}\", secret_access_key: \"{}\", session_token: \"{}\"",
            within("AccessKeyId"),
            within("SecretAccessKey"),
            within("SessionToken")
        )
    }

    fn assume_reader(&self) -> String {
        let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::*"]}]}"#;
        let encoded: String = policy.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let body = format!("Action=AssumeRole&Version=2011-06-15&DurationSeconds=3600&Policy={encoded}");
        let mut request = HttpRequest::new(body.into());
        *request.method_mut() = "POST".parse().unwrap();
        *request.uri_mut() = format!("http://127.0.0.1:{}/", self.service.port).parse().unwrap();
        request.headers_mut().insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
        let root = AwsCredential { key_id: "forebay".into(), secret_key: SECRET.into(), token: None };
        AwsAuthorizer::new(&root, "sts", "us-east-1").try_authorize(&mut request, None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            let client = InTheClear.connect(&ClientOptions::new()).unwrap();
            client.execute(request).await.unwrap().into_body().bytes().await.unwrap()
        });
        String::from_utf8(answer.to_vec()).unwrap()
    }
}

impl Who {
    /// Where it is a password.
    pub(super) const fn secret(self) -> &'static str {
        match self {
            Self::Writer => SECRET,
            Self::Stranger => "secret-456",
        }
    }
}

/// A shared access signature of Azure's for the container, with these rights.
pub(super) fn signature(rights: &str) -> String {
    let (version, ends) = ("2022-11-02", "2099-01-01T00:00:00Z");
    // Between them lie what is not asked for: a beginning, an identifier, addresses, protocols; behind them a snapshot, an
    // encryption scope and five headers of answers.
    let text = format!("{rights}\n\n{ends}\n/blob/forebay/archive\n\n\n\n{version}\nc\n\n\n\n\n\n\n");
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
    let signature: String = signature.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("sv={version}&sr=c&sp={rights}&se={}&sig={signature}", ends.replace(':', "%3A"))
}
