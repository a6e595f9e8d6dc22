//! An event as an application makes it, and its forms on the wire.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::clock;

/// What an event costs in memory and on the wire beside its texts: id, time, names of fields.
const OVERHEAD_BYTES: usize = 160;

/// Something that happened.
///
/// ```
/// use forebay_client::Event;
///
/// let event = Event::new("shop", "sold").with("price", 12.5).with("articles", vec!["cup", "plate"]);
/// assert_eq!(event.metadata(), Some(r#"{"price":12.5,"articles":["cup","plate"]}"#));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    id: Option<String>,
    unix_nanos: i64,
    service: String,
    message: String,
    /// A JSON object as text: nobody between here and the destinations needs it as a tree.
    metadata: Option<String>,
}

/// Metadata that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Its `Serialize` failed.
    #[error("the metadata cannot be written as JSON: {0}")]
    Unserializable(#[from] serde_json::Error),
    /// Its JSON is a string, a list or the like.
    #[error("the metadata has to be a JSON object, as a struct or a map is; this is {0}")]
    NoObject(String),
}

impl Event {
    /// What happened where, now. The server wants 1 to 256 characters of `service`.
    pub fn new(service: impl Into<String>, message: impl Into<String>) -> Self {
        let (service, message) = (service.into(), message.into());
        Self { id: None, unix_nanos: nanos(clock::now()), service, message, metadata: None }
    }

    /// Gives it an id, 1 to 128 characters. The embedded store keeps one event of each id, so an id that is derived from
    /// the thing itself makes a repetition harmless. Without one it gets a UUIDv7 when it is sent.
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// When it happened, where that was not now. Years 1677 to 2262 can be said.
    pub fn at(self, time: SystemTime) -> Self {
        Self { unix_nanos: nanos(time), ..self }
    }

    /// Adds one field of metadata. A key that is there already then stands twice.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let text = self.metadata.get_or_insert_with(|| "{}".to_owned());
        // It ends with the brace that closes the object.
        text.pop();
        let comma = if text.trim_end().ends_with('{') { "" } else { "," };
        let _ = write!(text, "{comma}{}:{}}}", Value::from(key), value.into());
        self
    }

    /// Sets all metadata at once: a struct, a map, or anything else that serde writes as an object.
    ///
    /// # Errors
    /// Where it is no object, or cannot be serialized.
    pub fn with_metadata<T: Serialize + ?Sized>(self, metadata: &T) -> Result<Self, EventError> {
        // A line break can only be white space of raw JSON, and an event has to fit on a line.
        let text = serde_json::to_string(metadata)?.replace(['\n', '\r'], " ");
        if !text.starts_with('{') {
            return Err(EventError::NoObject(text.chars().take(40).collect()));
        }
        Ok(Self { metadata: Some(text), ..self })
    }

    /// Its id; none until it is sent, unless it was given one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// When it happened.
    pub fn time(&self) -> SystemTime {
        let since = Duration::from_nanos(self.unix_nanos.unsigned_abs());
        if self.unix_nanos < 0 { UNIX_EPOCH - since } else { UNIX_EPOCH + since }
    }

    /// Where it happened.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The JSON object of its metadata.
    pub fn metadata(&self) -> Option<&str> {
        self.metadata.as_deref()
    }

    /// Gives it an id where it has none: from then on it is the same event, however often it is sent.
    pub(crate) fn identify(&mut self) {
        self.id.get_or_insert_with(|| uuid::Uuid::now_v7().to_string());
    }

    /// About what it takes in memory and on the wire.
    pub(crate) fn bytes(&self) -> usize {
        let texts = [&self.id, &self.metadata].into_iter().flatten().map(String::len).sum::<usize>();
        OVERHEAD_BYTES + self.service.len() + self.message.len() + texts
    }

    /// Nanoseconds since 1970.
    #[cfg(feature = "grpc")]
    pub(crate) fn unix_nanos(&self) -> i64 {
        self.unix_nanos
    }

    /// Writes it as the server's HTTP API reads it, and a line break.
    #[cfg(feature = "http")]
    pub(crate) fn write_line(&self, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Line<'a> {
            event_id: Option<&'a str>,
            timestamp: String,
            service: &'a str,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            metadata: Option<&'a RawValue>,
        }
        let line = Line {
            event_id: self.id(),
            timestamp: rfc3339(self.unix_nanos),
            service: &self.service,
            message: &self.message,
            metadata: self.raw_metadata(),
        };
        serde_json::to_writer(&mut *out, &line).expect("texts are written to memory without errors");
        out.push(b'\n');
    }

    /// The form in which it stands in the spool.
    pub(crate) fn stored(&self) -> Stored<'_> {
        Stored {
            id: self.id().unwrap_or_default().into(),
            unix_nanos: self.unix_nanos,
            service: self.service.as_str().into(),
            message: self.message.as_str().into(),
            metadata: self.raw_metadata(),
        }
    }

    fn raw_metadata(&self) -> Option<&RawValue> {
        let text = self.metadata()?;
        Some(serde_json::from_str(text).expect("metadata is text that serde_json wrote"))
    }
}

