//! `type: http`: POSTs each batch as one body to a URL.
//!
//! Every request carries the batch's id, as `X-Forebay-Batch-Id` and as `Idempotency-Key`, so that a server
//! can recognise a batch that it has seen before.
//!
//! | answer | what it means here |
//! |---|---|
//! | 2xx | delivered |
//! | 408, 425, 429, 5xx, no answer | tried again, not before the server's `Retry-After` |
//! | 3xx, 401, 403, 404, 405, 407 | refused: tried again, since whatever were sent would fail the same way |
//! | other 4xx | these events are rejected, with the server's own words |
//!
//! Limits: an answer's body is read for at most `ANSWER_BYTES_MAX` and `ANSWER_TIME_MAX`, and a
//! `Retry-After` counts for at most `RETRY_AFTER_MAX`. An uncompressed body is held whole in memory, about
//! as large as its records and 170 bytes an event; a compressed one only as compressed.
//! HTTP/1.1 only. A proxy is taken from `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, never for loopback.

mod answer;

use std::{fmt, io::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use flate2::write::GzEncoder;
use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, Receipt, Verdict},
    examination::{ClockReading, Examination, Finding},
    record::Batch,
    spare::SparePool,
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use reqwest::{
    Client, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use rustls::RootCertStore;
use tokio::time::Instant;

use self::answer::read_answer;
pub(super) use self::answer::{
    ANSWER_TIME_MAX, QUOTED_BYTES_MAX, RETRY_AFTER_MAX, clock_of, one_line, retry_after, unanswered,
};
use super::{Framing, chain, encode_batch_into, encoded_bytes, encoding, tls, unbuildable, write_batch};
use crate::config::{Compression, HttpEncoding, HttpSink};

/// Unused connections are closed before the load balancers in front of most servers, at 60 s, close them
/// under a request.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(30);

/// Bytes of JSON handed to the compressor at a time.
const GZIP_CHUNK_BYTES: usize = 64 * 1024;

const BATCH_ID: HeaderName = HeaderName::from_static("x-forebay-batch-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const EVENTS: HeaderName = HeaderName::from_static("x-forebay-events");

/// Headers that follow from the body or from the batch, so that no configured value could be right.
const OWN_HEADERS: [HeaderName; 6] = [
    BATCH_ID,
    IDEMPOTENCY_KEY,
    EVENTS,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
];

/// POSTs batches to a URL.
pub struct HttpDestination {
    endpoint: Arc<Endpoint>,
}

/// All that one request needs.
struct Endpoint {
    client: Client,
    url: Url,
    /// The URL for messages: without user, password and query.
    shown: String,
    headers: HeaderMap,
    encoding: HttpEncoding,
    compression: Compression,
    /// What tells this process' batches from those of any other; empty where nobody said.
    stream: String,
    /// Buffers for bodies.
    spare: SparePool,
}

/// Bodies whose buffers are kept for the next, and the size up to which they are: twice the usual batch.
const SPARE_BODIES: usize = 2;
const SPARE_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

// === impl HttpDestination ===

impl HttpDestination {
    /// A destination that has not connected yet. Reads the machine's certificates.
    ///
    /// # Errors
    /// [`Cause::Build`] where the URL or a header cannot be used.
    pub fn new(options: &HttpSink) -> Result<Self, DeliveryError> {
        Self::trusting(options, tls::roots())
    }

    /// The same with `stream` before every batch id: positions begin at 0 in every data directory, so alone they do not
    /// tell two of them apart.
    pub fn of_stream(mut self, stream: &str) -> Self {
        let endpoint =
            Arc::get_mut(&mut self.endpoint).expect("nobody else holds a destination that is being built");
        endpoint.stream = format!("{stream}-");
        self
    }

    fn trusting(options: &HttpSink, roots: RootCertStore) -> Result<Self, DeliveryError> {
        let url = endpoint_url(&options.url)?;
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls::client(roots)?)
            .user_agent(concat!("forebay/", env!("CARGO_PKG_VERSION")))
            .timeout(options.timeout)
            .pool_idle_timeout(IDLE_MAX)
            // A redirected POST would arrive as a GET, or at a place that nobody configured.
            .redirect(Policy::none())
            .referer(false);
        if is_loopback(&url) {
            client = client.no_proxy();
        }
        let client = client
            .build()
            .map_err(|e| unbuildable(format!("no HTTP client can be set up: {}", chain(&e))))?;
        let shown = without_secrets(&url);
        let headers = request_headers(options)?;
        let (encoding, compression) = (options.encoding, options.compression);
        let spare = SparePool::new(SPARE_BODIES, SPARE_BODY_BYTES_MAX);
        Ok(Self {
            endpoint: Arc::new(Endpoint {
                client,
                url,
                shown,
                headers,
                encoding,
                compression,
                stream: String::new(),
                spare,
            }),
        })
    }
}

impl fmt::Debug for HttpDestination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpDestination").field(&self.endpoint.shown).finish()
    }
}

