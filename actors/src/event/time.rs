//! Instants: nanoseconds since the Unix epoch, always UTC.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

const SECOND_NANOS: i64 = 1_000_000_000;
const HOUR_SECONDS: i64 = 3_600;
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
        if let Some(time) = Self::parse_utc(text.as_bytes()) {
            return Ok(time);
        }
        let parsed =
            DateTime::parse_from_rfc3339(text).map_err(|_| TimestampError::Format(text.to_owned()))?;
        parsed.timestamp_nanos_opt().map(Self).ok_or_else(|| TimestampError::Range(text.to_owned()))
    }

    /// The form that nearly all clients write, as [`TimeWriter`] does: by hand, because every event has one, and chrono's
    /// parser of any form took a fortieth of the server's time. `None` for everything else, which chrono judges.
    fn parse_utc(text: &[u8]) -> Option<Self> {
        let (text, fraction) = text.strip_suffix(b"Z")?.split_at_checked(19)?;
        let [y0, y1, y2, y3, b'-', o0, o1, b'-', d0, d1, b'T', h0, h1, b':', m0, m1, b':', s0, s1] = *text
        else {
            return None;
        };
        let nanos = match fraction {
            [] => 0,
            [b'.', digits @ ..] if (1..=9).contains(&digits.len()) => {
                read_digits(digits)? * 10_u32.pow(9 - digits.len() as u32)
            }
            _ => return None,
        };
        let day = day_of(read_digits(&[y0, y1, y2, y3])?, read_digits(&[o0, o1])?, read_digits(&[d0, d1])?)?;
        let (hour, minute, second) =
            (read_digits(&[h0, h1])?, read_digits(&[m0, m1])?, read_digits(&[s0, s1])?);
        // A leap second is chrono's to judge.
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = day * DAY_SECONDS + i64::from(hour * 3600 + minute * 60 + second);
        seconds.checked_mul(SECOND_NANOS)?.checked_add(i64::from(nanos)).map(Self)
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
}

/// Writes times as RFC 3339 text, and remembers the hour of the last: those of events that came together mostly have one. By hand,
/// because every delivered event has two, and chrono's formatting took a third of what it takes to write one.
#[derive(Debug)]
pub struct TimeWriter {
    hour: Option<i64>,
    text: [u8; 29],
}

impl Default for TimeWriter {
    fn default() -> Self {
        Self { hour: None, text: *b"0000-00-00T00:00:00.000000000" }
    }
}

impl TimeWriter {
    /// Appends the RFC 3339 text, `Z`, with as many fractional digits (0, 3, 6 or 9) as are needed.
    pub fn write(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        let (seconds, nanos) = (time.0.div_euclid(SECOND_NANOS), time.0.rem_euclid(SECOND_NANOS) as u32);
        let hour = seconds.div_euclid(HOUR_SECONDS);
        if self.hour != Some(hour) {
            self.hour = Some(hour);
            let (year, month, day) = date(hour.div_euclid(24));
            write_digits(&mut self.text[0..4], year);
            write_digits(&mut self.text[5..7], month);
            write_digits(&mut self.text[8..10], day);
            write_digits(&mut self.text[11..13], hour.rem_euclid(24) as u32);
        }
        let second = seconds.rem_euclid(HOUR_SECONDS) as u32;
        write_digits(&mut self.text[14..16], second / 60);
        write_digits(&mut self.text[17..19], second % 60);
        let (end, fraction) = match nanos {
            0 => (19, 0),
            _ if nanos.is_multiple_of(1_000_000) => (23, nanos / 1_000_000),
            _ if nanos.is_multiple_of(1_000) => (26, nanos / 1_000),
            _ => (29, nanos),
        };
        if end > 19 {
            write_digits(&mut self.text[20..end], fraction);
        }
        out.extend_from_slice(&self.text[..end]);
        out.push(b'Z');
    }
}

