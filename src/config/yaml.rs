//! Reads YAML, and JSON, which is a part of it, into the tree.
//!
//! Limits: one document, text keys, no tags, no merge keys; nesting and nodes (aliases counted as often as
//! they are used) are bounded, so that no file can eat the memory or the stack.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::{
    Problem,
    tree::{Entry, KeyPath, Node, Value},
};

/// Sections inside sections. The deepest key of ours is at 5; more is a mistake or an attack.
const DEPTH_MAX: usize = 32;

/// Nodes of a file: a thousand sinks with every key written out.
const NODES_MAX: usize = 50_000;

/// Reads a document; an empty one is an empty section.
///
/// # Errors
/// Where it is no YAML, or goes over the limits above.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let line = e.marker().line();
            problem(line, format!("{}{}", e.info(), hint(text, line)))
        })?;
        builder.event(event, span.start.line())?;
    }
    Ok(builder.root.unwrap_or(Node { line: 1, value: Value::Mapping(Vec::new()) }))
}

/// Reads JSON, which may be indented by tabs, unlike YAML.
///
/// # Errors
/// As [`parse`].
pub(super) fn parse_json(text: &str) -> Result<Node, Problem> {
    // A bare tab cannot be part of a JSON string, so no value is changed.
    parse(&text.replace('\t', " "))
}

fn problem(line: usize, message: impl Into<String>) -> Problem {
    Problem { path: KeyPath::default(), line: Some(line), message: message.into() }
}

/// The two mistakes that the parser's own words do not explain.
fn hint(text: &str, line: usize) -> &'static str {
    let mut lines = text.lines().skip(line.saturating_sub(2)).take(2);
    if lines.clone().any(|l| l.trim_start().starts_with('\t') || l.starts_with('\t')) {
        "; indent with spaces, not with tabs"
    } else if lines.any(|l| l.contains("${") && l.contains(['{', '['])) {
        "; between { } or [ ], a value with a variable needs quotes: \"${NAME}\""
    } else {
        "; this is not YAML"
    }
}

/// A collection that is still open.
struct Open {
    anchor: usize,
    line: usize,
    /// The key whose value comes next, of a mapping.
    key: Option<(String, usize)>,
    value: Value,
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), Problem> {
        match event {
            Event::Scalar(_, _, _, Some(tag))
            | Event::SequenceStart(_, Some(tag))
            | Event::MappingStart(_, Some(tag)) => {
                Err(problem(line, format!("the tag {tag} stands here; tags are not used, remove it")))
            }
            Event::Scalar(text, style, anchor, None) => {
                let quoted = !matches!(style, ScalarStyle::Plain);
                self.add(Node::scalar(line, Cow::into_owned(text), quoted), anchor)
            }
            Event::SequenceStart(anchor, None) => self.open(anchor, line, Value::Sequence(Vec::new())),
            Event::MappingStart(anchor, None) => self.open(anchor, line, Value::Mapping(Vec::new())),
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { anchor, line, value, .. } =
                    self.open.pop().expect("the parser closes only what it opened");
                self.add(Node { line, value }, anchor)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| problem(line, "an alias stands inside its own anchor"))?;
                self.nodes += node.count();
                self.add(node, 0)
            }
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(problem(line, "a second document begins here; a configuration is one document"))
            }
            Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd => Ok(()),
        }
    }

    fn open(&mut self, anchor: usize, line: usize, value: Value) -> Result<(), Problem> {
        if self.open.len() == DEPTH_MAX {
            return Err(problem(line, format!("this is nested deeper than {DEPTH_MAX} sections")));
        }
        self.open.push(Open { anchor, line, key: None, value });
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(problem(node.line, format!("there are more than {NODES_MAX} values up to here")));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.value, open.key.take()) {
            (Value::Mapping(entries), Some((key, line))) => entries.push(Entry { key, line, node }),
            (Value::Mapping(entries), None) => {
                let line = node.line;
                let Value::Scalar(key) = node.value else {
                    return Err(problem(line, "a section stands where a key should be; a key is text"));
                };
                if let Some(first) = entries.iter().find(|e| e.key == key.text) {
                    let message = format!(
                        "the key `{}` stands here a second time; first on line {}",
                        key.text, first.line
                    );
                    return Err(problem(line, message));
                }
                open.key = Some((key.text, line));
            }
            (Value::Sequence(items), _) => items.push(node),
            (Value::Scalar(_), _) => unreachable!("only collections are opened"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_lines() {
        let root = parse("# comment\na:\n  b: 1\n\n  c: \"2\"\nd: {e: 3}\n").unwrap();
        for (path, line) in [("a", 2), ("a.b", 3), ("a.c", 5), ("d", 6), ("d.e", 6)] {
            let path = KeyPath(path.split('.').map(str::to_owned).collect());
            assert_eq!(root.locate(&path).0, line, "{path}");
        }
        assert_eq!(root.locate(&["a", "z"].into()), (2, None));
        assert_eq!(root.locate(&["a", "c"].into()).1, Some(&Node::scalar(5, "2", true)));
    }

    #[test]
    fn json_is_read_also_with_tabs() {
        let root = parse_json("{\n\t\"a\": {\"b\": \"x\\u0041\"},\n\t\"c\": [1, true]\n}\n").unwrap();
        assert_eq!(root.locate(&["a", "b"].into()), (2, Some(&Node::scalar(2, "xA", true))));
        assert_eq!(root.locate(&["c", "1"].into()), (3, Some(&Node::scalar(3, "true", false))));
    }

    #[test]
    fn an_alias_is_what_its_anchor_holds() {
        let root = parse("a: &x {b: 1}\nc: *x\n").unwrap();
        assert_eq!(root.locate(&["c", "b"].into()).1, Some(&Node::scalar(1, "1", false)));
    }

    #[test]
    fn an_empty_file_is_an_empty_section() {
        for text in ["", "# nothing\n", "\u{feff}"] {
            assert_eq!(parse(text).unwrap().count(), 1, "{text:?}");
        }
    }

    #[test]
    fn what_is_refused_has_a_line() {
        let deep = format!("a: {}{}", "[".repeat(40), "]".repeat(40));
        let laughs = (1..12).fold("a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned(), |text, i| {
            let alias = format!("*a{}, ", i - 1).repeat(8);
            format!("{text}a{i}: &a{i} [{alias}]\n")
        });
        for (text, line, message) in [
            ("a: 1\nb: 2\na: 3\n", 3, "first on line 1"),
            ("a: 1\n---\nb: 1\n", 2, "second document"),
            ("a: !!str 1\n", 1, "tag"),
            ("? {a: 1}\n: 2\n", 1, "a key is text"),
            ("a:\n\tb: 1\n", 2, "tabs"),
            ("a: {b: ${X:-1}}\n", 1, "needs quotes"),
            ("a: [1\nb: 2\n", 2, "not YAML"),
            (&deep, 1, "nested deeper"),
            (&laughs, 5, "more than"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.message.contains(message), "{text}: {problem:?}");
            assert_eq!(problem.line, Some(line), "{text}: {problem:?}");
        }
    }
}
