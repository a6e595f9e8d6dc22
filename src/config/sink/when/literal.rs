//! Values to compare with, and lists that may be their only element.

use std::{borrow::Cow, fmt, marker::PhantomData};

use forebay_actors::{
    condition::{Field, Number, Operand},
    event::Timestamp,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IntoDeserializer, SeqAccess, Visitor, value::SeqAccessDeserializer},
};

/// A value to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    /// As 500.
    Number(Number),
    /// true or false.
    Truth(bool),
    /// Anything else, and whatever is quoted.
    Text(String),
}

// === impl Literal ===

impl Literal {
    pub(super) fn operand(&self, field: &Field) -> Result<Operand, String> {
        match self {
            _ if field.is_time() => self.time(),
            Self::Number(number) => Ok(Operand::Number(*number)),
            Self::Truth(truth) => Ok(Operand::Truth(*truth)),
            Self::Text(text) => Ok(Operand::Text(text.as_str().into())),
        }
    }

    /// What has an order: a variable may have had to be quoted.
    pub(super) fn ordered(&self, field: &Field) -> Result<Operand, String> {
        match self {
            _ if field.is_time() => self.time(),
            Self::Number(number) => Ok(Operand::Number(*number)),
            Self::Text(text) if let Some(number) = Number::parse(text) => Ok(Operand::Number(number)),
            Self::Truth(_) | Self::Text(_) => Err(format!("is {self}; it should be a number")),
        }
    }

    fn time(&self) -> Result<Operand, String> {
        let time = match self {
            Self::Text(text) => Timestamp::parse(text).ok(),
            Self::Number(_) | Self::Truth(_) => None,
        };
        let wrong = || format!("is {self}; it should be a time like 2026-01-31T08:00:00Z");
        time.map(Operand::Time).ok_or_else(wrong)
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Truth(truth) => truth.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl Serialize for Literal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(Number::Whole(number)) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => to.serialize_i64(number),
                (_, Ok(number)) => to.serialize_u64(number),
                _ => to.serialize_f64(*number as f64),
            },
            Self::Number(Number::Decimal(number)) => to.serialize_f64(*number),
            Self::Truth(truth) => to.serialize_bool(*truth),
            Self::Text(text) => to.serialize_str(text),
        }
    }
}

impl JsonSchema for Literal {
    fn schema_name() -> Cow<'static, str> {
        "Literal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

impl<'de> Deserialize<'de> for Literal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct LiteralVisitor;

        impl Visitor<'_> for LiteralVisitor {
            type Value = Literal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, true or false")
            }

            fn visit_bool<E: Error>(self, truth: bool) -> Result<Literal, E> {
                Ok(Literal::Truth(truth))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Literal, E> {
                Ok(Literal::Number(Number::Whole(number.into())))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Literal, E> {
                Ok(Literal::Number(Number::Whole(number.into())))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Literal, E> {
                Ok(Literal::Number(Number::Decimal(number)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Literal, E> {
                Ok(Literal::Text(text.to_owned()))
            }
        }

        from.deserialize_any(LiteralVisitor)
    }
}

/// What the schema says of a list that may be its only element.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

pub(super) fn one_or_many<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Vec<T>>, D::Error> {
    struct OneOrManyVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
        type Value = Option<Vec<T>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text, or a list like [a, b]")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            T::deserialize(text.into_deserializer()).map(|one| Some(vec![one]))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(items)).map(Some)
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }

    from.deserialize_any(OneOrManyVisitor(PhantomData))
}
