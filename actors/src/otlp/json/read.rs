//! JSON becomes protobuf while it is read: no tree, no types.

use std::fmt;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{
    Deserialize as _,
    de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::otlp::{
    Signal,
    schema::{self, Field, Kind, Message, Rule},
    wire::{DEPTH_MAX, put_bytes, put_varint},
};

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    // As most decoders: bits behind the last byte say nothing.
    .with_decode_allow_trailing_bits(true);
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Reads one request of the signal; its value is the request in protobuf.
///
/// Names are lowerCamelCase, ids hexadecimal in either case, other bytes base64 (also the kind for URLs), enums integers,
/// numbers of 64 bits numbers or texts. What is unknown is ignored at every depth, `null` is as if it were not there.
#[derive(Debug, Clone, Copy)]
pub struct RequestSeed(pub Signal);

impl<'de> DeserializeSeed<'de> for RequestSeed {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Vec<u8>, D::Error> {
        let mut out = Vec::new();
        from.deserialize_map(MessageVisitor { of: self.0.request(), out: &mut out, depth: 0 })?;
        Ok(out)
    }
}

struct MessageVisitor<'o> {
    of: &'static Message,
    out: &'o mut Vec<u8>,
    depth: usize,
}

impl<'de> Visitor<'de> for MessageVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", self.of.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.depth > DEPTH_MAX {
            return Err(Error::custom("messages nest deeper than 100"));
        }
        while let Some(field) = map.next_key_seed(NameSeed(self.of))? {
            match field {
                Some(field) => {
                    map.next_value_seed(ValueSeed {
                        field,
                        out: self.out,
                        depth: self.depth,
                        element: false,
                    })?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A member's name; `None` where the message has none such.
struct NameSeed(&'static Message);

impl<'de> DeserializeSeed<'de> for NameSeed {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_identifier(self)
    }
}

impl Visitor<'_> for NameSeed {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.named(name))
    }
}

struct ValueSeed<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
    depth: usize,
    /// Of a list.
    element: bool,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match self.field.kind {
            _ if !self.element && self.field.rule == Rule::Repeated => {
                from.deserialize_any(ListVisitor(self))
            }
            Kind::Double => self.double(&Box::<RawValue>::deserialize(from)?),
            _ => from.deserialize_any(self),
        }
    }
}

/// Takes a list, and nothing else for one.
struct ListVisitor<'o>(ValueSeed<'o>);

impl<'de> Visitor<'de> for ListVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list for `{}`", self.0.field.name)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let ValueSeed { field, out, depth, .. } = self.0;
        if matches!(field.kind, Kind::Message(_) | Kind::String | Kind::Bytes | Kind::Id { .. }) {
            while list.next_element_seed(ValueSeed { field, out, depth, element: true })?.is_some() {}
            return Ok(());
        }
        let mut packed = Vec::new();
        while list.next_element_seed(ValueSeed { field, out: &mut packed, depth, element: true })?.is_some() {
        }
        if !packed.is_empty() {
            put_bytes(out, field.number, &packed);
        }
        Ok(())
    }
}

