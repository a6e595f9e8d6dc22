//! The status with which a call of gRPC ends.

use std::time::Duration;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use forebay_actors::otlp::wire::{Fields, Value};
use http::{HeaderMap, HeaderValue};

use crate::destination::http::{QUOTED_BYTES_MAX, RETRY_AFTER_MAX, one_line};

/// The status of a call of gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::destination) struct GrpcStatus {
    pub(in crate::destination) code: u16,
    pub(in crate::destination) message: String,
    /// What RetryInfo says.
    pub(in crate::destination) retry_after: Option<Duration>,
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

/// With the padding that the standard wants, or without it as gRPC does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

// === impl GrpcStatus ===

impl GrpcStatus {
    /// From trailers, or from headers where there was nothing else; `None` where it is in neither.
    pub(in crate::destination) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok());
        let details = headers.get("grpc-status-details-bin").and_then(|details| BASE64.decode(details).ok());
        Some(Self {
            code: code.unwrap_or(UNKNOWN),
            message: headers.get("grpc-message").map(percent_decoded).unwrap_or_default(),
            retry_after: details.and_then(|details| retry_info(&details)),
        })
    }

    /// What it says, and who says it.
    pub(in crate::destination) fn words(&self, shown: &str) -> String {
        let name = CODES.get(usize::from(self.code)).copied().unwrap_or("an unknown code");
        let mut words = format!("{shown}: answered {name} ({})", self.code);
        if !self.message.is_empty() {
            words.push_str(": ");
            words.push_str(&self.message);
        }
        words
    }
}

/// The message of a `google.rpc.Status` in protobuf.
pub(in crate::destination) fn status_message(status: &[u8]) -> String {
    quoted(member(status, 2))
}

/// The wait in the RetryInfo among the details of a `google.rpc.Status`.
pub(in crate::destination) fn retry_info(status: &[u8]) -> Option<Duration> {
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
pub(in crate::destination) fn member(message: &[u8], number: u32) -> &[u8] {
    let found = fields(message).filter(|entry| entry.number == number);
    found
        .filter_map(|entry| if let Value::Bytes(bytes) = entry.value { Some(bytes) } else { None })
        .last()
        .unwrap_or(&[])
}

pub(in crate::destination) fn fields(
    message: &[u8],
) -> impl Iterator<Item = forebay_actors::otlp::wire::Entry<'_>> {
    Fields::of(message).map_while(Result::ok)
}

/// The beginning of a text on one line.
pub(in crate::destination) fn quoted(text: &[u8]) -> String {
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
