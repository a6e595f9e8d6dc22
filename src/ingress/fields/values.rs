//! The value of one field, as JSON text: what it may be, and in words what it is instead.

use std::{borrow::Cow, fmt};

use forebay_actors::event::{
    EVENT_ID_CHARS_MAX, METADATA_DEPTH_MAX, SERVICE_CHARS_MAX, Timestamp, TimestampError,
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Text that borrows from the body unless it has escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// The keys and values of an object, in order, doubles included.
pub(super) struct Entries<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(key), value)) = map.next_entry()? {
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// How many fields an object has, doubles included.
pub(super) struct Count(pub(super) usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl<'de> Visitor<'de> for CountVisitor {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut count = 0;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Count(count))
            }
        }
        deserializer.deserialize_map(CountVisitor)
    }
}

/// `null` is as good as absent.
pub(super) fn optional<'a, T>(
    value: &'a str,
    read: impl FnOnce(&'a str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if value == "null" { Ok(None) } else { read(value).map(Some) }
}

pub(super) fn string(value: &str) -> Result<Cow<'_, str>, String> {
    // Without a backslash a string's text is what stands between its quotes.
    let plain = value.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    if let Some(plain) = plain.filter(|plain| memchr::memchr(b'\\', plain.as_bytes()).is_none()) {
        return Ok(Cow::Borrowed(plain));
    }
    let text: Result<Text<'_>, _> = serde_json::from_str(value);
    text.map(|text| text.0).map_err(|_| match kind(value) {
        "a string" => format!("it {HALF_CHARACTER}"),
        found => format!("a string is needed, this is {found}"),
    })
}

/// Why a text that is JSON to the letter is none to most of its readers.
pub(super) const HALF_CHARACTER: &str =
    "has half of a character: a \\ud800 to \\udfff that is not one of a pair";

/// Whether an escape in valid JSON text is a surrogate without its other half.
pub(super) fn has_half_character(text: &str) -> bool {
    let bytes = text.as_bytes();
    let unit = |at: usize| {
        let escape = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(escape, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &bytes[at..]) {
        let escape = at + found;
        at = match unit(escape) {
            Some(0xd800..=0xdbff) if matches!(unit(escape + 6), Some(0xdc00..=0xdfff)) => escape + 12,
            Some(0xd800..=0xdfff) => return true,
            Some(_) => escape + 6,
            None => escape + 2,
        };
    }
    false
}

pub(super) fn service(name: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    // Bytes are at least as many as characters: nearly every name is settled by its length.
    let chars = if name.len() <= SERVICE_CHARS_MAX { name.len() } else { name.chars().count() };
    match chars {
        1..=SERVICE_CHARS_MAX => Ok(name),
        0 => Err("it is empty; 1 to 256 characters are needed".to_owned()),
        _ => Err(format!("it has {chars} characters; 1 to {SERVICE_CHARS_MAX} are allowed")),
    }
}

pub(super) fn event_id(value: &str) -> Result<Cow<'_, str>, String> {
    event_id_chars(string(value)?)
}

pub(super) fn event_id_chars(id: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    match id.chars().count() {
        1..=EVENT_ID_CHARS_MAX => Ok(id),
        chars => Err(format!("it has {chars} characters; 1 to {EVENT_ID_CHARS_MAX} are allowed")),
    }
}

pub(super) fn timestamp(text: &str) -> Result<Timestamp, String> {
    if text.starts_with('"') {
        return Timestamp::parse(&string(text)?).map_err(|e| e.to_string());
    }
    let range = || TimestampError::Range(format!("{text} ms")).to_string();
    let wrong = || format!("an RFC 3339 string or epoch milliseconds are needed, this is {}", kind(text));
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Err(wrong());
    }
    match text.parse::<i64>() {
        Ok(millis) => Timestamp::from_millis(millis).map_err(|e| e.to_string()),
        // JavaScript clocks have fractions of a millisecond; they are kept to the microsecond.
        Err(_) => match text.parse::<f64>() {
            Ok(millis) if millis.abs() < 9.2e12 => {
                Ok(Timestamp::from_nanos((millis * 1e3).round() as i64 * 1_000))
            }
            Ok(_) => Err(range()),
            Err(_) => Err(wrong()),
        },
    }
}

pub(super) fn object(text: &str) -> Result<&str, String> {
    if text.starts_with('{') { Ok(text) } else { Err(format!("an object is needed, this is {}", kind(text))) }
}

/// What a JSON value is, in words.
pub(super) fn kind(text: &str) -> &'static str {
    match text.trim_start().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) => "a number",
        None => "nothing",
    }
}

/// How deep a JSON value nests, starting at `outer`.
pub(super) fn depth(text: &str, outer: usize) -> usize {
    let bytes = text.as_bytes();
    // Without more brackets than that it cannot be too deep; counting them is vectorised, following them is not.
    let opening =
        memchr::memchr2_iter(b'{', b'[', bytes).take(METADATA_DEPTH_MAX + 1 - outer).count() + outer;
    if opening <= METADATA_DEPTH_MAX {
        return opening;
    }
    let (mut depth, mut deepest, mut in_string, mut escaped) = (outer, outer, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    deepest
}

/// Whether a JSON text is whole; used where only its syntax matters.
pub(crate) fn syntax(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<IgnoredAny>(text).map(drop)
}
