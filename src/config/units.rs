//! Sizes and durations as people write them: `64MiB`, `250ms`. For serde's and schemars' `with`.
//!
//! Only whole numbers: what is printed is then exactly what is meant, and reads back as the same value.

use std::{fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};

/// Units of sizes with their bytes, largest first; of two that say it as shortly, the binary one is printed.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Units of durations with their nanoseconds, largest first.
const DURATION_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

const SIZE_WANTED: &str = "a size like 64MiB, 512KB or a whole number of bytes";
const DURATION_WANTED: &str = "a duration like 250ms, 1s, 5m, 1h, 30d or 0s";

/// A number of bytes from its text.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZE_UNITS, |unit, text| unit.eq_ignore_ascii_case(text)).or_else(|| text.parse().ok())
}

/// A duration from its text. A bare number is none, except 0: of 1000, nobody knows the unit.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    parse(text, &DURATION_UNITS, |unit, text| unit == text).map(Duration::from_nanos)
}

fn parse(text: &str, units: &[(&str, u64)], same: impl Fn(&str, &str) -> bool) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|(name, _)| same(name, unit.trim_start()))?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The text of a number of bytes: a bare number where no unit is exact.
pub(super) fn size_text(bytes: u64) -> String {
    print(bytes, &SIZE_UNITS)
}

/// The text of a duration, in the largest unit that is exact.
pub(super) fn duration_text(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".to_owned();
    }
    // 584 years: more than any setting means.
    print(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), &DURATION_UNITS)
}

fn print(value: u64, units: &[(&str, u64)]) -> String {
    let exact = units.iter().filter(|(_, factor)| value.is_multiple_of(*factor));
    let (unit, factor) = exact.min_by_key(|(_, factor)| value / factor).expect("the last unit is 1");
    if *unit == "B" { value.to_string() } else { format!("{}{unit}", value / factor) }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SIZE_WANTED)
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<u64, E> {
        Ok(bytes)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        parse_size(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(DURATION_WANTED)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Duration, E> {
        let wanted = format!("a number with its unit, like {number}s or {number}ms");
        if number == 0 {
            Ok(Duration::ZERO)
        } else {
            Err(E::invalid_value(Unexpected::Unsigned(number), &wanted.as_str()))
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        parse_duration(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// A number of bytes, of any unsigned type.
pub(super) mod size {
    use serde::{Deserializer, Serializer, de::Error};

    use super::{SizeVisitor, size_text};

    pub fn serialize<T: Copy + TryInto<u64>, S: Serializer>(bytes: &T, to: S) -> Result<S::Ok, S::Error> {
        let bytes = (*bytes).try_into().unwrap_or(u64::MAX);
        match size_text(bytes) {
            text if text.ends_with('B') => to.serialize_str(&text),
            _ => to.serialize_u64(bytes),
        }
    }

    pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        let bytes = from.deserialize_any(SizeVisitor)?;
        T::try_from(bytes).map_err(|_| D::Error::custom(format_args!("{bytes} bytes are more than can be")))
    }
}

/// A number of bytes, or none.
pub(super) mod size_option {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Size<T: TryFrom<u64>>(#[serde(deserialize_with = "super::size::deserialize")] T);

    pub fn serialize<T: Copy + TryInto<u64>, S: Serializer>(
        bytes: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => super::size::serialize(bytes, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        Ok(Option::<Size<T>>::deserialize(from)?.map(|size| size.0))
    }
}

/// A [`Duration`](std::time::Duration).
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    use super::{DurationVisitor, duration_text};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&duration_text(*duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        from.deserialize_any(DurationVisitor)
    }
}

/// A [`Duration`](std::time::Duration), or none.
pub(super) mod duration_option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Text(#[serde(with = "super::duration")] Duration);

    pub fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration::serialize(duration, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Text>::deserialize(from)?.map(|text| text.0))
    }
}

/// The JSON Schema of a size.
pub(super) struct Size;

/// The JSON Schema of a duration.
pub(super) struct Span;

// Both schemas also take a value with a variable in it, as an editor sees the file before substitution.

impl JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": SIZE_WANTED,
            "type": ["string", "integer"],
            "minimum": 0,
            "pattern": r"^([0-9]+ *([KkMmGgTt][Ii]?)?[Bb]|[0-9]+|.*\$\{.*)$",
        })
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": DURATION_WANTED,
            "type": ["string", "integer"],
            "minimum": 0,
            "maximum": 0,
            "pattern": r"^([0-9]+ *(d|h|m|s|ms|us|ns)|0|.*\$\{.*)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("5GiB", 5 << 30),
            ("64MiB", 64 << 20),
            ("512KB", 512_000),
            ("1 kb", 1_000),
            ("2tib", 2 << 40),
            ("7B", 7),
            ("0", 0),
            ("123", 123),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "1.5GiB", "-1", "5G", "5 apples", "99999999TiB", "5GiBx"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn durations() {
        let second = Duration::from_secs(1);
        for (text, duration) in [
            ("1s", second),
            ("250ms", second / 4),
            ("5m", 300 * second),
            ("1h", 3600 * second),
            ("30d", 30 * 86_400 * second),
            ("0s", Duration::ZERO),
            ("0", Duration::ZERO),
            ("10 us", second / 100_000),
        ] {
            assert_eq!(parse_duration(text), Some(duration), "{text}");
        }
        for text in ["", "s", "1", "1.5s", "-1s", "1h30m", "1M", "1 week", "99999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    /// Whatever is printed reads back as the same value.
    #[test]
    fn printed_values_read_back() {
        for bytes in [0, 1, 1000, 1023, 1024, 1_048_576, 1_000_000, 5 << 30, 512_000, u64::MAX] {
            assert_eq!(parse_size(&size_text(bytes)), Some(bytes), "{}", size_text(bytes));
        }
        for nanos in [0, 1, 999, 1_000, 1_500_000_000, 90_000_000_000, 86_400_000_000_000, u64::MAX] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse_duration(&duration_text(duration)), Some(duration));
        }
        assert_eq!(size_text(5 << 30), "5GiB");
        assert_eq!(size_text(1023), "1023");
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(duration_text(Duration::from_millis(250)), "250ms");
    }
}
