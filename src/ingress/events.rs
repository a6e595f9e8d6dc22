//! The body of `POST /events`: one object, an array, or a line each (NDJSON).
//!
//! The events are encoded as they are parsed: no tree, no copy of what they say. That is the fast way, taken while
//! everything is right. At the first wrong event an array is gone through again, slowly, so that every event is judged
//! on its own.

use std::fmt;

use forebay_actors::event::{Block, BlockBuilder};
use serde::{
    Deserializer as _, Serialize,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::fields::{FieldError, Fields, Scanner, syntax};
use crate::security::Tenant;

/// Wrong events that are described one by one; of further ones only the number is told.
pub const REJECTIONS_MAX: usize = 1000;

/// How a body is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One object, or an array of them.
    Json,
    /// An object a line.
    Ndjson,
}

impl Framing {
    /// By the media type of a `Content-Type`; `None` where it is neither. JSON where there is none.
    pub fn of(content_type: Option<&str>) -> Option<Self> {
        let media = content_type.unwrap_or("application/json").split(';').next().unwrap_or("").trim();
        match media.to_ascii_lowercase().as_str() {
            "application/json" | "text/json" => Some(Self::Json),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/json-lines" => Some(Self::Ndjson),
            _ => None,
        }
    }
}

/// A body that was understood.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The events that are right.
    pub blocks: Vec<Block>,
    /// How many these are.
    pub accepted: usize,
    /// Ids that clients gave: index among the accepted, and id.
    pub given_ids: Vec<(usize, String)>,
    /// The events that are not, at most [`REJECTIONS_MAX`] of them.
    pub rejected: Vec<Rejection>,
    /// How many these are.
    pub rejected_count: usize,
    /// The body is one object: the answer is about one event.
    pub single: bool,
}

/// One event that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// Its place in the body, from 0.
    pub index: usize,
    /// What is wrong.
    pub error: String,
    /// What is wrong, field by field.
    #[serde(skip)]
    pub fields: Vec<FieldError>,
}

/// A body that was not understood at all.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// No JSON.
    #[error("the body is not valid JSON: {0}")]
    Syntax(serde_json::Error),
    /// No text.
    #[error("the body is not UTF-8: byte {at} is wrong")]
    Utf8 {
        /// Where.
        at: usize,
    },
    /// Nothing in it.
    #[error("the body is empty; one event, an array of events or NDJSON is needed")]
    Empty,
    /// JSON, but nothing that can be an event.
    #[error("an object or an array of objects is needed, the body is {0}")]
    Kind(&'static str),
}

/// Parses a body, and encodes the events that are right.
///
/// # Errors
/// As [`parse_of`].
pub fn parse(body: &[u8], framing: Framing, max_event_bytes: usize) -> Result<Parsed, ParseError> {
    parse_of(None, body, framing, max_event_bytes)
}

/// Parses a body of this tenant, and encodes the events that are right, each with his name.
///
/// # Errors
/// Where it cannot be told what the events are. A wrong event among others is no error but a [`Rejection`].
pub fn parse_of(
    tenant: Option<&Tenant>,
    body: &[u8],
    framing: Framing,
    max_event_bytes: usize,
) -> Result<Parsed, ParseError> {
    let collector = Collector::new(body.len(), max_event_bytes, tenant);
    let parsed = match framing {
        Framing::Ndjson => parse_lines(body, collector),
        Framing::Json => {
            let text = std::str::from_utf8(body).map_err(|e| ParseError::Utf8 { at: e.valid_up_to() })?;
            parse_json(text, collector)?
        }
    };
    if parsed.accepted + parsed.rejected_count == 0 && !matches!(framing, Framing::Json) {
        return Err(ParseError::Empty);
    }
    Ok(parsed)
}

fn parse_json(text: &str, mut collector: Collector<'_>) -> Result<Parsed, ParseError> {
    match text.trim_start().as_bytes().first() {
        Some(b'{') => {
            collector.single = true;
            match Fields::of(text, collector.max_event_bytes) {
                Some(fields) => collector.accept(&fields),
                None => {
                    // Not the first error: what is wrong with an event has no place in the body.
                    syntax(text).map_err(ParseError::Syntax)?;
                    collector.judge(0, text.trim());
                }
            }
        }
        Some(b'[') => {
            if collector.array(text).is_none() {
                // Either a wrong event, or no JSON; then this says where.
                collector = Collector::new(text.len(), collector.max_event_bytes, collector.tenant);
                let mut json = serde_json::Deserializer::from_str(text);
                let judged = json.deserialize_seq(Judge(&mut collector)).and_then(|()| json.end());
                judged.map_err(ParseError::Syntax)?;
            }
        }
        None => return Err(ParseError::Empty),
        Some(_) => {
            syntax(text).map_err(ParseError::Syntax)?;
            let kind = match text.trim_start().as_bytes().first() {
                Some(b'"') => "a string",
                Some(b't' | b'f') => "a boolean",
                Some(b'n') => "null",
                _ => "a number",
            };
            return Err(ParseError::Kind(kind));
        }
    }
    Ok(collector.finish())
}

