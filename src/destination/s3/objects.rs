//! From a batch to objects: which events stand together, under which key, in which bytes.

use std::{collections::HashMap, io::Write as _};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use forebay_actors::{
    destination::DeliveryError,
    event::{Event, EventWriter, Timestamp},
    otlp::Signal,
    record::Batch,
};
use object_store::path::Path;

use super::{super::unreadable, columns::Columns};
use crate::config::{KeyParts, KeyTemplate, S3Format};

/// What `{signal}` is for an event that came as one.
const EVENTS: &str = "events";

const HOUR_NANOS: i64 = 3_600_000_000_000;

/// How batches become objects.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) template: KeyTemplate,
    /// What all keys begin with.
    pub(super) prefix: String,
    pub(super) format: S3Format,
    /// What tells this data directory's batches from those of any other.
    pub(super) stream: String,
}

/// One object to be written.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) key: Path,
    pub(super) body: Bytes,
}

/// Events that stand in one object.
struct Group {
    key: Path,
    body: Body,
}

/// Where the events of each signal, hour and service go: a key is only made for what is new. Several may have one key, as the
/// hours of a day where the key only tells days.
#[derive(Default)]
struct Places {
    known: HashMap<(&'static str, i64), HashMap<String, usize>>,
    by_key: HashMap<Path, usize>,
}

enum Body {
    Lines(Vec<u8>),
    Columns(Box<Columns>),
}

impl Recipe {
    /// The objects of a batch, in the order of their first events.
    ///
    /// # Errors
    /// [`Cause::Encode`](forebay_actors::destination::Cause::Encode) where a record is damaged.
    pub(super) fn objects(&self, batch: &Batch) -> Result<Vec<Object>, DeliveryError> {
        let object = |Group { key, body }: Group| {
            let body = body.finish().map_err(|why| unreadable(batch, &why))?;
            Ok(Object { key, body })
        };
        self.groups(batch)?.into_iter().map(object).collect()
    }

    /// A key below the prefix. What a key cannot have is escaped, slashes in names too.
    pub(super) fn within(&self, segments: impl IntoIterator<Item = String>) -> Path {
        let prefix = self.prefix.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned);
        prefix.chain(segments).collect()
    }

    fn groups(&self, batch: &Batch) -> Result<Vec<Group>, DeliveryError> {
        let span = batch.span();
        // Batches over the same positions need not be the same: a replay of them, what another sink with the same keys takes of
        // them, and what this one takes of them since its `when` or `fields` are others.
        let last = format!("{}{}", span.end.0 - 1, batch.id().mark());
        let key = |signal, service: &str, hour: i64| {
            self.within(self.template.render(&KeyParts {
                signal,
                service,
                time: Timestamp::from_nanos(hour.saturating_mul(HOUR_NANOS)),
                stream: &self.stream,
                first: span.first.0,
                last: &last,
                extension: self.format.extension(),
            }))
        };
        let (mut groups, mut places) = (Vec::<Group>::new(), Places::default());
        let (mut events, mut count, mut writer) = (batch.events(), 0, EventWriter::default());
        while let Some(event) = events.next_of() {
            let (signal, event) = event.map_err(|e| unreadable(batch, &e.to_string()))?;
            let (signal, service, hour) = self.of(signal, &event);
            let services = places.known.entry((signal, hour)).or_default();
            let at = match services.get(service) {
                Some(at) => *at,
                None => {
                    let at = *places.by_key.entry(key(signal, service, hour)).or_insert_with_key(|key| {
                        groups.push(Group { key: key.clone(), body: Body::new(self.format) });
                        groups.len() - 1
                    });
                    services.insert(service.to_owned(), at);
                    at
                }
            };
            groups[at].body.push(&event, &mut writer);
            count += 1;
        }
        // A record that holds fewer events than it says must not pass as delivered.
        if count == batch.count() {
            Ok(groups)
        } else {
            Err(unreadable(batch, &format!("only {count} are there")))
        }
    }

    /// What tells the event's group; the same for all where the key does not tell it.
    fn of<'e>(&self, signal: Option<Signal>, event: &Event<'e>) -> (&'static str, &'e str, i64) {
        (
            if self.template.is_by_signal() { signal.map_or(EVENTS, Signal::as_str) } else { "" },
            if self.template.is_by_service() { event.service } else { "" },
            if self.template.is_by_time() { event.timestamp.nanos().div_euclid(HOUR_NANOS) } else { 0 },
        )
    }
}

impl Body {
    fn new(format: S3Format) -> Self {
        match format {
            S3Format::Ndjson => Self::Lines(Vec::new()),
            S3Format::Parquet => Self::Columns(Box::default()),
        }
    }

    fn push(&mut self, event: &Event<'_>, writer: &mut EventWriter) {
        match self {
            Self::Lines(lines) => {
                writer.write(event, lines);
                lines.push(b'\n');
            }
            Self::Columns(columns) => columns.push(event),
        }
    }

