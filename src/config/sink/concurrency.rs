//! How many deliveries there may be at the same time, as a configuration says it.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A number, which is both, or bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// At least so many.
    pub min: usize,
    /// At most so many.
    pub max: usize,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Bounds {
    /// At least so many deliveries at the same time.
    #[serde(default = "one")]
    min: usize,
    /// At most so many deliveries at the same time.
    max: usize,
}

fn one() -> usize {
    1
}

impl From<usize> for Concurrency {
    fn from(number: usize) -> Self {
        Self { min: number, max: number }
    }
}

impl Serialize for Concurrency {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Self { min, max } = *self;
        if min == max { max.serialize(to) } else { Bounds { min, max }.serialize(to) }
    }
}

impl<'de> Deserialize<'de> for Concurrency {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ConcurrencyVisitor;

        impl<'de> Visitor<'de> for ConcurrencyVisitor {
            type Value = Concurrency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or { min: 1, max: 16 }")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Concurrency, E> {
                Ok(usize::try_from(number).unwrap_or(usize::MAX).into())
            }

            fn visit_map<A: MapAccess<'de>>(self, bounds: A) -> Result<Concurrency, A::Error> {
                let Bounds { min, max } = Bounds::deserialize(MapAccessDeserializer::new(bounds))?;
                Ok(Concurrency { min, max })
            }
        }

        from.deserialize_any(ConcurrencyVisitor)
    }
}

impl JsonSchema for Concurrency {
    fn schema_name() -> Cow<'static, str> {
        "Concurrency".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [generator.subschema_for::<usize>(), generator.subschema_for::<Bounds>()] })
    }
}
