//! Goes over JSON text and says where each value ends, which is all that an event needs of most of it.
//!
//! It takes the grammar of RFC 8259, all of it and nothing else, but for what nests deeper than metadata may. Where a text is wrong it
//! says `None`, and serde_json is asked for the words. Property tests hold it against serde_json both ways, and two fuzz targets look
//! whether it takes what serde_json does not. Of the server's time for arrays of events a seventh was serde_json's reading of them, and
//! this takes three fifths of that (benches/README.md): what is only passed over is looked at once unless it has escapes, eight bytes
//! at a time where it is text, and how deep it nests is known as well.

use std::borrow::Cow;

use forebay_actors::event::METADATA_DEPTH_MAX;

use super::values::Text;

/// A bit for each level that is open.
type Levels = u64;
const _: () = assert!(METADATA_DEPTH_MAX <= Levels::BITS as usize);

// What every event passes is inlined by force: the place in the text then stays in a register, which is a tenth of the time (benches/README.md).

/// Where the reading of a text has come to.
#[derive(Debug, Clone)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// A value as it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value<'a> {
    /// From its first byte to its last.
    pub(super) text: &'a str,
    /// Objects and arrays within each other; 0 for what is neither.
    pub(super) depth: usize,
    /// Whether a string of it has a backslash.
    pub(super) is_escaped: bool,
}

impl<'a> Scanner<'a> {
    /// At the beginning of a text.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Takes this one of `{}[]:,`, if it is next.
    #[inline(always)]
    pub(crate) fn take(&mut self, token: u8) -> Option<()> {
        let bytes = self.text.as_bytes();
        let at = blanks_end(bytes, self.at);
        self.at = at;
        (bytes.get(at) == Some(&token)).then(|| self.at = at + 1)
    }

    /// That nothing is left.
    pub(crate) fn end(&mut self) -> Option<()> {
        self.at = blanks_end(self.text.as_bytes(), self.at);
        (self.at == self.text.len()).then_some(())
    }

    /// Takes a string and says what it means, borrowed where it has no escapes.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Option<Cow<'a, str>> {
        let bytes = self.text.as_bytes();
        let start = blanks_end(bytes, self.at);
        let (end, is_escaped) = string_end(bytes, start)?;
        self.at = end;
        if is_escaped {
            let text: Text<'_> = serde_json::from_str(&self.text[start..end]).ok()?;
            return Some(text.0);
        }
        Some(Cow::Borrowed(&self.text[start + 1..end - 1]))
    }

    /// Takes a value of any kind that nests [`METADATA_DEPTH_MAX`] levels at most.
    #[inline]
    pub(super) fn value(&mut self) -> Option<Value<'a>> {
        let bytes = self.text.as_bytes();
        let start = blanks_end(bytes, self.at);
        let mut at = start;
        // The innermost last: 1 for an object, 0 for an array.
        let (mut levels, mut depth, mut deepest): (Levels, usize, usize) = (0, 0, 0);
        let mut is_escaped = false;
        loop {
            let first = *bytes.get(at)?;
            match first {
                b'"' => {
                    let (end, escaped) = string_end(bytes, at)?;
                    (at, is_escaped) = (end, is_escaped | escaped);
                }
                b'{' | b'[' => {
                    if depth == METADATA_DEPTH_MAX {
                        return None;
                    }
                    let is_object = first == b'{';
                    (levels, depth) = (levels << 1 | Levels::from(is_object), depth + 1);
                    deepest = deepest.max(depth);
                    at = blanks_end(bytes, at + 1);
                    // Where it is empty, its end is looked at below.
                    if bytes.get(at) != Some(&closing(is_object)) {
                        if is_object {
                            let (end, escaped) = key_end(bytes, at)?;
                            (at, is_escaped) = (end, is_escaped | escaped);
                        }
                        continue;
                    }
                }
                b'-' | b'0'..=b'9' => at = number_end(bytes, at)?,
                _ => at = word_end(bytes, at)?,
            }
            loop {
                if depth == 0 {
                    self.at = at;
                    return Some(Value { text: &self.text[start..at], depth: deepest, is_escaped });
                }
                at = blanks_end(bytes, at);
                let is_object = levels & 1 == 1;
                let next = *bytes.get(at)?;
                if next == b',' {
                    at = blanks_end(bytes, at + 1);
                    if is_object {
                        let (end, escaped) = key_end(bytes, at)?;
                        (at, is_escaped) = (end, is_escaped | escaped);
                    }
                    break;
                }
                if next != closing(is_object) {
                    return None;
                }
                at += 1;
                (levels, depth) = (levels >> 1, depth - 1);
            }
        }
    }
}

