//! Values of events, and what conditions ask of them.

use std::{borrow::Cow, cmp::Ordering, fmt};

use regex::{Regex, RegexBuilder};

use crate::event::Timestamp;

/// Bytes of a compiled pattern, and of the tables that it builds while it is used: each pattern of a sink may take both.
pub const PATTERN_BYTES: usize = 256 * 1024;

/// Bytes of a pattern's text.
pub const PATTERN_TEXT_BYTES_MAX: usize = 1024;

/// A number as JSON and configurations have it: whole numbers exactly.
#[derive(Debug, Clone, Copy)]
pub enum Number {
    /// A whole number.
    Whole(i128),
    /// Another one, or one that is too large for the above; finite.
    Decimal(f64),
}

/// What a value is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A number: also a text that is one is equal to it.
    Number(Number),
    /// A text: also a number or a truth value that was written so is equal to it.
    Text(Box<str>),
    /// true or false, also as a text.
    Truth(bool),
    /// A moment.
    Time(Timestamp),
}

/// A regular expression of bounded size.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

/// One question to a value. The answer to all but `Differs` and `Exists(false)` is no where there is no value.
#[derive(Debug, Clone)]
pub enum Test {
    /// It is this.
    Equals(Operand),
    /// It is not this.
    Differs(Operand),
    /// It is one of these.
    OneOf(Vec<Operand>),
    /// It is there, and not null; or it is not.
    Exists(bool),
    /// It is before this.
    Less(Operand),
    /// It is this or before it.
    LessOrEqual(Operand),
    /// It is behind this.
    Greater(Operand),
    /// It is this or behind it.
    GreaterOrEqual(Operand),
    /// The text has this in it; a list has it as an element.
    Contains(Box<str>),
    /// The text has a place that matches.
    Matches(Pattern),
}

/// A value of an event.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Text(Cow<'a, str>),
    /// A number, true or false, as it stands in the JSON.
    Bare(&'a str),
    Time(Timestamp),
    /// The JSON of a list.
    List(&'a str),
    Section,
}

// === impl Number ===

impl Number {
    /// The number that a text is, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let whole = text.parse().ok().map(Self::Whole);
        whole.or_else(|| {
            // No `inf` and no `nan`, which Rust reads too.
            let is_number =
                text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'));
            let decimal = text.parse::<f64>().ok().filter(|number| is_number && number.is_finite());
            decimal.map(Self::Decimal)
        })
    }

    fn as_f64(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Decimal(number) => number,
        }
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(b),
            // Finite, so only zeros could differ: 0 is -0.
            _ => self.as_f64().partial_cmp(&other.as_f64()).unwrap_or(Ordering::Equal),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Decimal(number) => number.fmt(f),
        }
    }
}

// === impl Pattern ===

impl Pattern {
    /// Of this text.
    ///
    /// # Errors
    /// What is wrong with it, on one line.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_TEXT_BYTES_MAX {
            return Err(format!("is longer than {PATTERN_TEXT_BYTES_MAX} bytes"));
        }
        let built = RegexBuilder::new(text).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build();
        built.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                format!("is larger than {PATTERN_BYTES} bytes when it is compiled; repeat less, or without \\w and the like")
            }
            // The pattern itself stands above, with a mark below.
            error => {
                let said = error.to_string();
                let why = said.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                format!("is no regular expression: {why}")
            }
        })
    }
}

// === impl Test ===

impl Test {
    pub(super) fn holds(&self, found: Option<&Found<'_>>) -> bool {
        let Some(found) = found else { return matches!(self, Self::Differs(_) | Self::Exists(false)) };
        let ordered = |operand: &Operand, is: fn(Ordering) -> bool| found.compare(operand).is_some_and(is);
        match self {
            Self::Equals(operand) => found.is(operand),
            Self::Differs(operand) => !found.is(operand),
            Self::OneOf(operands) => operands.iter().any(|operand| found.is(operand)),
            Self::Exists(exists) => *exists,
            Self::Less(operand) => ordered(operand, Ordering::is_lt),
            Self::LessOrEqual(operand) => ordered(operand, Ordering::is_le),
            Self::Greater(operand) => ordered(operand, Ordering::is_gt),
            Self::GreaterOrEqual(operand) => ordered(operand, Ordering::is_ge),
            Self::Contains(text) => match found {
                Found::List(json) => has_element(json, text),
                _ => found.text().is_some_and(|found| found.contains(&**text)),
            },
            Self::Matches(pattern) => found.text().is_some_and(|found| pattern.0.is_match(found)),
        }
    }
}

// === impl Found ===

impl<'a> Found<'a> {
    /// Of the JSON text of a value that is not null.
    pub(super) fn of_json(json: &'a str) -> Self {
        match json.as_bytes().first() {
            Some(b'"') => Self::Text(unquoted(json)),
            Some(b'[') => Self::List(json),
            Some(b'{') => Self::Section,
            _ => Self::Bare(json),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bare(text) => Some(text),
            Self::Time(_) | Self::List(_) | Self::Section => None,
        }
    }

    fn is(&self, operand: &Operand) -> bool {
        match operand {
            Operand::Text(text) => self.text().is_some_and(|found| *found == **text),
            Operand::Truth(truth) => self.text() == Some(if *truth { "true" } else { "false" }),
            Operand::Number(_) | Operand::Time(_) => self.compare(operand) == Some(Ordering::Equal),
        }
    }

    fn compare(&self, operand: &Operand) -> Option<Ordering> {
        match (self, operand) {
            (Self::Time(found), Operand::Time(time)) => Some(found.cmp(time)),
            (_, Operand::Number(number)) => Some(Number::parse(self.text()?)?.cmp(number)),
            _ => None,
        }
    }
}

/// The text of a JSON string: as it stands there, where nothing in it is escaped.
fn unquoted(json: &str) -> Cow<'_, str> {
    match json.get(1..json.len().saturating_sub(1)) {
        Some(plain) if memchr::memchr(b'\\', plain.as_bytes()).is_none() => Cow::Borrowed(plain),
        _ => Cow::Owned(serde_json::from_str(json).unwrap_or_default()),
    }
}

/// Whether a list has an element that is this text, or is written so.
fn has_element(json: &str, text: &str) -> bool {
    let elements = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(json).unwrap_or_default();
    elements.iter().any(|element| Found::of_json(element.get()).text() == Some(text))
}
