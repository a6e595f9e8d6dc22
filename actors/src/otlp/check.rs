//! Whether bytes are a request that every decoder of the protocol would take.

use super::{
    Signal,
    schema::{Field, Kind, Message, Rule},
    wire::{DEPTH_MAX, Fields, Value, WireError},
};

/// Checks a request: lengths, wire types, UTF-8 and depth, of every field that the protocol knows.
///
/// # Errors
/// Where a decoder would fail, and at which byte.
pub fn check(request: &[u8], signal: Signal) -> Result<(), WireError> {
    message(request, 0, signal.request(), 0)
}

fn message(bytes: &[u8], base: usize, of: &'static Message, depth: usize) -> Result<(), WireError> {
    if depth > DEPTH_MAX {
        return Err(WireError { offset: base, reason: "messages nest deeper than 100" });
    }
    // Encoders write fields in the order of the table, so the one looked for is the last one or soon behind it.
    let mut last = 0;
    for entry in Fields::of(bytes) {
        let entry = entry.map_err(|error| WireError { offset: base + error.offset, ..error })?;
        let is_it = |field: &Field| field.number == entry.number;
        let behind = of.fields[last..].iter().position(is_it).map(|index| last + index);
        let Some(index) = behind.or_else(|| of.fields[..last].iter().position(is_it)) else { continue };
        last = index;
        let field = &of.fields[index];
        let at = base + entry.start();
        let fits = match (field.kind, entry.value) {
            (Kind::Message(inner), Value::Bytes(bytes)) => {
                message(bytes, at, inner, depth + 1)?;
                true
            }
            (Kind::String, Value::Bytes(bytes)) => {
                let text = std::str::from_utf8(bytes);
                text.map_err(|e| WireError { offset: at + e.valid_up_to(), reason: "a text is not UTF-8" })?;
                true
            }
            (Kind::Bytes | Kind::Id { .. }, Value::Bytes(_)) => true,
            (Kind::Bool | Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Int64 | Kind::Uint64, value) => {
                match value {
                    Value::Varint(_) => true,
                    Value::Bytes(packed) if field.rule == Rule::Repeated => is_varints(packed),
                    _ => false,
                }
            }
            (Kind::Fixed64 | Kind::Sfixed64 | Kind::Double, value) => match value {
                Value::Fixed64(_) => true,
                Value::Bytes(packed) => field.rule == Rule::Repeated && packed.len().is_multiple_of(8),
                _ => false,
            },
            (Kind::Fixed32, value) => matches!(value, Value::Fixed32(_)),
            _ => false,
        };
        if !fits {
            let reason = "a field is written in another way than the protocol says";
            return Err(WireError { offset: base + entry.end - entry.raw.len(), reason });
        }
    }
    Ok(())
}

/// Whether the bytes are whole varints of at most ten bytes each.
fn is_varints(packed: &[u8]) -> bool {
    let mut length = 0;
    for byte in packed {
        length = if *byte < 0x80 { 0 } else { length + 1 };
        if length == 10 {
            return false;
        }
    }
    length == 0
}
