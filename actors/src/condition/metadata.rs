//! Looking values up in the text of a JSON object, in one pass and without a tree of it.
//!
//! A path is keys with dots between them. A key may have dots itself, as those of OpenTelemetry's attributes have, so at every
//! object each key is tried that the path begins with: `attributes.http.route` finds `{"attributes": {"http.route": 1}}` and
//! `{"attributes": {"http": {"route": 1}}}`. Where there are several such places, or a key stands twice, the last in the text
//! counts.

use std::{fmt, ops::Range};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The rest of a path of which nothing is left.
const WHOLE: usize = usize::MAX;

/// Where values stand in a text, by the number of their path; used again from text to text.
#[derive(Debug, Default)]
pub(crate) struct Places {
    found: Vec<Option<Range<usize>>>,
    /// Paths that lead on from the objects that are being walked over: which, and from which byte of it on.
    open: Vec<(usize, usize)>,
}

impl Places {
    /// Finds the values of all paths.
    pub(crate) fn find(&mut self, text: &str, paths: &[Box<str>]) {
        self.found.clear();
        self.found.resize(paths.len(), None);
        self.open.clear();
        self.open.extend((0..paths.len()).map(|path| (path, 0)));
        let begin = 0;
        Walk { text, paths, places: self, begin }.walk(text);
    }

    /// The text of the value at a path; `None` where there is none, or null.
    pub(crate) fn get<'t>(&self, text: &'t str, path: usize) -> Option<&'t str> {
        let range = self.found.get(path)?.clone()?;
        text.get(range).filter(|value| *value != "null")
    }
}

/// One object on the way.
struct Walk<'w> {
    /// The whole text.
    text: &'w str,
    paths: &'w [Box<str>],
    places: &'w mut Places,
    /// From where on in `open` the paths are this object's.
    begin: usize,
}

impl Walk<'_> {
    /// What is no object has nothing in it, and damaged text has what stands before the damage.
    fn walk(self, object: &str) {
        let mut json = serde_json::Deserializer::from_str(object);
        let _ = json.deserialize_map(self);
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { text, paths, places, begin } = self;
        let end = places.open.len();
        while map.next_key_seed(Key { paths, open: &mut places.open, begin, end })?.is_some() {
            if places.open.len() == end {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<&RawValue>()?.get();
            // It is borrowed from the text, so this is where it stands there.
            let at = (value.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
            let whole = places.open.extract_if(end.., |(_, rest)| *rest == WHOLE);
            whole.for_each(|(path, _)| places.found[path] = Some(at..at + value.len()));
            if places.open.len() > end && value.starts_with('{') {
                Walk { text, paths, places: &mut *places, begin: end }.walk(value);
            }
            places.open.truncate(end);
        }
        Ok(())
    }
}

/// A key of an object: the paths that go on behind it are put on top of the open ones.
struct Key<'w> {
    paths: &'w [Box<str>],
    open: &'w mut Vec<(usize, usize)>,
    begin: usize,
    end: usize,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<(), E> {
        for index in self.begin..self.end {
            let (path, from) = self.open[index];
            let Some(rest) = self.paths[path][from..].strip_prefix(key) else { continue };
            if rest.is_empty() {
                self.open.push((path, WHOLE));
            } else if rest.starts_with('.') {
                self.open.push((path, from + key.len() + 1));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'t>(text: &'t str, path: &str) -> Option<&'t str> {
        let (mut places, paths) = (Places::default(), ["other.x".into(), path.into()]);
        places.find(text, &paths);
        places.get(text, 1)
    }

    /// Dots are steps or part of a key, keys may be escaped, and of several places the last counts.
    #[test]
    fn a_path_leads_over_keys_with_dots() {
        for (text, path, found) in [
            (r#"{"a":1}"#, "a", Some("1")),
            (r#"{"a": {"b" : [1, 2] }, "c":3}"#, "a.b", Some("[1, 2]")),
            (r#"{"a.b": "x"}"#, "a.b", Some("\"x\"")),
            (r#"{"a":{"b.c":{"d":true}}}"#, "a.b.c.d", Some("true")),
            (r#"{"a":{"b":{"c":1}},"a.b":{"c":2}}"#, "a.b.c", Some("2")),
            (r#"{"a":1,"a":2}"#, "a", Some("2")),
            (r#"{"a":1,"a":null}"#, "a", None),
            (r#"{"\u0061":{"\u00e9\n":"\u00e9"}}"#, "a.é\n", Some(r#""\u00e9""#)),
            (r#"{"a":{"b":1}}"#, "a.c", None),
            (r#"{"a":7}"#, "a.b", None),
            (r#"{"ab":1}"#, "a", None),
            (r#"{"a":[{"b":1}]}"#, "a.b", None),
            ("{}", "a", None),
            ("no JSON", "a", None),
            (r#"{"a":1,"b"#, "a", Some("1")),
        ] {
            assert_eq!(find(text, path), found, "{path} in {text}");
        }
    }

    /// Nesting is walked over without recursion, however deep it is.
    #[test]
    fn depth_is_no_matter() {
        let text = format!("{{\"deep\":{}1{},\"a\":2}}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(find(&text, "a"), Some("2"));
    }
}
