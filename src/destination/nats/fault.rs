//! What errors mean for a batch.
//!
//! | the server's word | what it means here |
//! |---|---|
//! | a message or its headers are too large, for it or for the stream | that event is rejected |
//! | the stream is full, resources of the account or the server are used up | throttled: tried again |
//! | no stream takes the subject, another one does, it is sealed, no JetStream, rights, credentials | refused: tried again, since an operator can mend it |
//! | no word in time, a connection that breaks | tried again |
//! | anything else | the server failed: tried again |

use std::{error::Error as _, time::Duration};

use async_nats::jetstream::{
    Error, ErrorCode,
    context::{PublishError, PublishErrorKind},
};
use forebay_actors::destination::{Cause, DeliveryError, Verdict};

use super::super::http::one_line;

/// The failure to publish a message under `subject` at `place`.
pub(super) fn unpublished(
    place: &str,
    subject: &str,
    error: &PublishError,
    timeout: Duration,
) -> DeliveryError {
    let fails = |cause, text: &str| DeliveryError::transient(cause, format!("{place}: {text}"));
    if let Some(error) = error.source().and_then(|source| source.downcast_ref::<Error>()) {
        return failure(place, error);
    }
    match error.kind() {
        PublishErrorKind::StreamNotFound => fails(
            Cause::Refused,
            &format!("no stream takes the subject {subject}, or JetStream is not there"),
        ),
        PublishErrorKind::TimedOut => {
            fails(Cause::Timeout, &format!("no word of a message to {subject} within {timeout:?}"))
        }
        PublishErrorKind::MaxPayloadExceeded => {
            let words = error.source().map(ToString::to_string).unwrap_or_default();
            DeliveryError::rejected(format!(
                "{place}: a message to {subject} is larger than the server takes: {words}"
            ))
        }
        _ => fails(Cause::Connect, &one_line(error.to_string().as_bytes())),
    }
}

/// What JetStream's own error means.
pub(super) fn failure(place: &str, error: &Error) -> DeliveryError {
    let words = error.to_string();
    let retry = Verdict::Retry { after: None };
    let (cause, verdict) = match error.error_code() {
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            (Cause::Rejected, Verdict::Reject)
        }
        // "maximum bytes exceeded", "maximum messages exceeded" and so on: a stream that discards what is new.
        ErrorCode::STREAM_STORE_FAILED if words.contains("maximum") => (Cause::Throttled, retry),
        ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::STREAM_TOO_MANY_REQUESTS => (Cause::Throttled, retry),
        ErrorCode::STREAM_NOT_MATCH
        | ErrorCode::STREAM_NOT_FOUND
        | ErrorCode::STREAM_SEALED
        | ErrorCode::JETSTREAM_NOT_ENABLED
        | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        | ErrorCode::STREAM_SUBJECT_OVERLAP
        | ErrorCode::STREAM_INVALID_CONFIG
        | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED
        | ErrorCode::NO_LIMITS
        | ErrorCode::STREAM_MAX_BYTES_REQUIRED
        | ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED
        | ErrorCode::MAXIMUM_STREAMS_LIMIT => (Cause::Refused, retry),
        _ => (Cause::Server, retry),
    };
    let message = format!("{place}: {}", one_line(words.as_bytes()));
    DeliveryError { cause, message, status: u16::try_from(error.code()).ok(), verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what is about the event is a rejection; what is about the stream waits.
    #[test]
    fn errors_become_causes_and_verdicts() {
        for (code, text, cause, is_rejected) in [
            (10054, "message size exceeds maximum allowed", Cause::Rejected, true),
            (10097, "header size exceeds maximum allowed of 64k", Cause::Rejected, true),
            (10077, "maximum bytes exceeded", Cause::Throttled, false),
            (10077, "write error: no space left on device", Cause::Server, false),
            (10047, "insufficient storage resources available", Cause::Throttled, false),
            (10060, "expected stream does not match", Cause::Refused, false),
            (10039, "JetStream not enabled for account", Cause::Refused, false),
            (10008, "JetStream system temporarily unavailable", Cause::Server, false),
            (1, "what nobody knows", Cause::Server, false),
        ] {
            let json = serde_json::json!({"code": 503, "err_code": code, "description": text});
            let error: Error = serde_json::from_value(json).unwrap();
            let error = unpublished(
                "here",
                "events.api",
                &PublishError::with_source(PublishErrorKind::Other, error),
                Duration::ZERO,
            );
            assert_eq!((error.cause, error.verdict == Verdict::Reject), (cause, is_rejected), "{text}");
            assert!(error.message.contains(text) && error.status == Some(503), "{error:?}");
        }
        let of = |kind| unpublished("here", "events.api", &PublishError::new(kind), Duration::from_secs(1));
        assert_eq!(of(PublishErrorKind::StreamNotFound).cause, Cause::Refused);
        assert_eq!(of(PublishErrorKind::TimedOut).cause, Cause::Timeout);
        assert_eq!(of(PublishErrorKind::MaxPayloadExceeded).verdict, Verdict::Reject);
        assert_eq!(of(PublishErrorKind::BrokenPipe).cause, Cause::Connect);
    }
}
