//! Events as the columns of a Parquet file.
//!
//! | column | type |
//! |---|---|
//! | `event_id`, `service`, `message` | string |
//! | `timestamp`, `ingested_at` | timestamp in microseconds, UTC: what every reader knows |
//! | `timestamp_nanos` | the event's time once more, in nanoseconds since 1970 |
//! | `metadata` | string of JSON; null where the event has none |

use std::sync::Arc;

use bytes::Bytes;
use forebay_actors::event::Event;
use parquet::{
    basic::{Compression, Encoding, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::{
        properties::{EnabledStatistics, WriterProperties},
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::{parser::parse_message_type, types::ColumnPath},
};

const SCHEMA: &str = "message event {
    required binary event_id (STRING);
    required int64 timestamp (TIMESTAMP(MICROS, true));
    required int64 timestamp_nanos;
    required binary service (STRING);
    required binary message (STRING);
    optional binary metadata (STRING);
    required int64 ingested_at (TIMESTAMP(MICROS, true));
}";

const MICRO_NANOS: i64 = 1_000;

/// Rows of a group: what a reader skips or takes whole.
const ROWS_PER_GROUP: usize = 256 * 1024;

/// Events, column by column.
#[derive(Debug, Default)]
pub(super) struct Columns {
    event_id: Texts,
    timestamp_nanos: Vec<i64>,
    service: Texts,
    message: Texts,
    metadata: Texts,
    /// 1 where an event has metadata, 0 where not.
    has_metadata: Vec<i16>,
    ingested_at: Vec<i64>,
}

/// Texts, one behind the other.
#[derive(Debug, Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
    }

    /// As the writer takes them, without a copy of any.
    fn values(self) -> Vec<ByteArray> {
        let bytes = Bytes::from(self.bytes);
        let mut begin = 0;
        let value = |end| ByteArray::from(bytes.slice(std::mem::replace(&mut begin, end)..end));
        self.ends.into_iter().map(value).collect()
    }
}

impl Columns {
    pub(super) fn push(&mut self, event: &Event<'_>) {
        self.event_id.push(event.event_id.to_string().as_bytes());
        self.timestamp_nanos.push(event.timestamp.nanos());
        self.service.push(event.service.as_bytes());
        self.message.push(event.message.as_bytes());
        if let Some(metadata) = event.metadata {
            self.metadata.push(metadata.as_bytes());
        }
        self.has_metadata.push(i16::from(event.metadata.is_some()));
        self.ingested_at.push(event.ingested_at.nanos().div_euclid(MICRO_NANOS));
    }

    /// The file.
    ///
    /// # Errors
    /// Where the writer refuses: that would be a bug.
    pub(super) fn finish(self) -> Result<Vec<u8>, ParquetError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties()?))?;
        let rows = self.has_metadata.len();
        let micros: Vec<_> = self.timestamp_nanos.iter().map(|nanos| nanos.div_euclid(MICRO_NANOS)).collect();
        let (ids, services) = (self.event_id.values(), self.service.values());
        let (messages, metadata) = (self.message.values(), self.metadata.values());
        let mut metadata = &metadata[..];
        for first in (0..rows).step_by(ROWS_PER_GROUP) {
            let of = first..rows.min(first + ROWS_PER_GROUP);
            let levels = &self.has_metadata[of.clone()];
            let present = levels.iter().filter(|level| **level == 1).count();
            let (these, behind) = metadata.split_at(present);
            metadata = behind;
            let mut group = writer.next_row_group()?;
            texts(&mut group, &ids[of.clone()], None)?;
            numbers(&mut group, &micros[of.clone()])?;
            numbers(&mut group, &self.timestamp_nanos[of.clone()])?;
            texts(&mut group, &services[of.clone()], None)?;
            texts(&mut group, &messages[of.clone()], None)?;
            texts(&mut group, these, Some(levels))?;
            numbers(&mut group, &self.ingested_at[of])?;
            group.close()?;
        }
        writer.into_inner()
    }
}

