//! What a server says: a partial success, or why it did not take a request.

use forebay_actors::{
    destination::{Cause, DeliveryError, Verdict},
    otlp::wire::Value,
};

use crate::destination::grpc::status::{GrpcStatus, fields, member, quoted};

/// What was taken, with what was left out of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Partial {
    pub(super) rejected: u64,
    pub(super) message: String,
}

/// Why a call failed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: DeliveryError,
    /// The server takes less at a time.
    pub(super) is_too_large: bool,
}

const RESOURCE_EXHAUSTED: u16 = 8;
const OUT_OF_RANGE: u16 = 11;

// === impl Partial ===

impl Partial {
    /// Of an `Export…ServiceResponse` in protobuf. What is none says nothing of what was left out.
    pub(super) fn of_protobuf(response: &[u8]) -> Self {
        let mut partial = Self::default();
        for entry in fields(member(response, 1)) {
            match (entry.number, entry.value) {
                // Signed, and never below zero by anyone who means it.
                (1, Value::Varint(rejected)) => {
                    partial.rejected = i64::try_from(rejected).unwrap_or(0) as u64
                }
                (2, Value::Bytes(text)) => partial.message = quoted(text),
                _ => {}
            }
        }
        partial
    }

    /// The same in JSON.
    pub(super) fn of_json(response: &[u8]) -> Self {
        let response: serde_json::Value = serde_json::from_slice(response).unwrap_or_default();
        let partial = &response["partialSuccess"];
        let rejected =
            ["rejectedLogRecords", "rejectedDataPoints", "rejectedSpans"].iter().find_map(|name| {
                let number = &partial[name];
                number.as_u64().or_else(|| number.as_str()?.parse().ok())
            });
        let message =
            partial["errorMessage"].as_str().map_or_else(String::new, |text| quoted(text.as_bytes()));
        Self { rejected: rejected.unwrap_or(0), message }
    }
}

// === impl GrpcStatus ===

impl GrpcStatus {
    /// What it means for the batch.
    pub(super) fn refusal(self, shown: &str) -> Refusal {
        let retry = Verdict::Retry { after: self.retry_after };
        let is_too_large = matches!(self.code, RESOURCE_EXHAUSTED | OUT_OF_RANGE)
            && self.retry_after.is_none()
            && ["too large", "larger than max"].iter().any(|words| self.message.contains(words));
        let (cause, verdict) = match self.code {
            _ if is_too_large => (Cause::Rejected, Verdict::Reject),
            4 => (Cause::Timeout, retry),
            RESOURCE_EXHAUSTED if self.retry_after.is_some() => (Cause::Throttled, retry),
            14 if self.retry_after.is_some() => (Cause::Throttled, retry),
            1 | 10 | OUT_OF_RANGE | 14 | 15 => (Cause::Server, retry),
            // A wrong token fails for every request alike. Rejecting would dead-letter the whole stream for a typing error.
            7 | 12 | 16 => (Cause::Refused, retry),
            _ => (Cause::Rejected, Verdict::Reject),
        };
        let message = self.words(shown);
        Refusal { error: DeliveryError { cause, message, status: Some(self.code), verdict }, is_too_large }
    }
}

// === impl Refusal ===

impl From<DeliveryError> for Refusal {
    fn from(error: DeliveryError) -> Self {
        Self { error, is_too_large: false }
    }
}

impl From<Refusal> for DeliveryError {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}
