//! What no column holds as it was, as texts by path: `droppedAttributesCount`, `events[0].timeUnixNano`, `scope.attributes`.
//!
//! The names are the protocol's, the values JSON without the quotes around a text. A sum, a minimum or a maximum that a point
//! may have and has not is `null`, because its column cannot be.

use forebay_actors::otlp::{
    Members,
    json::write_value,
    schema::{self, Field, Kind, Message, Rule},
};

use super::{
    super::types::put_length,
    columns::{Seen, Told, put_pair},
    layout::{Around, OtelTable},
};

/// The fields of a metric that have its points, and so are none of the points' own.
const KINDS_OF_METRICS: u32 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11;

#[derive(Default)]
struct Others {
    count: usize,
    pairs: Vec<u8>,
    value: Vec<u8>,
}

/// Appends a map of all that is not told yet.
pub(super) fn put_others(table: OtelTable, seen: &Seen<'_>, told: &Told, out: &mut Vec<u8>) {
    let mut others = Others::default();
    let item = Some(&told.inner);
    others.message("", seen.of(Around::Item), table.item(), told.fields[Around::Item as usize], item);
    let has_points = !matches!(table, OtelTable::Logs | OtelTable::Traces);
    for (around, prefix, never) in [
        (Around::Resource, "resource.", 0),
        (Around::Scope, "scope.", 0),
        (Around::Metric, "metric.", KINDS_OF_METRICS),
        // What a metric says of all its points stands in one message with them.
        (Around::Data, "metric.", 1 << 1),
    ] {
        if has_points || matches!(around, Around::Resource | Around::Scope) {
            let told = told.fields[around as usize] | never;
            others.message(prefix, seen.of(around), table.around(around), told, None);
        }
    }
    put_length(others.count, out);
    out.extend_from_slice(&others.pairs);
}

// === impl Others ===

impl Others {
    /// The fields of a message that are not told; of messages in it, those that are not in `inner`.
    fn message(
        &mut self,
        prefix: &str,
        members: &Members<'_>,
        of: &'static Message,
        told: u32,
        inner: Option<&[u32; 17]>,
    ) {
        let choice = || members.chosen(of);
        let mut is_first_choice = true;
        for field in of.fields.iter().filter(|field| told & 1 << field.number == 0) {
            let is_there = members.value(field.number).is_some();
            match (field.kind, field.rule) {
                (_, Rule::Present) if !is_there => self.add(prefix, field, b"null"),
                (_, Rule::OneOf) => {
                    let chosen = choice();
                    if chosen == Some(field.number) {
                        self.value(prefix, members, field);
                    } else if chosen.is_none() && std::mem::take(&mut is_first_choice) {
                        self.add(prefix, field, b"null");
                    }
                }
                _ if !is_there => {}
                (Kind::Message(nested), _) if !is_value(nested) => {
                    let told = inner.map_or(0, |inner| inner[field.number as usize]);
                    for (index, message) in members.each(field.number).enumerate() {
                        let at =
                            if field.rule == Rule::Repeated { format!("[{index}]") } else { String::new() };
                        let prefix = format!("{prefix}{}{at}.", field.name);
                        self.message(&prefix, &Members::of(message), nested, told, None);
                    }
                }
                _ => self.value(prefix, members, field),
            }
        }
    }

    fn value(&mut self, prefix: &str, members: &Members<'_>, field: &'static Field) {
        if matches!((field.kind, field.rule), (Kind::String, Rule::Plain)) {
            let text = members.data(field.number);
            if !text.is_empty() {
                self.add(prefix, field, text);
            }
            return;
        }
        let mut value = std::mem::take(&mut self.value);
        value.clear();
        if write_value(members.bytes(), field, &mut value) {
            // Ids and times have nothing to escape.
            let text = value.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(&value);
            self.add(prefix, field, text);
        }
        self.value = value;
    }

    fn add(&mut self, prefix: &str, field: &Field, text: &[u8]) {
        self.count += 1;
        put_pair(&format!("{prefix}{}", field.name), text, &mut self.pairs);
    }
}

/// Whether a message is a value, and is written as one.
fn is_value(of: &'static Message) -> bool {
    std::ptr::eq(of, &raw const schema::KEY_VALUE) || std::ptr::eq(of, &raw const schema::ANY_VALUE)
}
