//! How a client is set up.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use crate::{
    Client, Event, Failure, Metrics, Retry,
    courier::{Courier, Shelf},
    error::BuildError,
    metrics::Silent,
    queued::{OnFailed, Watchers},
    spool::Spool,
    transport::{Transport, tls::Tls},
    worker::BatchLimits,
};

/// More events than these are not sent at once: of a larger batch the server does not name every one that it refuses.
const BATCH_EVENTS_MAX: usize = 1000;

/// Permits of a semaphore.
const QUEUE_BYTES_MAX: usize = tokio::sync::Semaphore::MAX_PERMITS;

/// Settings of a [`Client`]; every one has a default.
pub struct Builder {
    url: String,
    token: Option<String>,
    tls: Tls,
    gzip: bool,
    #[cfg_attr(not(feature = "grpc"), allow(dead_code, reason = "HTTP does not name its source"))]
    source: String,
    limits: BatchLimits,
    queue_events_max: usize,
    queue_bytes_max: usize,
    retry: Retry,
    attempt_timeout: Duration,
    connect_timeout: Duration,
    spool: Option<(PathBuf, u64)>,
    metrics: Arc<dyn Metrics>,
    on_failed: Option<OnFailed>,
}

/// Without the token.
impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("url", &self.url)
            .field("token", &self.token.is_some())
            .field("tls", &self.tls)
            .field("limits", &self.limits)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            token: None,
            tls: Tls::new(),
            gzip: false,
            source: "forebay-client".to_owned(),
            limits: BatchLimits {
                events_max: 500,
                bytes_max: 1024 * 1024,
                age_max: Duration::from_millis(200),
                in_flight_max: 1,
            },
            queue_events_max: 10_000,
            queue_bytes_max: 32 * 1024 * 1024,
            retry: Retry::default(),
            attempt_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            spool: None,
            metrics: Arc::new(Silent),
            on_failed: None,
        }
    }

    /// The bearer token that every request shows.
    pub fn token(self, token: impl Into<String>) -> Self {
        Self { token: Some(token.into()), ..self }
    }

    /// Whom to trust, and a certificate of the client's own.
    pub fn tls(self, tls: Tls) -> Self {
        Self { tls, ..self }
    }

    /// Packs requests with gzip: a quarter of the bytes on the network, for some time of the processor. Off by default.
    pub fn gzip(self, gzip: bool) -> Self {
        Self { gzip, ..self }
    }

    /// Who sends, for servers that tell batches apart by it (gRPC).
    pub fn source(self, source: impl Into<String>) -> Self {
        Self { source: source.into(), ..self }
    }

    /// Events of a batch, 1 to 1000; 500 by default.
    pub fn batch_events(mut self, events: usize) -> Self {
        self.limits.events_max = events.clamp(1, BATCH_EVENTS_MAX);
        self
    }

    /// Bytes from which on a batch is not added to; 1 MiB by default. The server's own bound is 16 MiB unless configured.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes_max = bytes.max(1);
        self
    }

    /// How long an event waits for others to share its batch; 200 ms by default.
    pub fn batch_age(mut self, age: Duration) -> Self {
        self.limits.age_max = age;
        self
    }

    /// Batches on their way at the same time; 1 by default, which keeps events in their order. With more, a batch that is
    /// tried again is overtaken.
    pub fn in_flight(mut self, batches: usize) -> Self {
        self.limits.in_flight_max = batches.max(1);
        self
    }

    /// Events that may wait for their batch; 10,000 by default. Those on their way come on top.
    pub fn queue_events(self, events: usize) -> Self {
        Self { queue_events_max: events.clamp(1, QUEUE_BYTES_MAX), ..self }
    }

    /// Bytes of events that may be in memory, on their way or waiting; 32 MiB by default.
    pub fn queue_bytes(self, bytes: usize) -> Self {
        Self { queue_bytes_max: bytes.clamp(1, QUEUE_BYTES_MAX), ..self }
    }

    /// When to try again; three attempts by default.
    pub fn retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// How long an attempt may take before it counts as failed; 30 s by default.
    pub fn attempt_timeout(self, timeout: Duration) -> Self {
        Self { attempt_timeout: timeout, ..self }
    }

    /// How long connecting may take, of an attempt's time; 10 s by default.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout, ..self }
    }

    /// Keeps what could not be delivered in files in this directory, of at most so many bytes together, and delivers it when the
    /// server is back, also by the next client that is given this directory. See the crate's page for who syncs when.
    pub fn spool(self, dir: impl Into<PathBuf>, bytes_max: u64) -> Self {
        Self { spool: Some((dir.into(), bytes_max)), ..self }
    }

    /// Who counts.
    pub fn metrics(self, metrics: impl Metrics) -> Self {
        Self { metrics: Arc::new(metrics), ..self }
    }

    /// Told of every event that is not delivered, also where its receipt was dropped, and of events out of the spool that the
    /// server refuses. Called on the client's tasks, so it should be quick.
    pub fn on_failed(self, hook: impl Fn(&Event, &Failure) + Send + Sync + 'static) -> Self {
        Self { on_failed: Some(Box::new(hook)), ..self }
    }

    /// Starts the client on this tokio runtime. Nothing is connected yet: a server that is not there is met by attempts.
    ///
    /// # Errors
    /// Where a setting makes no sense, or the spool cannot be opened.
    pub fn build(self) -> Result<Client, BuildError> {
        tokio::runtime::Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let transport = self.transport()?;
        self.start(transport)
    }

    pub(crate) fn start(self, transport: Box<dyn Transport>) -> Result<Client, BuildError> {
        let spool = self.spool.map(|(dir, bytes_max)| Spool::open(&dir, bytes_max).map(Shelf::new));
        let watchers =
            Watchers { on_failed: self.on_failed, metrics: self.metrics, closed: AtomicU64::new(0) };
        let courier = Courier {
            transport,
            retry: self.retry,
            attempt_timeout: self.attempt_timeout,
            watchers: Arc::new(watchers),
            spool: spool.transpose()?,
        };
        Ok(Client::start(courier, self.limits, self.queue_events_max, self.queue_bytes_max))
    }

    fn transport(&self) -> Result<Box<dyn Transport>, BuildError> {
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        match scheme {
            #[cfg(feature = "http")]
            "http" | "https" => {
                let url = reqwest::Url::parse(&self.url).map_err(|e| self.no_address(&e.to_string()))?;
                let (token, timeout) = (self.token.as_deref(), self.connect_timeout);
                let http = crate::transport::http::Http::new(url, token, &self.tls, self.gzip, timeout)?;
                Ok(Box::new(http))
            }
            #[cfg(feature = "grpc")]
            "grpc" | "grpcs" => {
                let url = format!("{}://{rest}", if scheme == "grpcs" { "https" } else { "http" });
                let (token, timeout) = (self.token.as_deref(), self.connect_timeout);
                let source = self.source.clone();
                let grpc =
                    crate::transport::grpc::Grpc::new(url, token, &self.tls, self.gzip, timeout, source)?;
                Ok(Box::new(grpc))
            }
            "" => Err(self.no_address("it has no scheme")),
            _ => {
                let _ = rest;
                Err(self.no_address(&format!("{scheme} is not spoken, or its feature is left out")))
            }
        }
    }

    fn no_address(&self, why: &str) -> BuildError {
        BuildError::Url { url: self.url.clone(), why: why.to_owned() }
    }
}
