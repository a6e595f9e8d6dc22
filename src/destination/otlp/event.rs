//! Events that came as such, as log records.
//!
//! | of the event | in OpenTelemetry |
//! |---|---|
//! | `service` | the resource's `service.name` |
//! | `message` | the body |
//! | `timestamp` | `timeUnixNano` |
//! | `ingested_at` | `observedTimeUnixNano` |
//! | `event_id` | the attribute `forebay.event_id` |
//! | every member of `metadata` | an attribute of its name |
//!
//! Text, booleans, lists and objects stay what they are. A number becomes an integer where it is written as one and fits in
//! 64 bits, a double where it is not, and else the text as which it stands there. What nests deeper than every decoder of
//! protobuf takes stays JSON, as text.

use std::{borrow::Cow, fmt};

use forebay_actors::{
    event::{Event, EventId},
    otlp::wire::{put_bytes, put_varint},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Values within each other that become such: each costs up to three of the hundred levels that decoders take.
const DEPTH_MAX: usize = 24;

const EVENT_ID: &str = "forebay.event_id";

/// Writes a request of logs. Events of the same service, one after the other, share their resource.
#[derive(Debug, Default)]
pub(super) struct LogWriter {
    out: Vec<u8>,
    service: String,
    /// The records of the service, as the fields of their scope.
    records: Vec<u8>,
    count: u64,
}

// === impl LogWriter ===

impl LogWriter {
    pub(super) fn push(&mut self, event: &Event<'_>) {
        if self.service != event.service {
            self.close();
            self.service = event.service.to_owned();
        }
        nested(&mut self.records, 2, |record| write_record(event, record));
        self.count += 1;
    }

    /// Events in it.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn bytes(&self) -> usize {
        self.out.len() + self.records.len()
    }

    /// The request; it begins anew then.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        self.close();
        self.count = 0;
        std::mem::take(&mut self.out)
    }

    fn close(&mut self) {
        if self.records.is_empty() {
            return;
        }
        nested(&mut self.out, 1, |resource_logs| {
            nested(resource_logs, 1, |resource| {
                attribute(resource, 1, "service.name", |value| put_bytes(value, 1, self.service.as_bytes()));
            });
            put_bytes(resource_logs, 2, &self.records);
        });
        self.records.clear();
    }
}

fn write_record(event: &Event<'_>, out: &mut Vec<u8>) {
    fixed64(out, 1, event.timestamp.nanos());
    fixed64(out, 11, event.ingested_at.nanos());
    nested(out, 5, |body| put_bytes(body, 1, event.message.as_bytes()));
    attribute(out, 6, EVENT_ID, |value| match event.event_id {
        EventId::Given(id) => put_bytes(value, 1, id.as_bytes()),
        assigned @ EventId::Assigned(_) => {
            let mut id = Vec::with_capacity(36);
            assigned.write(&mut id);
            put_bytes(value, 1, &id);
        }
    });
    let Some(metadata) = event.metadata else { return };
    let is_object = members(metadata, |key, raw| attribute(out, 6, key, |value| any_value(raw, 0, value)));
    if !is_object {
        // It was checked when it came in; were it no object all the same, nothing of it should be lost.
        attribute(out, 6, "metadata", |value| put_bytes(value, 1, metadata.as_bytes()));
    }
}

/// Nanoseconds since 1970; before that, the protocol has no times.
fn fixed64(out: &mut Vec<u8>, number: u32, nanos: i64) {
    if let Ok(nanos @ 1..) = u64::try_from(nanos) {
        put_varint(out, u64::from(number) << 3 | 1);
        out.extend_from_slice(&nanos.to_le_bytes());
    }
}

fn attribute(out: &mut Vec<u8>, number: u32, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
    nested(out, number, |pair| {
        put_bytes(pair, 1, key.as_bytes());
        nested(pair, 2, value);
    });
}

/// Appends the fields of an `AnyValue` for a JSON value.
fn any_value(raw: &str, depth: usize, out: &mut Vec<u8>) {
    let as_text = |out: &mut Vec<u8>| put_bytes(out, 1, raw.as_bytes());
    match raw.as_bytes().first() {
        Some(b'{' | b'[') if depth >= DEPTH_MAX => as_text(out),
        Some(b'{') => nested(out, 6, |list| {
            let mut pair =
                |key: &str, raw: &str| attribute(list, 1, key, |value| any_value(raw, depth + 1, value));
            members(raw, &mut pair);
        }),
        Some(b'[') => nested(out, 5, |list| {
            let values: Vec<&RawValue> = serde_json::from_str(raw).unwrap_or_default();
            values.iter().for_each(|raw| nested(list, 1, |value| any_value(raw.get(), depth + 1, value)));
        }),
        Some(b'"') => match serde_json::from_str::<Text<'_>>(raw) {
            Ok(text) => put_bytes(out, 1, text.0.as_bytes()),
            Err(_) => as_text(out),
        },
        Some(b't' | b'f') => {
            put_varint(out, 2 << 3);
            put_varint(out, u64::from(raw == "true"));
        }
        // A value without a field is the protocol's null.
        Some(b'n') => {}
        _ => number(raw, out),
    }
}

