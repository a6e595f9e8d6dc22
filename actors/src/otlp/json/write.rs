//! Protobuf becomes JSON while it is walked over.

use std::{collections::HashSet, io::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    event::write_json_string,
    otlp::{
        items::member,
        schema::{self, Field, Kind, Message, Rule},
        wire::{Entry, Fields, Value},
    },
};

/// Which JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// That of the protocol.
    Protocol,
    /// That of people and of tables: attributes are objects, values stand for themselves, counts are numbers.
    Natural,
}

/// By the table: the formatting of the standard library took longer than the rest of a record.
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Attributes up to which a key is looked for in a list of the keys there were.
const FEW: usize = 16;

/// Appends a message as an object. It must have been checked; what is damaged is left out.
pub fn write(message: &[u8], of: &'static Message, style: Style, out: &mut Vec<u8>) {
    out.push(b'{');
    write_members(message, of, style, &[], out);
    out.push(b'}');
}

/// Appends the members of a message, less the fields in `without`, behind what `out` holds of the object.
pub(in crate::otlp) fn write_members(
    message: &[u8],
    of: &'static Message,
    style: Style,
    without: &[u32],
    out: &mut Vec<u8>,
) {
    let begin = out.len();
    // In the protocol's own style values hold messages that hold values: what is written in vain at one level is written in vain
    // twice at the next, and so on. So there it is looked at first; elsewhere messages nest a few levels only.
    let may_be_in_order = style == Style::Natural || is_in_order(message);
    if !may_be_in_order || !write_in_order(message, of, style, without, out) {
        out.truncate(begin);
        write_out_of_order(message, of, style, without, out);
    }
}

fn is_in_order(message: &[u8]) -> bool {
    Fields::of(message).map_while(Result::ok).is_sorted_by_key(|entry| entry.number)
}

/// In one walk, for fields that stand in the order of their numbers, as encoders write them; `false` where they do not.
fn write_in_order(
    message: &[u8],
    of: &'static Message,
    style: Style,
    without: &[u32],
    out: &mut Vec<u8>,
) -> bool {
    let mut entries = Fields::of(message).map_while(Result::ok).peekable();
    // Those that may still come: the table is in the order of the numbers, too.
    let (mut fields, mut last) = (of.fields, 0);
    while let Some(first) = entries.next() {
        let number = first.number;
        if number < last {
            return false;
        }
        last = number;
        fields = &fields[fields.iter().take_while(|field| field.number < number).count()..];
        let Some(field) = fields.first().filter(|field| field.number == number && !without.contains(&number))
        else {
            continue;
        };
        let mut more = std::iter::from_fn(|| entries.next_if(|entry| entry.number == number));
        if field.rule == Rule::Repeated {
            name(field, out);
            list(field, std::iter::once(first).chain(more), style, out);
        } else {
            // The last one counts.
            let last = more.by_ref().last().unwrap_or(first);
            if says_something(field, &last.value)
                && (field.rule != Rule::OneOf || of.chosen(message) == Some(number))
            {
                name(field, out);
                value(field, last.value, style, out);
            }
        }
    }
    true
}

/// With a walk for each field.
fn write_out_of_order(
    message: &[u8],
    of: &'static Message,
    style: Style,
    without: &[u32],
    out: &mut Vec<u8>,
) {
    let chosen = of.chosen(message);
    for field in of.fields.iter().filter(|field| !without.contains(&field.number)) {
        let mut entries = Fields::of(message).map_while(Result::ok).filter(|e| e.number == field.number);
        match field.rule {
            Rule::Repeated => {
                if let Some(first) = entries.next() {
                    name(field, out);
                    list(field, std::iter::once(first).chain(entries), style, out);
                }
            }
            Rule::OneOf if chosen != Some(field.number) => {}
            _ => {
                // The last one counts.
                if let Some(entry) = entries.last()
                    && says_something(field, &entry.value)
                {
                    name(field, out);
                    value(field, entry.value, style, out);
                }
            }
        }
    }
}

/// Whether a value has to be told. Some senders write defaults that others leave out: both say the same. An empty message
/// is no default: that it is there says something.
fn says_something(field: &Field, value: &Value<'_>) -> bool {
    field.rule != Rule::Plain
        || match value {
            Value::Varint(number) | Value::Fixed64(number) => *number != 0,
            Value::Fixed32(number) => *number != 0,
            Value::Bytes(bytes) => !bytes.is_empty() || matches!(field.kind, Kind::Message(_)),
            _ => true,
        }
}

