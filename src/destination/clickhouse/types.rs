//! The types that columns are declared with, and values in the bytes of `RowBinary`.
//!
//! A value is written by the type that its column has. Where that cannot hold it as it is (a time finer than the column, a
//! number out of its range), the nearest that it can hold is written, and `put` says so.

use std::borrow::Cow;

use forebay_actors::otlp::{Members, json::write_text};

/// What is put into a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar<'a> {
    /// There is none.
    Absent,
    Text(Cow<'a, [u8]>),
    /// The bytes of an id, which become hexadecimal.
    Id(&'a [u8]),
    /// Nanoseconds since 1970.
    Time(i128),
    Int(i128),
    Float(f64),
    /// Attributes, each a `KeyValue`.
    Pairs(Vec<&'a [u8]>),
}

/// A type, without what says nothing about its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) form: Form,
    /// Whether a byte before the value says that there is one.
    pub(super) is_nullable: bool,
}

/// How a value is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// Its length, and its bytes.
    Text,
    /// Seconds since 1970, 32 bits.
    Seconds,
    /// Since 1970 in units of this many nanoseconds, 64 bits.
    Ticks(i64),
    /// An integer of so many bytes.
    Int {
        bytes: usize,
        is_signed: bool,
    },
    Bool,
    Float32,
    Float64,
    /// Texts by text.
    Map,
    /// Values behind each other.
    Array(Box<Type>),
}

const SECOND_NANOS: i64 = 1_000_000_000;

const HEX: &[u8; 16] = b"0123456789abcdef";

// === impl Type ===

impl Type {
    /// The type that is declared so; `None` where values of it are not written here.
    pub(super) fn parse(declared: &str) -> Option<Self> {
        if let Some(inner) = within(declared, "LowCardinality") {
            return Self::parse(inner);
        }
        if let Some(inner) = within(declared, "Nullable") {
            return Some(Self { is_nullable: true, ..Self::parse(inner)? });
        }
        Some(Self { form: Form::parse(declared)?, is_nullable: false })
    }

    /// The type of the elements, where it is a list.
    pub(super) fn element(&self) -> Option<&Self> {
        match &self.form {
            Form::Array(element) => Some(element),
            _ => None,
        }
    }

