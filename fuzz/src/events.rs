//! The body of `POST /events` against a slow reading of the same JSON: what the parser accepts is what stands there, and
//! what it rejects is wrong by this reading, too, and has a place.

use std::fmt;

use forebay::ingress::events::{Framing, ParseError, Parsed, REJECTIONS_MAX, parse};
use forebay_actors::event::{
    EVENT_ID_CHARS_MAX, Event, EventId, Events, METADATA_DEPTH_MAX, SERVICE_CHARS_MAX, Stamp, Timestamp,
    write_json,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Small enough for inputs to reach it.
const EVENT_BYTES_MAX: usize = 300;

/// One object or an array.
///
/// # Panics
/// Where the parser and the slow reading do not agree.
pub fn http_events(body: &[u8]) {
    let parsed = parse(body, Framing::Json, EVENT_BYTES_MAX);
    let Ok(text) = std::str::from_utf8(body) else {
        assert!(matches!(parsed, Err(ParseError::Utf8 { at }) if at < body.len()), "{parsed:?}");
        return;
    };
    let Ok(whole) = serde_json::from_str::<&RawValue>(text) else {
        match parsed {
            Err(ParseError::Empty) => assert!(text.trim().is_empty()),
            Err(ParseError::Syntax(error)) => {
                let (line, column) = (error.line(), error.column());
                assert!((1..=1 + text.lines().count()).contains(&line) && column <= text.len(), "{error}");
            }
            other => panic!("no JSON, and yet {other:?}"),
        }
        return;
    };
    let events: Vec<&RawValue> = match whole.get().as_bytes()[0] {
        b'[' => serde_json::from_str(text).expect("an array is one of values"),
        b'{' => vec![whole],
        _ => return assert!(matches!(parsed, Err(ParseError::Kind(_))), "{parsed:?}"),
    };
    let parsed = parsed.expect("what is an object or an array is judged event by event");
    assert_eq!(parsed.single, whole.get().starts_with('{'));
    let verdicts: Vec<_> = events.into_iter().map(|event| expected(event.get())).collect();
    compare(&verdicts, &parsed);
}

/// An object a line.
///
/// # Panics
/// Where the parser and the slow reading do not agree.
pub fn ndjson(body: &[u8]) {
    let parsed = parse(body, Framing::Ndjson, EVENT_BYTES_MAX);
    let lines = body.split(|byte| *byte == b'\n').zip(1..).filter(|(line, _)| !line.trim_ascii().is_empty());
    let lines: Vec<(&[u8], usize)> = lines.collect();
    if lines.is_empty() {
        return assert!(matches!(parsed, Err(ParseError::Empty)), "{parsed:?}");
    }
    let parsed = parsed.expect("a line that is wrong is rejected, and costs no other");
    let is_json = |line: &str| serde_json::from_str::<&RawValue>(line).is_ok();
    let read = |line| std::str::from_utf8(line).ok().filter(|line| is_json(line));
    let verdicts: Vec<_> = lines.iter().map(|(line, _)| read(line).and_then(expected)).collect();
    for rejection in &parsed.rejected {
        let (line, number) = lines[rejection.index];
        // What is no JSON has no field that could be named, so the line and the column say where.
        if read(line).is_none() {
            assert!(rejection.error.starts_with(&format!("line {number}")), "{rejection:?}");
        }
    }
    compare(&verdicts, &parsed);
}

/// What an event says, by the slow reading.
#[derive(Debug)]
struct Expected {
    event_id: Option<String>,
    timestamp: Option<Timestamp>,
    service: String,
    message: String,
    metadata: Metadata,
}

#[derive(Debug)]
enum Metadata {
    /// As the client wrote it.
    Verbatim(Option<String>),
    /// With top-level fields that Forebay does not know: key and value, in order.
    Merged(Vec<(String, String)>),
}

/// The event of this JSON text; `None` where it has to be rejected.
fn expected(text: &str) -> Option<Expected> {
    let Entries(entries) = serde_json::from_str(text).ok()?;
    let keys: Vec<_> = entries.iter().map(|(key, _)| key).collect();
    if keys.iter().enumerate().any(|(index, key)| keys[..index].contains(key)) {
        return None;
    }
    let known = ["event_id", "timestamp", "service", "message", "metadata"];
    let value = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let given = |name: &str| value(name).filter(|value| *value != "null");
    let string = |text: &str| serde_json::from_str::<String>(text).ok();
    let within = |text: &String, max| (1..=max).contains(&text.chars().count());

    let service = string(value("service")?).filter(|name| within(name, SERVICE_CHARS_MAX))?;
    let message = string(value("message")?)?;
    let event_id = match given("event_id") {
        Some(id) => Some(string(id).filter(|id| within(id, EVENT_ID_CHARS_MAX))?),
        None => None,
    };
    let timestamp = match given("timestamp") {
        Some(time) => Some(instant(time)?),
        None => None,
    };
    let metadata = given("metadata");
    if metadata.is_some_and(|text| !text.starts_with('{') || !is_readable(text, METADATA_DEPTH_MAX)) {
        return None;
    }
    let others = entries.iter().filter(|(key, _)| !known.contains(&key.as_str()));
    let others: Vec<(String, String)> = others.cloned().collect();
    if others.iter().any(|(_, value)| !is_readable(value, METADATA_DEPTH_MAX - 1)) {
        return None;
    }
    let others_bytes: usize = others.iter().map(|(key, value)| key.len() + value.len()).sum();
    let bytes = service.len() + message.len() + metadata.map_or(0, str::len) + others_bytes;
    if bytes > EVENT_BYTES_MAX {
        return None;
    }
    let metadata = if others.is_empty() {
        Metadata::Verbatim(metadata.map(str::to_owned))
    } else {
        let inner: Option<Entries> = metadata.map(|text| serde_json::from_str(text).expect("it is readable"));
        let mut merged = inner.map_or(Vec::new(), |Entries(entries)| entries);
        for (mut key, value) in others {
            while merged.iter().any(|(taken, _)| *taken == key) {
                key.push('_');
            }
            merged.push((key, value));
        }
        Metadata::Merged(merged)
    };
    Some(Expected { event_id, timestamp, service, message, metadata })
}

/// The instant of a `timestamp`: RFC 3339, or milliseconds.
fn instant(text: &str) -> Option<Timestamp> {
    if text.starts_with('"') {
        return Timestamp::parse(&serde_json::from_str::<String>(text).ok()?).ok();
    }
    match serde_json::from_str::<serde_json::Number>(text).ok()?.as_i64() {
        Some(millis) => Timestamp::from_millis(millis).ok(),
        None => {
            let millis: f64 = text.parse().ok()?;
            let micros = (millis * 1e3).round();
            (millis.abs() < 9.2e12).then(|| Timestamp::from_nanos(micros as i64 * 1_000))
        }
    }
}

/// Whether every string in valid JSON is one of whole characters, and it nests no deeper than that.
fn is_readable(text: &str, levels: usize) -> bool {
    let mut inner = Vec::new();
    match text.as_bytes()[0] {
        b'"' => return serde_json::from_str::<String>(text).is_ok(),
        b'{' => match serde_json::from_str::<Entries>(text) {
            Ok(Entries(entries)) => inner.extend(entries.into_iter().map(|(_, value)| value)),
            Err(_) => return false,
        },
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).expect("an array is one of values");
            inner.extend(items.into_iter().map(|item| item.get().to_owned()));
        }
        // Numbers are not looked into: 1e999 is JSON, and what it means is up to its reader.
        _ => return true,
    }
    levels > 0 && inner.iter().all(|value| is_readable(value, levels - 1))
}

