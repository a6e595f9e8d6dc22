//! The keys of `type: nats`.

mod subject;

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::subject::SubjectTemplate;
use super::TlsClient;
use crate::config::{Secret, jetstream::nats_servers, units};

/// Where nobody says another subject, by encoding.
const EVENTS: &str = "events.{service}";
const REQUESTS: &str = "otlp.{signal}";
/// What a server needs for a thousand synced messages is well under a second; one that elects a leader may take several.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A round trip of some milliseconds is filled by it.
const PENDING_MAX: usize = 1024;
/// What the server takes where nobody says: an id costs it about 100 bytes for so long.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// `type: nats`: messages in a stream of NATS JetStream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsSink {
    /// The server, like nats://nats:4222; tls:// wants it encrypted. Several of a cluster stand with commas between them.
    pub url: String,
    /// What a message is.
    #[serde(default)]
    pub encoding: NatsEncoding,
    /// The subject of a message. {service} and {signal} (events, logs, metrics or traces) become one token each; what a token
    /// cannot have is `_` in it. Where absent it is events.{service}, and otlp.{signal} with `encoding: otlp`.
    pub subject: Option<String>,
    /// The stream that has to take the messages; whichever has the subject where absent.
    pub stream: Option<String>,
    /// Whether Forebay makes the stream where it is missing. One that is there is never changed.
    #[serde(default)]
    pub manage_stream: bool,
    /// Servers that keep the stream that Forebay makes.
    #[serde(default = "one")]
    pub stream_replicas: usize,
    /// Bytes of that stream. When it is full, messages wait in Forebay's journal; as much as the server allows where absent.
    #[serde(with = "units::size_option", default)]
    #[schemars(with = "Option<units::Size>")]
    pub stream_max_bytes: Option<u64>,
    /// Age at which that stream forgets its messages; never where absent.
    #[serde(with = "units::duration_option", default)]
    #[schemars(with = "Option<units::Span>")]
    pub stream_max_age: Option<Duration>,
    /// How long that stream knows a message that comes again.
    #[serde(with = "units::duration", default = "duplicate_window")]
    #[schemars(with = "units::Span")]
    pub stream_duplicate_window: Duration,
    /// Who writes.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// A token, where the server wants one.
    pub token: Option<Secret>,
    /// The seed of a user's nkey; it begins with SU.
    pub nkey: Option<Secret>,
    /// A file with the JWT and the seed of a user, as `nsc` writes it.
    pub credentials_file: Option<PathBuf>,
    /// Messages that may be on their way without an acknowledgement. With 1, nothing ever stands before a message that had to
    /// be sent again.
    #[serde(default = "pending_max")]
    pub pending_max: usize,
    /// From sending a message to the word that it is there; connecting has as long.
    #[serde(with = "units::duration", default = "timeout")]
    #[schemars(with = "units::Span")]
    pub timeout: Duration,
    /// Certificates, for a server that encrypts.
    #[serde(default)]
    pub tls: TlsClient,
}

/// What a message of `type: nats` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NatsEncoding {
    /// One event, in JSON, whatever it came as.
    #[default]
    Json,
    /// Requests of OpenTelemetry, in protobuf; events that came as such are log records in them.
    Otlp,
}

// Defaults as the derives want them.

fn one() -> usize {
    1
}

fn duplicate_window() -> Duration {
    DUPLICATE_WINDOW
}

fn pending_max() -> usize {
    PENDING_MAX
}

fn timeout() -> Duration {
    TIMEOUT
}

impl NatsSink {
    /// A sink to this server, with the defaults of every other key.
    pub fn to(url: String) -> Self {
        let (encoding, tls) = Default::default();
        Self {
            url,
            encoding,
            subject: None,
            stream: None,
            manage_stream: false,
            stream_replicas: 1,
            stream_max_bytes: None,
            stream_max_age: None,
            stream_duplicate_window: DUPLICATE_WINDOW,
            user: None,
            password: None,
            token: None,
            nkey: None,
            credentials_file: None,
            pending_max: PENDING_MAX,
            timeout: TIMEOUT,
            tls,
        }
    }

    /// The template of its subjects.
    ///
    /// # Errors
    /// Why it is no subject.
    pub fn subject(&self) -> Result<SubjectTemplate, String> {
        let default = if self.encoding == NatsEncoding::Otlp { REQUESTS } else { EVENTS };
        let template: SubjectTemplate = self.subject.as_deref().unwrap_or(default).parse()?;
        if self.encoding == NatsEncoding::Otlp && template.has_service() {
            return Err(
                "has {service}, but a request may be of several services; like `otlp.{signal}`".to_owned()
            );
        }
        Ok(template)
    }

    /// The addresses of its servers.
    ///
    /// # Errors
    /// Why they are none. The text has nothing of them in it, since there may be a password.
    pub fn servers(&self) -> Result<Vec<&str>, &'static str> {
        nats_servers(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_from_the_url() {
        let of = |url: &str| NatsSink::to(url.to_owned()).servers().map(|servers| servers.join(" "));
        assert_eq!(of("nats://a:4222, tls://b").unwrap(), "nats://a:4222 tls://b");
        assert_eq!(of("nats://[::1]:4222,nats://[::1]").unwrap(), "nats://[::1]:4222 nats://[::1]");
        for (url, word) in [
            ("a:4222", "is not a URL"),
            ("http://a:4222", "neither nats:// nor tls://"),
            ("nats://me:secret@a", "keys of their own"),
            ("nats://a/path", "without a path"),
            ("nats://", "no address"),
            ("nats://a:4222,", "is not a URL"),
        ] {
            let error = of(url).unwrap_err();
            assert!(error.contains(word) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn requests_have_no_service() {
        let mut sink = NatsSink::to("nats://a".to_owned());
        assert_eq!(sink.subject().unwrap().filter(), "events.*");
        sink.encoding = NatsEncoding::Otlp;
        assert_eq!(sink.subject().unwrap().filter(), "otlp.*");
        sink.subject = Some("telemetry.{service}".to_owned());
        assert!(sink.subject().unwrap_err().contains("several services"));
    }
}
