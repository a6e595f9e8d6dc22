//! What is put into an event's metadata: fields that Forebay does not know, and whose event it is.

use std::{borrow::Cow, collections::HashSet};

use super::values::Entries;
use crate::security::Tenant;

/// Metadata with the tenant in it, first, in the place of whatever its sender said under that key.
pub(in crate::ingress) fn stamped(metadata: Option<&str>, tenant: &Tenant) -> String {
    let json = |text: &str| serde_json::to_string(text).expect("every string can be written as JSON");
    let mut out = format!("{{{}:{}", json(&tenant.key), json(&tenant.value));
    let text = metadata.unwrap_or("{}");
    // The key may be written with escapes, so only a text without any backslash shows whether it is there.
    let may_have_key = memchr::memmem::find(text.as_bytes(), tenant.key.as_bytes()).is_some()
        || memchr::memchr(b'\\', text.as_bytes()).is_some();
    if may_have_key {
        let entries = serde_json::from_str(text).map_or(Vec::new(), |Entries(entries)| entries);
        for (key, value) in entries.iter().filter(|(key, _)| **key != tenant.key) {
            out.push(',');
            out.push_str(&json(key));
            out.push(':');
            out.push_str(value.get());
        }
        out.push('}');
    } else {
        let rest = text.strip_prefix('{').unwrap_or(text).trim_ascii_start();
        out.push_str(if rest.starts_with('}') { "" } else { "," });
        out.push_str(rest);
    }
    out
}

/// The metadata with other fields added. A name that is taken already gets a `_` behind it, or `_2`, `_3` and so on where that is
/// taken, too: nothing is lost, and no two names try the same ones. Only what a sender says of the tenant is, where his token says that already.
pub(super) fn merge(
    metadata: Option<&str>,
    others: &[(Cow<'_, str>, &str)],
    tenant: Option<&Tenant>,
) -> String {
    let mut names: HashSet<Cow<'_, str>> = metadata
        .and_then(|text| serde_json::from_str(text).ok())
        .map(|Entries(entries)| entries.into_iter().map(|(key, _)| key).collect())
        .unwrap_or_default();
    let mut out = metadata.map_or("{", |text| text.strip_suffix('}').unwrap_or(text)).to_owned();
    let mut comma = !names.is_empty();
    for (key, value) in others.iter().filter(|(key, _)| tenant.is_none_or(|t| **key != t.key)) {
        let free = |name: &String| !names.contains(name.as_str());
        let behind = (2_u64..).map(|number| format!("{key}_{number}"));
        let mut candidates = [key.clone().into_owned(), format!("{key}_")].into_iter().chain(behind);
        let name = candidates.find(free).expect("there are more numbers than names");
        if std::mem::replace(&mut comma, true) {
            out.push(',');
        }
        out.push_str(&serde_json::to_string(&name).expect("every string can be written as JSON"));
        out.push(':');
        out.push_str(value);
        names.insert(name.into());
    }
    out.push('}');
    out
}
