//! Which keys of the metadata go out, and under which name: the text of a JSON object made anew without a tree of it.
//!
//! Paths are those of conditions: keys with dots between them, of which each may have dots itself. What is selected is taken,
//! with everything in it; of that, what is dropped is left out; what is renamed becomes a key of the metadata themselves, in
//! the place of one that was there. Everything that goes out stands in the bytes in which it came.
//!
//! - Limits: [`PATHS_MAX`]; depth is that of the paths, not of the text.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::{condition::Places, event::write_json_string};

/// Paths of one projection.
pub const PATHS_MAX: usize = 64;

/// What goes out of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// First those that are selected, then those that are left out.
    paths: Vec<Box<str>>,
    /// How many of them are selected; `None` selects all there is.
    selected: Option<usize>,
    /// What is renamed, and the keys that it gets.
    renamed: Vec<Box<str>>,
    names: Vec<Box<str>>,
}

/// What is used again from event to event.
#[derive(Debug, Default)]
pub struct Projected {
    places: Places,
    /// Paths that lead on from the objects that are being walked over: which, and from which byte of it on.
    open: Vec<(usize, usize)>,
    text: Vec<u8>,
}

impl Projection {
    /// Of paths below the metadata: those that are selected (all where absent), those that are dropped, and those that are
    /// renamed, each with the key that it gets.
    pub fn new(select: Option<Vec<&str>>, drop: Vec<&str>, rename: Vec<(&str, &str)>) -> Self {
        let selected = select.as_ref().map(Vec::len);
        let renamed = rename.iter().map(|(path, _)| *path);
        // What is renamed goes out at its new place alone.
        let paths = select.into_iter().flatten().chain(drop).chain(renamed.clone()).map(Into::into).collect();
        let (renamed, names) =
            (renamed.map(Into::into).collect(), rename.iter().map(|(_, key)| (*key).into()).collect());
        Self { paths, selected, renamed, names }
    }

    /// What tells it from any other, nearly always.
    pub fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        let counts = [self.selected.map_or(u64::MAX, |count| count as u64), self.paths.len() as u64];
        counts.into_iter().for_each(|count| hasher.update(&count.to_le_bytes()));
        for text in self.paths.iter().chain(&self.renamed).chain(&self.names) {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize()
    }

    /// The text of the object as it goes out. What cannot be read goes out empty: it might have what is left out.
    pub fn of<'p>(&self, text: &str, projected: &'p mut Projected) -> &'p str {
        let Projected { places, open, text: out } = projected;
        out.clear();
        places.find(text, &self.renamed);
        let whole = self.selected.is_none();
        open.clear();
        open.extend((0..self.paths.len()).map(|path| (path, 0)));
        let is_renamed = |name: &str| {
            let mut names = self.names.iter().enumerate();
            names.any(|(path, key)| **key == *name && places.get(text, path).is_some())
        };
        let walk = Walk { projection: self, open, out, begin: 0, whole, is_renamed: Some(&is_renamed) };
        if walk.walk(text).is_none() {
            out.clear();
            out.extend_from_slice(b"{}");
        } else {
            out.pop();
            for (path, name) in self.names.iter().enumerate() {
                if let Some(value) = places.get(text, path) {
                    member(out, name);
                    out.extend_from_slice(value.as_bytes());
                }
            }
            out.push(b'}');
        }
        std::str::from_utf8(out).expect("texts were put together at their ends")
    }

    fn is_selecting(&self, path: usize) -> bool {
        self.selected.is_some_and(|selected| path < selected)
    }
}

/// Begins a member of the object that is being written.
fn member(out: &mut Vec<u8>, key: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_json_string(key, out);
    out.push(b':');
}

/// One object on the way.
struct Walk<'w> {
    projection: &'w Projection,
    open: &'w mut Vec<(usize, usize)>,
    out: &'w mut Vec<u8>,
    /// From where on in `open` the paths are this object's.
    begin: usize,
    /// Whether all of it goes out that is not left out.
    whole: bool,
    /// Of the metadata themselves: whether a key is given to something else.
    is_renamed: Option<&'w dyn Fn(&str) -> bool>,
}

