//! Over HTTP: a POST of protobuf to the path of each signal.

use forebay_actors::{
    destination::{Cause, DeliveryError, Verdict},
    otlp::Signal,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Body, Client, Response, Url, redirect::Policy};
use tokio::time::Instant;

use super::{
    ANSWER_BYTES_MAX, Answered, Message, OtlpSink,
    answer::{Partial, Refusal},
};
use crate::destination::{
    chain,
    grpc::status::{quoted, retry_info, status_message},
    http::{ANSWER_TIME_MAX, IDLE_MAX, clock_of, is_loopback, retry_after, unanswered, without_secrets},
    pieces::Pieces,
    tls, unbuildable,
};

const PROTOBUF: &str = "application/x-protobuf";

/// One server.
pub(super) struct Http {
    /// The endpoint for messages: without user, password and query.
    pub(super) shown: String,
    client: Client,
    endpoint: Url,
    headers: HeaderMap,
}

impl Http {
    /// # Errors
    /// Where the endpoint or a certificate cannot be used.
    pub(super) fn new(options: &OtlpSink, mut headers: HeaderMap) -> Result<Self, DeliveryError> {
        // A text that is no URL may still hold a password, so the message does not repeat it.
        let endpoint = Url::parse(&options.endpoint)
            .map_err(|error| unbuildable(format!("the endpoint cannot be read: {error}")))?;
        if !matches!(endpoint.scheme(), "http" | "https") || !endpoint.has_host() {
            return Err(unbuildable("the endpoint must begin with http:// or https://"));
        }
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls::client_with(&options.tls)?)
            .user_agent(concat!("forebay/", env!("CARGO_PKG_VERSION")))
            .timeout(options.timeout)
            .pool_idle_timeout(IDLE_MAX)
            .redirect(Policy::none())
            .referer(false);
        if is_loopback(&endpoint) {
            client = client.no_proxy();
        }
        let client = client
            .build()
            .map_err(|e| unbuildable(format!("no HTTP client can be set up: {}", chain(&e))))?;
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
        Ok(Self { shown: without_secrets(&endpoint), client, endpoint, headers })
    }

    /// One request.
    ///
    /// # Errors
    /// Where it was not taken, or nobody answered.
    pub(super) async fn export(&self, message: Message) -> Result<Answered, Refusal> {
        let asked = Instant::now();
        let Message { signal, pieces, is_packed } = message;
        let mut request = self.client.post(self.url_of(signal)).headers(self.headers.clone());
        if is_packed {
            request = request.header(header::CONTENT_ENCODING, "gzip");
        }
        let answer = request.body(Body::wrap(Pieces::new(pieces))).send().await;
        let mut answer = answer.map_err(|error| unanswered(&self.shown, error))?;
        let body = read(&mut answer).await;
        let (status, headers) = (answer.status(), answer.headers());
        if !status.is_success() {
            return Err(self.refusal(status, headers, &body));
        }
        let partial = match is_protobuf(headers) {
            true => Partial::of_protobuf(&body),
            false => Partial::of_json(&body),
        };
        Ok(Answered { partial, clock: clock_of(headers, asked) })
    }

    fn url_of(&self, signal: Signal) -> Url {
        let mut url = self.endpoint.clone();
        url.set_path(&format!("{}/v1/{}", self.endpoint.path().trim_end_matches('/'), signal.as_str()));
        url
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
        let is_protobuf = is_protobuf(headers);
        let named = retry_after(headers).or_else(|| is_protobuf.then(|| retry_info(body)).flatten());
        let retry = Verdict::Retry { after: named };
        let (cause, verdict) = match status.as_u16() {
            429 => (Cause::Throttled, retry),
            503 if named.is_some() => (Cause::Throttled, retry),
            502..=504 => (Cause::Server, retry),
            401 | 403 | 404 | 405 | 407 | 300..=399 => (Cause::Refused, retry),
            _ => (Cause::Rejected, Verdict::Reject),
        };
        let quote = if is_protobuf { status_message(body) } else { quoted(body) };
        let separator = if quote.is_empty() { "" } else { ": " };
        let message = format!("{}: answered {status}{separator}{quote}", self.shown);
        let error = DeliveryError { cause, message, status: Some(status.as_u16()), verdict };
        Refusal { error, is_too_large: status == StatusCode::PAYLOAD_TOO_LARGE }
    }
}

fn is_protobuf(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(PROTOBUF.as_bytes()))
}

/// Reads the body of an answer within bounds. The status has been said, so nothing that happens here can change it.
async fn read(answer: &mut Response) -> Vec<u8> {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = answer.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - body.len())]);
            if body.len() == ANSWER_BYTES_MAX {
                break;
            }
        }
    };
    // What was read until then is what there is.
    let _ = tokio::time::timeout(ANSWER_TIME_MAX, reading).await;
    body
}