    fn finish(self) -> Result<Bytes, String> {
        match self {
            Self::Lines(lines) => {
                // The fastest level, as everywhere: the next ones take twice the time for a tenth of the bytes.
                let mut packed = GzEncoder::new(Vec::with_capacity(lines.len() / 4), Compression::fast());
                let packed = packed.write_all(&lines).and_then(|()| packed.finish());
                packed.map(Bytes::from).map_err(|e| e.to_string())
            }
            Self::Columns(columns) => columns.finish().map(Bytes::from).map_err(|e| e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, io::Read as _};

    use forebay_actors::{
        event::{BlockBuilder, Draft, Stamp},
        projection::Projection,
        record::{Position, Record, Selection, Span},
    };

    use super::{super::super::test_batch, *};

    fn recipe(key: &str, format: S3Format) -> Recipe {
        Recipe { template: key.parse().unwrap(), prefix: "a/b".into(), format, stream: "ab12".into() }
    }

    /// A batch makes the same objects whenever it comes, and a replay of it others.
    #[test]
    fn p3_a_batch_has_one_set_of_keys() {
        let recipe = recipe(
            "{signal}/{service}/date=%Y-%m-%d/hour=%H/{stream}-{first}-{last}.{extension}",
            S3Format::Ndjson,
        );
        let batch = test_batch::at(100, 50);
        let first = recipe.objects(&batch).unwrap();
        let again = recipe.objects(&batch).unwrap();
        let keys: Vec<_> = first.iter().map(|object| object.key.to_string()).collect();
        assert_eq!(keys, ["a/b/events/api/date=2025-12-29/hour=09/ab12-100-149.ndjson.gz"]);
        assert_eq!(first[0].body, again[0].body);
        let replayed = recipe.objects(&batch.replayed(7)).unwrap();
        assert_eq!(replayed[0].key.filename(), Some("ab12-100-149-replay-0000000000000007.ndjson.gz"));
    }

    /// Scenario: two sinks write below one place with the same keys; of the same positions each takes other events, or other
    /// fields of them.
    /// Guarantee: each has its own objects. The one that came last overwrote the other's, and both said that all was delivered.
    #[test]
    fn r0550_sinks_with_the_same_keys_overwrote_each_other() {
        let recipe = recipe("{signal}/{stream}-{first}-{last}.{extension}", S3Format::Ndjson);
        let key = |batch: &Batch| recipe.objects(batch).unwrap()[0].key.to_string();
        let whole = test_batch::at(100, 50);
        let part = |positions: std::ops::Range<u64>| {
            let mut selection = Selection::none_of(whole.span());
            selection.insert(Span { first: Position(positions.start), end: Position(positions.end) });
            whole.clone().select(selection).unwrap()
        };
        let fields = |drop| whole.clone().with_fields(Projection::new(None, vec![drop], Vec::new()).into());
        let batches = [whole.clone(), part(100..120), part(110..150), fields("a"), fields("b")];
        let keys: HashSet<_> = batches.iter().map(key).collect();
        assert_eq!(keys.len(), batches.len(), "{keys:?}");
        assert_eq!(key(&part(100..120)), key(&part(100..120)), "what comes again has its key");
        assert_eq!(key(&part(100..150)), key(&whole), "all of it is no part");
    }

    /// Every event is in the object, as a line of its own.
    #[test]
    fn lines_hold_every_event() {
        let objects =
            recipe("{stream}-{first}-{last}", S3Format::Ndjson).objects(&test_batch::of(300)).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&objects[0].body[..]).read_to_string(&mut text).unwrap();
        let events: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((objects.len(), events.len()), (1, 300));
        assert_eq!(events[299]["message"], "event 299");
    }

    /// Scenario: a batch over two hours, and a key that tells only the day, the month or the year.
    /// Guarantee: one object with both. There was one for each hour, under one key, and the last one won.
    #[test]
    fn r0501_hours_of_one_key_overwrote_each_other() {
        let mut builder = BlockBuilder::default();
        for hour in [7, 8, 7] {
            let time = Timestamp::parse(&format!("2026-05-06T{hour:02}:30:00Z")).unwrap();
            builder.push(&Draft {
                event_id: None,
                timestamp: Some(time),
                service: "api",
                message: "m",
                metadata: None,
            });
        }
        let stamp = Stamp { first_id: uuid::Uuid::nil(), ingested_at: Timestamp::default() };
        let payload: Vec<u8> =
            builder.finish().into_iter().flat_map(|block| block.stamped(stamp).bytes().to_vec()).collect();
        let first = Position(0);
        let record = Record { first, count: 3, written_at: Timestamp::default(), payload: payload.into() };
        let batch = Batch::new(Span { first, end: record.end() }, vec![record.into()]);
        for (key, objects) in [("%d/", 1), ("%m/", 1), ("%Y/", 1), ("", 1), ("%H/", 2)] {
            let key = format!("{key}{{stream}}-{{first}}-{{last}}");
            let made = recipe(&key, S3Format::Ndjson).objects(&batch).unwrap();
            let keys: HashSet<_> = made.iter().map(|object| &object.key).collect();
            assert_eq!((made.len(), keys.len()), (objects, objects), "{key}");
            let lines = made.iter().map(|object| {
                let mut text = String::new();
                flate2::read::GzDecoder::new(&object.body[..]).read_to_string(&mut text).unwrap();
                text.lines().count()
            });
            assert_eq!(lines.sum::<usize>(), 3);
        }
    }

    /// A damaged record is a rejection, so that the sink halves its way to what is lost; never a smaller object.
    #[test]
    fn damage_makes_no_object() {
        for batch in [test_batch::damaged(), test_batch::short()] {
            assert!(recipe("{stream}-{first}-{last}", S3Format::Parquet).objects(&batch).is_err());
        }
    }
}
