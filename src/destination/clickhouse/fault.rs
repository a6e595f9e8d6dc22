//! What the server's errors mean for a batch.
//!
//! The HTTP interface says 500 to nearly everything, so what counts is the code in the answer's text.
//!
//! | the server's word | what it means here |
//! |---|---|
//! | too many partitions in one insert, a constraint that is violated | these events are rejected: the sink halves the batch, and a smaller one has fewer partitions |
//! | user, password, rights, database, table, columns, settings, read-only | refused: tried again, since an operator can mend it |
//! | memory, disk, parts, queries at a time | throttled: tried again |
//! | its own time limit | tried again |
//! | anything else | the server failed: tried again |
//!
//! A type that does not fit is nobody's fault but the table's: rows are written by the types that it had.

use forebay_actors::destination::{Cause, DeliveryError, Verdict};
use reqwest::{StatusCode, header::HeaderMap};

use super::super::http::retry_after;

/// The failure of a request to the server at `place`.
pub(super) fn failure(place: &str, status: StatusCode, headers: &HeaderMap, text: &str) -> DeliveryError {
    let code = code(text);
    let retry = Verdict::Retry { after: retry_after(headers) };
    let too_wide = code == Some(252) && text.contains("Too many partitions");
    let (cause, verdict) = match code {
        _ if too_wide => (Cause::Rejected, Verdict::Reject),
        Some(469) => (Cause::Rejected, Verdict::Reject),
        Some(192..=195 | 497 | 516 | 164 | 242 | 115) => (Cause::Refused, retry),
        Some(code) if is_schema(code) => (Cause::Refused, retry),
        Some(241 | 243 | 252 | 202 | 289) => (Cause::Throttled, retry),
        Some(159 | 160 | 209) => (Cause::Timeout, retry),
        Some(_) => (Cause::Server, retry),
        None => match status.as_u16() {
            408 | 504 => (Cause::Timeout, retry),
            429 | 503 => (Cause::Throttled, retry),
            300..=499 => (Cause::Refused, retry),
            _ => (Cause::Server, retry),
        },
    };
    let message =
        if text.is_empty() { format!("{place}: answered {status}") } else { format!("{place}: {text}") };
    DeliveryError { cause, message, status: Some(status.as_u16()), verdict }
}

/// Whether the table may be another than when it was looked at.
pub(super) fn is_about_schema(text: &str) -> bool {
    code(text).is_some_and(is_schema)
}

/// Unknown columns, identifiers, tables and databases; values that end elsewhere than their types say.
const fn is_schema(code: u32) -> bool {
    matches!(code, 8 | 10 | 16 | 20 | 32 | 33 | 36 | 44 | 47 | 53 | 60 | 81 | 117 | 131)
}

/// The number in `Code: 60. DB::Exception: …`, or `Code: 60, e.displayText() = …` of old servers.
fn code(text: &str) -> Option<u32> {
    let rest = &text[text.find("Code: ")? + "Code: ".len()..];
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_causes_and_verdicts() {
        let of = |text: &str| {
            let error = failure("here", StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new(), text);
            (error.cause, error.verdict == Verdict::Reject)
        };
        for (text, cause, is_rejected) in [
            (
                "Code: 60, e.displayText() = DB::Exception: Table default.events doesn't exist.",
                Cause::Refused,
                false,
            ),
            ("Code: 252. DB::Exception: Too many partitions for single INSERT block", Cause::Rejected, true),
            ("Code: 252. DB::Exception: Too many parts (300). Merges are slower", Cause::Throttled, false),
            // r0530: taken for too many partitions, it cost the events.
            (
                "Code: 252. DB::Exception: Too many parts (100000) in all partitions in total in table 'events'.",
                Cause::Throttled,
                false,
            ),
            ("Code: 516. DB::Exception: default: Authentication failed", Cause::Refused, false),
            ("Code: 241. DB::Exception: Memory limit (total) exceeded", Cause::Throttled, false),
            ("Code: 1000. DB::Exception: what nobody knows", Cause::Server, false),
            ("", Cause::Server, false),
        ] {
            assert_eq!(of(text), (cause, is_rejected), "{text}");
        }
    }
}
