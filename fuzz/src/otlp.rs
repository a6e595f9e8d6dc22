//! Requests of OpenTelemetry, in protobuf and in JSON, against the protocol's own library.
//!
//! Seeds named `published_…` are made of the examples of open-telemetry/opentelemetry-proto (Apache License 2.0).

use forebay_actors::otlp::{
    Items, Rows, Signal, check, cut,
    json::{RequestSeed, Style, write},
    schema::{Kind, Message, Rule},
    select,
    wire::{Fields, Value},
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use prost::{DecodeError, Message as _};
use serde::de::{DeserializeSeed as _, IgnoredAny};

/// Small enough for inputs to be cut in several.
const PART_BYTES_MAX: usize = 64;

/// The first byte chooses the signal, the others are a request in protobuf.
///
/// # Panics
/// Where Forebay and the protocol's library do not agree on what a request is or says, or parts of it are not the whole.
pub fn otlp_protobuf(input: &[u8]) {
    let Some((signal, request)) = signal_of(input) else { return };
    let (checked, decoded) = (check(request, signal), decoded(request, signal));
    assert_eq!(checked.is_ok(), decoded.is_ok(), "{checked:?}, and the library: {decoded:?}");
    if let Err(error) = checked {
        assert!(error.offset <= request.len(), "{error}");
    }
    let is_plain = is_plain(request, signal.request());
    let items = Items::of(request, signal).count();
    let rows = rows(request, signal);
    let parts: Vec<_> = cut(request, signal, PART_BYTES_MAX).collect();
    let whole = select(request, signal, |_| true);
    let Ok(decoded) = decoded else { return };
    assert_eq!(rows.len(), items);
    assert_eq!(self::rows(&whole, signal), rows, "all items are not the whole");

    let mut joined = Vec::new();
    let mut next = 0;
    for (part, count) in parts {
        let range = next..next + count;
        next = range.end;
        let selected = select(request, signal, |index| range.contains(&index));
        assert_eq!(self::rows(&part, signal), self::rows(&selected, signal), "a part is its own items");
        assert_eq!(check(&part, signal), Ok(()));
        assert_eq!(Items::of(&part, signal).count(), count as usize);
        joined.extend(self::rows(&part, signal));
    }
    assert_eq!(next as usize, items);
    if is_plain {
        assert_eq!(joined, rows, "the parts are not the whole");
        comes_back(request, signal, &decoded);
    } else {
        assert_eq!(joined.len(), rows.len());
    }
}

/// The first byte chooses the signal, the others are a request in JSON.
///
/// # Panics
/// Where what is taken is no request, or says something else when it is written again.
pub fn otlp_json(input: &[u8]) {
    let Some((signal, text)) = signal_of(input) else { return };
    let request = match read(text, signal) {
        Ok(request) => request,
        Err(error) => {
            assert!(error.to_string().len() > 5 && error.line() > 0, "{error}");
            return;
        }
    };
    assert!(serde_json::from_slice::<IgnoredAny>(text).is_ok(), "what was taken is no JSON");
    assert_eq!(check(&request, signal), Ok(()));
    let decoded = decoded(&request, signal).expect("what was checked is decoded");
    assert_eq!(rows(&request, signal).len(), Items::of(&request, signal).count());
    let again = written(&request, signal);
    if let Ok(again) = read(&again, signal) {
        let third = written(&again, signal);
        assert_eq!(written(&request, signal), third, "{}", third.escape_ascii());
    }
    if is_plain(&request, signal.request()) {
        comes_back(&request, signal, &decoded);
    }
}

/// The request as JSON and back says the same.
fn comes_back(request: &[u8], signal: Signal, decoded: &str) {
    let text = written(request, signal);
    let again = match read(&text, signal) {
        Ok(again) => again,
        // Protobuf may nest 100 messages, which as JSON are more levels than its readers take.
        Err(error) if error.to_string().contains("recursion limit") => return,
        Err(error) => panic!("{error}: {}", text.escape_ascii()),
    };
    assert_eq!(self::decoded(&again, signal).expect("it is a request"), decoded, "{}", text.escape_ascii());
}

fn signal_of(input: &[u8]) -> Option<(Signal, &[u8])> {
    let (signal, rest) = input.split_first()?;
    Some((Signal::from_u8(signal % 3 + 1)?, rest))
}

fn read(text: &[u8], signal: Signal) -> serde_json::Result<Vec<u8>> {
    let mut from = serde_json::Deserializer::from_slice(text);
    let request = RequestSeed(signal).deserialize(&mut from)?;
    from.end().map(|()| request)
}

fn written(request: &[u8], signal: Signal) -> Vec<u8> {
    let mut text = Vec::new();
    write(request, signal.request(), Style::Protocol, &mut text);
    text
}

/// What the protocol's library reads, as text: there every NaN is the same.
fn decoded(request: &[u8], signal: Signal) -> Result<String, DecodeError> {
    match signal {
        Signal::Logs => ExportLogsServiceRequest::decode(request).map(|request| format!("{request:?}")),
        Signal::Metrics => ExportMetricsServiceRequest::decode(request).map(|request| format!("{request:?}")),
        Signal::Traces => ExportTraceServiceRequest::decode(request).map(|request| format!("{request:?}")),
    }
}

/// Whether nothing stands there twice that may stand there once: then there is one way to read it.
fn is_plain(bytes: &[u8], of: &'static Message) -> bool {
    let mut seen = Vec::new();
    Fields::of(bytes).map_while(Result::ok).all(|entry| {
        let Some(field) = of.field(entry.number) else { return true };
        let place = if field.rule == Rule::OneOf { 0 } else { field.number };
        let is_first = field.rule == Rule::Repeated || !seen.contains(&place);
        seen.push(place);
        let inner = match (field.kind, entry.value) {
            (Kind::Message(of), Value::Bytes(bytes)) => is_plain(bytes, of),
            _ => true,
        };
        is_first && inner
    })
}

/// Every item as a row, in text.
fn rows(request: &[u8], signal: Signal) -> Vec<String> {
    let mut rows = Rows::of(request, signal);
    let mut found = Vec::new();
    while let Some(row) = rows.next_row() {
        assert!(serde_json::from_str::<IgnoredAny>(row.metadata).is_ok(), "{}", row.metadata);
        found.push(format!("{row:?}"));
    }
    found
}