impl ValueSeed<'_> {
    /// The number itself: what serde_json makes of its digits may be the neighbour of what they say.
    fn double<E: Error>(self, text: &RawValue) -> Result<(), E> {
        match text.get().as_bytes()[0] {
            b'"' => match serde_json::from_str::<String>(text.get()) {
                Ok(text) => self.visit_str(&text),
                Err(_) => Err(self.wrong("this text")),
            },
            b'n' => self.visit_unit(),
            b'[' => Err(self.wrong("a list")),
            b'{' => Err(self.wrong("an object")),
            _ => {
                let value = text.get().parse().ok().filter(|value: &f64| value.is_finite());
                let value = value.ok_or_else(|| self.wrong(text.get()))?;
                self.fixed64(value.to_bits());
                Ok(())
            }
        }
    }

    fn wrong<E: Error>(&self, found: impl fmt::Display) -> E {
        Error::custom(format_args!("`{}` is {}, not {found}", self.field.name, wanted(self.field.kind)))
    }

    /// Whether a default has to be written: protobuf leaves it out where it says nothing.
    fn says_something(&self, is_default: bool) -> bool {
        !is_default || self.element || matches!(self.field.rule, Rule::Present | Rule::OneOf)
    }

    /// Numbers of a list stand together behind one tag, and each of them without.
    fn tag(&mut self, wire_type: u64) {
        if !self.element {
            put_varint(self.out, u64::from(self.field.number) << 3 | wire_type);
        }
    }

    fn varint(mut self, value: u64) {
        if self.says_something(value == 0) {
            self.tag(0);
            put_varint(self.out, value);
        }
    }

    fn fixed64(mut self, value: u64) {
        if self.says_something(value == 0) {
            self.tag(1);
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn fixed32(mut self, value: u32) {
        if self.says_something(value == 0) {
            self.tag(5);
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// An `intValue` that no integer of 64 bits holds, as the `doubleValue` that it is: JavaScript has one kind of number,
    /// and its SDK calls every whole one an integer. Refusing it would refuse the whole request.
    fn too_large_integer<E: Error>(self, value: f64) -> Result<(), E> {
        let any_value = |name| schema::ANY_VALUE.named(name);
        match any_value("doubleValue") {
            Some(field) if any_value("intValue").is_some_and(|int| std::ptr::eq(int, self.field)) => {
                Self { field, ..self }.fixed64(value.to_bits());
                Ok(())
            }
            _ => Err(self.wrong(value)),
        }
    }

    fn bytes(self, bytes: &[u8]) {
        if self.says_something(bytes.is_empty()) {
            put_bytes(self.out, self.field.number, bytes);
        }
    }

    fn integer<E: Error>(self, value: i128) -> Result<(), E> {
        let out_of_range = |seed: &Self| seed.wrong(format_args!("{value}"));
        match self.field.kind {
            // An enum or a number of 32 bits is sign-extended on the wire.
            Kind::Int32 => match i32::try_from(value) {
                Ok(value) => self.varint(i64::from(value) as u64),
                Err(_) => return Err(out_of_range(&self)),
            },
            Kind::Uint32 => match u32::try_from(value) {
                Ok(value) => self.varint(u64::from(value)),
                Err(_) => return Err(out_of_range(&self)),
            },
            Kind::Sint32 => match i32::try_from(value) {
                Ok(value) => self.varint(u64::from((value << 1 ^ value >> 31) as u32)),
                Err(_) => return Err(out_of_range(&self)),
            },
            Kind::Int64 => match i64::try_from(value) {
                Ok(value) => self.varint(value as u64),
                Err(_) => return self.too_large_integer(value as f64),
            },
            Kind::Uint64 => match u64::try_from(value) {
                Ok(value) => self.varint(value),
                Err(_) => return Err(out_of_range(&self)),
            },
            Kind::Fixed64 => match u64::try_from(value) {
                Ok(value) => self.fixed64(value),
                Err(_) => return Err(out_of_range(&self)),
            },
            Kind::Sfixed64 => match i64::try_from(value) {
                Ok(value) => self.fixed64(value as u64),
                Err(_) => return Err(out_of_range(&self)),
            },
            Kind::Fixed32 => match u32::try_from(value) {
                Ok(value) => self.fixed32(value),
                Err(_) => return Err(out_of_range(&self)),
            },
            Kind::Double => self.fixed64((value as f64).to_bits()),
            _ => return Err(self.wrong("a number")),
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for `{}`", wanted(self.field.kind), self.field.name)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.element { Err(self.wrong("null")) } else { Ok(()) }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.field.kind {
            Kind::Bool => {
                self.varint(u64::from(value));
                Ok(())
            }
            _ => Err(self.wrong(value)),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => {
                self.fixed64(value.to_bits());
                Ok(())
            }
            // JSON knows one kind of number: 1e3 is an integer, too.
            _ if value.fract() == 0.0 && value.abs() < 1e18 => self.integer(value as i128),
            Kind::Int64 if value.fract() == 0.0 => self.too_large_integer(value),
            _ => Err(self.wrong(value)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.field.kind {
            Kind::String => self.bytes(text.as_bytes()),
            Kind::Bytes => {
                let decoded = BASE64.decode(text).or_else(|_| BASE64_URL.decode(text));
                let decoded = decoded.map_err(|_| self.wrong("this text"))?;
                self.bytes(&decoded);
            }
            Kind::Id { .. } => {
                let decoded = from_hex(text).ok_or_else(|| self.wrong(format_args!("{text:?}")))?;
                self.bytes(&decoded);
            }
            Kind::Double => {
                // `parse` would take `inf`, too, which is not what the protocol says.
                let value = match text {
                    "NaN" => Some(f64::NAN),
                    "Infinity" => Some(f64::INFINITY),
                    "-Infinity" => Some(f64::NEG_INFINITY),
                    _ => text.parse().ok().filter(|value: &f64| value.is_finite()),
                };
                let value = value.ok_or_else(|| self.wrong(format_args!("{text:?}")))?;
                self.fixed64(value.to_bits());
            }
            Kind::Bool | Kind::Message(_) => return Err(self.wrong("a text")),
            _ => {
                let value = text.parse().map_err(|_| self.wrong(format_args!("{text:?}")))?;
                return self.integer(value);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.wrong("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        match self.field.kind {
            Kind::Message(of) => {
                let mut inner = Vec::new();
                MessageVisitor { of, out: &mut inner, depth: self.depth + 1 }.visit_map(map)?;
                put_bytes(self.out, self.field.number, &inner);
                Ok(())
            }
            _ => Err(self.wrong("an object")),
        }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(pair).collect())?
}

/// What a field wants, for people.
const fn wanted(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Int32 | Kind::Sint32 => "an integer of 32 bits",
        Kind::Uint32 | Kind::Fixed32 => "an integer of 32 bits, not negative",
        Kind::Int64 | Kind::Sfixed64 => "an integer of 64 bits",
        Kind::Uint64 | Kind::Fixed64 => "an integer of 64 bits, not negative",
        Kind::Double => "a number",
        Kind::String => "a text",
        Kind::Bytes => "base64",
        Kind::Id { .. } => "hexadecimal",
        Kind::Message(_) => "an object",
    }
}