fn write_digits(field: &mut [u8], mut value: u32) {
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// The number that at most nine digits write; `None` where one of them is none.
fn read_digits(digits: &[u8]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0')))
}

/// Days of 400 years.
const ERA_DAYS: u32 = 146_097;

/// Days from the first of March of the year 0 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

/// The day of this date counted from 1970-01-01, as [`date`] counts; `None` where there is none, and
/// for January and February of the year 0.
fn day_of(year: u32, month: u32, day: u32) -> Option<i64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let last = match month {
        2 => 28 + u32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let (year, month_from_march) =
        if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year / 400 * ERA_DAYS + year % 400 * 365 + year % 400 / 4 - year % 400 / 100;
    let days = days + (153 * month_from_march + 2) / 5 + day;
    (1..=last).contains(&day).then(|| i64::from(days) - 1 - EPOCH_DAYS)
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar. Years are counted
/// from March, so that the leap day is the last of its year, and in eras of 400 years, which all have the same
/// number of days.
fn date(days: i64) -> (u32, u32, u32) {
    let days = u32::try_from(days + EPOCH_DAYS).expect("64 bits of nanoseconds begin long after the year 0");
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
        /// The fast text is chrono's text, over everything 64 bits hold, also behind that of a time of the same hour, of one about it, or of another
        /// precision.
        #[test]
        fn the_fast_text_is_chronos(
            nanos in any::<i64>(),
            behind in proptest::collection::vec(-2 * HOUR_SECONDS * SECOND_NANOS..2 * HOUR_SECONDS * SECOND_NANOS, 0..4),
            coarse in proptest::collection::vec(prop_oneof![Just(1), Just(1_000), Just(1_000_000), Just(SECOND_NANOS)], 4),
        ) {
            let mut writer = TimeWriter::default();
            let behind = behind.into_iter().map(|behind| nanos.saturating_add(behind));
            for (nanos, coarse) in std::iter::once(nanos).chain(behind).zip(coarse) {
                let time = Timestamp::from_nanos(nanos / coarse * coarse);
                let mut fast = Vec::new();
                writer.write(time, &mut fast);
                prop_assert_eq!(String::from_utf8(fast).unwrap(), time.to_string());
            }
        }
    }

    proptest! {
        /// What is read fast is what chrono reads, of texts that are times and of others that nearly are.
        #[test]
        fn what_is_read_fast_is_what_chrono_reads(
            nanos in any::<i64>(),
            digits in 0_usize..12,
            changed in proptest::option::of((0_usize..32, prop_oneof![Just('9'), Just('6'), Just('Z'), Just('z'), Just(' '), Just('+'), Just('.')])),
        ) {
            let time = Timestamp::from_nanos(nanos).to_chrono();
            let fraction = format!("{:09}000", time.timestamp_subsec_nanos());
            let dot = if digits > 0 { "." } else { "" };
            let text = format!("{}{dot}{}Z", time.format("%Y-%m-%dT%H:%M:%S"), &fraction[..digits]);
            let mut chars: Vec<char> = text.chars().collect();
            if let Some((at, to)) = changed {
                let last = chars.len() - 1;
                chars[at.min(last)] = to;
            }
            let text: String = chars.into_iter().collect();
            let chronos = DateTime::parse_from_rfc3339(&text).ok().and_then(|time| time.timestamp_nanos_opt());
            prop_assert_eq!(Timestamp::parse(&text).ok().map(Timestamp::nanos), chronos, "{}", text);
        }
    }

    /// Every day that can be kept, and none that there is not, is read without chrono, and is the day that chrono says.
    #[test]
    fn every_day_is_chronos() {
        for year in 1678..2262 {
            for (month, day) in (1..=12).flat_map(|month| (1..=32).map(move |day| (month, day))) {
                let text = format!("{year}-{month:02}-{day:02}T00:00:00Z");
                let chronos = chrono::NaiveDate::from_ymd_opt(year, month, day)
                    .and_then(|date| date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_nanos_opt());
                assert_eq!(Timestamp::parse_utc(text.as_bytes()).map(Timestamp::nanos), chronos, "{text}");
            }
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