impl Walk<'_> {
    /// Writes the object; `None` where it cannot be read.
    fn walk(self, object: &str) -> Option<()> {
        serde_json::Deserializer::from_str(object).deserialize_map(self).ok()
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { projection, open, out, begin, whole, is_renamed } = self;
        let end = open.len();
        out.push(b'{');
        loop {
            let before = out.len();
            let key = Key { projection, open: &mut *open, out: &mut *out, begin, end, is_renamed };
            let Some(fate) = map.next_key_seed(key)? else { break };
            let inner_whole = whole || fate.is_selected;
            let leads_on = open.len() > end;
            if fate.is_dropped || !inner_whole && !leads_on {
                out.truncate(before);
                map.next_value::<IgnoredAny>()?;
            } else {
                let value = map.next_value::<&RawValue>()?.get();
                if leads_on && value.starts_with('{') {
                    let inner = out.len();
                    let walk = Walk {
                        projection,
                        open: &mut *open,
                        out: &mut *out,
                        begin: end,
                        whole: inner_whole,
                        is_renamed: None,
                    };
                    walk.walk(value).ok_or_else(|| serde::de::Error::custom("an object cannot be read"))?;
                    // Nothing of it was selected.
                    if !inner_whole && out.len() == inner + 2 {
                        out.truncate(before);
                    }
                } else if inner_whole {
                    out.extend_from_slice(value.as_bytes());
                } else {
                    out.truncate(before);
                }
            }
            open.truncate(end);
        }
        out.push(b'}');
        Ok(())
    }
}

/// What becomes of a member.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    is_dropped: bool,
    is_selected: bool,
}

