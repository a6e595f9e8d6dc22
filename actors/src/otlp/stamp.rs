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

/// Times its own bytes, and bytes beside, up to which a request may grow. Each group gets an attribute, however small it is, so
/// some bytes could become very many.
const GROWN_MAX: usize = 4;
const GROWN_BESIDE: usize = 64 * 1024;

/// The request with this attribute on each of its resources, in the place of all that had its key. A group without a
/// resource gets one. Everything else keeps its bytes. The request must have been checked.
///
/// `None` where it would come to more than 4 times its bytes and 64 KiB.
pub fn stamp(request: &[u8], key: &str, value: &str) -> Option<Vec<u8>> {
    let bytes_max = request.len().saturating_mul(GROWN_MAX).saturating_add(GROWN_BESIDE);
    let mut stamp = Vec::new();
    put_bytes(&mut stamp, ATTRIBUTES, &attribute(key, value));
    let mut out = Vec::with_capacity(request.len() + 4 * stamp.len());
    for entry in Fields::of(request).map_while(Result::ok) {
        match bytes_of(&entry, GROUPS) {
            Some(group) => put_group(&mut out, group, key.as_bytes(), &stamp),
            None => out.extend_from_slice(entry.raw),
        }
        // A group grows by one attribute at most, so it is soon enough to look behind it.
        if out.len() > bytes_max {
            return None;
        }
    }
    Some(out)
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

/// Appends a group; `stamp` is the attribute as a field. What stands behind its resource is most of it, and is copied once.
///
/// A resource may be written in any number of parts, which a decoder merges; then the last one gets the attribute. A group may be
/// nothing but such parts, so nothing is kept of each: they are walked over again instead.
fn put_group(out: &mut Vec<u8>, group: &[u8], key: &[u8], stamp: &[u8]) {
    let entries = || Fields::of(group).map_while(Result::ok);
    let resources = || entries().filter_map(|entry| Some((entry.end, bytes_of(&entry, RESOURCE)?)));
    let last = resources().last().map(|(end, _)| end);
    // Behind all that is left of the part that ends there.
    let behind = |end: usize| if last == Some(end) { stamp } else { &[] };
    let others = entries().filter(|entry| bytes_of(entry, RESOURCE).is_none()).map(|entry| entry.raw.len());
    let parts = resources().map(|(end, part)| field_length(left_length(part, key) + behind(end).len()));
    let none = if last.is_none() { field_length(stamp.len()) } else { 0 };
    put_varint(out, u64::from(GROUPS) << 3 | 2);
    put_varint(out, (others.sum::<usize>() + parts.sum::<usize>() + none) as u64);
    if last.is_none() {
        put_bytes(out, RESOURCE, stamp);
    }
    for entry in entries() {
        let Some(part) = bytes_of(&entry, RESOURCE) else {
            out.extend_from_slice(entry.raw);
            continue;
        };
        let behind = behind(entry.end);
        put_varint(out, u64::from(RESOURCE) << 3 | 2);
        put_varint(out, (left_length(part, key) + behind.len()) as u64);
        without(part, key).for_each(|raw| out.extend_from_slice(raw));
        out.extend_from_slice(behind);
    }
}

/// The fields of a resource without the attributes of this key.
fn without<'a>(resource: &'a [u8], key: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let is_left =
        move |entry: &Entry<'a>| bytes_of(entry, ATTRIBUTES).is_none_or(|found| key_of(found) != key);
    Fields::of(resource).map_while(Result::ok).filter(is_left).map(|entry| entry.raw)
}

/// Bytes that they have.
fn left_length(resource: &[u8], key: &[u8]) -> usize {
    without(resource, key).map(<[u8]>::len).sum()
}

/// Bytes of a resource of so many bytes with its tag, which is one, and its length.
fn field_length(bytes: usize) -> usize {
    let bits = usize::BITS - (bytes | 1).leading_zeros();
    1 + bits.div_ceil(7) as usize + bytes
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
        let stamped = stamp(&request, "tenant", "acme").unwrap();
        assert_eq!(stamped, expected);
        check(&stamped, Signal::Logs).unwrap();
        assert_eq!(Items::of(&stamped, Signal::Logs).count(), 2);
        // Once more changes nothing but whose it is.
        let other = stamp(&request, "tenant", "other").unwrap();
        assert_eq!(stamp(&other, "tenant", "acme").unwrap(), expected);
        assert_eq!(stamp(b"", "tenant", "acme").unwrap(), b"");
    }

    /// Lengths are those that are written, around each number of bytes that a length has.
    #[test]
    fn a_field_is_as_long_as_it_says() {
        for bytes in [0, 1, 0x7f, 0x80, 0x3fff, 0x4000, 0x1f_ffff, 0x20_0000] {
            assert_eq!(field_length(bytes), field(RESOURCE, &[&vec![0_u8; bytes]]).len(), "{bytes}");
        }
    }

    /// Scenario: a request of very many groups that have nothing, and one of a group of very many parts of a resource.
    /// Guarantee: what would become many times its bytes is refused, and many parts get one attribute. The groups became 22 bytes
    /// for each two, or as many as the attribute has.
    #[test]
    fn r0293_each_empty_group_grew_by_an_attribute() {
        let groups = |count: usize| [0x0a_u8, 0].repeat(count);
        let grown = 2 + 2 + field(ATTRIBUTES, &[&attribute("tenant", "acme")]).len();
        for count in [0, 1, 1_000] {
            assert_eq!(stamp(&groups(count), "tenant", "acme").unwrap().len(), count * grown);
        }
        let most = GROWN_BESIDE / (grown - 2 * GROWN_MAX);
        assert!(stamp(&groups(most), "tenant", "acme").is_some());
        assert!(stamp(&groups(most + 1), "tenant", "acme").is_none());
        assert!(stamp(&groups(1_000_000), "tenant", "acme").is_none());
        let parts = field(GROUPS, &[&[0x0a_u8, 0].repeat(1_000_000)]);
        assert_eq!(stamp(&parts, "tenant", "acme").unwrap().len(), parts.len() + grown - 4);
    }
}
