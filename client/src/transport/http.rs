//! `POST /events`: a line for each event.

use std::{io::Write as _, pin::Pin, time::Duration};

use flate2::{Compression, write::GzEncoder};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};
use serde::Deserialize;

use super::{Answer, Fault, Rejection, Transport, Verdict, chain, tls::Tls};
use crate::{Event, error::BuildError};

/// Of an answer more is not read: it names at most a thousand events.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Of an answer that is not Forebay's so much is repeated.
const WORDS_CHARS_MAX: usize = 200;

/// The way over HTTP.
pub(crate) struct Http {
    client: Client,
    url: Url,
    gzip: bool,
}

/// An answer of success.
#[derive(Deserialize)]
struct Taken {
    accepted: usize,
    #[serde(default)]
    rejected: Vec<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    index: usize,
    error: String,
}

#[derive(Deserialize)]
struct Failed {
    error: FailedError,
}

#[derive(Deserialize)]
struct FailedError {
    code: String,
    message: String,
    #[serde(default)]
    details: Option<FailedDetails>,
}

#[derive(Deserialize)]
struct FailedDetails {
    #[serde(default)]
    rejected: Vec<Refused>,
}

impl Http {
    /// To the server at this address; its path is kept in front of `/events`.
    pub fn new(
        mut url: Url,
        token: Option<&str>,
        tls: &Tls,
        gzip: bool,
        connect_timeout: Duration,
    ) -> Result<Self, BuildError> {
        let path = format!("{}/events", url.path().trim_end_matches('/'));
        url.set_path(&path);
        url.set_query(Some("ids=false"));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(token) = token {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| BuildError::Token)?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let mut builder = Client::builder()
            .default_headers(headers)
            .user_agent(concat!("forebay-client/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            // A redirect would turn the request into one without its events.
            .redirect(reqwest::redirect::Policy::none());
        if url.scheme() == "https" {
            builder = builder.tls_backend_preconfigured(tls.rustls()?);
        } else {
            // Without TLS its settings do not matter, but without any the builder asks for a provider.
            builder = builder.tls_backend_preconfigured(Tls::plain()?);
        }
        let client = builder.build().map_err(|e| BuildError::Tls(chain(&e)))?;
        Ok(Self { client, url, gzip })
    }

    fn body(&self, events: &[&Event]) -> Vec<u8> {
        let mut lines = Vec::with_capacity(events.iter().map(|event| event.bytes()).sum());
        events.iter().for_each(|event| event.write_line(&mut lines));
        if !self.gzip {
            return lines;
        }
        let mut packed = GzEncoder::new(Vec::with_capacity(lines.len() / 4), Compression::fast());
        packed.write_all(&lines).and_then(|()| packed.finish()).expect("memory is written to without errors")
    }
}

impl Transport for Http {
    fn deliver<'a>(
        &'a self,
        batch_id: &'a str,
        events: Vec<&'a Event>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(async move {
            let request = self.client.post(self.url.clone()).header("idempotency-key", batch_id);
            let response = request.body(self.body(&events)).send().await;
            // Whatever happened before there was an answer may have passed the next time.
            let response = response.map_err(|e| Fault::passing(chain(&e.without_url())))?;
            let (status, wait) = (response.status(), retry_after(response.headers()));
            let body = read(response).await?;
            judge(status, wait, &body, events.len())
        })
    }
}

/// Seconds alone: a date, which only proxies send, would need the clocks to agree, and the back-off does without.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

async fn read(mut response: Response) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    loop {
        // An answer that broke off is none.
        let chunk = response.chunk().await;
        match chunk
            .map_err(|e| Fault::passing(format!("the answer broke off: {}", chain(&e.without_url()))))?
        {
            Some(chunk) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => body.extend_from_slice(&chunk),
            Some(_) => return Err(Fault::refused("the answer is longer than any of Forebay's")),
            None => return Ok(body),
        }
    }
}

/// What the server's answer means.
fn judge(status: StatusCode, wait: Option<Duration>, body: &[u8], events: usize) -> Answer {
    if status.is_success() {
        let taken: Option<Taken> = serde_json::from_slice(body).ok();
        return match taken.filter(|taken| taken.accepted + taken.rejected.len() == events) {
            Some(taken) => Ok(rejections(taken.rejected)),
            None => Err(Fault::refused(format!(
                "{status}, but not as Forebay answers; is this its address? {}",
                words(body)
            ))),
        };
    }
    let failed: Option<Failed> = serde_json::from_slice(body).ok();
    let said = match &failed {
        Some(Failed { error }) => format!("{} {}: {}", status.as_u16(), error.code, error.message),
        None => format!("{status}: {}", words(body)),
    };
    let verdict = match status.as_u16() {
        408 | 429 | 502 | 503 | 504 => Verdict::Retry { after: wait },
        413 => Verdict::Split,
        _ => Verdict::Refuse,
    };
    let listed = failed.and_then(|failed| failed.error.details).map(|details| details.rejected);
    match listed.filter(|listed| listed.len() == events) {
        Some(listed) if verdict == Verdict::Refuse => Ok(rejections(listed)),
        _ => Err(Fault { verdict, words: said }),
    }
}

fn rejections(refused: Vec<Refused>) -> Vec<Rejection> {
    refused.into_iter().map(|Refused { index, error }| Rejection { index, error }).collect()
}

fn words(body: &[u8]) -> String {
    String::from_utf8_lossy(body).trim().chars().take(WORDS_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16, wait: Option<u64>, body: &str) -> Result<usize, Verdict> {
        let status = StatusCode::from_u16(status).unwrap();
        let answer = judge(status, wait.map(Duration::from_secs), body.as_bytes(), 2);
        answer.map(|rejected| rejected.len()).map_err(|fault| fault.verdict)
    }

    /// Only what may pass is tried again, as late as the server says; what is refused is refused once.
    #[test]
    fn answers_have_one_meaning() {
        let after = Some(Duration::from_secs(3));
        for status in [429, 502, 503, 504] {
            assert_eq!(verdict(status, Some(3), ""), Err(Verdict::Retry { after }), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 405, 415, 422, 500, 501] {
            assert_eq!(verdict(status, Some(3), ""), Err(Verdict::Refuse), "{status}");
        }
        assert_eq!(verdict(413, None, ""), Err(Verdict::Split));
        assert_eq!(verdict(202, None, r#"{"accepted":2,"rejected":[]}"#), Ok(0));
        assert_eq!(verdict(202, None, r#"{"accepted":1,"rejected":[{"index":0,"error":"no"}]}"#), Ok(1));
        // Success of somebody else is none: these events would be gone.
        for body in ["", "<html>", "{}", r#"{"accepted":1,"rejected":[]}"#] {
            assert_eq!(verdict(200, None, body), Err(Verdict::Refuse), "{body}");
        }
        let all = r#"{"error":{"code":"invalid_events","message":"m","details":{"rejected":[{"index":0,"error":"a"},{"index":1,"error":"b"}]}}}"#;
        assert_eq!(verdict(400, None, all), Ok(2));
    }

    /// Dates and nonsense are left to the back-off.
    #[test]
    fn only_seconds_are_believed() {
        let after = |text: &'static str| {
            let value = HeaderValue::from_static(text);
            retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, value)]))
        };
        assert_eq!(after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!((after("-1"), after("soon"), after("Wed, 21 Oct 2026 07:28:00 GMT")), (None, None, None));
    }
}