/// Appends the value that a field of a message has, in the natural style; `false`, and nothing, where the message says
/// nothing by it. Which one of a choice counts is the caller's to know.
pub fn write_value(message: &[u8], field: &'static Field, out: &mut Vec<u8>) -> bool {
    let mut entries = Fields::of(message).map_while(Result::ok).filter(|entry| entry.number == field.number);
    if field.rule == Rule::Repeated {
        let Some(first) = entries.next() else { return false };
        list(field, std::iter::once(first).chain(entries), Style::Natural, out);
        return true;
    }
    let Some(entry) = entries.last().filter(|entry| says_something(field, &entry.value)) else {
        return false;
    };
    value(field, entry.value, Style::Natural, out);
    true
}

/// Appends an `AnyValue` as a text: one that is a text as it is, nothing where there is none, all else as JSON.
pub fn write_text(any_value: &[u8], out: &mut Vec<u8>) {
    match schema::ANY_VALUE.chosen(any_value) {
        Some(1) => out.extend_from_slice(member(any_value, 1)),
        // Bytes are the text of their base64, without the quotes.
        Some(7) => out.extend_from_slice(STANDARD.encode(member(any_value, 7)).as_bytes()),
        Some(_) => self::any_value(any_value, out),
        None => {}
    }
}

fn name(field: &Field, out: &mut Vec<u8>) {
    // No name in the table has anything to escape.
    out.extend_from_slice(if out.ends_with(b"{") { b"\"" } else { b",\"" });
    out.extend_from_slice(field.name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn list<'a>(field: &Field, entries: impl Iterator<Item = Entry<'a>>, style: Style, out: &mut Vec<u8>) {
    if let (Kind::Message(of), Style::Natural) = (field.kind, style)
        && std::ptr::eq(of, &raw const schema::KEY_VALUE)
    {
        return attributes(entries.map(|entry| entry.value), out);
    }
    out.push(b'[');
    let mut first = true;
    let mut next = |out: &mut Vec<u8>| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
    };
    for entry in entries {
        match (field.kind, entry.value) {
            (Kind::Message(_) | Kind::String | Kind::Bytes | Kind::Id { .. }, whole) => {
                next(out);
                value(field, whole, style, out);
            }
            (_, Value::Bytes(packed)) => {
                for number in unpacked(field.kind, packed) {
                    next(out);
                    value(field, number, style, out);
                }
            }
            (_, single) => {
                next(out);
                value(field, single, style, out);
            }
        }
    }
    out.push(b']');
}

/// The numbers of a list that stand together.
pub(in crate::otlp) fn unpacked(kind: Kind, packed: &[u8]) -> Vec<Value<'static>> {
    if matches!(kind, Kind::Fixed64 | Kind::Sfixed64 | Kind::Double) {
        let (numbers, _) = packed.as_chunks::<8>();
        return numbers.iter().map(|bytes| Value::Fixed64(u64::from_le_bytes(*bytes))).collect();
    }
    let mut numbers = Vec::new();
    let (mut number, mut shift) = (0_u64, 0);
    for byte in packed {
        number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        shift += 7;
        if *byte < 0x80 {
            numbers.push(Value::Varint(number));
            (number, shift) = (0, 0);
        }
    }
    numbers
}

fn value(field: &Field, value: Value<'_>, style: Style, out: &mut Vec<u8>) {
    match (field.kind, value) {
        (Kind::Message(of), Value::Bytes(bytes)) if style == Style::Natural => natural(bytes, of, out),
        (Kind::Message(of), Value::Bytes(bytes)) => write(bytes, of, style, out),
        (Kind::String, Value::Bytes(bytes)) => write_json_string(&String::from_utf8_lossy(bytes), out),
        (Kind::Bytes, Value::Bytes(bytes)) => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
        (Kind::Id { .. }, Value::Bytes(bytes)) => {
            out.push(b'"');
            out.extend(
                bytes.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
            );
            out.push(b'"');
        }
        (Kind::Bool, Value::Varint(number)) => put(out, format_args!("{}", number != 0)),
        (Kind::Int32, Value::Varint(number)) => put(out, format_args!("{}", number as i32)),
        (Kind::Uint32, Value::Varint(number)) => put(out, format_args!("{}", number as u32)),
        (Kind::Sint32, Value::Varint(number)) => {
            let number = number as u32;
            put(out, format_args!("{}", (number >> 1) as i32 ^ -((number & 1) as i32)));
        }
        (Kind::Fixed32, Value::Fixed32(number)) => put(out, format_args!("{number}")),
        (Kind::Int64, Value::Varint(number)) => wide(field, style, number as i64, out),
        (Kind::Sfixed64, Value::Fixed64(number)) => wide(field, style, number as i64, out),
        (Kind::Uint64, Value::Varint(number)) | (Kind::Fixed64, Value::Fixed64(number)) => {
            wide(field, style, number, out);
        }
        (Kind::Double, Value::Fixed64(bits)) => double(f64::from_bits(bits), out),
        _ => out.extend_from_slice(b"null"),
    }
}

