//! The one form of every error answer: `{"error": {"code", "message", "details"}}`.

use std::{fmt, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use serde_json::{Value, json};

/// An error answer.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Value,
    retry_after: Option<Duration>,
    /// The methods that a path has, in an answer to another.
    allowed: Option<&'static str>,
    /// The connection cannot be used again: its body was not read to the end.
    close: bool,
    /// How to say who one is, in an answer to somebody who did not.
    challenge: Option<Challenge>,
}

/// How to say who one is, in the form of RFC 6750.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// A token is needed.
    Token,
    /// One with another scope is needed.
    Scope,
}

impl Challenge {
    /// The value of `WWW-Authenticate`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "Bearer realm=\"forebay\"",
            Self::Scope => "Bearer realm=\"forebay\", error=\"insufficient_scope\"",
        }
    }
}

impl ApiError {
    /// An error with this status, a code for programs and a message for people.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            details: Value::Null,
            retry_after: None,
            allowed: None,
            close: false,
            challenge: None,
        }
    }

    /// 400.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 503, with the time after which trying again makes sense.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        Self { retry_after: Some(retry_after), ..error }
    }

    /// 500. The message must be fit for strangers.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// Adds what a program can work with.
    pub fn with_details(self, details: Value) -> Self {
        Self { details, ..self }
    }

    /// Adds `Retry-After`.
    pub fn with_retry_after(self, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..self }
    }

    /// Ends the connection after the answer.
    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// Adds `WWW-Authenticate`.
    pub fn with_challenge(self, challenge: Challenge) -> Self {
        Self { challenge: Some(challenge), ..self }
    }

    /// How to say who one is, where that was missing.
    pub fn challenge(&self) -> Option<&'static str> {
        self.challenge.map(Challenge::as_str)
    }

    /// What is wrong, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// When trying again makes sense, where it does.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The code for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: never an invitation to come too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.insert_header((header::RETRY_AFTER, seconds.max(1).to_string()));
        }
        if let Some(challenge) = self.challenge() {
            response.insert_header((header::WWW_AUTHENTICATE, challenge));
        }
        if let Some(allowed) = self.allowed {
            response.insert_header((header::ALLOW, allowed));
        }
        if self.close {
            response.force_close();
        }
        let error = json!({"code": self.code, "message": self.message, "details": self.details});
        response.json(json!({ "error": error }))
    }
}

/// For a path that is nothing.
///
/// # Errors
/// 404, always.
pub async fn not_found(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let message = format!("there is nothing at {}", request.path());
    Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message))
}

/// For a path that is something, but not by this method; `allowed` are those it has.
///
/// # Errors
/// 405, always.
pub async fn method_not_allowed(
    request: HttpRequest,
    allowed: &'static str,
) -> Result<HttpResponse, ApiError> {
    let message =
        format!("{} does not know the method {}; {allowed} it does", request.path(), request.method());
    let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
    Err(ApiError { allowed: Some(allowed), ..error })
}
