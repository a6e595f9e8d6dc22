//! An event as JSON: the same text for every reader, be it a sink, a file or `GET /events`.

use super::Event;

/// Appends the event as one JSON object without a line break. `metadata` stands as the client sent it,
/// `{}` where it sent none.
pub fn write_json(event: &Event<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"event_id\":");
    match event.event_id {
        super::EventId::Given(text) => write_string(text, out),
        assigned => {
            out.push(b'"');
            assigned.write(out);
            out.push(b'"');
        }
    }
    out.extend_from_slice(b",\"timestamp\":\"");
    event.timestamp.write_rfc3339(out);
    out.extend_from_slice(b"\",\"service\":");
    write_string(event.service, out);
    out.extend_from_slice(b",\"message\":");
    write_string(event.message, out);
    out.extend_from_slice(b",\"metadata\":");
    out.extend_from_slice(event.metadata.unwrap_or("{}").as_bytes());
    out.extend_from_slice(b",\"ingested_at\":\"");
    event.ingested_at.write_rfc3339(out);
    out.extend_from_slice(b"\"}");
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a Vec takes every string");
}