/// An event in the spool. Short names: there may be many.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored<'a> {
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
    #[serde(rename = "at")]
    unix_nanos: i64,
    #[serde(borrow, rename = "s")]
    service: std::borrow::Cow<'a, str>,
    #[serde(borrow, rename = "m")]
    message: std::borrow::Cow<'a, str>,
    #[serde(borrow, rename = "d", skip_serializing_if = "Option::is_none", default)]
    metadata: Option<&'a RawValue>,
}

impl From<Stored<'_>> for Event {
    fn from(stored: Stored<'_>) -> Self {
        Self {
            id: Some(stored.id.into_owned()),
            unix_nanos: stored.unix_nanos,
            service: stored.service.into_owned(),
            message: stored.message.into_owned(),
            metadata: stored.metadata.map(|raw| raw.get().to_owned()),
        }
    }
}

fn nanos(time: SystemTime) -> i64 {
    let clamp = |since: Duration| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -clamp(before.duration()), clamp)
}

/// The time as RFC 3339 with nanoseconds, UTC. By hand, because it is all that a library of times would be needed for.
#[cfg(feature = "http")]
fn rfc3339(unix_nanos: i64) -> String {
    const DAY_SECONDS: i64 = 86_400;
    let (seconds, nanos) = (unix_nanos.div_euclid(1_000_000_000), unix_nanos.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(DAY_SECONDS), seconds.rem_euclid(DAY_SECONDS));
    // Years begin with March, so that the leap day is the last; eras of 400 years have 146,097 days each.
    let since_march_0000 = days + 719_468;
    let (era, day) = (since_march_0000.div_euclid(146_097), since_march_0000.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carried) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + carried;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times are what other programs say they are, at the ends of months, in leap years and before 1970 too.
    #[test]
    #[cfg(feature = "http")]
    fn times_are_written_as_everybody_reads_them() {
        for (seconds, nanos, wanted) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, 5, "2000-02-29T00:00:00.000000005Z"),
            (951_868_799, 999_999_999, "2000-02-29T23:59:59.999999999Z"),
            (1_709_251_199, 0, "2024-02-29T23:59:59.000000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
            (1_795_420_212, 120_000_000, "2026-11-23T07:50:12.120000000Z"),
            (-1, 0, "1969-12-31T23:59:59.000000000Z"),
            (-2_208_988_800, 0, "1900-01-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000_000_000 + nanos), wanted);
        }
        let event = Event::new("s", "m").at(UNIX_EPOCH - Duration::from_millis(1500));
        assert_eq!(
            (event.unix_nanos, event.time()),
            (-1_500_000_000, UNIX_EPOCH - Duration::from_millis(1500))
        );
    }

    /// Fields are added to what is there, whatever is in them; anything but an object is refused with what it is.
    #[test]
    fn metadata_is_an_object() {
        let all = Event::new("s", "m").with_metadata(&serde_json::json!({"a": "}"})).unwrap();
        let event = all.with("b\"", Value::Null).with("c", "{");
        let back: Value = serde_json::from_str(event.metadata().unwrap()).unwrap();
        assert_eq!(back, serde_json::json!({"a": "}", "b\"": null, "c": "{"}));
        let error = Event::new("s", "m").with_metadata(&[1, 2]).unwrap_err();
        assert!(error.to_string().ends_with("this is [1,2]"), "{error}");
    }

    /// What is put into the spool comes out the same.
    #[test]
    fn the_stored_form_loses_nothing() {
        let mut event = Event::new("s\n", "\u{1F600} \"m\"").with("k", vec![1, 2]);
        event.identify();
        let text = serde_json::to_string(&event.stored()).unwrap();
        assert_eq!(Event::from(serde_json::from_str::<Stored<'_>>(&text).unwrap()), event);
    }
}
