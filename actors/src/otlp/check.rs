//! Whether bytes are a request that every decoder of the protocol would take.

use super::{
    Signal,
    schema::{Field, Kind, LOG_RECORD, Message, Rule, SPAN},
    wire::{DEPTH_MAX, Fields, TOO_DEEP, Value, WireError},
};

/// What a walk over a whole request has found on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Survey {
    /// Log records or spans; data points are not counted.
    pub items: u32,
    /// Own bytes of the largest of them.
    pub item_bytes_max: usize,
    /// Somewhere an id has neither its bytes nor none: worth a second look.
    pub has_odd_ids: bool,
}

/// Checks a request: lengths, wire types, UTF-8 and depth, of every field that the protocol knows.
///
/// # Errors
/// Where a decoder would fail, and at which byte.
pub fn check(request: &[u8], signal: Signal) -> Result<(), WireError> {
    survey(request, signal).map(drop)
}

/// The same, with what else shows in the same walk.
///
/// # Errors
/// As [`check`].
pub fn survey(request: &[u8], signal: Signal) -> Result<Survey, WireError> {
    let mut survey = Survey::default();
    message(request, 0, signal.request(), 0, &mut survey)?;
    Ok(survey)
}

impl Survey {
    /// Notes what is known of a message when it has been walked over.
    fn note(&mut self, of: &'static Message, bytes: usize) {
        if std::ptr::eq(of, &raw const SPAN) || std::ptr::eq(of, &raw const LOG_RECORD) {
            self.items += 1;
            self.item_bytes_max = self.item_bytes_max.max(bytes);
        }
    }
}

fn message(
    bytes: &[u8],
    base: usize,
    of: &'static Message,
    depth: usize,
    survey: &mut Survey,
) -> Result<(), WireError> {
    if depth > DEPTH_MAX {
        return Err(WireError { offset: base, reason: TOO_DEEP });
    }
    // Encoders write fields in the order of the table, so the one looked for is the last one or soon behind it.
    let mut last = 0;
    for entry in Fields::within(bytes, depth) {
        let entry = entry.map_err(|error| WireError { offset: base + error.offset, ..error })?;
        let is_it = |field: &Field| field.number == entry.number;
        let behind = of.fields[last..].iter().position(is_it).map(|index| last + index);
        let Some(index) = behind.or_else(|| of.fields[..last].iter().position(is_it)) else {
            // Who does not know a field counts it as one level more, to be skipped.
            if depth == DEPTH_MAX {
                return Err(WireError { offset: base, reason: TOO_DEEP });
            }
            continue;
        };
        last = index;
        let field = &of.fields[index];
        let at = base + entry.start();
        let fits = match (field.kind, entry.value) {
            (Kind::Message(inner), Value::Bytes(bytes)) => {
                message(bytes, at, inner, depth + 1, survey)?;
                true
            }
            (Kind::String, Value::Bytes(bytes)) => {
                // Most texts are short and ASCII, and seen to be so faster than they are decoded.
                let text = if bytes.is_ascii() { Ok("") } else { std::str::from_utf8(bytes) };
                text.map_err(|e| WireError { offset: at + e.valid_up_to(), reason: "a text is not UTF-8" })?;
                true
            }
            (Kind::Id { bytes: wanted }, Value::Bytes(id)) => {
                survey.has_odd_ids |= id.len() != wanted && !id.is_empty();
                true
            }
            (Kind::Bytes, Value::Bytes(_)) => true,
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
    survey.note(of, bytes.len());
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
