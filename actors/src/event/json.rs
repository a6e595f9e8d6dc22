//! An event as JSON: the same text for every reader, be it a sink, a file or `GET /events`.

use super::{Event, EventId, Timestamp};

/// Writes events as JSON, one object each, without a line break. Remembers what it wrote last: all events of a request
/// have the same time of arrival.
#[derive(Debug, Default)]
pub struct EventWriter {
    ingested_at: Option<Timestamp>,
    ingested_at_text: Vec<u8>,
}

impl EventWriter {
    /// Appends one event. `metadata` stands as the client sent it, less line breaks between its tokens; `{}` where it
    /// sent none.
    pub fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        if self.ingested_at != Some(event.ingested_at) {
            self.ingested_at = Some(event.ingested_at);
            self.ingested_at_text.clear();
            event.ingested_at.write_rfc3339(&mut self.ingested_at_text);
        }
        out.extend_from_slice(b"{\"event_id\":");
        match event.event_id {
            EventId::Given(text) => write_json_string(text, out),
            assigned @ EventId::Assigned(_) => {
                out.push(b'"');
                assigned.write(out);
                out.push(b'"');
            }
        }
        out.extend_from_slice(b",\"timestamp\":\"");
        event.timestamp.write_rfc3339(out);
        out.extend_from_slice(b"\",\"service\":");
        write_json_string(event.service, out);
        out.extend_from_slice(b",\"message\":");
        write_json_string(event.message, out);
        out.extend_from_slice(b",\"metadata\":");
        write_object(event.metadata.unwrap_or("{}"), out);
        out.extend_from_slice(b",\"ingested_at\":\"");
        out.extend_from_slice(&self.ingested_at_text);
        out.extend_from_slice(b"\"}");
    }
}

/// Appends one event, where there is only one.
pub fn write_json(event: &Event<'_>, out: &mut Vec<u8>) {
    EventWriter::default().write(event, out);
}

/// Appends a text as a JSON string. Most have nothing to escape. Looking at all bytes without a way out is what the compiler can do many at a
/// time, so it costs less than it saves.
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    if text.bytes().fold(true, |plain, b| plain & (b >= b' ') & (b != b'"') & (b != b'\\')) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("a Vec takes every string");
    }
}

/// In valid JSON a line break can only stand between tokens, where a space means the same.
fn write_object(text: &str, out: &mut Vec<u8>) {
    if text.bytes().fold(true, |one_line, b| one_line & (b >= b' ')) {
        out.extend_from_slice(text.as_bytes());
    } else {
        out.extend(text.bytes().map(|b| b.max(b' ')));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the client sent becomes one line of valid JSON with the same values.
    #[test]
    fn an_event_is_one_line_of_json() {
        let time = Timestamp::from_nanos(1);
        let event = Event {
            event_id: EventId::Given("a\"b"),
            timestamp: time,
            service: "s\\",
            message: "line\nbreak \u{1} \u{1f600}",
            metadata: Some("{\n  \"a\":\t[1,\r\n2]\n}"),
            ingested_at: time,
        };
        let mut out = Vec::new();
        write_json(&event, &mut out);
        assert!(!out.contains(&b'\n'));
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["message"], event.message);
        assert_eq!(json["event_id"], "a\"b");
        assert_eq!(json["metadata"]["a"][1], 2);
        assert_eq!(json["timestamp"], "1970-01-01T00:00:00.000000001Z");
    }
}