const fn closing(is_object: bool) -> u8 {
    if is_object { b'}' } else { b']' }
}

/// Behind the blanks that begin at `at`.
#[inline(always)]
fn blanks_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\t' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Behind the key at `at`, its colon and the blanks there; whether the key has a backslash.
#[inline(always)]
fn key_end(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let (end, is_escaped) = string_end(bytes, at)?;
    let colon = blanks_end(bytes, end);
    (bytes.get(colon) == Some(&b':')).then(|| (blanks_end(bytes, colon + 1), is_escaped))
}

/// Behind the string at `at`; whether it has a backslash.
#[inline(always)]
fn string_end(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let end = plain_end(bytes, at + 1);
    match bytes.get(end)? {
        b'"' => Some((end + 1, false)),
        b'\\' => escaped_end(bytes, end).map(|end| (end, true)),
        // A control character.
        _ => None,
    }
}

/// Behind the string that has its first backslash at `at`.
fn escaped_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => {
                let escape = match bytes.get(at + 1)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                    b'u' if bytes.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) => 6,
                    _ => return None,
                };
                at = plain_end(bytes, at + escape);
            }
            _ => return None,
        }
    }
}

/// The first place from `at` on where something stands that a string cannot have as it is, or the end: a quote, a backslash or a
/// control character.
#[inline(always)]
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const EACH: u64 = u64::MAX / 255;
    const HIGH: u64 = EACH << 7;
    // The high bit of each byte of `word` that is less than this, which none from 0x80 on is. A borrow may mark a byte behind one
    // that is, so only the lowest mark counts.
    let less = |word: u64, than: u8| word.wrapping_sub(EACH * u64::from(than)) & !word;
    let equal = |word: u64, byte: u8| less(word ^ (EACH * u64::from(byte)), 1);
    while let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let word = u64::from_le_bytes(*eight);
        let found = (less(word, b' ') | equal(word, b'"') | equal(word, b'\\')) & HIGH;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| !matches!(byte, b'"' | b'\\' | ..b' ')).count()
}

#[inline(always)]
fn number_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    at += usize::from(bytes.get(at) == Some(&b'-'));
    at = match bytes.get(at)? {
        b'0' => at + 1,
        _ => digits_end(bytes, at)?,
    };
    match bytes.get(at) {
        Some(b'.' | b'e' | b'E') => fraction_end(bytes, at),
        _ => Some(at),
    }
}

/// Behind the fraction and the exponent at `at`.
fn fraction_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    if bytes.get(at) == Some(&b'.') {
        at = digits_end(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let is_signed = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
        at = digits_end(bytes, at + 1 + usize::from(is_signed))?;
    }
    Some(at)
}

/// Behind the digits at `at`, of which there is at least one.
#[inline(always)]
fn digits_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    while let Some(b'0'..=b'9') = bytes.get(end) {
        end += 1;
    }
    (end > at).then_some(end)
}

