//! What a server says: a partial success, or why it did not take a request.

use std::time::Duration;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use forebay_actors::{
    destination::{Cause, DeliveryError, Verdict},
    otlp::wire::{Fields, Value},
};
use http::{HeaderMap, HeaderValue};

use crate::destination::http::{QUOTED_BYTES_MAX, RETRY_AFTER_MAX, one_line};

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

/// The status of a call of gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GrpcStatus {
    pub(super) code: u16,
    pub(super) message: String,
    /// What RetryInfo says.
    pub(super) retry_after: Option<Duration>,
}

/// The codes of gRPC, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

const UNKNOWN: u16 = 2;
const RESOURCE_EXHAUSTED: u16 = 8;
const OUT_OF_RANGE: u16 = 11;

/// With the padding that the standard wants, or without it as gRPC does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

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
    /// From trailers, or from headers where there was nothing else; `None` where it is in neither.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok());
        let details = headers.get("grpc-status-details-bin").and_then(|details| BASE64.decode(details).ok());
        Some(Self {
            code: code.unwrap_or(UNKNOWN),
            message: headers.get("grpc-message").map(percent_decoded).unwrap_or_default(),
            retry_after: details.and_then(|details| retry_info(&details)),
        })
    }

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
        let name = CODES.get(usize::from(self.code)).copied().unwrap_or("an unknown code");
        let mut message = format!("{shown}: answered {name} ({})", self.code);
        if !self.message.is_empty() {
            message.push_str(": ");
            message.push_str(&self.message);
        }
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

/// The message of a `google.rpc.Status` in protobuf.
pub(super) fn status_message(status: &[u8]) -> String {
    quoted(member(status, 2))
}

/// The wait in the RetryInfo among the details of a `google.rpc.Status`.
pub(super) fn retry_info(status: &[u8]) -> Option<Duration> {
    let details = fields(status).filter_map(|entry| match (entry.number, entry.value) {
        (3, Value::Bytes(any)) => Some(any),
        _ => None,
    });
    let mut infos = details.filter(|any| member(any, 1).ends_with(b"/google.rpc.RetryInfo"));
    let delay = member(member(infos.next()?, 2), 1);
    let number = |number: u32| {
        let found = fields(delay).filter(|entry| entry.number == number).last();
        // A wait below zero is none.
        found.map_or(
            0,
            |entry| if let Value::Varint(n) = entry.value { i64::try_from(n).unwrap_or(0) } else { 0 },
        )
    };
    let wait = Duration::from_secs(number(1).unsigned_abs()) + Duration::from_nanos(number(2).unsigned_abs());
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The bytes of a field; the last one counts, as protobuf wants it.
fn member(message: &[u8], number: u32) -> &[u8] {
    let found = fields(message).filter(|entry| entry.number == number);
    found
        .filter_map(|entry| if let Value::Bytes(bytes) = entry.value { Some(bytes) } else { None })
        .last()
        .unwrap_or(&[])
}

fn fields(message: &[u8]) -> impl Iterator<Item = forebay_actors::otlp::wire::Entry<'_>> {
    Fields::of(message).map_while(Result::ok)
}

/// The beginning of a text on one line.
pub(super) fn quoted(text: &[u8]) -> String {
    one_line(&text[..text.len().min(QUOTED_BYTES_MAX)])
}

/// As gRPC writes texts in headers.
fn percent_decoded(value: &HeaderValue) -> String {
    let mut rest = value.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let [byte, behind @ ..] = rest {
        let escaped = match (byte, behind) {
            (b'%', [high, low, behind @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
                digit(*high).zip(digit(*low)).map(|(high, low)| (high << 4 | low, behind))
            }
            _ => None,
        };
        // A percent sign that begins no escape stands for itself.
        let (byte, behind) = escaped.unwrap_or((*byte, behind));
        out.push(byte);
        rest = behind;
    }
    quoted(&out)
}
