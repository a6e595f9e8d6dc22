//! Columns as a table has them, and an item's values in them.

use std::borrow::Cow;

use forebay_actors::otlp::{
    Members,
    json::write_text,
    schema::{self, Field, Kind, Message, Rule},
};

use super::{
    super::types::{Form, Scalar, Type, put_length, put_text, put_written},
    layout::{Around, Holds, OtelTable, Spec},
    others::put_others,
};

/// A column to be written.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) holds: Holds,
    /// The field that it holds, and the message that has it, where it is one.
    field: Option<(&'static Message, &'static Field)>,
    declared: Type,
}

/// An item with what stands around it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// As [`Around`] counts them.
    pub(super) messages: [Members<'a>; 5],
    pub(super) resource_schema: &'a [u8],
    pub(super) scope_schema: &'a [u8],
}

/// The fields that stand in a column as they were; the bit of a field is its number.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    /// Of each message, as [`Around`] counts them.
    pub(super) fields: [u32; 5],
    /// Of the messages in a field of the item, by its number.
    pub(super) inner: [u32; 17],
}

/// What stands for a field, where types are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Text,
    Time,
    Int,
    Float,
    Pairs,
}

// === impl Column ===

impl Column {
    /// The column of this type, if what it is to hold can be written to it.
    pub(super) fn of(table: OtelTable, spec: &Spec, declared: &str) -> Option<Self> {
        let declared = Type::parse(declared)?;
        let within = |outer: u32| match table.item().field(outer)?.kind {
            Kind::Message(inner) => Some(inner),
            _ => None,
        };
        let field = match spec.holds {
            Holds::Field(around, number) => Some((table.around(around), number)),
            Holds::Inner(outer, number) | Holds::Each(outer, number) => Some((within(outer)?, number)),
            _ => None,
        };
        let field = match field {
            Some((of, number)) => Some((of, of.field(number)?)),
            None => None,
        };
        let (class, is_list) = match spec.holds {
            Holds::Number => (Class::Float, false),
            Holds::EachNumber(_) => (Class::Float, true),
            Holds::Duration | Holds::TraceFlags => (Class::Int, false),
            Holds::LogTime => (Class::Time, false),
            Holds::Others => (Class::Pairs, false),
            _ => {
                let class = field.map_or(Class::Text, |(_, field)| Class::of(field));
                let is_repeated = field.is_some_and(|(_, field)| field.rule == Rule::Repeated);
                let is_each = matches!(spec.holds, Holds::Each(..));
                (class, is_each || is_repeated && class != Class::Pairs)
            }
        };
        let single = if is_list { declared.element()? } else { &declared };
        class.fits(&single.form).then_some(Self { holds: spec.holds, field, declared })
    }

    /// The message that its values are of alone; the same bytes of it make the same value.
    pub(super) fn around(&self) -> Around {
        match self.holds {
            Holds::Field(around, _) => around,
            Holds::Service => Around::Resource,
            _ => Around::Item,
        }
    }

    /// Appends the value of the item, and notes what of it is there as it was.
    pub(super) fn put(&self, table: OtelTable, seen: &Seen<'_>, told: &mut Told, out: &mut Vec<u8>) {
        let item = seen.of(Around::Item);
        let put = |value: Scalar<'_>, out: &mut Vec<u8>| self.declared.put(&value, out);
        match self.holds {
            Holds::Field(around, number) => {
                if self.put_field(seen.of(around), out) {
                    told.fields[around as usize] |= 1 << number;
                }
            }
            Holds::Inner(outer, number) => {
                if self.put_field(&Members::of(item.data(outer)), out) {
                    told.inner[outer as usize] |= 1 << number;
                }
            }
            Holds::Each(list, number) => {
                let Some((of, field)) = self.field else { return };
                if self.put_each(item, list, |members| scalar(members, of, field), out) {
                    told.inner[list as usize] |= 1 << number;
                }
            }
            Holds::EachNumber(list) => {
                if self.put_each(item, list, |members| double(members, &schema::EXEMPLAR, 3), out) {
                    told.inner[list as usize] |= 1 << 3;
                }
            }
            Holds::Number => {
                if put(double(item, &schema::NUMBER_DATA_POINT, 4), out) {
                    told.fields[Around::Item as usize] |= 1 << 4;
                }
            }
            Holds::ResourceSchema => _ = put(Scalar::Text(seen.resource_schema.into()), out),
            Holds::ScopeSchema => _ = put(Scalar::Text(seen.scope_schema.into()), out),
            Holds::Service => {
                let mut name = Vec::new();
                let pairs = seen.of(Around::Resource).each(1).map(Members::of);
                if let Some(pair) = pairs.filter(|pair| pair.data(1) == b"service.name").last() {
                    write_text(pair.data(2), &mut name);
                }
                put(Scalar::Text(name.into()), out);
            }
            Holds::Body => {
                if self.declared.is_nullable {
                    out.push(0);
                }
                put_written(out, |out| write_text(item.data(5), out));
                told.fields[Around::Item as usize] |= 1 << 5;
            }
            Holds::LogTime => {
                let nanos = if item.bits(1) > 0 { item.bits(1) } else { item.bits(11) };
                if put(Scalar::Time(nanos.into()), out) {
                    told.fields[Around::Item as usize] |= 1 << 1;
                }
            }
            Holds::TraceFlags => {
                let flags = item.bits(8) as u32;
                put(Scalar::Int((flags & 0xff).into()), out);
                told.fields[Around::Item as usize] |= u32::from(flags <= 0xff) << 8;
            }
            Holds::SpanKind => {
                put(Scalar::Text(span_kind(item.bits(6))), out);
                told.fields[Around::Item as usize] |= 1 << 6;
            }
            Holds::StatusCode => {
                put(Scalar::Text(status(Members::of(item.data(15)).bits(3))), out);
                told.inner[15] |= 1 << 3;
            }
            Holds::Duration => {
                if put(Scalar::Int(i128::from(item.bits(8)) - i128::from(item.bits(7))), out) {
                    told.fields[Around::Item as usize] |= 1 << 8;
                }
            }
            Holds::Others => put_others(table, seen, told, out),
        }
    }

