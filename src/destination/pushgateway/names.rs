//! Names and labels, by OpenTelemetry's rules for Prometheus.

use std::{collections::BTreeMap, fmt::Write as _};

use super::request::{Any, AnyValue, Attribute};

/// Units with their words; what is not here stands as it is.
const UNITS: [(&str, &str); 26] = [
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tebibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("%", "percent"),
    ("1", ""),
];

/// What stands behind a slash in a unit.
const PER: [(&str, &str); 7] = [
    ("s", "second"),
    ("m", "minute"),
    ("h", "hour"),
    ("d", "day"),
    ("w", "week"),
    ("mo", "month"),
    ("y", "year"),
];

/// The name of a metric: its own, its unit, and `total` where it counts.
pub(super) fn metric_name(name: &str, unit: &str, is_counter: bool, is_gauge: bool) -> String {
    let mut tokens: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric() && c != ':').collect();
    tokens.retain(|token| !token.is_empty());
    let unit_text = unit_words(unit, is_gauge);
    let unit: Vec<&str> = unit_text.split('_').filter(|word| !word.is_empty()).collect();
    if is_counter {
        tokens.retain(|token| *token != "total");
    }
    if !unit.is_empty() && !tokens.ends_with(&unit) {
        tokens.extend(unit);
    }
    if is_counter {
        tokens.push("total");
    }
    let name = tokens.join("_");
    // A name of nothing else is one all the same.
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// A unit in words: `By/s` is `bytes_per_second`. What stands in braces says only what is counted.
fn unit_words(unit: &str, is_gauge: bool) -> String {
    if unit == "1" {
        return if is_gauge { "ratio" } else { "" }.to_owned();
    }
    let bare = |part: &str| match part.split_once('{') {
        Some((before, _)) => before.trim().to_owned(),
        None => part.trim().to_owned(),
    };
    let word = |part: &str, words: &[(&str, &str)]| {
        let found = words.iter().find(|(unit, _)| *unit == part).map(|(_, word)| (*word).to_owned());
        found.unwrap_or_else(|| part.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
    };
    let (what, per) = unit.split_once('/').map_or((unit, ""), |(what, per)| (what, per));
    let (what, per) = (word(&bare(what), &UNITS), word(&bare(per), &PER));
    match (what.as_str(), per.as_str()) {
        (_, "") => what,
        ("", _) => format!("per_{per}"),
        _ => format!("{what}_per_{per}"),
    }
}

/// The name of a label: letters, digits and `_`, and no digit first.
pub(super) fn label_name(key: &str) -> String {
    let mut name = key.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "_");
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert_str(0, "key_");
    }
    name
}

/// Labels by name. Values of attributes whose names become the same stand one behind the other.
pub(super) fn labels<'a>(attributes: impl IntoIterator<Item = &'a Attribute>) -> BTreeMap<String, String> {
    let mut sorted: Vec<_> = attributes.into_iter().collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    let mut labels = BTreeMap::<String, String>::new();
    for attribute in sorted {
        let value = text(attribute.value.as_ref());
        let label = labels.entry(label_name(&attribute.key));
        label.and_modify(|before| *before = format!("{before};{value}")).or_insert(value);
    }
    labels
}

/// Labels as they stand in braces.
pub(super) fn written(labels: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        let comma = if out.is_empty() { "" } else { "," };
        write!(out, "{comma}{name}=\"").expect("a String takes every text");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    out
}

/// A value as text; lists and maps as JSON.
pub(super) fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Any::Text(text)) => text.clone(),
        other => other.map(|value| json(value).to_string()).unwrap_or_default(),
    }
}

fn json(value: &Any) -> serde_json::Value {
    let inner = |value: &AnyValue| value.value.as_ref().map_or(serde_json::Value::Null, json);
    match value {
        Any::Text(text) => text.as_str().into(),
        Any::Bool(value) => (*value).into(),
        Any::Int(value) => (*value).into(),
        Any::Double(value) => (*value).into(),
        Any::List(list) => list.values.iter().map(inner).collect(),
        Any::Map(map) => {
            let member = |pair: &Attribute| {
                (pair.key.clone(), pair.value.as_ref().map_or(serde_json::Value::Null, inner))
            };
            serde_json::Value::Object(map.values.iter().map(member).collect())
        }
        Any::Bytes(bytes) => base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of OpenTelemetry's own document, and what stands at its edges.
    #[test]
    fn names_are_those_of_the_rules() {
        for (name, unit, is_counter, is_gauge, expected) in [
            ("http.server.duration", "ms", false, false, "http_server_duration_milliseconds"),
            ("system.network.io", "By", true, false, "system_network_io_bytes_total"),
            ("requests_total", "1", true, false, "requests_total"),
            ("requests", "{request}", true, false, "requests_total"),
            ("system.cpu.utilization", "1", false, true, "system_cpu_utilization_ratio"),
            ("speed", "By/s", false, true, "speed_bytes_per_second"),
            ("jobs", "{job}/s", false, true, "jobs_per_second"),
            ("already_seconds", "s", false, true, "already_seconds"),
            ("a..b--c", "", false, true, "a_b_c"),
            ("9lives", "", false, true, "_9lives"),
            ("ü", "", false, true, "_"),
            ("odd", "foo.bar", false, true, "odd_foo_bar"),
        ] {
            assert_eq!(metric_name(name, unit, is_counter, is_gauge), expected, "{name} {unit}");
        }
    }

    #[test]
    fn labels_are_escaped_and_joined() {
        let attribute = |key: &str, value: Any| Attribute {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
        };
        let of = |text: &str| Any::Text(text.to_owned());
        let list =
            Any::List(List { values: vec![AnyValue { value: Some(Any::Int(1)) }, AnyValue { value: None }] });
        let attributes = [
            attribute("http.method", of("GET")),
            attribute("a_b", of("2")),
            attribute("a.b", of("1")),
            attribute("9", of("x")),
            attribute("text", of("\"q\" \\ \n ü")),
            attribute("list", list),
            attribute("none", of("")),
        ];
        assert_eq!(
            written(&labels(&attributes)),
            "a_b=\"1;2\",http_method=\"GET\",key_9=\"x\",list=\"[1,null]\",text=\"\\\"q\\\" \\\\ \\n ü\""
        );
    }

    use super::super::request::List;
}
