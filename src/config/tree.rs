//! A configuration file as a tree that remembers the line of every key: what all three formats are read
//! into, where variables are substituted, and what errors are located in.

use std::fmt;

/// The keys that lead to a value, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct KeyPath(pub Vec<String>);

/// A value and the line it begins at.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

/// What a [`Node`] holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A value without parts. Whether it is a number is decided by who reads it, not by how it looks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scalar {
    pub text: String,
    /// Quoted values are text, whatever they look like.
    pub quoted: bool,
    /// The variables whose values are part of the text.
    pub variables: Vec<String>,
}

/// One key of a mapping and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub key: String,
    pub line: usize,
    pub node: Node,
}

// === impl KeyPath ===

impl KeyPath {
    /// The path of `key` in the section at this path.
    pub fn join(&self, key: &str) -> Self {
        Self(self.0.iter().cloned().chain([key.to_owned()]).collect())
    }
}

impl<const N: usize> From<[&str; N]> for KeyPath {
    fn from(keys: [&str; N]) -> Self {
        Self(keys.map(str::to_owned).to_vec())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

// === impl Scalar ===

impl Scalar {
    /// A value that stands for nothing: an empty one, `~` or `null`.
    pub fn is_null(&self) -> bool {
        !self.quoted && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

// === impl Node ===

impl Node {
    pub fn scalar(line: usize, text: impl Into<String>, quoted: bool) -> Self {
        Self { line, value: Value::Scalar(Scalar { text: text.into(), quoted, variables: Vec::new() }) }
    }

    /// Nodes in it, itself included.
    pub fn count(&self) -> usize {
        1 + match &self.value {
            Value::Scalar(_) => 0,
            Value::Sequence(items) => items.iter().map(Self::count).sum(),
            Value::Mapping(entries) => entries.iter().map(|e| e.node.count()).sum(),
        }
    }

    /// The value at the path and its line. Where the path leads nowhere, the line of the innermost section
    /// on the way, which is where a missing key would have to stand.
    pub fn locate(&self, path: &KeyPath) -> (usize, Option<&Self>) {
        let (mut line, mut node) = (self.line, self);
        for key in &path.0 {
            let next = match &node.value {
                Value::Mapping(entries) => entries.iter().find(|e| e.key == *key).map(|e| (e.line, &e.node)),
                Value::Sequence(items) => {
                    key.parse().ok().and_then(|i: usize| items.get(i)).map(|n| (n.line, n))
                }
                Value::Scalar(_) => None,
            };
            match next {
                Some(found) => (line, node) = found,
                None => return (line, None),
            }
        }
        (line, Some(node))
    }

    /// Takes the value at the path out, so that what is left can be read without it. False for the root and
    /// for a path that leads nowhere.
    pub fn remove(&mut self, path: &KeyPath) -> bool {
        let Some((last, sections)) = path.0.split_last() else { return false };
        let mut node = self;
        for key in sections {
            let next = match &mut node.value {
                Value::Mapping(entries) => entries.iter_mut().find(|e| e.key == *key).map(|e| &mut e.node),
                Value::Sequence(items) => key.parse().ok().and_then(|i: usize| items.get_mut(i)),
                Value::Scalar(_) => None,
            };
            match next {
                Some(found) => node = found,
                None => return false,
            }
        }
        match &mut node.value {
            Value::Mapping(entries) => {
                let before = entries.len();
                entries.retain(|e| e.key != *last);
                entries.len() < before
            }
            Value::Sequence(items) => match last.parse::<usize>() {
                Ok(i) if i < items.len() => {
                    items.remove(i);
                    true
                }
                _ => false,
            },
            Value::Scalar(_) => false,
        }
    }

    /// Calls `visit` for every scalar with its path.
    pub fn scalars_mut(&mut self, path: &KeyPath, visit: &mut dyn FnMut(&KeyPath, &mut Scalar)) {
        match &mut self.value {
            Value::Scalar(scalar) => visit(path, scalar),
            Value::Sequence(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    item.scalars_mut(&path.join(&i.to_string()), visit);
                }
            }
            Value::Mapping(entries) => {
                for entry in entries {
                    entry.node.scalars_mut(&path.join(&entry.key), visit);
                }
            }
        }
    }
}
