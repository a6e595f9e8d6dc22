//! An attribute that every resource of a request gets, whatever its sender said of it: from whom the request is.

use super::wire::{Entry, Fields, Value, put_bytes, put_varint};

// Numbers of fields, the same for all signals.
/// What the items are grouped by, in the request.
const GROUPS: u32 = 1;
/// In a group.
const RESOURCE: u32 = 1;
/// In a resource.
const ATTRIBUTES: u32 = 1;
/// In an attribute.
const KEY: u32 = 1;
const VALUE: u32 = 2;
/// In a value.
const STRING: u32 = 1;

/// The request with this attribute on each of its resources, in the place of all that had its key. A group without a
/// resource gets one. Everything else keeps its bytes. The request must have been checked.
pub fn stamp(request: &[u8], key: &str, value: &str) -> Vec<u8> {
    let attribute = attribute(key, value);
    let mut out = Vec::with_capacity(request.len() + 4 * attribute.len());
    for entry in Fields::of(request).map_while(Result::ok) {
        match bytes_of(&entry, GROUPS) {
            Some(group) => put_group(&mut out, group, key.as_bytes(), &attribute),
            None => out.extend_from_slice(entry.raw),
        }
    }
    out
}

fn attribute(key: &str, value: &str) -> Vec<u8> {
    let (mut any, mut out) = (Vec::new(), Vec::new());
    put_bytes(&mut any, STRING, value.as_bytes());
    put_bytes(&mut out, KEY, key.as_bytes());
    put_bytes(&mut out, VALUE, &any);
    out
}

fn bytes_of<'a>(entry: &Entry<'a>, number: u32) -> Option<&'a [u8]> {
    match entry.value {
        Value::Bytes(bytes) if entry.number == number => Some(bytes),
        _ => None,
    }
}

/// Appends a group. What stands behind its resource is most of it, and is copied once.
fn put_group(out: &mut Vec<u8>, group: &[u8], key: &[u8], attribute: &[u8]) {
    // A resource may be written in several parts, which a decoder merges; then the last one gets the attribute.
    let mut resources: Vec<(&[u8], Vec<u8>)> = Vec::new();
    for entry in Fields::of(group).map_while(Result::ok) {
        if let Some(resource) = bytes_of(&entry, RESOURCE) {
            resources.push((entry.raw, without(resource, key)));
        }
    }
    let mut first = Vec::new();
    match resources.last_mut() {
        Some((_, last)) => put_bytes(last, ATTRIBUTES, attribute),
        None => {
            let mut resource = Vec::new();
            put_bytes(&mut resource, ATTRIBUTES, attribute);
            put_bytes(&mut first, RESOURCE, &resource);
        }
    }
    let before: usize = resources.iter().map(|(raw, _)| raw.len()).sum();
    let resources: Vec<Vec<u8>> = resources
        .into_iter()
        .map(|(_, resource)| {
            let mut field = Vec::with_capacity(resource.len() + 11);
            put_bytes(&mut field, RESOURCE, &resource);
            field
        })
        .collect();
    let after: usize = first.len() + resources.iter().map(Vec::len).sum::<usize>();
    put_varint(out, u64::from(GROUPS) << 3 | 2);
    put_varint(out, (group.len() - before + after) as u64);
    out.extend_from_slice(&first);
    let mut resources = resources.iter();
    for entry in Fields::of(group).map_while(Result::ok) {
        let replaced = bytes_of(&entry, RESOURCE).and_then(|_| resources.next());
        out.extend_from_slice(replaced.map_or(entry.raw, Vec::as_slice));
    }
}

/// A resource without the attributes of this key.
fn without(resource: &[u8], key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(resource.len() + 64);
    for entry in Fields::of(resource).map_while(Result::ok) {
        let has_key = bytes_of(&entry, ATTRIBUTES).is_some_and(|attribute| key_of(attribute) == key);
        if !has_key {
            out.extend_from_slice(entry.raw);
        }
    }
    out
}

/// An attribute's key; the last one counts, as protobuf wants it.
fn key_of(attribute: &[u8]) -> &[u8] {
    let keys = Fields::of(attribute).map_while(Result::ok);
    keys.filter_map(|entry| bytes_of(&entry, KEY)).last().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::{Items, Signal, check};

    fn field(number: u32, parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, number, &parts.concat());
        out
    }

    /// Scenario: a resource in two parts, with the key in both, once hidden behind another key; a group without any; a
    /// field that is not known.
    /// Guarantee: each group has the attribute once, and nothing else has changed.
    #[test]
    fn every_resource_has_the_attribute_once() {
        let wanted = field(ATTRIBUTES, &[&attribute("tenant", "acme")]);
        let forged = field(ATTRIBUTES, &[&attribute("tenant", "other")]);
        let hidden = field(ATTRIBUTES, &[&field(KEY, &[b"harmless"]), &attribute("tenant", "other")]);
        let kept = field(ATTRIBUTES, &[&attribute("service.name", "shop")]);
        let similar = field(ATTRIBUTES, &[&attribute("tenants", "all")]);
        let scope = field(2, &[&field(2, &[&field(5, &[&field(1, &[b"text"])])])]);
        let url = field(3, &[b"http://127.0.0.1/schema"]);
        let unknown = [0x98, 0x06, 7];
        let dropped = [0x10, 3];

        let request = [
            field(
                GROUPS,
                &[
                    &field(RESOURCE, &[&forged, &kept, &dropped]),
                    &scope,
                    &field(RESOURCE, &[&hidden, &similar]),
                    &url,
                ],
            ),
            unknown.to_vec(),
            field(GROUPS, &[&scope]),
        ]
        .concat();
        let expected = [
            field(
                GROUPS,
                &[&field(RESOURCE, &[&kept, &dropped]), &scope, &field(RESOURCE, &[&similar, &wanted]), &url],
            ),
            unknown.to_vec(),
            field(GROUPS, &[&field(RESOURCE, &[&wanted]), &scope]),
        ]
        .concat();
        let stamped = stamp(&request, "tenant", "acme");
        assert_eq!(stamped, expected);
        check(&stamped, Signal::Logs).unwrap();
        assert_eq!(Items::of(&stamped, Signal::Logs).count(), 2);
        // Once more changes nothing but whose it is.
        assert_eq!(stamp(&stamp(&request, "tenant", "other"), "tenant", "acme"), expected);
        assert_eq!(stamp(b"", "tenant", "acme"), b"");
    }
}