fn number(raw: &str, out: &mut Vec<u8>) {
    let is_whole = !raw.contains(['.', 'e', 'E']);
    if let (true, Ok(number)) = (is_whole, raw.parse::<i64>()) {
        put_varint(out, 3 << 3);
        put_varint(out, number as u64);
        return;
    }
    match raw.parse::<f64>() {
        Ok(number) if !is_whole && number.is_finite() => {
            put_varint(out, 4 << 3 | 1);
            out.extend_from_slice(&number.to_le_bytes());
        }
        _ => put_bytes(out, 1, raw.as_bytes()),
    }
}

/// Appends a message as a field of another, with its length before it.
fn nested(out: &mut Vec<u8>, number: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    put_varint(out, u64::from(number) << 3 | 2);
    let at = out.len();
    // Most are short: their length takes one byte, and stays where it is.
    out.push(0);
    fill(out);
    let bytes = out.len() - at - 1;
    match u8::try_from(bytes) {
        Ok(bytes @ ..0x80) => out[at] = bytes,
        _ => {
            let mut length = Vec::with_capacity(5);
            put_varint(&mut length, bytes as u64);
            out.splice(at..=at, length);
        }
    }
}

/// Looks at the members of a JSON object in order; `false` where it is none.
fn members(object: &str, mut each: impl FnMut(&str, &str)) -> bool {
    let mut from = serde_json::Deserializer::from_str(object);
    from.deserialize_map(Members(&mut each)).is_ok()
}

struct Members<'f, F>(&'f mut F);

impl<'de, F: FnMut(&str, &str)> Visitor<'de> for Members<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            (self.0)(&key.0, value.get());
        }
        Ok(())
    }
}

/// Text that is copied only where it has escapes in it.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use forebay_actors::{
        event::Timestamp,
        otlp::{Rows, Signal, check},
    };
    use serde_json::{Value, json};

    use super::*;

    fn event<'a>(service: &'a str, message: &'a str, metadata: Option<&'a str>) -> Event<'a> {
        let event_id = EventId::Given("id-1");
        let (timestamp, ingested_at) = (Timestamp::from_nanos(17), Timestamp::from_nanos(18));
        Event { event_id, timestamp, service, message, metadata, ingested_at }
    }

    /// Service, message, time and metadata of the records of a request, as other destinations would see them.
    fn rows(request: &[u8]) -> Vec<(String, String, Option<i64>, Value)> {
        check(request, Signal::Logs).unwrap();
        let (mut rows, mut found) = (Rows::of(request, Signal::Logs), Vec::new());
        while let Some(row) = rows.next_row() {
            let metadata = serde_json::from_str(row.metadata).unwrap();
            let time = row.timestamp.map(Timestamp::nanos);
            found.push((row.service.to_owned(), row.message.to_owned(), time, metadata));
        }
        found
    }

    /// Every kind of value, and events of several services in their order.
    #[test]
    fn events_become_log_records() {
        let long = "x".repeat(70_000);
        let metadata = json!({
            "text": "a \"quote\"\n\u{1f600}", "true": true, "false": false, "int": -5, "most": i64::MIN, "double": 1.5,
            "list": [1, "two", [], {}], "object": {"a": {"b": null}}, "long": long,
        });
        let metadata_text = metadata.to_string();
        let mut writer = LogWriter::default();
        writer.push(&event("api", "first", Some(&metadata_text)));
        writer.push(&event("api", "second", None));
        writer.push(&event("web", &long, Some("{}")));
        writer.push(&event("api", "", Some("{\"a\":1}")));
        assert_eq!(writer.count(), 4);
        let found = rows(&writer.finish());
        let seen: Vec<_> = found.iter().map(|(service, message, _, _)| (&**service, &**message)).collect();
        assert_eq!(seen, [("api", "first"), ("api", "second"), ("web", &*long), ("api", "")]);
        assert!(found.iter().all(|(_, _, time, _)| *time == Some(17)));
        let mut expected = metadata;
        expected["forebay.event_id"] = json!("id-1");
        assert_eq!(found[0].3["attributes"], expected);
        assert_eq!(found[0].3["observedTimeUnixNano"], "18");
        assert_eq!((writer.count(), writer.finish().len()), (0, 0), "it begins anew");
    }

    /// Numbers that no field of the protocol holds keep their digits, and depth has an end that decoders take.
    #[test]
    fn what_does_not_fit_stays_text() {
        let deep = "[".repeat(60) + &"]".repeat(60);
        let metadata =
            format!("{{\"large\":18446744073709551616,\"huge\":1e400,\"whole\":1.0,\"deep\":{deep}}}");
        let mut writer = LogWriter::default();
        writer.push(&event("s", "m", Some(&metadata)));
        let attributes = rows(&writer.finish())[0].3["attributes"].clone();
        assert_eq!(attributes["large"], "18446744073709551616");
        assert_eq!(attributes["huge"], "1e400");
        assert_eq!(attributes["whole"], json!(1.0));
        let mut inner = &attributes["deep"];
        for _ in 0..DEPTH_MAX {
            inner = &inner[0];
        }
        assert_eq!(*inner, json!("[".repeat(60 - DEPTH_MAX) + &"]".repeat(60 - DEPTH_MAX)));
    }

    /// Times before 1970 have no place in the protocol: they are left out, not turned into the far future.
    #[test]
    fn times_before_1970_are_left_out() {
        let mut writer = LogWriter::default();
        writer.push(&Event { timestamp: Timestamp::from_nanos(-1), ..event("s", "m", None) });
        assert_eq!(rows(&writer.finish())[0].2, Some(18), "the time of arrival stands in");
    }
}