/// A number of 64 bits. A time is a text in every style: as a number, most readers would round it.
fn wide(field: &Field, style: Style, number: impl std::fmt::Display, out: &mut Vec<u8>) {
    match style {
        Style::Natural if !field.name.ends_with("UnixNano") => put(out, format_args!("{number}")),
        _ => put(out, format_args!("\"{number}\"")),
    }
}

fn double(number: f64, out: &mut Vec<u8>) {
    match number {
        number if number.is_nan() => out.extend_from_slice(b"\"NaN\""),
        f64::INFINITY => out.extend_from_slice(b"\"Infinity\""),
        f64::NEG_INFINITY => out.extend_from_slice(b"\"-Infinity\""),
        // The shortest text that is the same number again, and one that is no integer's.
        number => put(out, format_args!("{number:?}")),
    }
}

/// A message that people want to see as what it stands for.
fn natural(bytes: &[u8], of: &'static Message, out: &mut Vec<u8>) {
    if std::ptr::eq(of, &raw const schema::ANY_VALUE) {
        any_value(bytes, out);
    } else {
        write(bytes, of, Style::Natural, out);
    }
}

/// Appends an `AnyValue` as the value that it is.
pub(in crate::otlp) fn any_value(bytes: &[u8], out: &mut Vec<u8>) {
    let known = |entry: &Entry<'_>| schema::ANY_VALUE.field(entry.number).is_some();
    let Some(entry) = Fields::of(bytes).map_while(Result::ok).filter(known).last() else {
        return out.extend_from_slice(b"null");
    };
    match (entry.number, entry.value) {
        // A place in a table that only profiles have: as if there were no value.
        (8, _) => out.extend_from_slice(b"null"),
        (5, Value::Bytes(list)) => {
            out.push(b'[');
            for (index, entry) in Fields::of(list).map_while(Result::ok).filter(|e| e.number == 1).enumerate()
            {
                if index > 0 {
                    out.push(b',');
                }
                match entry.value {
                    Value::Bytes(bytes) => any_value(bytes, out),
                    _ => out.extend_from_slice(b"null"),
                }
            }
            out.push(b']');
        }
        (6, Value::Bytes(list)) => {
            attributes(
                Fields::of(list).map_while(Result::ok).filter(|e| e.number == 1).map(|e| e.value),
                out,
            );
        }
        (number, found) => match schema::ANY_VALUE.field(number) {
            Some(field) => value(field, found, Style::Natural, out),
            None => out.extend_from_slice(b"null"),
        },
    }
}

/// Appends attributes as an object. Of several with one key, the last one counts.
fn attributes<'a>(pairs: impl Iterator<Item = Value<'a>>, out: &mut Vec<u8>) {
    let pairs: Vec<(&[u8], &[u8])> = pairs
        .filter_map(|pair| match pair {
            Value::Bytes(pair) => Some((member(pair, 1), member(pair, 2))),
            _ => None,
        })
        .collect();
    // Few are compared with those behind them, many are remembered.
    let is_last: Option<Vec<bool>> = (pairs.len() > FEW).then(|| {
        let mut seen = HashSet::new();
        let mut last: Vec<_> = pairs.iter().rev().map(|(key, _)| seen.insert(*key)).collect();
        last.reverse();
        last
    });
    out.push(b'{');
    let mut first = true;
    for (index, (key, bytes)) in pairs.iter().enumerate() {
        let is_last = match &is_last {
            Some(is_last) => is_last[index],
            None => pairs[index + 1..].iter().all(|(other, _)| other != key),
        };
        if !is_last {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        write_json_string(&String::from_utf8_lossy(key), out);
        out.push(b':');
        any_value(bytes, out);
    }
    out.push(b'}');
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A Vec takes every text.
    let _ = out.write_fmt(text);
}
