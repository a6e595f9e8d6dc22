//! The keys of `buffer.jetstream`: the journal on NATS JetStream.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Secret, TlsClient, units};

/// The port that NATS gives to clients.
const URL: &str = "nats://127.0.0.1:4222";
const STREAM: &str = "FOREBAY";
/// As many as can lose one and still agree.
const REPLICAS: usize = 3;
/// A destination's usual time-out: longer than a garbage collection or a slow disk, short for who waits for the events of a
/// worker that died.
const ACK_WAIT: Duration = Duration::from_secs(30);

/// The journal on NATS JetStream; for `backend: jetstream`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JetstreamConfig {
    /// The servers, like nats://nats:4222; tls:// wants it encrypted. Several of a cluster stand with commas between them.
    pub url: String,
    /// The stream that is the journal. All processes that name it share the load. It is made where it is missing.
    pub stream: String,
    /// Servers that keep the stream that Forebay makes: 3 lose one and nothing else, 1 loses all with its only one.
    pub replicas: usize,
    /// How long after a worker has died another gets the events that it had taken.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub ack_wait: Duration,
    /// Who connects.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// A token, where the server wants one.
    pub token: Option<Secret>,
    /// The seed of a user's nkey; it begins with SU.
    pub nkey: Option<Secret>,
    /// A file with the JWT and the seed of a user, as `nsc` writes it.
    pub credentials_file: Option<PathBuf>,
    /// Certificates, for a server that encrypts.
    pub tls: TlsClient,
}

impl Default for JetstreamConfig {
    fn default() -> Self {
        let (user, password, token, nkey, credentials_file, tls) = Default::default();
        Self {
            url: URL.to_owned(),
            stream: STREAM.to_owned(),
            replicas: REPLICAS,
            ack_wait: ACK_WAIT,
            user,
            password,
            token,
            nkey,
            credentials_file,
            tls,
        }
    }
}

impl JetstreamConfig {
    /// What the stream's messages are published to.
    pub fn subject(&self) -> String {
        format!("{}.records", self.stream)
    }

    /// The addresses of its servers.
    ///
    /// # Errors
    /// Why they are none. The text has nothing of them in it, since there may be a password.
    pub fn servers(&self) -> Result<Vec<&str>, &'static str> {
        nats_servers(&self.url)
    }
}

/// The addresses in a URL of NATS.
///
/// # Errors
/// Why they are none, without the URL.
pub(super) fn nats_servers(url: &str) -> Result<Vec<&str>, &'static str> {
    let servers: Vec<_> = url.split(',').map(str::trim).collect();
    for server in &servers {
        let Some((scheme, rest)) = server.split_once("://") else {
            return Err("is not a URL; like `nats://nats:4222`");
        };
        if !matches!(scheme, "nats" | "tls") {
            return Err("begins with neither nats:// nor tls://; like `nats://nats:4222`");
        }
        if rest.contains('@') {
            return Err(
                "has a user or a token in it; they have keys of their own: user and password, or token",
            );
        }
        let (host, port) =
            rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((rest, "4222"));
        if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
            return Err("is no address of a server; like `nats://nats:4222`, without a path");
        }
    }
    Ok(servers)
}
