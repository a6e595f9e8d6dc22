//! Reads typed values out of the tree with serde, and says where and why it could not.
//!
//! serde stops at the first error. So that a user sees all of them at once, what is wrong is taken out of
//! the tree and the rest is read again; a file has few errors, and reading takes microseconds.

use serde::{
    de::{
        self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    Problem,
    tree::{Entry, KeyPath, Node, Scalar, Value},
};

/// What errors should say of a section beyond what its type knows.
pub(super) struct Hints<'a> {
    /// Keys of the section at a path beside those that its type has.
    pub more_keys: &'a dyn Fn(&KeyPath) -> &'static [&'static str],
    /// What may stand at a key that is missing.
    pub values: &'a dyn Fn(&KeyPath) -> Option<&'static str>,
}

/// Reads a value; the problems are empty exactly where it is whole. A value that comes with problems has
/// the defaults in the places of what was wrong.
///
/// A place in `known` is not reported a second time.
pub(super) fn read<T: DeserializeOwned>(
    root: &mut Node,
    known: &mut Vec<Problem>,
    hints: &Hints<'_>,
) -> Option<T> {
    loop {
        let refusal = match T::deserialize(&*root) {
            Ok(value) => return Some(value),
            Err(refusal) => refusal,
        };
        let section = KeyPath(refusal.path.into_iter().rev().collect());
        let (path, removed, message) = match refusal.wrong {
            Wrong::Unknown { key, keys } => {
                let path = section.join(&key);
                let keys: Vec<_> = keys.iter().chain((hints.more_keys)(&section)).copied().collect();
                let message = format!("is not a key of {}; {}", section_name(&section), near(&key, &keys));
                (path.clone(), path, message)
            }
            Wrong::Missing { key } => {
                let path = section.join(key);
                let values = (hints.values)(&path).map(|v| format!(": {v}")).unwrap_or_default();
                (path, section.clone(), format!("is missing; {} needs it{values}", section_name(&section)))
            }
            Wrong::Value(message) => (section.clone(), section, message),
        };
        if !known.iter().any(|p| p.path == path) {
            let line = Some(root.locate(&path).0);
            let message = format!("{}{message}", origin(root.locate(&path).1));
            known.push(Problem { path, line, message });
        }
        if !root.remove(&removed) {
            return None;
        }
    }
}

/// Says which variables a value comes from: the file's line alone would not show what to correct.
pub(super) fn origin(node: Option<&Node>) -> String {
    match node.map(|n| &n.value) {
        Some(Value::Scalar(Scalar { variables, .. })) if !variables.is_empty() => {
            format!("(from {}) ", variables.join(", "))
        }
        _ => String::new(),
    }
}

/// A number that is not a whole one; none of the words that Rust reads as one.
fn decimal(text: &str) -> Option<f64> {
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    text.parse().ok().filter(|number: &f64| is_number && number.is_finite())
}

fn section_name(path: &KeyPath) -> String {
    if path.0.is_empty() { "a configuration".to_owned() } else { format!("`{path}`") }
}

/// Similarity above which a key is proposed: with 0.75, Jaro-Winkler takes typing errors and lost units
/// (`max_byte`, `timeout_s`), but not another word.
const SIMILAR: f64 = 0.75;

/// What would be right in the place of `word`: the nearest, or else all there are.
pub(super) fn near(word: &str, known: &[&str]) -> String {
    // Two letters of `url` the wrong way round are most of it to Jaro-Winkler, and one mistake to a typist.
    let similarity = |k: &&str| {
        if strsim::osa_distance(word, k) <= 1 { 1.0 } else { strsim::jaro_winkler(word, k) }
    };
    match known.iter().copied().max_by(|a, b| similarity(a).total_cmp(&similarity(b))) {
        Some(nearest) if similarity(&nearest) >= SIMILAR => format!("did you mean `{nearest}`?"),
        Some(_) => format!("there are {}", known.join(", ")),
        None => "it has no keys of its own".to_owned(),
    }
}

/// Why a value could not be read. The place is filled in on the way out, innermost key first.
#[derive(Debug)]
pub(super) struct Refusal {
    path: Vec<String>,
    wrong: Wrong,
}

#[derive(Debug)]
enum Wrong {
    Unknown { key: String, keys: &'static [&'static str] },
    Missing { key: &'static str },
    Value(String),
}

type Result<T> = std::result::Result<T, Refusal>;

// === impl Refusal ===

impl Refusal {
    fn value(message: impl Into<String>) -> Self {
        Self { path: Vec::new(), wrong: Wrong::Value(message.into()) }
    }

    fn inside(mut self, key: impl Into<String>) -> Self {
        self.path.push(key.into());
        self
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {:?}", self.path, self.wrong)
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::value(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::value(format!("{unexpected} stands here; it should be {expected}"))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(key: &str, keys: &'static [&'static str]) -> Self {
        Self { path: Vec::new(), wrong: Wrong::Unknown { key: key.to_owned(), keys } }
    }

    fn missing_field(key: &'static str) -> Self {
        Self { path: Vec::new(), wrong: Wrong::Missing { key } }
    }
}

// === impl Deserializer ===

impl Node {
    /// The scalar, where what is `wanted` can only be one.
    fn single(&self, wanted: &str) -> Result<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_null() && scalar.variables.is_empty() => {
                Err(Refusal::value(format!("is empty; it should be {wanted}, or the key be removed")))
            }
            Value::Scalar(scalar) => Ok(scalar),
            Value::Sequence(_) => Err(Refusal::value(format!("a list stands here; it should be {wanted}"))),
            Value::Mapping(_) => Err(Refusal::value(format!("a section stands here; it should be {wanted}"))),
        }
    }

    /// The entries of a section; none where the section is empty, so that all its keys may be commented out.
    fn section(&self) -> Result<Entries<'_>> {
        match &self.value {
            Value::Mapping(entries) => Ok(Entries::new(entries)),
            Value::Scalar(scalar) if scalar.is_null() => Ok(Entries::new(&[])),
            _ => {
                Err(Refusal::value("a single value or a list stands here; it should be a section with keys"))
            }
        }
    }

    fn number<T: std::str::FromStr>(&self, wanted: &str) -> Result<T> {
        let scalar = self.single(wanted)?;
        match scalar.text.parse() {
            Ok(_) if scalar.quoted => {
                Err(Refusal::value(format!("{:?} is text; without the quotes it is a number", scalar.text)))
            }
            Ok(number) => Ok(number),
            Err(_) => Err(Refusal::value(format!("{:?} stands here; it should be {wanted}", scalar.text))),
        }
    }
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $number:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            let wanted = format!("a whole number from {} to {}", <$number>::MIN, <$number>::MAX);
            visitor.$visit(self.number::<$number>(&wanted)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.value {
            Value::Mapping(entries) => visitor.visit_map(Entries::new(entries)),
            Value::Sequence(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Scalar(scalar) if scalar.is_null() => visitor.visit_unit(),
            Value::Scalar(Scalar { text, quoted: false, .. }) => {
                if let Ok(number) = text.parse() {
                    visitor.visit_u64(number)
                } else if let Ok(number) = text.parse() {
                    visitor.visit_i64(number)
                } else if let Some(number) = decimal(text) {
                    visitor.visit_f64(number)
                } else if let Ok(boolean) = text.parse() {
                    visitor.visit_bool(boolean)
                } else {
                    visitor.visit_str(text)
                }
            }
            Value::Scalar(scalar) => visitor.visit_str(&scalar.text),
        }
    }

    whole_numbers! {
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_f64(self.number("a number")?)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_f32(self.number("a number")?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let text = &self.single("true or false")?.text;
        let wrong = |_| Refusal::value(format!("{text:?} stands here; it should be true or false"));
        visitor.visit_bool(text.parse().map_err(wrong)?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_str(&self.single("text")?.text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_null() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match &self.value {
            Value::Sequence(items) => visitor.visit_seq(Items { items, next: 0 }),
            _ => Err(Refusal::value("this is not a list; it should be one, like [a, b]")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_map(self.section()?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_map(self.section()?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let text = self.single(&format!("one of {}", names.join(", ")))?.text.as_str();
        if !names.contains(&text) {
            return Err(Refusal::value(format!("{text:?} is not known; {}", near(text, names))));
        }
        visitor.visit_enum(text.into_deserializer())
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

struct Entries<'a> {
    entries: Vec<&'a Entry>,
    next: usize,
}

impl<'a> Entries<'a> {
    /// `type` says how the keys beside it are read, so it is read first wherever it stands.
    fn new(entries: &'a [Entry]) -> Self {
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by_key(|e| e.key != "type");
        Self { entries, next: 0 }
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        let key: StrDeserializer<'_, Refusal> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let entry = self.entries[self.next];
        self.next += 1;
        seed.deserialize(&entry.node).map_err(|refusal| refusal.inside(&entry.key))
    }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        self.next += 1;
        let index = (self.next - 1).to_string();
        seed.deserialize(item).map(Some).map_err(|refusal| refusal.inside(index))
    }
}
