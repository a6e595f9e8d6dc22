//! Events as rows of `RowBinary`: each value in the bytes of its column's type, one behind the other.

use forebay_actors::{
    destination::DeliveryError,
    event::{Event, Timestamp},
    record::Batch,
};

use super::super::unreadable;

/// What a column holds of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    EventId,
    Timestamp,
    TimestampNanos,
    Service,
    Message,
    Metadata,
    IngestedAt,
    IngestedAtNanos,
}

/// The types that a column may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    /// `String`, also of low cardinality: its length, and its bytes.
    Text,
    /// Seconds since 1970, 32 bits.
    Seconds,
    /// Since 1970 in units of this many nanoseconds, 64 bits.
    Ticks(i64),
}

/// A column to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) part: Part,
    pub(super) kind: Type,
    /// Whether a byte before the value says that there is one.
    pub(super) is_nullable: bool,
}

/// What stands for an event without metadata where the column knows no NULL.
const NO_METADATA: &str = "{}";

const SECOND_NANOS: i64 = 1_000_000_000;

impl Part {
    /// All of them, under the names of their columns; those that a table has to have first.
    pub(super) const ALL: [(&'static str, Self); 8] = [
        ("event_id", Self::EventId),
        ("timestamp", Self::Timestamp),
        ("service", Self::Service),
        ("message", Self::Message),
        ("metadata", Self::Metadata),
        ("timestamp_nanos", Self::TimestampNanos),
        ("ingested_at", Self::IngestedAt),
        ("ingested_at_nanos", Self::IngestedAtNanos),
    ];

    const fn is_time(self) -> bool {
        matches!(self, Self::Timestamp | Self::TimestampNanos | Self::IngestedAt | Self::IngestedAtNanos)
    }
}

impl Column {
    /// The column of this type, if values of the part can be written to it.
    pub(super) fn of(part: Part, declared: &str) -> Option<Self> {
        let inner = |text: &str, around: &str| {
            let inner = text.strip_prefix(around)?.strip_prefix('(')?.strip_suffix(')')?;
            Some(inner.to_owned())
        };
        let mut declared = declared.to_owned();
        if let Some(within) = inner(&declared, "LowCardinality") {
            declared = within;
        }
        let is_nullable = match inner(&declared, "Nullable") {
            Some(within) => {
                declared = within;
                true
            }
            None => false,
        };
        let nanos = matches!(part, Part::TimestampNanos | Part::IngestedAtNanos);
        let kind = match declared.as_str() {
            "String" if !part.is_time() => Type::Text,
            "Int64" if nanos => Type::Ticks(1),
            _ if !part.is_time() || nanos => return None,
            "DateTime" => Type::Seconds,
            other => match other.strip_prefix("DateTime64(") {
                Some(rest) => {
                    let digits = rest.split([',', ')']).next()?.trim().parse::<u32>().ok()?;
                    Type::Ticks(10_i64.checked_pow(9_u32.checked_sub(digits)?)?)
                }
                None if other.starts_with("DateTime(") => Type::Seconds,
                None => return None,
            },
        };
        Some(Self { part, kind, is_nullable })
    }

    fn write(self, event: &Event<'_>, id: &[u8], out: &mut Vec<u8>) {
        let text: &[u8] = match self.part {
            Part::Timestamp | Part::TimestampNanos => return self.write_time(event.timestamp, out),
            Part::IngestedAt | Part::IngestedAtNanos => return self.write_time(event.ingested_at, out),
            Part::EventId => id,
            Part::Service => event.service.as_bytes(),
            Part::Message => event.message.as_bytes(),
            Part::Metadata => match event.metadata {
                None if self.is_nullable => return out.push(1),
                metadata => metadata.unwrap_or(NO_METADATA).as_bytes(),
            },
        };
        if self.is_nullable {
            out.push(0);
        }
        put_length(text.len(), out);
        out.extend_from_slice(text);
    }

    fn write_time(self, time: Timestamp, out: &mut Vec<u8>) {
        if self.is_nullable {
            out.push(0);
        }
        match self.kind {
            Type::Ticks(nanos) => out.extend_from_slice(&time.nanos().div_euclid(nanos).to_le_bytes()),
            // What lies outside of 1970 to 2106 stands at its end; the column of nanoseconds has it as it is.
            Type::Seconds | Type::Text => {
                let seconds = time.nanos().div_euclid(SECOND_NANOS).clamp(0, i64::from(u32::MAX));
                out.extend_from_slice(&(seconds as u32).to_le_bytes());
            }
        }
    }
}

/// Writes the batch.
///
/// # Errors
/// [`Cause::Encode`](forebay_actors::destination::Cause::Encode) where a record is damaged.
pub(super) fn rows(batch: &Batch, columns: &[Column]) -> Result<Vec<u8>, DeliveryError> {
    // An id and two or four times are not spelled out in the record.
    let overhead = batch.count() as usize * (36 + 2 * 8 + columns.len() * 2);
    let mut out = Vec::with_capacity(batch.payload_bytes() + overhead);
    let mut id = Vec::new();
    let mut count = 0;
    let mut events = batch.events();
    while let Some(event) = events.next_event() {
        let event = event.map_err(|error| unreadable(batch, &error.to_string()))?;
        id.clear();
        event.event_id.write(&mut id);
        columns.iter().for_each(|column| column.write(&event, &id, &mut out));
        count += 1;
    }
    // A record that holds fewer events than it says must not pass as delivered.
    if count == batch.count() { Ok(out) } else { Err(unreadable(batch, &format!("only {count} are there"))) }
}

/// A length in LEB128.
fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_that_the_part_can_be_written_to() {
        let of = |part, declared| Column::of(part, declared).map(|column| (column.kind, column.is_nullable));
        assert_eq!(of(Part::Service, "LowCardinality(String)"), Some((Type::Text, false)));
        assert_eq!(of(Part::Metadata, "Nullable(String)"), Some((Type::Text, true)));
        assert_eq!(of(Part::Service, "LowCardinality(Nullable(String))"), Some((Type::Text, true)));
        assert_eq!(of(Part::Timestamp, "DateTime64(6, 'UTC')"), Some((Type::Ticks(1000), false)));
        assert_eq!(of(Part::Timestamp, "DateTime64(9)"), Some((Type::Ticks(1), false)));
        assert_eq!(of(Part::Timestamp, "DateTime('UTC')"), Some((Type::Seconds, false)));
        assert_eq!(of(Part::TimestampNanos, "Int64"), Some((Type::Ticks(1), false)));
        for (part, declared) in [
            (Part::Timestamp, "String"),
            (Part::Timestamp, "DateTime64(10)"),
            (Part::TimestampNanos, "DateTime"),
            (Part::Message, "FixedString(9)"),
            (Part::Service, "Enum8('a' = 1)"),
        ] {
            assert_eq!(of(part, declared), None, "{declared}");
        }
    }

    #[test]
    fn lengths_are_leb128() {
        for (length, bytes) in
            [(0, vec![0]), (127, vec![127]), (128, vec![0x80, 1]), (1 << 20, vec![0x80, 0x80, 0x40])]
        {
            let mut out = Vec::new();
            put_length(length, &mut out);
            assert_eq!(out, bytes);
        }
    }
}
