//! Reads TOML into the tree.

use toml::de::{DeTable, DeValue};

use super::{
    Problem,
    tree::{Entry, KeyPath, Node, Value},
};

/// Reads a document.
///
/// # Errors
/// Every place where it is no TOML.
pub(super) fn parse(text: &str) -> Result<Node, Vec<Problem>> {
    let line_of = |offset: usize| 1 + text[..offset].matches('\n').count();
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(Node { line: 1, value: mapping(root.get_ref(), &line_of) });
    }
    let problem = |e: &::toml::de::Error| Problem {
        path: KeyPath::default(),
        // The parser gives no place to what is nested too deep.
        line: Some(line_of(e.span().map_or_else(|| deepest(text), |span| span.start))),
        message: format!("{}; this is not TOML", e.message()),
    };
    Err(errors.iter().map(problem).collect())
}

/// Where most brackets are open, the dots of a key counted as such.
fn deepest(text: &str) -> usize {
    let (mut brackets, mut dots, mut deepest) = (0_usize, 0, (0, 0));
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => brackets += 1,
            b']' | b'}' => brackets = brackets.saturating_sub(1),
            b'.' => dots += 1,
            b'\n' => dots = 0,
            _ => {}
        }
        if brackets + dots > deepest.0 {
            deepest = (brackets + dots, at);
        }
    }
    deepest.1
}

fn mapping(table: &DeTable<'_>, line_of: &dyn Fn(usize) -> usize) -> Value {
    let entry = |(key, value): (&::toml::Spanned<_>, &::toml::Spanned<DeValue<'_>>)| {
        let key: (&std::borrow::Cow<'_, str>, _) = (key.get_ref(), line_of(key.span().start));
        Entry { key: key.0.to_string(), line: key.1, node: node(value, line_of) }
    };
    Value::Mapping(table.iter().map(entry).collect())
}

fn node(value: &::toml::Spanned<DeValue<'_>>, line_of: &dyn Fn(usize) -> usize) -> Node {
    let line = line_of(value.span().start);
    match value.get_ref() {
        DeValue::String(text) => Node::scalar(line, text.as_ref(), true),
        DeValue::Integer(integer) => {
            let decimal = i64::from_str_radix(integer.as_str(), integer.radix()).map(|n| n.to_string());
            Node::scalar(line, decimal.unwrap_or_else(|_| integer.as_str().to_owned()), false)
        }
        DeValue::Float(float) => Node::scalar(line, float.as_str(), false),
        DeValue::Boolean(boolean) => Node::scalar(line, boolean.to_string(), false),
        DeValue::Datetime(time) => Node::scalar(line, time.to_string(), true),
        DeValue::Array(items) => {
            Node { line, value: Value::Sequence(items.iter().map(|item| node(item, line_of)).collect()) }
        }
        DeValue::Table(table) => Node { line, value: mapping(table, line_of) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_lines() {
        let root = parse("a = 1_000\n[b]\nc = \"x\"\nd = 0xff\n[b.e]\nf = [true]\n").unwrap();
        assert_eq!(root.locate(&["a"].into()), (1, Some(&Node::scalar(1, "1000", false))));
        assert_eq!(root.locate(&["b", "c"].into()), (3, Some(&Node::scalar(3, "x", true))));
        assert_eq!(root.locate(&["b", "d"].into()), (4, Some(&Node::scalar(4, "255", false))));
        assert_eq!(root.locate(&["b", "e", "f", "0"].into()), (6, Some(&Node::scalar(6, "true", false))));
    }

    /// What is nested deeper than the parser goes had no line at all.
    #[test]
    fn r0326_what_is_nested_too_deep_had_no_line() {
        let brackets = format!("a = 1\nb = [\n{}1{}]\nc = [[1]]\n", "[".repeat(200), "]".repeat(200));
        let dots = format!("a.b.c = 1\n\nd{} = 1\nx = 1\n", ".d".repeat(200));
        for text in [brackets, dots] {
            let problems = parse(&text).unwrap_err();
            assert!(problems.iter().all(|p| p.line == Some(3)), "{problems:?}");
        }
    }

    #[test]
    fn every_syntax_error_has_its_line() {
        let problems = parse("a = 1\nb = \nc = 3\nc = 4\n").unwrap_err();
        let lines: Vec<_> = problems.iter().map(|p| p.line).collect();
        assert!(lines.contains(&Some(2)) && lines.contains(&Some(4)), "{problems:?}");
    }
}