/// The keys and values of an object, in order, doubles included.
struct Entries(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    entries.push((key, value.get().to_owned()));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

fn compare(verdicts: &[Option<Expected>], parsed: &Parsed) {
    let wrong: Vec<usize> = (0..verdicts.len()).filter(|index| verdicts[*index].is_none()).collect();
    let rejected: Vec<usize> = parsed.rejected.iter().map(|rejection| rejection.index).collect();
    assert_eq!(parsed.rejected_count, wrong.len(), "rejected {rejected:?}, wrong are {wrong:?}");
    assert_eq!(rejected, wrong[..wrong.len().min(REJECTIONS_MAX)]);
    for rejection in &parsed.rejected {
        assert!(!rejection.error.is_empty(), "{rejection:?}");
    }
    let right: Vec<&Expected> = verdicts.iter().flatten().collect();
    assert_eq!(parsed.accepted, right.len());
    let ids = right.iter().enumerate().filter_map(|(at, event)| Some((at, event.event_id.clone()?)));
    assert_eq!(parsed.given_ids, ids.collect::<Vec<_>>());

    let stamp = Stamp { first_id: Uuid::from_u128(1), ingested_at: Timestamp::from_nanos(7) };
    let blocks = parsed.blocks.iter().map(|block| block.clone().stamped(stamp));
    let payload: Vec<u8> = blocks.flat_map(|block| block.bytes().clone()).collect();
    let events: Vec<_> =
        Events::new(&payload).map(|event| event.expect("what was encoded is decoded")).collect();
    assert_eq!(events.len(), right.len());
    for (event, expected) in events.iter().zip(right) {
        same(event, expected, stamp);
        one_line_of_json(event);
    }
}

fn same(event: &Event<'_>, expected: &Expected, stamp: Stamp) {
    match event.event_id {
        EventId::Given(id) => assert_eq!(Some(id), expected.event_id.as_deref()),
        EventId::Assigned(_) => assert_eq!(None, expected.event_id),
    }
    assert_eq!(event.timestamp, expected.timestamp.unwrap_or(stamp.ingested_at));
    assert_eq!((event.service, event.message), (&*expected.service, &*expected.message));
    match &expected.metadata {
        Metadata::Verbatim(text) => assert_eq!(event.metadata, text.as_deref()),
        Metadata::Merged(entries) => {
            let Entries(found) =
                serde_json::from_str(event.metadata.expect("it has fields")).expect("it is JSON");
            assert_eq!(found, *entries);
        }
    }
}

/// What is delivered is one line, and says the same to the next Forebay.
fn one_line_of_json(event: &Event<'_>) {
    let mut line = Vec::new();
    write_json(event, &mut line);
    assert!(!line.contains(&b'\n'));
    let again = parse(&line, Framing::Ndjson, usize::MAX).expect("what is written can be read");
    assert_eq!((again.accepted, again.rejected_count), (1, 0), "{:?}", again.rejected);
    let stamp = Stamp { first_id: Uuid::from_u128(1), ingested_at: Timestamp::from_nanos(8) };
    let block = again.blocks.into_iter().next().expect("one was accepted").stamped(stamp);
    let read =
        Events::new(block.bytes()).next().expect("one was accepted").expect("what was encoded is decoded");
    let said = |event: &Event<'_>| {
        (event.event_id.to_string(), event.timestamp, event.service.to_owned(), event.message.to_owned())
    };
    assert_eq!(said(&read), said(event));
}
