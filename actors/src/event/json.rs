//! An event as JSON: the same text for every reader, be it a sink, a file or `GET /events`.

use std::str::Utf8Error;

use super::{
    DecodeError, Event, EventId, TimeWriter, Timestamp,
    unread::{Unread, UnreadId},
};

/// Writes events as JSON, one object each, without a line break. Remembers what it wrote last: all events of a request
/// have the same time of arrival.
#[derive(Debug, Default)]
pub struct EventWriter {
    times: TimeWriter,
    ingested_at: Option<Timestamp>,
    ingested_at_text: Vec<u8>,
}

impl EventWriter {
    /// Appends one event. `metadata` stands as the client sent it, less line breaks between its tokens; `{}` where it
    /// sent none.
    pub fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        self.write_texts(&event.into(), out).expect("a text is UTF-8");
    }

    /// The same of an event that nobody has looked into.
    ///
    /// # Errors
    /// Where a text of it is not UTF-8. Then nothing is appended.
    pub fn write_unread(&mut self, event: &Unread<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let start = out.len();
        self.write_texts(event, out).inspect_err(|_| out.truncate(start))?;
        Ok(())
    }

    fn write_texts(&mut self, event: &Unread<'_>, out: &mut Vec<u8>) -> Result<(), Utf8Error> {
        if self.ingested_at != Some(event.ingested_at) {
            self.ingested_at = Some(event.ingested_at);
            self.ingested_at_text.clear();
            self.times.write(event.ingested_at, &mut self.ingested_at_text);
        }
        out.extend_from_slice(b"{\"event_id\":");
        match event.event_id {
            UnreadId::Given(text) => write_text(text, out)?,
            UnreadId::Assigned(id) => {
                out.push(b'"');
                EventId::Assigned(id).write(out);
                out.push(b'"');
            }
        }
        out.extend_from_slice(b",\"timestamp\":\"");
        self.times.write(event.timestamp, out);
        out.extend_from_slice(b"\",\"service\":");
        write_text(event.service, out)?;
        out.extend_from_slice(b",\"message\":");
        write_text(event.message, out)?;
        out.extend_from_slice(b",\"metadata\":");
        write_object(event.metadata.unwrap_or(b"{}"), out)?;
        out.extend_from_slice(b",\"ingested_at\":\"");
        out.extend_from_slice(&self.ingested_at_text);
        out.extend_from_slice(b"\"}");
        Ok(())
    }
}

/// Appends one event, where there is only one.
pub fn write_json(event: &Event<'_>, out: &mut Vec<u8>) {
    EventWriter::default().write(event, out);
}

/// Appends a text as a JSON string. Most have nothing to escape. Looking at all bytes without a way out is what the compiler can do many at a
/// time, so it costs less than it saves.
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    if text.bytes().fold(true, |plain, b| plain & is_plain(b)) {
        write_quoted(text.as_bytes(), out);
    } else {
        serde_json::to_writer(out, text).expect("a Vec takes every string");
    }
}

/// The same of what may be no text: ASCII is one without a further look.
fn write_text(text: &[u8], out: &mut Vec<u8>) -> Result<(), Utf8Error> {
    if text.iter().fold(true, |plain, b| plain & is_plain(*b) & b.is_ascii()) {
        write_quoted(text, out);
    } else {
        write_json_string(std::str::from_utf8(text)?, out);
    }
    Ok(())
}

/// Whether a byte of a text may stand in a JSON string as it is.
fn is_plain(byte: u8) -> bool {
    (byte >= b' ') & (byte != b'"') & (byte != b'\\')
}

fn write_quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
}

/// In valid JSON a line break can only stand between tokens, where a space means the same.
fn write_object(text: &[u8], out: &mut Vec<u8>) -> Result<(), Utf8Error> {
    if text.iter().fold(true, |one_line, b| one_line & (*b >= b' ') & b.is_ascii()) {
        out.extend_from_slice(text);
    } else {
        out.extend(std::str::from_utf8(text)?.bytes().map(|b| b.max(b' ')));
    }
    Ok(())
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

    /// What is no text is not written, be it in a string or in an object; what is one but not ASCII is, as it stands.
    #[test]
    fn only_texts_are_written() {
        let time = Timestamp::from_nanos(1);
        let event = Event {
            event_id: EventId::Given("é"),
            timestamp: time,
            service: "\u{1f600}",
            message: "ü\"\n",
            metadata: Some("{\"ö\":\n\"\u{7f}\"}"),
            ingested_at: time,
        };
        let mut out = Vec::new();
        write_json(&event, &mut out);
        let text = std::str::from_utf8(&out).unwrap();
        let json: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!((&json["message"], &json["metadata"]["ö"]), (&"ü\"\n".into(), &"\u{7f}".into()));
        assert!(!text.contains('\n') && text.contains(r#""service":"😀""#), "{text}");
        let unread = Unread::from(&event);
        let wrong = b"{\"\xff\":1}";
        for unread in [
            Unread { event_id: UnreadId::Given(wrong), ..unread },
            Unread { service: wrong, ..unread },
            Unread { message: wrong, ..unread },
            Unread { metadata: Some(wrong), ..unread },
        ] {
            assert!(matches!(unread.read(), Err(DecodeError::Utf8(_))));
            assert!(EventWriter::default().write_unread(&unread, &mut out).is_err());
        }
        let mut again = Vec::new();
        EventWriter::default().write_unread(&unread, &mut again).unwrap();
        assert_eq!(out, again, "what could not be written left nothing behind");
    }
}
