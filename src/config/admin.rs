//! The section `admin`: what may be done to a running process over HTTP, by whoever has the token.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

/// Characters of a token: 16 of them, at random, nobody guesses over a network.
pub(super) const TOKEN_CHARS_MIN: usize = 16;

/// What may be done to the running process over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Faults on purpose, for chaos tests: GET /admin/actors and POST /admin/actors/{name}/kill, …/panic and
    /// …/stall?for=5s. Needs a token. Never on by default.
    pub chaos: bool,
    /// What `Authorization: Bearer …` has to carry; at least 16 characters.
    pub token: Option<Secret>,
}

/// A text that is never shown: not by `Debug`, and as `***` in [`super::Config::redacted`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

// === impl Secret ===

impl Secret {
    /// Keeps this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for whom it is meant.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether this is the text, in a time that says nothing about how much of it is.
    pub fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }

    /// Why it could not be sent as a token, or could be guessed.
    pub(super) fn unfit(&self) -> Option<String> {
        if self.0.len() < TOKEN_CHARS_MIN {
            return Some(format!("is shorter than {TOKEN_CHARS_MIN} characters"));
        }
        let sendable = self.0.bytes().all(|byte| byte.is_ascii_graphic());
        (!sendable).then(|| "has characters that a header cannot carry".to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_and_not_shown() {
        let secret = Secret::new("0123456789abcdef");
        assert!(secret.is(b"0123456789abcdef"));
        for wrong in [&b"0123456789abcdeF"[..], b"", b"0123456789abcde", b"0123456789abcdef0"] {
            assert!(!secret.is(wrong));
        }
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.unfit(), None);
        assert!(Secret::new("0123456789abcde").unfit().is_some());
        assert!(Secret::new("0123456789 abcdef").unfit().is_some());
    }
}
