//! Instants: nanoseconds since the Unix epoch, always UTC.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

const SECOND_NANOS: i64 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;

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
        // By hand, because every delivered event has two of these and chrono's formatting took a third of its time.
        let (seconds, nanos) = (self.0.div_euclid(SECOND_NANOS), self.0.rem_euclid(SECOND_NANOS) as u32);
        let second = seconds.rem_euclid(DAY_SECONDS) as u32;
        let (year, month, day) = date(seconds.div_euclid(DAY_SECONDS));
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        write_digits(&mut text[0..4], year);
        write_digits(&mut text[5..7], month);
        write_digits(&mut text[8..10], day);
        write_digits(&mut text[11..13], second / 3600);
        write_digits(&mut text[14..16], second / 60 % 60);
        write_digits(&mut text[17..19], second % 60);
        write_digits(&mut text[20..29], nanos);
        let end = match nanos {
            0 => 19,
            _ if nanos.is_multiple_of(1_000_000) => 23,
            _ if nanos.is_multiple_of(1_000) => 26,
            _ => 29,
        };
        text[end] = b'Z';
        out.extend_from_slice(&text[..=end]);
    }
}

fn write_digits(field: &mut [u8], mut value: u32) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar. Years are counted
/// from March, so that the leap day is the last of its year, and in eras of 400 years, which all have the same
/// number of days.
fn date(days: i64) -> (u32, u32, u32) {
    const ERA_DAYS: u32 = 146_097;
    let days = u32::try_from(days + 719_468).expect("64 bits of nanoseconds begin long after the year 0");
    let (era, day) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (day - day / 1_460 + day / 36_524 - day / (ERA_DAYS - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year + u32::from(month <= 2), month, day - (153 * month_from_march + 2) / 5 + 1)
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_chrono().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The fast text is chrono's text, over everything 64 bits hold.
        #[test]
        fn the_fast_text_is_chronos(nanos in any::<i64>(), coarse in prop_oneof![Just(1), Just(1_000), Just(1_000_000), Just(SECOND_NANOS)]) {
            let time = Timestamp::from_nanos(nanos / coarse * coarse);
            let mut fast = Vec::new();
            time.write_rfc3339(&mut fast);
            prop_assert_eq!(String::from_utf8(fast).unwrap(), time.to_string());
        }
    }

    /// What a client sent in UTC comes back letter for letter.
    #[test]
    fn utc_text_round_trips() {
        for text in ["2015-05-17T10:05:03Z", "2015-05-17T10:05:03.250Z", "2026-12-31T23:59:59.000000001Z"] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn offsets_become_utc_and_nonsense_is_named() {
        assert_eq!(
            Timestamp::parse("2026-01-31T10:00:00+02:00").unwrap().to_string(),
            "2026-01-31T08:00:00Z"
        );
        assert!(matches!(Timestamp::parse("yesterday"), Err(TimestampError::Format(_))));
        assert!(matches!(Timestamp::parse("9999-01-01T00:00:00Z"), Err(TimestampError::Range(_))));
        assert!(matches!(Timestamp::from_millis(i64::MAX), Err(TimestampError::Range(_))));
    }
}
