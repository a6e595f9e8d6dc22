//! `google.rpc.Status`: the form of every error, in protobuf, in JSON and in the trailers of gRPC.

use std::time::Duration;

use actix_web::{ResponseError as _, http::StatusCode};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use forebay_actors::otlp::wire::{put_bytes, put_varint};
use serde_json::json;

use crate::api::error::ApiError;

/// Codes of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::ingress) enum Code {
    InvalidArgument = 3,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// An error as the protocol tells it.
#[derive(Debug, Clone)]
pub(in crate::ingress) struct Status {
    pub(in crate::ingress) code: Code,
    message: String,
    retry_after: Option<Duration>,
    /// What is wrong with the request, where it is at fault.
    violation: bool,
}

impl Status {
    pub(in crate::ingress) fn of(error: &ApiError) -> Self {
        let status = error.status_code();
        let code = match status {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Code::Unimplemented,
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
            _ if status.is_client_error() => Code::InvalidArgument,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            _ => Code::Internal,
        };
        let violation = status == StatusCode::BAD_REQUEST;
        Self { code, message: error.message().to_owned(), retry_after: error.retry_after(), violation }
    }

    /// In protobuf.
    pub(in crate::ingress) fn to_protobuf(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, 1 << 3);
        put_varint(&mut out, self.code as u64);
        put_bytes(&mut out, 2, self.message.as_bytes());
        let mut detail = |name: &str, value: &[u8]| {
            let mut any = Vec::new();
            put_bytes(&mut any, 1, format!("type.googleapis.com/google.rpc.{name}").as_bytes());
            put_bytes(&mut any, 2, value);
            put_bytes(&mut out, 3, &any);
        };
        if self.violation {
            let (mut violation, mut bad_request) = (Vec::new(), Vec::new());
            put_bytes(&mut violation, 2, self.message.as_bytes());
            put_bytes(&mut bad_request, 1, &violation);
            detail("BadRequest", &bad_request);
        }
        if let Some(wait) = self.retry_after {
            let (mut duration, mut retry_info) = (Vec::new(), Vec::new());
            put_varint(&mut duration, 1 << 3);
            put_varint(&mut duration, wait.as_secs());
            if wait.subsec_nanos() > 0 {
                put_varint(&mut duration, 2 << 3);
                put_varint(&mut duration, u64::from(wait.subsec_nanos()));
            }
            put_bytes(&mut retry_info, 1, &duration);
            detail("RetryInfo", &retry_info);
        }
        out
    }

    /// In JSON.
    pub(in crate::ingress) fn to_json(&self) -> Vec<u8> {
        let mut details = Vec::new();
        if self.violation {
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{"description": self.message}],
            }));
        }
        if let Some(wait) = self.retry_after {
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": format!("{}s", wait.as_secs_f64()),
            }));
        }
        let mut status = json!({"code": self.code as u8, "message": self.message});
        if !details.is_empty() {
            status["details"] = details.into();
        }
        status.to_string().into_bytes()
    }

    /// The trailers of gRPC: the code, the message and the status whole.
    pub(in crate::ingress) fn trailers(&self) -> [(&'static str, String); 3] {
        [
            ("grpc-status", (self.code as u8).to_string()),
            ("grpc-message", percent_encoded(&self.message)),
            ("grpc-status-details-bin", STANDARD_NO_PAD.encode(self.to_protobuf())),
        ]
    }
}

/// The status of an error, for clients that would otherwise give up or never give up.
pub(in crate::ingress) fn retryable(error: ApiError) -> ApiError {
    match error.status_code() {
        // The client may have been slow for a moment only, and a request that timed out is not tried again.
        StatusCode::REQUEST_TIMEOUT => {
            ApiError::unavailable(error.code(), error.message().to_owned(), Duration::from_secs(1))
        }
        _ => error,
    }
}

/// As gRPC wants texts in headers.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
