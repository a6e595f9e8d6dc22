//! The fields of one event as a client sends it: read fast where they are right, and slowly, field by field, where the
//! client has to be told what is wrong.

use std::{borrow::Cow, fmt};

use forebay_actors::event::{
    Draft, EVENT_ID_CHARS_MAX, METADATA_DEPTH_MAX, SERVICE_CHARS_MAX, Timestamp, TimestampError,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::security::Tenant;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Its name.
    pub field: String,
    /// What is wrong, and what would be right.
    pub error: String,
}

/// An event as it stands in the body, borrowing from it.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    event_id: Option<Cow<'a, str>>,
    timestamp: Option<Timestamp>,
    service: Cow<'a, str>,
    message: Cow<'a, str>,
    metadata: Option<&'a str>,
    /// Top-level fields that Forebay does not know.
    others: Vec<(Cow<'a, str>, &'a str)>,
}

/// The fields of an event that came apart, as in protobuf. There, what is empty is absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts<'a> {
    /// The client's own id.
    pub event_id: &'a str,
    /// When it happened.
    pub timestamp: Option<Timestamp>,
    /// Who speaks.
    pub service: &'a str,
    /// What is said.
    pub message: &'a str,
    /// Text that should be a JSON object.
    pub metadata: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// Checks fields that came apart, as those of JSON are checked.
    ///
    /// # Errors
    /// All that is wrong with them, in their order.
    pub fn of_parts(parts: Parts<'a>, max_event_bytes: usize) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut wrong = |name: &str, error: String| errors.push(field(name, error));
        let id = (!parts.event_id.is_empty()).then(|| event_id_chars(parts.event_id.into())).transpose();
        let event_id = id.unwrap_or_else(|error| {
            wrong("event_id", error);
            None
        });
        let service = service(parts.service.into()).unwrap_or_else(|error| {
            wrong("service", error);
            Cow::default()
        });
        let metadata = parts.metadata.filter(|text| !text.is_empty()).and_then(|text| {
            let value: Result<&RawValue, _> = serde_json::from_str(text);
            let object = value.map_err(|error| format!("it is not valid JSON: {error}")).and_then(object);
            object.map_err(|error| wrong("metadata", error)).ok()
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        let (timestamp, message) = (parts.timestamp, parts.message.into());
        let fields = Self { event_id, timestamp, service, message, metadata, others: Vec::new() };
        fields.complete(max_event_bytes).map_err(|error| vec![error])
    }

    /// Gives the event to `take`, with unknown top-level fields put into its metadata, and whose event it is.
    pub fn with_draft<T>(&self, tenant: Option<&Tenant>, take: impl FnOnce(&Draft<'_>) -> T) -> T {
        let merged = (!self.others.is_empty()).then(|| merge(self.metadata, &self.others, tenant));
        let merged = match tenant {
            Some(tenant) => Some(stamped(merged.as_deref().or(self.metadata), tenant)),
            None => merged,
        };
        take(&Draft {
            event_id: self.event_id.as_deref(),
            timestamp: self.timestamp,
            service: &self.service,
            message: &self.message,
            metadata: merged.as_deref().or(self.metadata),
        })
    }

    /// The client's own id.
    pub fn event_id(&self) -> Option<&str> {
        self.event_id.as_deref()
    }

    /// The one check that needs the whole event: everything else is checked as it is read.
    fn complete(self, max_event_bytes: usize) -> Result<Self, FieldError> {
        let others: usize = self.others.iter().map(|(key, value)| key.len() + value.len()).sum();
        let bytes = self.service.len() + self.message.len() + self.metadata.map_or(0, str::len) + others;
        if bytes > max_event_bytes {
            return Err(field(
                "message",
                format!("the event has {bytes} bytes; {max_event_bytes} are allowed (http.max_event_bytes)"),
            ));
        }
        let deepest = self.metadata.into_iter().map(|text| depth(text, 0));
        let deepest = deepest.chain(self.others.iter().map(|(_, text)| depth(text, 1))).max();
        match deepest.filter(|depth| *depth > METADATA_DEPTH_MAX) {
            Some(depth) => Err(field(
                "metadata",
                format!("it nests {depth} levels deep; {METADATA_DEPTH_MAX} are allowed"),
            )),
            None => self.whole_characters(),
        }
    }

    /// What is kept as the client wrote it must be what every reader of it can read. Service and message are: they
    /// have been read.
    fn whole_characters(self) -> Result<Self, FieldError> {
        let key = |(key, text): &(Cow<'_, str>, &str)| has_half_character(text).then(|| key.to_string());
        let wrong = self.metadata.filter(|text| has_half_character(text)).map(|_| "metadata".to_owned());
        match wrong.or_else(|| self.others.iter().find_map(key)) {
            Some(name) => Err(field(&name, format!("it {HALF_CHARACTER}"))),
            None => Ok(self),
        }
    }

    /// Reads the event; `None` where anything is wrong with it, so that [`explain`](Self::explain) can say what.
    pub fn read<D: Deserializer<'a>>(deserializer: D, max_event_bytes: usize) -> Result<Self, D::Error> {
        let fields = deserializer.deserialize_map(FieldsVisitor)?;
        fields.complete(max_event_bytes).map_err(|e| D::Error::custom(e.error))
    }

    /// Reads the event of this JSON text, naming every field that is wrong.
    ///
    /// # Errors
    /// All that is wrong with it, in the order of its fields.
    pub fn explain(text: &'a str, max_event_bytes: usize) -> Result<Self, Vec<FieldError>> {
        let Ok(Entries(entries)) = serde_json::from_str(text) else {
            let error = match kind(text) {
                "an object" => format!("a key of it {HALF_CHARACTER}"),
                found => format!("an event is a JSON object, this is {found}"),
            };
            return Err(vec![field("", error)]);
        };
        let mut fields = Self::default();
        let mut errors = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for (key, value) in &entries {
            if seen.contains(&&**key) {
                errors.push(field(key, "it is given twice".to_owned()));
                continue;
            }
            seen.push(key);
            let set = match &**key {
                "event_id" => optional(value, event_id).map(|id| fields.event_id = id),
                "timestamp" => optional(value, timestamp).map(|time| fields.timestamp = time),
                "service" => string(value).and_then(service).map(|name| fields.service = name),
                "message" => string(value).map(|text| fields.message = text),
                "metadata" => optional(value, object).map(|object| fields.metadata = object),
                _ => {
                    fields.others.push((key.clone(), value.get()));
                    Ok(())
                }
            };
            if let Err(error) = set {
                errors.push(field(key, error));
            }
        }
        for required in ["service", "message"] {
            if !seen.contains(&required) {
                errors.push(field(required, "it is required".to_owned()));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        fields.complete(max_event_bytes).map_err(|error| vec![error])
    }
}

pub(super) fn field(name: &str, error: String) -> FieldError {
    FieldError { field: name.to_owned(), error }
}

// === the fast way ===

/// Text that borrows from the body unless it has escapes.
struct Text<'a>(Cow<'a, str>);

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

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event: an object with service and message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let (mut id, mut time, mut name, mut message, mut metadata) = (None, None, None, None, None);
        let mut others = Vec::new();
        // A bit for each field seen: a second one of the same name is an error, which `explain` words.
        let mut seen = 0_u8;
        let mut first = |bit: u8| {
            let again = seen & bit != 0;
            seen |= bit;
            if again { Err(A::Error::custom("given twice")) } else { Ok(()) }
        };
        while let Some(Text(key)) = map.next_key()? {
            match &*key {
                "timestamp" => {
                    first(1)?;
                    let raw: &RawValue = map.next_value()?;
                    time = optional(raw, timestamp).map_err(A::Error::custom)?;
                }
                "service" => {
                    first(2)?;
                    name = Some(service(map.next_value::<Text<'de>>()?.0).map_err(A::Error::custom)?);
                }
                "message" => {
                    first(4)?;
                    message = Some(map.next_value::<Text<'de>>()?.0);
                }
                "metadata" => {
                    first(8)?;
                    let raw: &RawValue = map.next_value()?;
                    metadata = optional(raw, object).map_err(A::Error::custom)?;
                }
                "event_id" => {
                    first(16)?;
                    let raw: &RawValue = map.next_value()?;
                    id = optional(raw, event_id).map_err(A::Error::custom)?;
                }
                _ => {
                    let value: &RawValue = map.next_value()?;
                    if others.iter().any(|(other, _)| *other == key) {
                        return Err(A::Error::custom("given twice"));
                    }
                    others.push((key, value.get()));
                }
            }
        }
        let (Some(service), Some(message)) = (name, message) else {
            return Err(A::Error::custom("service and message are required"));
        };
        Ok(Fields { event_id: id, timestamp: time, service, message, metadata, others })
    }
}

// === the fields ===

/// The keys and values of an object, in order, doubles included.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

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

/// `null` is as good as absent.
fn optional<'a, T>(
    value: &'a RawValue,
    read: impl FnOnce(&'a RawValue) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if value.get() == "null" { Ok(None) } else { read(value).map(Some) }
}

fn string(value: &RawValue) -> Result<Cow<'_, str>, String> {
    // Without a backslash a string's text is what stands between its quotes.
    let plain = value.get().strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    if let Some(plain) = plain.filter(|plain| memchr::memchr(b'\\', plain.as_bytes()).is_none()) {
        return Ok(Cow::Borrowed(plain));
    }
    let text: Result<Text<'_>, _> = serde_json::from_str(value.get());
    text.map(|text| text.0).map_err(|_| match kind(value.get()) {
        "a string" => format!("it {HALF_CHARACTER}"),
        found => format!("a string is needed, this is {found}"),
    })
}

/// Why a text that is JSON to the letter is none to most of its readers.
const HALF_CHARACTER: &str = "has half of a character: a \\ud800 to \\udfff that is not one of a pair";

/// Whether an escape in valid JSON text is a surrogate without its other half.
fn has_half_character(text: &str) -> bool {
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

fn service(name: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    // Bytes are at least as many as characters: nearly every name is settled by its length.
    let chars = if name.len() <= SERVICE_CHARS_MAX { name.len() } else { name.chars().count() };
    match chars {
        1..=SERVICE_CHARS_MAX => Ok(name),
        0 => Err("it is empty; 1 to 256 characters are needed".to_owned()),
        _ => Err(format!("it has {chars} characters; 1 to {SERVICE_CHARS_MAX} are allowed")),
    }
}

fn event_id(value: &RawValue) -> Result<Cow<'_, str>, String> {
    event_id_chars(string(value)?)
}

fn event_id_chars(id: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    match id.chars().count() {
        1..=EVENT_ID_CHARS_MAX => Ok(id),
        chars => Err(format!("it has {chars} characters; 1 to {EVENT_ID_CHARS_MAX} are allowed")),
    }
}

fn timestamp(value: &RawValue) -> Result<Timestamp, String> {
    let text = value.get();
    if text.starts_with('"') {
        return Timestamp::parse(&string(value)?).map_err(|e| e.to_string());
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

fn object(value: &RawValue) -> Result<&str, String> {
    let text = value.get();
    if text.starts_with('{') { Ok(text) } else { Err(format!("an object is needed, this is {}", kind(text))) }
}

/// What a JSON value is, in words.
fn kind(text: &str) -> &'static str {
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
fn depth(text: &str, outer: usize) -> usize {
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

/// Metadata with the tenant in it, first, in the place of whatever its sender said under that key.
pub(super) fn stamped(metadata: Option<&str>, tenant: &Tenant) -> String {
    let json = |text: &str| serde_json::to_string(text).expect("every string can be written as JSON");
    let mut out = format!("{{{}:{}", json(&tenant.key), json(&tenant.value));
    let text = metadata.unwrap_or("{}");
    // The key may be written with escapes, so only a text without any backslash shows whether it is there.
    let may_have_key = memchr::memmem::find(text.as_bytes(), tenant.key.as_bytes()).is_some()
        || memchr::memchr(b'\\', text.as_bytes()).is_some();
    if may_have_key {
        let entries = serde_json::from_str(text).map_or(Vec::new(), |Entries(entries)| entries);
        for (key, value) in entries.iter().filter(|(key, _)| **key != tenant.key) {
            out.push(',');
            out.push_str(&json(key));
            out.push(':');
            out.push_str(value.get());
        }
        out.push('}');
    } else {
        let rest = text.strip_prefix('{').unwrap_or(text).trim_ascii_start();
        out.push_str(if rest.starts_with('}') { "" } else { "," });
        out.push_str(rest);
    }
    out
}

/// The metadata with other fields added. A name that is taken already gets a `_` behind it: nothing is lost. Only what a
/// sender says of the tenant is, where his token says that already.
fn merge(metadata: Option<&str>, others: &[(Cow<'_, str>, &str)], tenant: Option<&Tenant>) -> String {
    let taken: Vec<Cow<'_, str>> = metadata
        .and_then(|text| serde_json::from_str(text).ok())
        .map(|Entries(entries)| entries.into_iter().map(|(key, _)| key).collect())
        .unwrap_or_default();
    let mut names = taken.clone();
    let mut out = metadata.map_or("{", |text| text.strip_suffix('}').unwrap_or(text)).to_owned();
    let mut comma = !taken.is_empty();
    for (key, value) in others.iter().filter(|(key, _)| tenant.is_none_or(|t| **key != t.key)) {
        let mut name = key.clone().into_owned();
        while names.iter().any(|taken| **taken == name) {
            name.push('_');
        }
        if std::mem::replace(&mut comma, true) {
            out.push(',');
        }
        out.push_str(&serde_json::to_string(&name).expect("every string can be written as JSON"));
        out.push(':');
        out.push_str(value);
        names.push(name.into());
    }
    out.push('}');
    out
}

/// Whether a JSON text is whole; used where only its syntax matters.
pub(crate) fn syntax(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<IgnoredAny>(text).map(drop)
}

#[cfg(test)]
mod tests;
