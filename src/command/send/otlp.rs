//! OpenTelemetry's requests as JSON: each is one `POST`, as it stands.

use std::{io::Write as _, sync::Arc, time::Duration};

use flate2::{Compression, write::GzEncoder};
use forebay_client::Retry;
use futures::{FutureExt as _, future::BoxFuture};
use reqwest::{
    Client, Response, Url,
    header::{self, HeaderMap, HeaderValue},
};
use serde::{Deserialize, de::IgnoredAny};
use tokio::sync::{Semaphore, watch};

use super::{Fate, Send, Sender, Verdict};

/// How long an attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Of an answer no more is read, and of one that is no OTLP no more is repeated.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const WORDS_CHARS_MAX: usize = 200;

/// Sends requests.
pub(super) struct OtlpSender {
    place: Arc<Place>,
    /// As many requests as may be on their way.
    slots: Arc<Semaphore>,
    in_flight: u32,
    stop: watch::Sender<bool>,
}

struct Place {
    client: Client,
    url: Url,
    gzip: bool,
    retry: Retry,
}

/// The beginning of a request's tree: what it is, and how many items it has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    resource_logs: Option<Vec<ResourceLogs>>,
    resource_metrics: Option<Vec<ResourceMetrics>>,
    resource_spans: Option<Vec<ResourceSpans>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceLogs {
    scope_logs: Option<Vec<ScopeLogs>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScopeLogs {
    log_records: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans {
    scope_spans: Option<Vec<ScopeSpans>>,
}

#[derive(Deserialize)]
struct ScopeSpans {
    spans: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceMetrics {
    scope_metrics: Option<Vec<ScopeMetrics>>,
}

#[derive(Deserialize)]
struct ScopeMetrics {
    metrics: Option<Vec<Metric>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metric {
    gauge: Option<Points>,
    sum: Option<Points>,
    histogram: Option<Points>,
    exponential_histogram: Option<Points>,
    summary: Option<Points>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Points {
    data_points: Option<Vec<IgnoredAny>>,
}

impl Request {
    /// The path it goes to, and its items.
    fn signal(&self) -> Option<(&'static str, u64)> {
        let length = |items: &Option<Vec<IgnoredAny>>| items.as_ref().map_or(0, Vec::len);
        let (path, items) = if let Some(all) = &self.resource_logs {
            let scopes = all.iter().flat_map(|resource| resource.scope_logs.iter().flatten());
            ("v1/logs", scopes.map(|scope| length(&scope.log_records)).sum::<usize>())
        } else if let Some(all) = &self.resource_spans {
            let scopes = all.iter().flat_map(|resource| resource.scope_spans.iter().flatten());
            ("v1/traces", scopes.map(|scope| length(&scope.spans)).sum())
        } else {
            let all = self.resource_metrics.as_ref()?;
            let scopes = all.iter().flat_map(|resource| resource.scope_metrics.iter().flatten());
            let points = scopes.flat_map(|scope| scope.metrics.iter().flatten()).flat_map(|metric| {
                let Metric { gauge, sum, histogram, exponential_histogram, summary } = metric;
                [gauge, sum, histogram, exponential_histogram, summary].into_iter().flatten()
            });
            ("v1/metrics", points.map(|points| length(&points.data_points)).sum())
        };
        Some((path, items as u64))
    }
}

impl OtlpSender {
    /// To the server at this address.
    pub fn new(send: &Send, to: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("--to {to:?}: {why}; http://… or https://… is needed");
        let mut url = Url::parse(to).map_err(|e| wrong(&e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("OTLP as JSON goes over HTTP"));
        }
        // So that joining adds to the path instead of replacing its end.
        url.set_path(&format!("{}/", url.path().trim_end_matches('/')));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if send.gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(token) = send.token()? {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value =
                value.map_err(|_| "the token has characters that no header may have".to_owned())?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let tls = if url.scheme() == "https" { send.tls()?.rustls() } else { forebay_client::Tls::plain() };
        let client = Client::builder()
            .default_headers(headers)
            .tls_backend_preconfigured(tls.map_err(|e| e.to_string())?)
            .timeout(ATTEMPT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        let client = client.map_err(|e| format!("--to {to:?}: {e}"))?;
        let place = Place { client, url, gzip: send.gzip, retry: send.retry() };
        let in_flight = u32::from(send.in_flight);
        let slots = Arc::new(Semaphore::new(in_flight as usize));
        Ok(Self { place: Arc::new(place), slots, in_flight, stop: watch::Sender::new(false) })
    }
}

impl Sender for OtlpSender {
    fn send<'a>(&'a mut self, line: &'a [u8]) -> BoxFuture<'a, Fate> {
        async move {
            if line.trim_ascii().is_empty() {
                return Fate::Empty;
            }
            let signal = serde_json::from_slice::<Request>(line).map(|request| request.signal());
            let (path, items) = match signal {
                Ok(Some(signal)) => signal,
                Ok(None) => {
                    let wanted = "resourceLogs, resourceMetrics or resourceSpans is needed";
                    return Fate::Wrong(format!("it is no OTLP request: {wanted}"));
                }
                Err(error) => return Fate::Wrong(format!("it is no OTLP request: {error}")),
            };
            let slot = self.slots.clone().acquire_owned().await.expect("the slots are never closed");
            let (place, mut stop, body) = (self.place.clone(), self.stop.subscribe(), line.to_vec());
            let sent = tokio::spawn(async move {
                let _slot = slot;
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => Verdict::Stopped,
                    verdict = place.deliver(path, body, items) => verdict,
                }
            });
            // A task that panicked delivered nothing.
            Fate::Sent(sent.map(|ended| ended.unwrap_or_else(|e| Verdict::Failed(e.to_string()))).boxed())
        }
        .boxed()
    }

    fn end(&self, within: Duration) -> BoxFuture<'_, ()> {
        async move {
            // All slots are free when nothing is on its way any more.
            if tokio::time::timeout(within, self.slots.acquire_many(self.in_flight)).await.is_err() {
                self.stop.send_replace(true);
            }
        }
        .boxed()
    }
}

impl Place {
    async fn deliver(&self, path: &str, body: Vec<u8>, items: u64) -> Verdict {
        let Ok(url) = self.url.join(path) else { return Verdict::Failed(format!("{path} is no path")) };
        let body = bytes::Bytes::from(if self.gzip { packed(&body) } else { body });
        let mut backoff = self.retry.backoff();
        loop {
            let (why, wished) = match self.client.post(url.clone()).body(body.clone()).send().await {
                Ok(response) => match judge(response, items).await {
                    Ok(verdict) => return verdict,
                    Err(again) => again,
                },
                Err(error) => (chain(&error.without_url()), None),
            };
            match backoff.failed(wished) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => {
                    let attempts = backoff.failures();
                    return Verdict::Failed(format!("not delivered in {attempts} attempts, the last: {why}"));
                }
            }
        }
    }
}

/// What an answer means; an error where it makes sense to try again.
async fn judge(mut response: Response, items: u64) -> Result<Verdict, (String, Option<Duration>)> {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Answer {
        partial_success: Option<serde_json::Map<String, serde_json::Value>>,
        message: String,
    }
    let status = response.status();
    let wished =
        response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Err((format!("the answer broke off: {}", chain(&error)), None)),
        }
    }
    let answer: Option<Answer> = serde_json::from_slice(&body).ok();
    if status.is_success() {
        let Some(answer) = answer else {
            return Ok(Verdict::Failed(format!("{status}, but not as OTLP answers; is this its address?")));
        };
        let partial = answer.partial_success.unwrap_or_default();
        // A number in quotes, as protobuf writes 64 bits; its name is the signal's.
        let count = |value: &serde_json::Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let rejected =
            partial.iter().filter(|(key, _)| key.starts_with("rejected")).find_map(|(_, value)| count(value));
        let rejected = rejected.unwrap_or_default();
        let reason = partial.get("errorMessage").and_then(|value| value.as_str()).map(str::to_owned);
        return Ok(Verdict::Accepted { items: items.saturating_sub(rejected), rejected, reason });
    }
    let words = match answer.filter(|answer| !answer.message.is_empty()) {
        Some(answer) => answer.message,
        None => String::from_utf8_lossy(&body).trim().chars().take(WORDS_CHARS_MAX).collect(),
    };
    let words = format!("{status}: {words}");
    match status.as_u16() {
        408 | 429 | 502 | 503 | 504 => Err((words, wished.map(Duration::from_secs))),
        400 | 413 | 422 => Ok(Verdict::Accepted { items: 0, rejected: items.max(1), reason: Some(words) }),
        _ => Ok(Verdict::Failed(words)),
    }
}

fn packed(body: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    packed.write_all(body).and_then(|()| packed.finish()).expect("memory is written to without errors")
}

/// An error with its causes: the outermost says only that something failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signals are told apart by their key, and every item is counted, whatever else there is.
    #[test]
    fn items_are_counted() {
        let signal = |text: &str| serde_json::from_str::<Request>(text).unwrap().signal();
        let logs =
            r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{},{"x":1}]},{}]},{"resource":{}}],"new":1}"#;
        assert_eq!(signal(logs), Some(("v1/logs", 2)));
        assert_eq!(signal(r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{}]}]}]}"#), Some(("v1/traces", 1)));
        let metrics = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"n","sum":{"dataPoints":[{},{}]}},
            {"exponentialHistogram":{"dataPoints":[{}]}},{"summary":{},"gauge":null}]}]}]}"#;
        assert_eq!(signal(metrics), Some(("v1/metrics", 3)));
        assert_eq!((signal(r#"{"resourceLogs":[]}"#), signal("{}")), (Some(("v1/logs", 0)), None));
    }
}