impl Destination for HttpDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let endpoint = self.endpoint.clone();
        async move { endpoint.post(batch).await }.boxed_local()
    }

    /// Asks with HEAD. A server that takes only POST may answer that with almost any status, so only those
    /// that say something about every request count as failures.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let endpoint = self.endpoint.clone();
        async move { endpoint.head().await.map(drop) }.boxed_local()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        let endpoint = self.endpoint.clone();
        async move { endpoint.examine().await }.boxed_local()
    }
}

// === impl Endpoint ===

impl Endpoint {
    async fn post(&self, batch: Arc<Batch>) -> Result<Receipt, DeliveryError> {
        let (id, events) = (format!("{}{}", self.stream, batch.id()), batch.count());
        let (format, compression) = (self.encoding, self.compression);
        let spare = self.spare.clone();
        let body = match compression {
            // A millisecond of the sink's own thread: less than it takes to wake another and come back.
            Compression::None => body(&batch, format, compression, &spare)?,
            Compression::Gzip => {
                encoding(batch, move |batch| body(batch, format, compression, &spare)).await?
            }
        };
        let bytes = body.len() as u64;
        let request = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .header(BATCH_ID, &id)
            .header(IDEMPOTENCY_KEY, &id)
            .header(EVENTS, events)
            .body(body);
        let answer = request.send().await.map_err(|e| unanswered(&self.shown, e))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let quote = read_answer(answer).await;
        if status.is_success() { Ok(Receipt::of(bytes)) } else { Err(self.refusal(status, &headers, &quote)) }
    }

    /// Asks with HEAD: what was answered, and the server's clock.
    ///
    /// # Errors
    /// What the answer says about every request.
    async fn head(&self) -> Result<(StatusCode, Option<ClockReading>), DeliveryError> {
        let asked = Instant::now();
        let request = self.client.head(self.url.clone()).headers(self.headers.clone());
        let answer = request.send().await.map_err(|e| unanswered(&self.shown, e))?;
        match answer.status().as_u16() {
            401 | 407 | 408 | 429 | 500 | 502..=599 => {
                Err(self.refusal(answer.status(), answer.headers(), ""))
            }
            _ => Ok((answer.status(), clock_of(answer.headers(), asked))),
        }
    }

    async fn examine(&self) -> Examination {
        let (status, clock) = match self.head().await {
            Ok(answered) => answered,
            Err(error) => return Examination::failed(&error),
        };
        let mut found = Examination::fit().with_clock(clock);
        if !status.is_success() {
            found.authorised = Finding::Unknown(format!(
                "{} answers HEAD with {status}, which says nothing of POST",
                self.shown
            ));
        }
        found
    }

    /// What an answer other than 2xx means.
    fn refusal(&self, status: StatusCode, headers: &HeaderMap, quote: &str) -> DeliveryError {
        let after = retry_after(headers);
        let retry = Verdict::Retry { after };
        let (cause, verdict) = match status.as_u16() {
            408 => (Cause::Timeout, retry),
            429 => (Cause::Throttled, retry),
            // A server that is down and says for how long is asking for a slower pace.
            503 if after.is_some() => (Cause::Throttled, retry),
            425 | 500..=599 => (Cause::Server, retry),
            // A wrong token or address fails for every event alike. Rejecting would dead-letter the whole
            // stream for a typing error; so the events wait until an operator has put it right.
            401 | 403 | 404 | 405 | 407 | 300..=399 => (Cause::Refused, retry),
            400..=499 => (Cause::Rejected, Verdict::Reject),
            // Neither is a final status; whoever sends it does not speak HTTP.
            _ => (Cause::Server, retry),
        };
        let mut message = format!("{}: answered {status}", self.shown);
        if status.is_redirection() {
            message.push_str(&format!(", a redirect to {}, which is not followed", self.location(headers)));
        }
        if !quote.is_empty() {
            message.push_str(": ");
            message.push_str(quote);
        }
        DeliveryError { cause, message, status: Some(status.as_u16()), verdict }
    }