    /// Appends the value; whether it is there as it was.
    pub(super) fn put(&self, value: &Scalar<'_>, out: &mut Vec<u8>) -> bool {
        if self.is_nullable {
            out.push(u8::from(matches!(value, Scalar::Absent)));
            if matches!(value, Scalar::Absent) {
                return true;
            }
        }
        match (&self.form, value) {
            (Form::Text, Scalar::Text(text)) => put_text(text, out),
            (Form::Text, Scalar::Id(id)) => {
                put_length(id.len() * 2, out);
                out.extend(
                    id.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
                );
            }
            (Form::Map, Scalar::Pairs(pairs)) => put_pairs(pairs, out),
            (Form::Seconds, Scalar::Time(nanos)) => {
                let seconds = units(*nanos, SECOND_NANOS).clamp(0, i128::from(u32::MAX));
                out.extend_from_slice(&(seconds as u32).to_le_bytes());
                return seconds * i128::from(SECOND_NANOS) == *nanos;
            }
            (Form::Ticks(unit), Scalar::Time(nanos)) => {
                let ticks = units(*nanos, *unit).clamp(i128::from(i64::MIN), i128::from(i64::MAX));
                out.extend_from_slice(&(ticks as i64).to_le_bytes());
                return ticks * i128::from(*unit) == *nanos;
            }
            (Form::Int { bytes, is_signed }, Scalar::Int(value)) => {
                let bits = bytes * 8;
                let (least, most) = if *is_signed {
                    (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
                } else {
                    (0, (1_i128 << bits) - 1)
                };
                let nearest = (*value).clamp(least, most);
                out.extend_from_slice(&nearest.to_le_bytes()[..*bytes]);
                return nearest == *value;
            }
            (Form::Bool, Scalar::Int(value)) => {
                out.push(u8::from(*value != 0));
                return matches!(value, 0 | 1);
            }
            (Form::Float64, Scalar::Float(value)) => out.extend_from_slice(&value.to_le_bytes()),
            (Form::Float64, Scalar::Int(value)) => {
                out.extend_from_slice(&(*value as f64).to_le_bytes());
                return (*value as f64) as i128 == *value;
            }
            (Form::Float32, Scalar::Float(value)) => {
                out.extend_from_slice(&(*value as f32).to_le_bytes());
                return f64::from(*value as f32).to_bits() == value.to_bits();
            }
            (form, _) => {
                form.put_nothing(out);
                return false;
            }
        }
        true
    }
}

// === impl Form ===

impl Form {
    fn parse(declared: &str) -> Option<Self> {
        let int = |bits: &str, is_signed| {
            let bytes = match bits {
                "8" => 1,
                "16" => 2,
                "32" => 4,
                "64" => 8,
                _ => return None,
            };
            Some(Self::Int { bytes, is_signed })
        };
        match declared {
            "String" => return Some(Self::Text),
            "DateTime" => return Some(Self::Seconds),
            "Bool" => return Some(Self::Bool),
            "Float32" => return Some(Self::Float32),
            "Float64" => return Some(Self::Float64),
            _ => {}
        }
        if let Some(rest) = declared.strip_prefix("DateTime64(") {
            let digits = rest.split([',', ')']).next()?.trim().parse::<u32>().ok()?;
            return Some(Self::Ticks(10_i64.checked_pow(9_u32.checked_sub(digits)?)?));
        }
        if declared.starts_with("DateTime(") {
            return Some(Self::Seconds);
        }
        if let Some(inner) = within(declared, "Array") {
            return Some(Self::Array(Box::new(Type::parse(inner)?)));
        }
        if let Some(inner) = within(declared, "Map") {
            // No type of a text has a comma in it.
            let (key, value) = inner.split_once(", ")?;
            let is_text = |declared| Type::parse(declared) == Some(Type::plain(Self::Text));
            return (is_text(key) && is_text(value)).then_some(Self::Map);
        }
        match (declared.strip_prefix("UInt"), declared.strip_prefix("Int")) {
            (Some(bits), _) => int(bits, false),
            (_, Some(bits)) => int(bits, true),
            _ => None,
        }
    }

    /// What the type has where there is no value.
    fn put_nothing(&self, out: &mut Vec<u8>) {
        let bytes = match self {
            Self::Text | Self::Map | Self::Array(_) | Self::Bool => 1,
            Self::Seconds | Self::Float32 => 4,
            Self::Ticks(_) | Self::Float64 => 8,
            Self::Int { bytes, .. } => *bytes,
        };
        out.resize(out.len() + bytes, 0);
    }
}

impl Type {
    /// One that knows no NULL.
    pub(super) const fn plain(form: Form) -> Self {
        Self { form, is_nullable: false }
    }
}

/// Whole units of a time. Nearly all fit in 64 bits, where dividing is cheap.
fn units(nanos: i128, unit: i64) -> i128 {
    match i64::try_from(nanos) {
        Ok(nanos) => i128::from(nanos.div_euclid(unit)),
        Err(_) => nanos.div_euclid(i128::from(unit)),
    }
}

/// What stands in the brackets of `name(…)`.
fn within<'a>(declared: &'a str, name: &str) -> Option<&'a str> {
    declared.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')
}

/// All of them, in order, also those of the same key.
fn put_pairs(pairs: &[&[u8]], out: &mut Vec<u8>) {
    put_length(pairs.len(), out);
    for pair in pairs {
        let pair = Members::of(pair);
        put_text(pair.data(1), out);
        put_written(out, |out| write_text(pair.data(2), out));
    }
}

