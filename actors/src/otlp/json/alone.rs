//! Log records and spans as requests of their own.

use super::{Style, write, write_members};
use crate::otlp::{
    Item, Signal,
    schema::{Field, Kind, Message},
};

/// The field that the items of a scope stand in, and the scopes of a resource.
const INNER: u32 = 2;

/// Writes a log record or a span as a request that has nothing else, in the protocol's JSON. What stands around it is written
/// once for all that have it.
#[derive(Debug)]
pub struct Alone<'a> {
    by_resource: &'static Field,
    by_scope: &'static Field,
    item: &'static Field,
    groups: [&'a [u8]; 2],
    /// The request up to the group of the scope, and from there up to the item, for these groups. A resource may have very many
    /// scopes, so what is said of it is not looked for again for each.
    heads: [Vec<u8>; 2],
}

impl<'a> Alone<'a> {
    /// For the items of such requests; `None` for metrics, whose points stand deeper.
    pub fn of(signal: Signal) -> Option<Self> {
        let by_resource = signal.request().field(1)?;
        let by_scope = inner(by_resource)?.field(INNER)?;
        let item = inner(by_scope)?.field(INNER)?;
        let is_metrics = signal == Signal::Metrics;
        (!is_metrics).then(|| Self {
            by_resource,
            by_scope,
            item,
            groups: [&[], &[]],
            heads: [Vec::new(), Vec::new()],
        })
    }

    /// Appends the request of an item.
    pub fn write(&mut self, item: &Item<'a>, out: &mut Vec<u8>) {
        for level in [0, 1] {
            if self.heads[level].is_empty() || !std::ptr::eq(self.groups[level], item.groups[level]) {
                self.groups[level] = item.groups[level];
                self.write_head(level);
            }
            out.extend_from_slice(&self.heads[level]);
        }
        if let Some(of) = inner(self.item) {
            write(item.bytes, of, Style::Protocol, out);
        }
        out.extend_from_slice(b"]}]}]}");
    }

    fn write_head(&mut self, level: usize) {
        let (head, group) = (&mut self.heads[level], self.groups[level]);
        head.clear();
        let (of, next) = if level == 0 {
            head.push(b'{');
            open(self.by_resource, head);
            (self.by_resource, self.by_scope)
        } else {
            (self.by_scope, self.item)
        };
        head.push(b'{');
        if let Some(of) = inner(of) {
            write_members(group, of, Style::Protocol, &[INNER], head);
        }
        if !head.ends_with(b"{") {
            head.push(b',');
        }
        open(next, head);
    }
}

/// The message that a field holds.
fn inner(field: &'static Field) -> Option<&'static Message> {
    match field.kind {
        Kind::Message(of) => Some(of),
        _ => None,
    }
}

/// A list under the field's name, begun.
fn open(field: &Field, out: &mut Vec<u8>) {
    let parts: [&[u8]; 3] = [b"\"", field.name.as_bytes(), b"\":["];
    parts.into_iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeSeed as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::otlp::{Items, json::RequestSeed, select, wire::put_bytes};

    fn request() -> Vec<u8> {
        let span = |id: u8, name: &str| {
            json!({"traceId": "0102030405060708090a0b0c0d0e0f10", "spanId": format!("{id:016x}"), "name": name,
                "kind": 2, "startTimeUnixNano": "1778051289123456789", "endTimeUnixNano": "1778051289123456790",
                "attributes": [{"key": "a", "value": {"bytesValue": "AQI="}}, {"key": "n", "value": {"intValue": "7"}}],
                "status": {"code": 2, "message": "\u{1F600}"}})
        };
        let resource = json!({"attributes": [{"key": "host.name", "value": {"stringValue": "h"}}]});
        let text = json!({"resourceSpans": [
            {"resource": resource, "schemaUrl": "r1", "scopeSpans": [
                {"scope": {"name": "s", "version": "1"}, "schemaUrl": "s1", "spans": [span(1, "one"), span(2, "two")]},
                {"spans": [span(3, "three")]}
            ]},
            {"scopeSpans": [{"spans": [span(4, "")]}]}
        ]});
        let text = text.to_string();
        RequestSeed(Signal::Traces).deserialize(&mut serde_json::Deserializer::from_str(&text)).unwrap()
    }

    /// Each item alone is what the request of it alone is, also where the groups around it change and where they say nothing.
    #[test]
    fn an_item_alone_is_the_request_of_it() {
        let request = request();
        let mut alone = Alone::of(Signal::Traces).unwrap();
        let mut count = 0;
        for (index, item) in Items::of(&request, Signal::Traces).enumerate() {
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            alone.write(&item, &mut found);
            let selected = select(&request, Signal::Traces, |other| other == index as u32);
            write(&selected, Signal::Traces.request(), Style::Protocol, &mut expected);
            let found: Value = serde_json::from_slice(&found).unwrap();
            assert_eq!(found, serde_json::from_slice::<Value>(&expected).unwrap());
            count += 1;
        }
        assert_eq!(count, 4);
        assert!(Alone::of(Signal::Metrics).is_none());
    }

    /// Scenario: one resource with very many scopes, of a span each.
    /// Guarantee: each span is written as soon as it is read. For each scope the group of the resource was walked over, with all
    /// scopes in it.
    #[test]
    fn r0289_every_scope_was_walked_over_for_every_scope() {
        const SCOPES: usize = 200_000;
        let mut request = Vec::new();
        put_bytes(&mut request, 1, &[0x12, 2, 0x12, 0].repeat(SCOPES));
        let (mut alone, mut text, mut count) = (Alone::of(Signal::Traces).unwrap(), Vec::new(), 0);
        let began = tokio::time::Instant::now();
        for item in Items::of(&request, Signal::Traces) {
            text.clear();
            alone.write(&item, &mut text);
            count += 1;
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "only {count} of {SCOPES} so far");
        }
        assert_eq!(count, SCOPES);
        assert_eq!(text, br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{}]}]}]}"#);
    }
}