    /// Where a redirect points, without the secrets it may carry.
    fn location(&self, headers: &HeaderMap) -> String {
        let location = headers.get(header::LOCATION).and_then(|l| self.url.join(l.to_str().ok()?).ok());
        location.map_or_else(|| "nowhere".to_owned(), |url| without_secrets(&url))
    }
}

// === Requests ===

/// The URL, where a batch can be sent to it.
pub(super) fn endpoint_url(text: &str) -> Result<Url, DeliveryError> {
    // A text that is no URL may still hold a password, so the message does not repeat it.
    let url = Url::parse(text).map_err(|e| unbuildable(format!("the url cannot be read: {e}")))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        scheme => Err(unbuildable(format!("the url must begin with http:// or https://, not {scheme}:"))),
    }
}

pub(super) fn without_secrets(url: &Url) -> String {
    let mut shown = url.clone();
    // Neither can fail for a URL that has a host, and one that has none has no user either.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.set_fragment(None);
    shown.into()
}

/// Whether the host is this machine, which no proxy stands before.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The headers that are the same for every batch. Configured ones win over Forebay's own words for
/// `Content-Type` and `User-Agent`.
fn request_headers(options: &HttpSink) -> Result<HeaderMap, DeliveryError> {
    let mut headers = HeaderMap::new();
    let content_type = match options.encoding {
        HttpEncoding::Ndjson => "application/x-ndjson",
        HttpEncoding::Json => "application/json",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in &options.headers {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| unbuildable(format!("headers: {name:?} is not the name of a header")))?;
        if OWN_HEADERS.contains(&key) {
            return Err(unbuildable(format!("headers: {name} is set by Forebay itself")));
        }
        // The value is likely a token, so no message shows it.
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            unbuildable(format!("headers: the value of {name} has characters a header cannot"))
        })?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    if options.compression == Compression::Gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(headers)
}

/// The batch as it goes over the wire.
fn body(
    batch: &Batch,
    encoding: HttpEncoding,
    compression: Compression,
    spare: &SparePool,
) -> Result<Bytes, DeliveryError> {
    let framing = match encoding {
        HttpEncoding::Ndjson => Framing::Lines,
        HttpEncoding::Json => Framing::Array,
    };
    match compression {
        Compression::None => {
            let buffer = spare.take(encoded_bytes(batch));
            encode_batch_into(batch, framing, buffer).map(|body| spare.bytes(body))
        }
        Compression::Gzip => gzip_batch(batch, framing).map(Bytes::from),
    }
}

/// Compresses while encoding, so that the uncompressed body is never there as a whole.
fn gzip_batch(batch: &Batch, framing: Framing) -> Result<Vec<u8>, DeliveryError> {
    const INFALLIBLE: &str = "a Vec takes every byte";
    // Events of one service compress well; what is missing, the Vec grows by.
    let mut gzip = GzEncoder::new(Vec::with_capacity(batch.payload_bytes() / 4), flate2::Compression::fast());
    let mut chunk = Vec::with_capacity(GZIP_CHUNK_BYTES + GZIP_CHUNK_BYTES / 4);
    write_batch(batch, framing, &mut chunk, |chunk| {
        if chunk.len() >= GZIP_CHUNK_BYTES {
            gzip.write_all(chunk).expect(INFALLIBLE);
            chunk.clear();
        }
        Ok(())
    })?;
    gzip.write_all(&chunk).expect(INFALLIBLE);
    Ok(gzip.finish().expect(INFALLIBLE))
}

#[cfg(test)]
mod tests;