/// A text that is written straight to its place, before its length is known.
pub(super) fn put_written(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    // Nearly every text is shorter than 128 bytes, whose length is one byte.
    out.push(0);
    write(out);
    let length = out.len() - begin - 1;
    if length < 0x80 {
        out[begin] = length as u8;
        return;
    }
    let mut prefix = Vec::with_capacity(5);
    put_length(length, &mut prefix);
    out.splice(begin..=begin, prefix);
}

/// A text: its length, and its bytes.
pub(super) fn put_text(text: &[u8], out: &mut Vec<u8>) {
    put_length(text.len(), out);
    out.extend_from_slice(text);
}

/// A length in LEB128.
pub(super) fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_as_the_server_writes_them() {
        let plain = |form| Some(Type::plain(form));
        let nullable = |form| Some(Type { form, is_nullable: true });
        for (declared, wanted) in [
            ("LowCardinality(String)", plain(Form::Text)),
            ("LowCardinality(Nullable(String))", nullable(Form::Text)),
            ("DateTime64(6, 'UTC')", plain(Form::Ticks(1000))),
            ("DateTime64(9)", plain(Form::Ticks(1))),
            ("DateTime('UTC')", plain(Form::Seconds)),
            ("UInt8", plain(Form::Int { bytes: 1, is_signed: false })),
            ("Nullable(Int64)", nullable(Form::Int { bytes: 8, is_signed: true })),
            ("Map(LowCardinality(String), String)", plain(Form::Map)),
            ("Array(DateTime64(9))", plain(Form::Array(Box::new(Type::plain(Form::Ticks(1)))))),
            (
                "Array(Map(LowCardinality(String), String))",
                plain(Form::Array(Box::new(Type::plain(Form::Map)))),
            ),
        ] {
            assert_eq!(Type::parse(declared), wanted, "{declared}");
        }
        for declared in
            ["DateTime64(10)", "FixedString(9)", "Enum8('a' = 1)", "Map(String, UInt8)", "JSON", "UInt7"]
        {
            assert_eq!(Type::parse(declared), None, "{declared}");
        }
    }

    /// What a column cannot hold is the nearest that it can, and is said.
    #[test]
    fn what_does_not_fit_is_said() {
        let put = |declared: &str, value: Scalar<'_>| {
            let mut out = Vec::new();
            let exact = Type::parse(declared).unwrap().put(&value, &mut out);
            (out, exact)
        };
        assert_eq!(put("UInt8", Scalar::Int(255)), (vec![255], true));
        assert_eq!(put("UInt8", Scalar::Int(257)), (vec![255], false));
        assert_eq!(put("Int8", Scalar::Int(-129)), (vec![0x80], false));
        assert_eq!(put("UInt64", Scalar::Int(u64::MAX.into())), (vec![255; 8], true));
        assert_eq!(put("Nullable(Int8)", Scalar::Absent), (vec![1], true));
        assert_eq!(put("Nullable(Int8)", Scalar::Int(-1)), (vec![0, 255], true));
        assert_eq!(put("Int8", Scalar::Absent), (vec![0], false));
        assert_eq!(put("DateTime", Scalar::Time(1_500_000_000)), (vec![1, 0, 0, 0], false));
        assert_eq!(put("DateTime", Scalar::Time(-1)), (vec![0; 4], false));
        assert!(!put("DateTime64(9)", Scalar::Time(u64::MAX.into())).1);
        assert_eq!(put("String", Scalar::Id(&[0xab, 1])), (b"\x04ab01".to_vec(), true));
    }

    #[test]
    fn lengths_are_leb128() {
        for (length, bytes) in
            [(0, vec![0]), (127, vec![127]), (128, vec![0x80, 1]), (1 << 20, vec![0x80, 0x80, 0x40])]
        {
            let mut out = Vec::new();
            put_length(length, &mut out);
            assert_eq!(out, bytes);
            let (mut text, mut wanted) = (vec![7], vec![7]);
            put_written(&mut text, |out| out.resize(out.len() + length, b'x'));
            put_text(&vec![b'x'; length], &mut wanted);
            assert_eq!(text, wanted);
        }
    }
}