fn parse_lines(body: &[u8], mut collector: Collector<'_>) -> Parsed {
    let whole = std::str::from_utf8(body).ok();
    let (mut start, mut index) = (0, 0);
    for (number, end) in memchr::memchr_iter(b'\n', body).chain([body.len()]).enumerate() {
        let range = std::mem::replace(&mut start, end + 1)..end;
        // Valid as a whole is valid line by line: a line break is never part of another character.
        let line = match whole {
            Some(text) => Ok(&text[range]),
            None => std::str::from_utf8(&body[range]),
        };
        match line {
            Ok(line) if line.trim_ascii().is_empty() => continue,
            Ok(line) => collector.line(index, number + 1, line),
            Err(_) => collector.reject(index, format!("line {}: not UTF-8", number + 1), Vec::new()),
        }
        index += 1;
    }
    collector.finish()
}

/// Takes events as they are parsed.
struct Collector<'t> {
    builder: BlockBuilder,
    max_event_bytes: usize,
    tenant: Option<&'t Tenant>,
    given_ids: Vec<(usize, String)>,
    rejected: Vec<Rejection>,
    rejected_count: usize,
    accepted: usize,
    single: bool,
}

impl<'t> Collector<'t> {
    fn new(body_bytes: usize, max_event_bytes: usize, tenant: Option<&'t Tenant>) -> Self {
        Self {
            builder: BlockBuilder::with_capacity(body_bytes),
            max_event_bytes,
            tenant,
            given_ids: Vec::new(),
            rejected: Vec::new(),
            rejected_count: 0,
            accepted: 0,
            single: false,
        }
    }

    /// Takes an array of events; `None` where anything in it is wrong.
    fn array(&mut self, text: &str) -> Option<()> {
        let mut json = Scanner::new(text);
        json.take(b'[')?;
        if json.take(b']').is_none() {
            loop {
                self.accept(&Fields::read(&mut json, self.max_event_bytes)?);
                if json.take(b']').is_some() {
                    break;
                }
                json.take(b',')?;
            }
        }
        json.end()
    }

    fn accept(&mut self, fields: &Fields<'_>) {
        if let Some(id) = fields.event_id() {
            self.given_ids.push((self.accepted, id.to_owned()));
        }
        fields.with_draft(self.tenant, |draft| self.builder.push(draft));
        self.accepted += 1;
    }

    fn reject(&mut self, index: usize, error: String, fields: Vec<FieldError>) {
        self.rejected_count += 1;
        if self.rejected.len() < REJECTIONS_MAX {
            self.rejected.push(Rejection { index, error, fields });
        }
    }

    fn judge(&mut self, index: usize, text: &str) {
        if self.rejected.len() == REJECTIONS_MAX {
            // What would be said of it nobody would hear.
            match Fields::of(text, self.max_event_bytes) {
                Some(fields) => self.accept(&fields),
                None => self.rejected_count += 1,
            }
            return;
        }
        match Fields::explain(text, self.max_event_bytes) {
            Ok(fields) => self.accept(&fields),
            Err(fields) => {
                let errors: Vec<_> = fields.iter().map(|e| format!("{}: {}", e.field, e.error)).collect();
                let error = errors.join("; ").trim_start_matches(": ").to_owned();
                self.reject(index, error, fields);
            }
        }
    }

    fn line(&mut self, index: usize, number: usize, line: &str) {
        match Fields::of(line, self.max_event_bytes) {
            Some(fields) => self.accept(&fields),
            None => match syntax(line) {
                Ok(()) => self.judge(index, line.trim()),
                Err(error) => {
                    let text = error.to_string();
                    // Each line is a text of its own to the parser; its "line 1" would mislead.
                    let text = text.split(" at line ").next().unwrap_or(&text);
                    let error = format!("line {number}, column {}: {text}", error.column());
                    self.reject(index, error, Vec::new());
                }
            },
        }
    }

    fn finish(self) -> Parsed {
        Parsed {
            blocks: self.builder.finish(),
            accepted: self.accepted,
            given_ids: self.given_ids,
            rejected: self.rejected,
            rejected_count: self.rejected_count,
            single: self.single,
        }
    }
}

