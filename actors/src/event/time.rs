//! Instants: nanoseconds since the Unix epoch, always UTC.

use std::io::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// An instant in nanoseconds since the Unix epoch, UTC. Covers the years 1677 to 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

/// Why a text or a number is not a [`Timestamp`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// The text is not RFC 3339.
    #[error("{0:?} is not an RFC 3339 time like \"2026-01-31T08:00:00Z\"")]
    Format(String),
    /// The instant is real, but outside what 64 bits of nanoseconds hold.
    #[error("{0} is out of range: the years 1677 to 2262 can be kept")]
    Range(String),
}

impl Timestamp {
    /// From nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`TimestampError::Range`] outside the years 1677 to 2262.
    pub fn from_millis(millis: i64) -> Result<Self, TimestampError> {
        millis.checked_mul(1_000_000).map(Self).ok_or_else(|| TimestampError::Range(format!("{millis} ms")))
    }

    /// From RFC 3339 text with any offset; the instant is kept, the offset is not.
    ///
    /// # Errors
    /// [`TimestampError::Format`] where the text is no RFC 3339 time, [`TimestampError::Range`] where
    /// it lies outside the years 1677 to 2262.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let parsed =
            DateTime::parse_from_rfc3339(text).map_err(|_| TimestampError::Format(text.to_owned()))?;
        parsed.timestamp_nanos_opt().map(Self).ok_or_else(|| TimestampError::Range(text.to_owned()))
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, rounded down.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The instant `duration` earlier; the earliest instant there is where it would lie before that.
    pub fn minus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// Seconds from `earlier` to here; 0 where `earlier` is later.
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0).max(0) as f64 / 1e9
    }

    /// The same instant for chrono.
    pub const fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_nanos(self.0)
    }

    /// Appends the RFC 3339 text, `Z`, with as many fractional digits (0, 3, 6 or 9) as are needed.
    pub fn write_rfc3339(self, out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{self}");
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_chrono().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client sent in UTC comes back letter for letter.
    #[test]
    fn utc_text_round_trips() {
        for text in ["2015-05-17T10:05:03Z", "2015-05-17T10:05:03.250Z", "2026-12-31T23:59:59.000000001Z"] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn offsets_become_utc_and_nonsense_is_named() {
        assert_eq!(Timestamp::parse("2026-01-31T10:00:00+02:00").unwrap().to_string(), "2026-01-31T08:00:00Z");
        assert!(matches!(Timestamp::parse("yesterday"), Err(TimestampError::Format(_))));
        assert!(matches!(Timestamp::parse("9999-01-01T00:00:00Z"), Err(TimestampError::Range(_))));
        assert!(matches!(Timestamp::from_millis(i64::MAX), Err(TimestampError::Range(_))));
    }
}
