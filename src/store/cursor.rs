//! Where a page ended: opaque text for clients, a place in the order (timestamp, id) for us.

use std::{fmt, str::FromStr};

use super::QueryError;

/// The direction of a walk through the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// From the latest to the earliest.
    #[default]
    Newest,
    /// From the earliest to the latest.
    Oldest,
}

/// The event a page ended with; the next page begins behind it. It stays good whatever is inserted or
/// deleted, that event included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub(super) order: Order,
    pub(super) timestamp: i64,
    pub(super) id: i64,
}

const VERSION: u8 = 1;
const PLACE_BYTES: usize = 18;
const TEXT_BYTES: usize = PLACE_BYTES + size_of::<u32>();

// === impl Order ===

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Newest => "newest",
            Self::Oldest => "oldest",
        })
    }
}

// === impl Cursor ===

impl Cursor {
    fn place(&self) -> [u8; PLACE_BYTES] {
        let mut place = [0; PLACE_BYTES];
        place[0] = VERSION;
        place[1] = match self.order {
            Order::Newest => 0,
            Order::Oldest => 1,
        };
        place[2..10].copy_from_slice(&self.timestamp.to_be_bytes());
        place[10..].copy_from_slice(&self.id.to_be_bytes());
        place
    }
}

/// The text: version, order, timestamp, id and a checksum of them, in hexadecimal digits.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place();
        place.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "{:08x}", crc32fast::hash(&place))
    }
}

impl FromStr for Cursor {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let invalid = || QueryError::Cursor(text.chars().take(2 * TEXT_BYTES).collect());
        let bytes = from_hex(text).ok_or_else(invalid)?;
        let number = |at: usize| bytes[at..].first_chunk().map(|n| i64::from_be_bytes(*n));
        let order = if bytes[1] == 0 { Order::Newest } else { Order::Oldest };
        let (timestamp, id) = number(2).zip(number(10)).ok_or_else(invalid)?;
        let cursor = Self { order, timestamp, id };
        // One text for each cursor: whatever would not be written like this was not written by us.
        if cursor.to_string() == text { Ok(cursor) } else { Err(invalid()) }
    }
}

fn from_hex(text: &str) -> Option<[u8; TEXT_BYTES]> {
    let mut bytes = [0; TEXT_BYTES];
    if text.len() != 2 * TEXT_BYTES || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every cursor survives the way through its text.
    #[test]
    fn text_round_trips() {
        for order in [Order::Newest, Order::Oldest] {
            for (timestamp, id) in [(0, 1), (i64::MIN, i64::MAX), (i64::MAX, i64::MIN), (-1, 42)] {
                let cursor = Cursor { order, timestamp, id };
                assert_eq!(cursor.to_string().parse(), Ok(cursor));
            }
        }
    }

    /// A text that was cut, changed in any one place, or made up is refused, never taken for another place.
    #[test]
    fn any_other_text_is_refused() {
        let text = Cursor { order: Order::Newest, timestamp: 1_700_000_000_000_000_000, id: 77 }.to_string();
        for at in 0..text.len() {
            let other = if &text[at..=at] == "0" { "1" } else { "0" };
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(matches!(changed.parse::<Cursor>(), Err(QueryError::Cursor(_))), "{changed}");
            assert!(text[..at].parse::<Cursor>().is_err());
        }
        for made_up in ["", "newest", &"\u{e9}".repeat(22), &text.to_uppercase(), &"f".repeat(10_000)] {
            let error = made_up.parse::<Cursor>().unwrap_err();
            assert!(error.to_string().len() < 200, "an error does not repeat everything it was given");
        }
    }
}