fn properties() -> Result<WriterProperties, ParquetError> {
    let times = ["timestamp", "timestamp_nanos", "ingested_at"];
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("forebay ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_dictionary_enabled(false)
        .set_column_dictionary_enabled(ColumnPath::from("service"), true)
        .set_statistics_enabled(EnabledStatistics::Chunk);
    for column in ["message", "metadata"] {
        // Nobody looks for a range of these, and the smallest message may be long.
        properties =
            properties.set_column_statistics_enabled(ColumnPath::from(column), EnabledStatistics::None);
    }
    for column in times {
        properties = properties.set_column_encoding(ColumnPath::from(column), Encoding::DELTA_BINARY_PACKED);
    }
    Ok(properties.build())
}

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

fn texts(group: &mut Group<'_>, values: &[ByteArray], levels: Option<&[i16]>) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.ok_or_else(no_column)?;
    column.typed::<ByteArrayType>().write_batch(values, levels, None)?;
    column.close()
}

fn numbers(group: &mut Group<'_>, values: &[i64]) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.ok_or_else(no_column)?;
    column.typed::<Int64Type>().write_batch(values, None, None)?;
    column.close()
}

fn no_column() -> ParquetError {
    ParquetError::General("the schema has fewer columns than are written".to_owned())
}

#[cfg(test)]
mod tests {
    use forebay_actors::event::{EventId, Timestamp};
    use parquet::{
        file::reader::{FileReader as _, SerializedFileReader},
        record::Field,
    };

    use super::*;

    fn event(message: &'static str, metadata: Option<&'static str>) -> Event<'static> {
        Event {
            event_id: EventId::Given("id-1"),
            timestamp: Timestamp::from_nanos(1_767_000_000_123_456_789),
            service: "api",
            message,
            metadata,
            ingested_at: Timestamp::from_nanos(-1),
        }
    }

    /// Every field comes back, also where metadata is missing here and there and times lie before 1970.
    #[test]
    fn every_field_comes_back() {
        let mut columns = Columns::default();
        columns.push(&event("h\u{e9}llo \u{1f680}", Some("{\"a\":null}")));
        columns.push(&event("", None));
        columns.push(&event("third", Some("{}")));
        let file = SerializedFileReader::new(Bytes::from(columns.finish().unwrap())).unwrap();
        let rows: Vec<Vec<Field>> = file
            .get_row_iter(None)
            .unwrap()
            .map(|row| row.unwrap().get_column_iter().map(|(_, field)| field.clone()).collect())
            .collect();
        let text = |text: &str| Field::Str(text.to_owned());
        let expected = |message: &str, metadata| {
            vec![
                text("id-1"),
                Field::TimestampMicros(1_767_000_000_123_456),
                Field::Long(1_767_000_000_123_456_789),
                text("api"),
                text(message),
                metadata,
                Field::TimestampMicros(-1),
            ]
        };
        assert_eq!(
            rows,
            [
                expected("h\u{e9}llo \u{1f680}", text("{\"a\":null}")),
                expected("", Field::Null),
                expected("third", text("{}"))
            ]
        );
    }

    /// More rows than a group has are in several, and none is lost at the edge.
    #[test]
    fn groups_hold_every_row() {
        let mut columns = Columns::default();
        let rows = ROWS_PER_GROUP + 10;
        for row in 0..rows {
            columns.push(&event("m", (row % 3 == 0).then_some("{}")));
        }
        let file = SerializedFileReader::new(Bytes::from(columns.finish().unwrap())).unwrap();
        let groups = file.metadata().row_groups();
        assert_eq!(groups.iter().map(|group| group.num_rows()).sum::<i64>(), rows as i64);
        assert_eq!(groups.len(), 2);
        let last = file.get_row_group(1).unwrap();
        let with_metadata = last
            .get_row_iter(None)
            .unwrap()
            .filter(|row| !matches!(row.as_ref().unwrap().get_column_iter().nth(5).unwrap().1, Field::Null))
            .count();
        assert_eq!(with_metadata, (ROWS_PER_GROUP..rows).filter(|row| row % 3 == 0).count());
    }
}