/// A key of an object: it is written, and the paths that go on behind it are put on top of the open ones.
struct Key<'w> {
    projection: &'w Projection,
    open: &'w mut Vec<(usize, usize)>,
    out: &'w mut Vec<u8>,
    begin: usize,
    end: usize,
    is_renamed: Option<&'w dyn Fn(&str) -> bool>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Fate;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Fate, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Fate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Fate, E> {
        let mut fate = Fate {
            is_dropped: self.is_renamed.is_some_and(|is_renamed| is_renamed(key)),
            is_selected: false,
        };
        for index in self.begin..self.end {
            let (path, from) = self.open[index];
            let Some(rest) = self.projection.paths[path][from..].strip_prefix(key) else { continue };
            let is_selecting = self.projection.is_selecting(path);
            if rest.is_empty() {
                fate.is_selected |= is_selecting;
                fate.is_dropped |= !is_selecting;
            } else if rest.starts_with('.') {
                self.open.push((path, from + key.len() + 1));
            }
        }
        member(self.out, key);
        Ok(fate)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn of(projection: &Projection, text: &str) -> String {
        projection.of(text, &mut Projected::default()).to_owned()
    }

    /// What is dropped is gone wherever its path leads, what is renamed stands at the end under its new key, what was there
    /// before gives way; the rest stands as it came.
    #[test]
    fn keys_are_selected_dropped_and_renamed() {
        let drop = |paths: &[&str]| Projection::new(None, paths.to_vec(), vec![]);
        let select = |paths: &[&str]| Projection::new(Some(paths.to_vec()), vec![], vec![]);
        let rename = |pairs: &[(&str, &str)]| Projection::new(None, vec![], pairs.to_vec());
        for (projection, text, expected) in [
            (drop(&["password"]), r#"{"a": 1.50, "password":"x","\u0070assword":2}"#, r#"{"a":1.50}"#),
            (drop(&["a.b"]), r#"{"a":{"b":1,"c":[1, 2]},"a.b":2,"d":3}"#, r#"{"a":{"c":[1, 2]},"d":3}"#),
            (drop(&["a.b", "a.c"]), r#"{"a":{"b":1,"c":2}}"#, r#"{"a":{}}"#),
            (drop(&["a.b"]), r#"{"a":[{"b":1}]}"#, r#"{"a":[{"b":1}]}"#),
            (
                select(&["a.b", "d"]),
                r#"{"a":{"b":{"x":1},"c":2},"d":3,"e":4}"#,
                r#"{"a":{"b":{"x":1}},"d":3}"#,
            ),
            (select(&["a.b"]), r#"{"a":{"c":2},"d":3}"#, "{}"),
            (select(&["a.b"]), r#"{"a":7}"#, "{}"),
            (select(&[]), r#"{"a":7}"#, "{}"),
            (rename(&[("msg", "text")]), r#"{"msg":"é","n":1}"#, r#"{"n":1,"text":"é"}"#),
            (rename(&[("msg", "text")]), r#"{"text":0,"msg":1}"#, r#"{"text":1}"#),
            (rename(&[("msg", "text")]), r#"{"text":0}"#, r#"{"text":0}"#),
            (rename(&[("a.b", "b\"")]), r#"{"a":{"b":{"c":1}}}"#, r#"{"a":{},"b\"":{"c":1}}"#),
            (drop(&["a"]), r#"{"b":1,"#, "{}"),
            (drop(&["a"]), "{}", "{}"),
        ] {
            assert_eq!(of(&projection, text), expected, "{projection:?} of {text}");
        }
        let all = Projection::new(Some(vec!["a", "b"]), vec!["a.secret"], vec![("c", "b")]);
        assert_eq!(of(&all, r#"{"a":{"secret":1,"x":2},"b":3,"c":4,"d":5}"#), r#"{"a":{"x":2},"b":4}"#);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Value::from),
            "[aé\"]{0,3}".prop_map(Value::from),
            Just(json!(null))
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                object(inner).prop_map(Value::Object),
            ]
        })
    }

    fn object(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
        let keys = proptest::sample::select(&["a", "b", "a.b", "b.a"][..]);
        proptest::collection::vec((keys, values), 0..4)
            .prop_map(|members| members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// Where a path leads: it goes on behind every key that it begins with.
    fn leads(path: &str, key: &str) -> Option<String> {
        match path.strip_prefix(key)? {
            "" => Some(String::new()),
            rest => rest.strip_prefix('.').map(str::to_owned),
        }
    }

    /// The slow way: on trees. `None` where nothing of it is selected.
    fn slow(object: &Map<String, Value>, select: Option<&[String]>, drop: &[String]) -> Map<String, Value> {
        let mut out = Map::new();
        for (key, value) in object {
            let on =
                |paths: &[String]| -> Vec<_> { paths.iter().filter_map(|path| leads(path, key)).collect() };
            let (drop, select) = (on(drop), select.map(on));
            let is_whole = select.as_ref().is_none_or(|select| select.iter().any(String::is_empty));
            if drop.iter().any(String::is_empty) {
                continue;
            }
            let inner = if is_whole { None } else { select.as_deref() };
            match value {
                Value::Object(value) => {
                    let value = slow(value, inner, &drop);
                    if is_whole || !value.is_empty() {
                        out.insert(key.clone(), Value::Object(value));
                    }
                }
                value if is_whole => {
                    out.insert(key.clone(), value.clone());
                }
                _ => {}
            }
        }
        out
    }

    proptest! {
        /// It is what leaving out and taking on trees makes of it; and what is dropped is nowhere in it.
        #[test]
        fn a_projection_is_what_trees_would_make(
            object in object(value()),
            select in proptest::option::of(proptest::collection::vec("[ab](\\.[ab]){0,2}", 0..3)),
            drop in proptest::collection::vec("[ab](\\.[ab]){0,2}", 0..3),
        ) {
            let projection = Projection::new(
                select.as_ref().map(|paths| paths.iter().map(String::as_str).collect()),
                drop.iter().map(String::as_str).collect(),
                vec![],
            );
            let text = Value::Object(object.clone()).to_string();
            let found: Value = serde_json::from_str(&of(&projection, &text)).unwrap();
            prop_assert_eq!(found, Value::Object(slow(&object, select.as_deref(), &drop)), "of {}", text);
        }
    }
}