fn word_end(bytes: &[u8], at: usize) -> Option<usize> {
    let words: [&[u8]; 3] = [b"true", b"false", b"null"];
    let rest = bytes.get(at..)?;
    words.into_iter().find(|word| rest.starts_with(word)).map(|word| at + word.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn scan(text: &str) -> Option<Value<'_>> {
        let mut json = Scanner::new(text);
        let value = json.value()?;
        json.end().map(|()| value)
    }

    /// What serde_json says of the same text.
    fn judge(text: &str) -> Option<&str> {
        serde_json::from_str::<&RawValue>(text).ok().map(RawValue::get)
    }

    fn agree(text: &str) {
        let found = scan(text);
        assert_eq!(found.map(|value| value.text), judge(text), "{text:?}");
        let Some(value) = found else { return };
        assert_eq!(value.is_escaped, text.contains('\\'), "{text:?}");
        assert_eq!(value.depth, depth(text), "{text:?}");
    }

    /// How deep the brackets of a JSON text go that stand in no string.
    fn depth(text: &str) -> usize {
        let (mut depth, mut deepest, mut in_string, mut bytes) = (0, 0, false, text.bytes());
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => drop(bytes.next()),
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        deepest
    }

    /// Each rule of the grammar, kept and broken.
    #[test]
    fn the_grammar_is_json() {
        let texts = [
            "",
            " ",
            "0",
            "-0",
            "-",
            "00",
            "01",
            "1.",
            "1.5",
            ".5",
            "+1",
            "1e",
            "1e+",
            "1E-5",
            "1e5.0",
            "1 2",
            "-a",
            "1a",
            "NaN",
            "Infinity",
            "tru",
            "true",
            "truex",
            "nul",
            "null",
            "false",
            "falsehood",
            "\"",
            "\"\"",
            "\"a",
            "a\"",
            "\"\\\"",
            "\"\\\\\"",
            "\"\\/\\b\\f\\n\\r\\t\\\"\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\u12e4\"",
            "\"\\U0041\"",
            "\"\u{7f}\u{80}é\u{1f600}\"",
            "\"\t\"",
            "\"1234567\u{1f}\"",
            "\"12345678\n",
            "\"\u{1}\"",
            "[]",
            "[ ]",
            "[",
            "]",
            "[,]",
            "[1,]",
            "[1 2]",
            "[1,2]",
            "[1}",
            "{}",
            "{ }",
            "{",
            "}",
            "{]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1",
            "{a:1}",
            "{1:1}",
            "{\"a\" : 1 , \"b\":[{}]}",
            "{\"a\":1}}",
            "[[],{}]",
            "\u{a0}1",
            "\u{feff}1",
            "//\n1",
            " \t\r\n[ \t\r\n1 \t\r\n, \t\r\n{ \t\r\n\"a\" \t\r\n: \t\r\n2 \t\r\n} \t\r\n] \t\r\n",
            "\u{c}1",
            "{\"\\\"}\":{\"\\\\\":\"[\"}}",
        ];
        texts.into_iter().for_each(agree);
        for length in 0..40 {
            for end in ["\"", "\\\"", "\\n\"", "\n\"", "", "é\"", "\u{0}\""] {
                agree(&format!("\"{}{end}", "x".repeat(length)));
            }
        }
    }

    /// As deep as metadata may nest, and no deeper.
    #[test]
    fn it_goes_as_deep_as_is_allowed() {
        let nested = |open: &str, close: &str, levels: usize| {
            format!("{}1{}", open.repeat(levels), close.repeat(levels))
        };
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            agree(&nested(open, close, METADATA_DEPTH_MAX));
            assert_eq!(scan(&nested(open, close, METADATA_DEPTH_MAX + 1)), None);
        }
        let mixed = nested("[{\"a\":", "}]", METADATA_DEPTH_MAX / 2);
        agree(&mixed);
        assert_eq!(scan(&mixed.replacen("}]", "]}", 1)), None);
    }

    proptest! {
        /// It takes what serde_json takes, and nothing else, whatever the text is made of.
        #[test]
        fn it_agrees_with_serde_json(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "{", "}", "[", "]", ",", ":", "\"", "\\", "\\\"", "\\u", "00e9", "d83d", "\"a\":", "\"\"", "\"long enough for a word\"",
                    "0", "1", "-", "+", ".", "e", "E", "true", "false", "null", " ", "\n", "\t", "\u{1}", "é", "\u{1f600}", "x",
                ]),
                0..24,
            ),
        ) {
            agree(&parts.concat());
        }

        /// The same of texts that are JSON but for one change.
        #[test]
        fn it_agrees_where_little_is_wrong(at in any::<prop::sample::Index>(), byte in 0_u8..128, removed in 0_usize..3) {
            let whole = r#" {"a":[1,-2.5e+3,"\u00e9\n",{"b":null,"c":true}],"" : {} , "long enough":[[],false,"12345678\""]} "#;
            agree(whole);
            let at = at.index(whole.len());
            let mut bytes = whole.as_bytes().to_vec();
            bytes.splice(at..(at + removed).min(whole.len()), [byte]);
            agree(std::str::from_utf8(&bytes).unwrap());
        }
    }
}
