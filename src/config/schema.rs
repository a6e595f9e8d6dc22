//! The JSON Schema of a configuration file, for editors and for checks without Forebay.

use schemars::{
    Schema,
    generate::SchemaSettings,
    transform::{RecursiveTransform, Transform},
};
use serde_json::Value;

use super::Config;

/// What a value with a variable in it looks like in the file.
const VARIABLE: &str = r"\$\{";

/// The JSON Schema of a configuration file as it is written: before variables are substituted, so a whole
/// number may also be text with a variable in it, and a section whose keys are all commented out is null.
pub fn json_schema() -> Value {
    generate(SchemaSettings::draft2020_12())
}

/// The same without references, so that a key's description is found by walking down.
pub(super) fn inlined() -> Value {
    generate(SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true))
}

fn generate(settings: SchemaSettings) -> Value {
    let mut schema = settings.into_generator().into_root_schema_for::<Config>();
    RecursiveTransform(as_written).transform(&mut schema);
    schema.to_value()
}

fn as_written(schema: &mut Schema) {
    let types = match schema.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let with = |more: &str| Value::from(types.iter().copied().chain([more]).collect::<Vec<_>>());
    if types.contains(&"integer") && !types.contains(&"string") {
        let types = with("string");
        schema.insert("type".to_owned(), types);
        schema.insert("pattern".to_owned(), VARIABLE.into());
    } else if types == ["object"] && schema.get("required").is_none() && schema.get("oneOf").is_none() {
        let types = with("null");
        schema.insert("type".to_owned(), types);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key has a description, sections refuse other keys, and values with units are text or numbers.
    #[test]
    fn the_schema_describes_every_key() {
        fn walk(schema: &Value, path: &str) {
            if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
                for (key, property) in properties {
                    let described = property.get("description").is_some() || key == "type";
                    assert!(described, "{path}.{key} has no description");
                    walk(property, &format!("{path}.{key}"));
                }
            }
        }
        let schema = inlined();
        walk(&schema, "");
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["http"]["additionalProperties"], false);
        let size = &schema["properties"]["http"]["properties"]["max_body_bytes"];
        assert_eq!(size["type"], serde_json::json!(["string", "integer"]));
        assert_eq!(size["default"], "16MiB");
        let count = &schema["properties"]["batch"]["properties"]["max_events"];
        assert_eq!(count["type"], serde_json::json!(["integer", "string"]));
        let sink = &json_schema()["$defs"]["SinkConfig"];
        assert_eq!(sink["unevaluatedProperties"], false);
        assert_eq!(sink["properties"]["concurrency"]["default"], 1);
        assert_eq!(json_schema()["title"], "Config");
    }
}