/// Has every event of an array judged on its own.
struct Judge<'c, 't>(&'c mut Collector<'t>);

impl<'de> Visitor<'de> for Judge<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(event) = seq.next_element::<&RawValue>()? {
            self.0.judge(index, event.get());
            index += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(body: &str) -> Parsed {
        parse(body.as_bytes(), Framing::Json, 1000).unwrap()
    }

    const GOOD: &str = r#"{"service":"s","message":"m"}"#;

    /// A wrong event among right ones is rejected alone, with its index and what is wrong.
    #[test]
    fn a_wrong_event_is_rejected_alone() {
        let parsed = json(&format!(r#"[{GOOD}, {{"service":"s"}}, 7, {GOOD}]"#));
        assert_eq!((parsed.accepted, parsed.rejected_count), (2, 2));
        assert_eq!(parsed.rejected[0].index, 1);
        assert_eq!(parsed.rejected[0].error, "message: it is required");
        assert_eq!(parsed.rejected[1].error, "an event is a JSON object, this is a number");
        assert_eq!(parsed.blocks.iter().map(Block::count).sum::<u32>(), 2);
    }

    /// In NDJSON a broken line costs itself; blank lines cost nothing.
    #[test]
    fn a_broken_line_costs_itself() {
        let mut body = format!("{GOOD}\r\n\n{{\"service\":\n{GOOD}\n").into_bytes();
        body.extend_from_slice(b"\xff\xfe\n");
        body.extend_from_slice(GOOD.as_bytes());
        let parsed = parse(&body, Framing::Ndjson, 1000).unwrap();
        assert_eq!(parsed.accepted, 3);
        let errors: Vec<_> = parsed.rejected.iter().map(|r| (r.index, r.error.as_str())).collect();
        assert_eq!(errors, [(1, "line 3, column 11: EOF while parsing a value"), (3, "line 5: not UTF-8")]);
    }

    /// Broken JSON says where; other bodies say what they are.
    #[test]
    fn a_body_that_is_no_json_says_where() {
        let error = |body: &[u8]| parse(body, Framing::Json, 1000).unwrap_err().to_string();
        assert!(error(b"[{\"service\":\"s\",\n \"message\" \"m\"}]").contains("line 2 column 12"));
        assert!(error(b"{\"service\":\"s\",\"message\":NaN}").contains("line 1"));
        assert!(error(format!("{GOOD} x").as_bytes()).contains("trailing characters"));
        assert!(error(b"\"text\"").contains("a string"));
        assert!(error(b" \n").contains("empty"));
        assert!(error(b"{\"service\":\"\xff\"}").contains("byte 12"));
        assert!(error(&b"[".repeat(1_000_000)).contains("EOF"));
    }

    /// Scenario: an event that is wrong, and behind it what is no JSON.
    /// Guarantee: the answer says where the body is no JSON. It said what is wrong with the event, and line 0.
    #[test]
    fn r0321_the_error_of_an_event_hid_the_place_of_the_syntax() {
        let body = br#"{"service":"s","message":"m","metadata":{"a":"\ud800"}}}"#;
        let error = parse(body, Framing::Json, 1000).unwrap_err().to_string();
        assert!(error.contains("trailing characters at line 1 column"), "{error}");
    }

    /// Scenario: more events are wrong than are named one by one, among right ones, and what is no JSON stands behind them.
    /// Guarantee: all are judged and counted. Each was put into words, whether anybody heard them or not.
    #[test]
    fn r0275_every_wrong_event_was_put_into_words() {
        let wrong = "0,".repeat(REJECTIONS_MAX + 5);
        let parsed = json(&format!("[{wrong}{GOOD},0,{GOOD}]"));
        assert_eq!((parsed.accepted, parsed.rejected_count), (2, REJECTIONS_MAX + 6));
        assert_eq!(parsed.rejected.len(), REJECTIONS_MAX);
        let error = parse(format!("[{wrong}{GOOD}, x]").as_bytes(), Framing::Json, 1000).unwrap_err();
        assert!(matches!(error, ParseError::Syntax(_)), "{error}");
    }

    /// Ids that clients gave are known by their place among the accepted.
    #[test]
    fn given_ids_are_known() {
        let parsed = json(&format!(r#"[{GOOD},{{}},{{"service":"s","message":"m","event_id":"mine"}}]"#));
        assert_eq!(parsed.given_ids, [(1, "mine".to_owned())]);
        assert!(json(GOOD).single);
        assert_eq!(json("[]").accepted, 0);
    }
}
