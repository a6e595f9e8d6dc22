//! `google.protobuf.Struct` as the text of a JSON object.

use prost::Message as _;
use prost_types::{ListValue, Struct, Value, value::Kind};

/// Up to here every integer is a double of its own, and is written without a fraction.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The JSON text of an encoded `Struct`.
///
/// # Errors
/// Where it is none, nests deeper than protobuf's readers follow, or has a number that JSON does not have.
pub(super) fn json(encoded: &[u8]) -> Result<String, String> {
    let tree = Struct::decode(encoded).map_err(|error| {
        format!(
            "it is no google.protobuf.Struct, or nests more than 31 levels deep; metadata_json takes 64 ({error})"
        )
    })?;
    let mut out = String::with_capacity(encoded.len() * 2);
    object(&tree, &mut out)?;
    Ok(out)
}

fn object(tree: &Struct, out: &mut String) -> Result<(), String> {
    out.push('{');
    for (index, (key, value)) in tree.fields.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        string(key, out);
        out.push(':');
        write(value, out).map_err(|error| format!("at {key:?}: {error}"))?;
    }
    out.push('}');
    Ok(())
}

fn array(list: &ListValue, out: &mut String) -> Result<(), String> {
    out.push('[');
    for (index, value) in list.values.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(value, out)?;
    }
    out.push(']');
    Ok(())
}

fn write(value: &Value, out: &mut String) -> Result<(), String> {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => out.push_str("null"),
        Some(Kind::BoolValue(truth)) => out.push_str(if *truth { "true" } else { "false" }),
        Some(Kind::StringValue(text)) => string(text, out),
        Some(Kind::StructValue(tree)) => object(tree, out)?,
        Some(Kind::ListValue(list)) => array(list, out)?,
        Some(Kind::NumberValue(number)) if !number.is_finite() => {
            return Err(format!("the number is {number}, which JSON does not have"));
        }
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() <= EXACT_MAX => {
            out.push_str(&(*number as i64).to_string());
        }
        Some(Kind::NumberValue(number)) => out.push_str(&serde_json::json!(number).to_string()),
    }
    Ok(())
}

fn string(text: &str, out: &mut String) {
    out.push_str(&serde_json::to_string(text).expect("every string can be written as JSON"));
}