    fn put_field(&self, members: &Members<'_>, out: &mut Vec<u8>) -> bool {
        let Some((of, field)) = self.field else { return false };
        let Some(element) = self.declared.element() else {
            return self.declared.put(&scalar(members, of, field), out);
        };
        let numbers = members.numbers(field.number, field.kind);
        put_length(numbers.len(), out);
        put_all(numbers.into_iter().map(|bits| number(field, bits)), element, out)
    }

    fn put_each<'a>(
        &self,
        item: &Members<'a>,
        list: u32,
        value: impl Fn(&Members<'a>) -> Scalar<'a>,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(element) = self.declared.element() else { return false };
        put_length(item.each(list).count(), out);
        put_all(item.each(list).map(|message| value(&Members::of(message))), element, out)
    }
}

// === impl Seen ===

impl<'a> Seen<'a> {
    pub(super) fn of(&self, around: Around) -> &Members<'a> {
        &self.messages[around as usize]
    }
}

// === impl Class ===

impl Class {
    fn of(field: &Field) -> Self {
        match field.kind {
            Kind::String | Kind::Bytes | Kind::Id { .. } => Self::Text,
            Kind::Fixed64 if is_time(field) => Self::Time,
            Kind::Double => Self::Float,
            Kind::Message(_) => Self::Pairs,
            _ => Self::Int,
        }
    }

    fn fits(self, form: &Form) -> bool {
        match self {
            Self::Text => matches!(form, Form::Text),
            Self::Time => matches!(form, Form::Seconds | Form::Ticks(_)),
            Self::Int => matches!(form, Form::Int { .. } | Form::Bool | Form::Float64),
            Self::Float => matches!(form, Form::Float32 | Form::Float64),
            Self::Pairs => matches!(form, Form::Map),
        }
    }
}

/// Appends values behind each other; whether all of them are there as they were.
fn put_all<'a>(values: impl Iterator<Item = Scalar<'a>>, element: &Type, out: &mut Vec<u8>) -> bool {
    let mut exact = true;
    for value in values {
        exact &= element.put(&value, out);
    }
    exact
}

fn is_time(field: &Field) -> bool {
    field.name.ends_with("UnixNano")
}

/// The value of a field.
fn scalar<'a>(members: &Members<'a>, of: &'static Message, field: &'static Field) -> Scalar<'a> {
    match field.rule {
        Rule::OneOf if members.chosen(of) != Some(field.number) => return Scalar::Absent,
        Rule::Present if members.value(field.number).is_none() => return Scalar::Absent,
        _ => {}
    }
    match field.kind {
        Kind::Message(_) => Scalar::Pairs(members.each(field.number).collect()),
        Kind::String | Kind::Bytes => Scalar::Text(Cow::Borrowed(members.data(field.number))),
        Kind::Id { .. } => Scalar::Id(members.data(field.number)),
        _ => number(field, members.bits(field.number)),
    }
}

/// The number that these bits are in this field.
fn number(field: &Field, bits: u64) -> Scalar<'static> {
    match field.kind {
        Kind::Double => Scalar::Float(f64::from_bits(bits)),
        Kind::Int32 => Scalar::Int((bits as i32).into()),
        Kind::Int64 | Kind::Sfixed64 => Scalar::Int((bits as i64).into()),
        Kind::Uint32 => Scalar::Int((bits as u32).into()),
        Kind::Sint32 => Scalar::Int((((bits as u32) >> 1) as i32 ^ -((bits & 1) as i32)).into()),
        _ if is_time(field) => Scalar::Time(bits.into()),
        _ => Scalar::Int(bits.into()),
    }
}

/// A number that is a double in field `double` or an integer in field 6, as a double.
fn double(members: &Members<'_>, of: &'static Message, double: u32) -> Scalar<'static> {
    match members.chosen(of) {
        Some(6) => Scalar::Float(members.bits(6) as i64 as f64),
        Some(number) if number == double => Scalar::Float(f64::from_bits(members.bits(double))),
        _ => Scalar::Absent,
    }
}

/// As the exporter names them; one that the protocol does not know is its number.
fn span_kind(kind: u64) -> Cow<'static, [u8]> {
    named(&["Unspecified", "Internal", "Server", "Client", "Producer", "Consumer"], kind)
}

/// The same.
fn status(code: u64) -> Cow<'static, [u8]> {
    named(&["Unset", "Ok", "Error"], code)
}

fn named(names: &'static [&'static str], number: u64) -> Cow<'static, [u8]> {
    match usize::try_from(number).ok().and_then(|index| names.get(index)) {
        Some(name) => Cow::Borrowed(name.as_bytes()),
        None => Cow::Owned((number as i32).to_string().into_bytes()),
    }
}

/// Appends a text under its name.
pub(super) fn put_pair(name: &str, value: &[u8], out: &mut Vec<u8>) {
    put_text(name.as_bytes(), out);
    put_text(value, out);
}
