//! What a gateway is asked over HTTP.
//!
//! | answer | what it means here |
//! |---|---|
//! | 2xx | done |
//! | 400 | the values are rejected, with the gateway's own words: it found them inconsistent with others that it has |
//! | no answer, 408, 429, 5xx | tried again, not before the server's `Retry-After` |
//! | any other | refused: tried again, since whatever were pushed would fail the same way |

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{self, JoinHandle},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use forebay_actors::{
    destination::{Cause, DeliveryError, Verdict},
    examination::{Examination, Finding},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use tokio::time::Instant;

use super::{PUSHES_MAX, groups::Label};
use crate::{
    config::{PushMethod, PushgatewaySink},
    destination::{
        chain,
        http::{
            ANSWER_TIME_MAX, IDLE_MAX, QUOTED_BYTES_MAX, clock_of, endpoint_url, is_loopback, one_line,
            retry_after, unanswered, without_secrets,
        },
        tls, unbuildable,
    },
};

/// Time to take leave of a gateway: to delete all groups, or to push the last values.
pub(super) const FAREWELL_TIME_MAX: Duration = Duration::from_secs(5);

/// The text format that every gateway takes.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The way to one gateway.
pub(super) struct Wire {
    client: Client,
    url: Url,
    options: PushgatewaySink,
    /// The URL for messages: without user, password and query.
    pub(super) shown: String,
}

impl Wire {
    /// Connects to nothing yet. Reads certificates.
    ///
    /// # Errors
    /// [`Cause::Build`] where the URL, a header or the certificates cannot be used.
    pub(super) fn new(options: &PushgatewaySink) -> Result<Self, DeliveryError> {
        let url = endpoint_url(&options.url)?;
        let client = client(options, &url)?;
        Ok(Self { client, shown: without_secrets(&url), url, options: options.clone() })
    }

    /// Where a group is pushed to. What cannot stand in a path is in Base64, as the gateway has it.
    pub(super) fn place(&self, key: &[Label]) -> Url {
        let is_plain = |value: &str| {
            !value.is_empty()
                && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
                && !matches!(value, "." | "..")
        };
        let segments = key.iter().flat_map(|(label, value)| match is_plain(value) {
            true => [label.clone(), value.clone()],
            // Of nothing, the encoding is nothing; the gateway takes padding alone for it.
            false if value.is_empty() => [format!("{label}@base64"), "=".to_owned()],
            false => [format!("{label}@base64"), URL_SAFE.encode(value)],
        });
        self.at(std::iter::once("metrics".to_owned()).chain(segments))
    }

    fn at(&self, segments: impl IntoIterator<Item = String>) -> Url {
        let mut url = self.url.clone();
        url.path_segments_mut().expect("it has a host, so it has a path").pop_if_empty().extend(segments);
        url
    }

    /// Whether the gateway answers.
    pub(super) async fn ready(&self) -> Result<(), DeliveryError> {
        self.ask_ready().await.map(drop)
    }

    /// The same, and what its clock says. Whether it would take a push only shows with the first.
    pub(super) async fn examine(&self) -> Examination {
        let asked = Instant::now();
        match self.ask_ready().await {
            Ok(headers) => {
                let why = "GET /-/ready is answered, which need not take the rights of a push";
                let authorised = Finding::Unknown(format!("{}: {why}", self.shown));
                Examination { authorised, ..Examination::fit() }.with_clock(clock_of(&headers, asked))
            }
            Err(error) => Examination::failed(&error),
        }
    }

    async fn ask_ready(&self) -> Result<HeaderMap, DeliveryError> {
        self.ask(Method::GET, self.at(["-".to_owned(), "ready".to_owned()]), String::new()).await
    }

    /// Pushes a group, as a text of metrics.
    pub(super) async fn push(
        &self,
        place: Url,
        text: String,
        method: PushMethod,
    ) -> Result<(), DeliveryError> {
        let method = match method {
            PushMethod::Post => Method::POST,
            PushMethod::Put => Method::PUT,
        };
        self.ask(method, place, text).await.map(drop)
    }

    async fn ask(&self, method: Method, url: Url, text: String) -> Result<HeaderMap, DeliveryError> {
        let answer = self.client.request(method, url).body(text).send().await;
        let answer = answer.map_err(|error| unanswered(&self.shown, error))?;
        match answer.status().is_success() {
            true => Ok(answer.headers().clone()),
            false => Err(self.refusal(answer).await),
        }
    }

    async fn refusal(&self, mut answer: Response) -> DeliveryError {
        let status = answer.status();
        let retry = Verdict::Retry { after: retry_after(answer.headers()) };
        let (cause, verdict) = match status {
            StatusCode::BAD_REQUEST => (Cause::Rejected, Verdict::Reject),
            StatusCode::REQUEST_TIMEOUT => (Cause::Timeout, retry),
            StatusCode::TOO_MANY_REQUESTS => (Cause::Throttled, retry),
            status if status.is_server_error() => (Cause::Server, retry),
            _ => (Cause::Refused, retry),
        };
        let words = match tokio::time::timeout(ANSWER_TIME_MAX, answer.chunk()).await {
            Ok(Ok(Some(words))) => one_line(&words[..words.len().min(QUOTED_BYTES_MAX)]),
            _ => String::new(),
        };
        let message = format!("{}: answered {status}: {words}", self.shown);
        DeliveryError { cause, message, status: Some(status.as_u16()), verdict }
    }

    /// Deletes groups on a thread of its own, which ends in a few seconds at most. The caller's runtime may be at its end already,
    /// so this has another.
    pub(super) fn delete(&self, places: Vec<Url>) -> JoinHandle<()> {
        let (options, url, shown) = (self.options.clone(), self.url.clone(), self.shown.clone());
        let delete = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| unbuildable(error.to_string()))?;
            // Connections of the other client belong to the other runtime.
            let client = client(&options, &url)?;
            let done = runtime.block_on(async move {
                let deleted = stream::iter(places)
                    .map(|place| client.delete(place).send())
                    .buffer_unordered(PUSHES_MAX);
                let all = deleted.try_for_each(|answer| async move { answer.error_for_status().map(drop) });
                match tokio::time::timeout(FAREWELL_TIME_MAX, all).await {
                    Ok(deleted) => deleted.map_err(|error| unanswered(&shown, error)),
                    Err(_) => {
                        Err(DeliveryError::transient(Cause::Timeout, format!("{shown}: no answer in time")))
                    }
                }
            });
            // A resolver that hangs is not waited for.
            runtime.shutdown_background();
            done
        };
        thread::spawn(move || match catch_unwind(AssertUnwindSafe(delete)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "groups may be left at the gateway"),
            Err(_) => tracing::warn!("groups may be left at the gateway: deleting them panicked"),
        })
    }
}

fn client(options: &PushgatewaySink, url: &Url) -> Result<Client, DeliveryError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &options.headers {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| unbuildable(format!("headers: {name:?} is not the name of a header")))?;
        // The value is likely a token, so no message shows it.
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            unbuildable(format!("headers: the value of {name} has characters a header cannot"))
        })?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
    let mut client = Client::builder()
        .tls_backend_preconfigured(tls::client_with(&options.tls)?)
        .default_headers(headers)
        .timeout(options.timeout)
        .pool_idle_timeout(IDLE_MAX)
        .redirect(Policy::none());
    if is_loopback(url) {
        client = client.no_proxy();
    }
    client.build().map_err(|e| unbuildable(format!("no HTTP client can be set up: {}", chain(&e))))
}
