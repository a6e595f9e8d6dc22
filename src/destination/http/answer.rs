//! What HTTP servers answer, read within bounds.

use std::time::{Duration, SystemTime};

use forebay_actors::{
    destination::{Cause, DeliveryError},
    event::Timestamp,
    examination::ClockReading,
};
use reqwest::{
    Response,
    header::{self, HeaderMap},
};
use tokio::time::Instant;

use crate::destination::chain;

/// Bytes of an answer's body that are read; a longer one costs its connection.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Time for the body of an answer whose status is known already.
pub(in crate::destination) const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// Bytes of an answer's body that an error message quotes.
pub(in crate::destination) const QUOTED_BYTES_MAX: usize = 512;

/// The longest wait a server can ask for; a mistaken one must not silence a sink for days.
pub(in crate::destination) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// The finest that `Date` says.
const DATE_RESOLUTION: Duration = Duration::from_secs(1);

/// No answer came. `shown` is the URL without its secrets.
pub(in crate::destination) fn unanswered(shown: &str, error: reqwest::Error) -> DeliveryError {
    let (cause, what) = if error.is_timeout() {
        (Cause::Timeout, "no answer in time")
    } else if error.is_connect() {
        (Cause::Connect, "no connection")
    } else {
        (Cause::Connect, "the connection broke")
    };
    // reqwest would put the URL into the text as it is, secrets and all.
    let error = error.without_url();
    DeliveryError::transient(cause, format!("{shown}: {what}: {}", chain(&error)))
}

/// Reads the body of an answer within bounds, so that its connection can be used again, and returns its
/// beginning as one line of text. The status has been said, so nothing that happens here can change it.
pub(super) async fn read_answer(mut answer: Response) -> String {
    let mut quote = Vec::new();
    let reading = async {
        let mut read = 0;
        while let Ok(Some(chunk)) = answer.chunk().await {
            quote.extend_from_slice(&chunk[..chunk.len().min(QUOTED_BYTES_MAX - quote.len())]);
            read += chunk.len();
            if read > ANSWER_BYTES_MAX {
                break;
            }
        }
    };
    // What was read until then is quoted; the rest is not worth more waiting.
    let _ = tokio::time::timeout(ANSWER_TIME_MAX, reading).await;
    one_line(&quote)
}

/// Text of a server on one line.
pub(in crate::destination) fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The wait that `Retry-After` asks for, in either of its forms. A date is counted from the answer's own
/// `Date`, by the server's clock, so that neither clock has to be right.
pub(in crate::destination) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // Digits that do not fit are a long time.
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(text).ok()?;
        until.duration_since(date(headers)?).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// What the server's clock said in an answer to what was `asked` then.
pub(in crate::destination) fn clock_of(headers: &HeaderMap, asked: Instant) -> Option<ClockReading> {
    let since_1970 = date(headers)?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let said = Timestamp::from_nanos(i64::try_from(since_1970.as_nanos()).ok()?);
    Some(ClockReading { said, resolution: DATE_RESOLUTION, asked, answered: Instant::now() })
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()
}
