//! What makes no sense in `fallback`, `on_failure` and `only_as_fallback`.

use std::collections::BTreeMap;

use super::Found;
use crate::config::{SinkConfig, SinkKind, sink::HOLDING_TYPES};

pub(super) fn standbys(sinks: &BTreeMap<String, SinkConfig>, found: &mut Found) {
    for (name, sink) in sinks {
        if sink.fallback.is_some() && sink.on_failure.is_some() {
            let message = "cannot be beside fallback: a batch is held or goes elsewhere for good; leave one of them away";
            found.add(&["sinks", name, "on_failure"], message);
        }
        for (key, to) in sink.standbys() {
            if let Some(message) = unusable(sinks, name, sink, (key, to)) {
                found.add(&["sinks", name, key], message);
            }
        }
        let is_named = || sinks.values().any(|other| other.standbys().any(|(_, to)| to == name));
        if sink.only_as_fallback && !is_named() {
            let message = "is true, and no sink names it, so it would never get anything; let another sink have \
                           `fallback` or `on_failure` with its name, or leave this away";
            found.add(&["sinks", name, "only_as_fallback"], message);
        }
    }
}

/// Why a sink cannot stand by for another.
fn unusable(
    sinks: &BTreeMap<String, SinkConfig>,
    name: &str,
    sink: &SinkConfig,
    (key, to): (&str, &str),
) -> Option<String> {
    let Some(standby) = sinks.get(to) else {
        return Some(format!("names {to:?}, and there is no such sink"));
    };
    if to == name {
        return Some("is the sink itself; name another".to_owned());
    }
    if sink.only_as_fallback {
        return Some(
            "is of no use, since only_as_fallback leaves nothing to send there; leave one of them away"
                .to_owned(),
        );
    }
    if let Some((next, _)) = standby.standbys().next() {
        return Some(format!(
            "names {to:?}, which has {next} itself: batches go one step, never further; name a sink without"
        ));
    }
    let kind = standby.kind.name();
    if key == "fallback" {
        return standby.kind.holds_at().is_none().then(|| {
            format!("names {to:?}, and {kind} cannot hold batches to be read back; {HOLDING_TYPES} can, or take on_failure")
        });
    }
    // These are written by one only.
    let alone = matches!(standby.kind, SinkKind::File(_) | SinkKind::Store(_));
    let others =
        sinks.values().flat_map(|other| other.standbys()).filter(|named| *named == ("on_failure", to));
    (alone && (!standby.only_as_fallback || others.count() > 1)).then(|| {
        format!("names {to:?}, and a {kind} has one writer; give that only_as_fallback, and name it in one sink alone")
    })
}
