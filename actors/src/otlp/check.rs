//! Whether bytes are a request that every decoder of the protocol would take.

use super::{
    Signal,
    schema::{Kind, Message, Rule},
    wire::{DEPTH_MAX, Fields, TOO_DEEP, Value, WireError},
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
        return Err(WireError { offset: base, reason: TOO_DEEP });
    }
    for entry in Fields::within(bytes, depth) {
        let entry = entry.map_err(|error| WireError { offset: base + error.offset, ..error })?;
        let Some(field) = of.field(entry.number) else {
            // Who does not know a field counts it as one level more, to be skipped.
            if depth == DEPTH_MAX {
                return Err(WireError { offset: base, reason: TOO_DEEP });
            }
            continue;
        };
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

/// Whether the bytes are whole varints of at most 64 bits each.
fn is_varints(packed: &[u8]) -> bool {
    let mut length = 0;
    for byte in packed {
        length += 1;
        // Of the tenth byte one bit is left.
        if length == 10 && *byte > 1 {
            return false;
        }
        if *byte < 0x80 {
            length = 0;
        }
    }
    length == 0
}
