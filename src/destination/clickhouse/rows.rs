//! Events as rows of `RowBinary`: each value in the bytes of its column's type, one behind the other.

use forebay_actors::{
    destination::DeliveryError,
    event::{Event, Timestamp},
    record::Batch,
};

use super::{
    super::unreadable,
    types::{Form, Scalar, Type, put_text},
};

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

/// A column to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    part: Part,
    declared: Type,
}

/// What stands for an event without metadata where the column knows no NULL.
const NO_METADATA: &str = "{}";

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
        let declared = Type::parse(declared)?;
        let is_nanos = matches!(part, Part::TimestampNanos | Part::IngestedAtNanos);
        let fits = match declared.form {
            Form::Text => !part.is_time(),
            Form::Int { bytes: 8, is_signed: true } => is_nanos,
            Form::Seconds | Form::Ticks(_) => part.is_time() && !is_nanos,
            _ => false,
        };
        fits.then_some(Self { part, declared })
    }

    fn write(&self, event: &Event<'_>, id: &[u8], out: &mut Vec<u8>) {
        let text: &[u8] = match self.part {
            Part::Timestamp | Part::TimestampNanos => return self.write_time(event.timestamp, out),
            Part::IngestedAt | Part::IngestedAtNanos => return self.write_time(event.ingested_at, out),
            Part::EventId => id,
            Part::Service => event.service.as_bytes(),
            Part::Message => event.message.as_bytes(),
            Part::Metadata => match event.metadata {
                None if self.declared.is_nullable => return out.push(1),
                metadata => metadata.unwrap_or(NO_METADATA).as_bytes(),
            },
        };
        if self.declared.is_nullable {
            out.push(0);
        }
        put_text(text, out);
    }

    /// What lies outside of the column's own time stands at its end; the column of nanoseconds has it as it is.
    fn write_time(&self, time: Timestamp, out: &mut Vec<u8>) {
        let nanos = i128::from(time.nanos());
        let is_time = matches!(self.declared.form, Form::Seconds | Form::Ticks(_));
        self.declared.put(&if is_time { Scalar::Time(nanos) } else { Scalar::Int(nanos) }, out);
    }
}

/// Writes every event of the batch, whatever it came as.
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
        push(&event, columns, &mut id, &mut out);
        count += 1;
    }
    // A record that holds fewer events than it says must not pass as delivered.
    if count == batch.count() { Ok(out) } else { Err(unreadable(batch, &format!("only {count} are there"))) }
}

/// Appends the row of one event; `id` is room for its id.
pub(super) fn push(event: &Event<'_>, columns: &[Column], id: &mut Vec<u8>, out: &mut Vec<u8>) {
    id.clear();
    event.event_id.write(id);
    columns.iter().for_each(|column| column.write(event, id, out));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_that_the_part_can_be_written_to() {
        for (part, declared) in [
            (Part::Service, "LowCardinality(String)"),
            (Part::Metadata, "Nullable(String)"),
            (Part::Timestamp, "DateTime64(6, 'UTC')"),
            (Part::Timestamp, "DateTime('UTC')"),
            (Part::TimestampNanos, "Int64"),
        ] {
            assert!(Column::of(part, declared).is_some(), "{declared}");
        }
        for (part, declared) in [
            (Part::Timestamp, "String"),
            (Part::Timestamp, "DateTime64(10)"),
            (Part::TimestampNanos, "DateTime"),
            (Part::TimestampNanos, "UInt64"),
            (Part::Message, "FixedString(9)"),
            (Part::Service, "Enum8('a' = 1)"),
            (Part::Metadata, "Map(String, String)"),
        ] {
            assert_eq!(Column::of(part, declared), None, "{declared}");
        }
    }
}
