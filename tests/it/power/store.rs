//! The embedded event store after a power loss.

use std::{collections::BTreeSet, path::Path};

use bytes::Bytes;
use forebay::{
    data_dir::{self, DataDir},
    store::{Reader, Writer},
};
use forebay_actors::{
    event::{BlockBuilder, Draft, Stamp, Timestamp},
    record::{Batch, Position, Record, Span},
};

use super::{Notes, attack, noise, recorded_place, seed, test_name};
use crate::support::thorough;

/// An hour apart, so that retention deletes some and keeps some.
fn time_of(number: u64) -> Timestamp {
    Timestamp::from_nanos(i64::try_from(number).unwrap() * 3_600_000_000_000)
}

fn batch(numbers: &[u64]) -> Batch {
    let mut builder = BlockBuilder::default();
    for number in numbers {
        let message = message(*number);
        let (id, timestamp) = (number.to_string(), Some(time_of(*number)));
        builder.push(&Draft {
            event_id: Some(&id),
            timestamp,
            service: "s",
            message: &message,
            metadata: None,
        });
    }
    let stamp = Stamp { first_id: uuid::Uuid::nil(), ingested_at: Timestamp::default() };
    let blocks = builder.finish().into_iter().map(|block| block.stamped(stamp).bytes().to_vec());
    let payload = Bytes::from(blocks.collect::<Vec<_>>().concat());
    let (first, count) = (Position(numbers[0]), u32::try_from(numbers.len()).unwrap());
    let record = Record { first, count, written_at: Timestamp::default(), payload };
    Batch::new(Span { first, end: record.end() }, vec![record.into()])
}

fn message(number: u64) -> String {
    let mut random = fastrand::Rng::with_seed(number);
    let bytes = if random.u8(..4) == 0 { random.usize(10_000..60_000) } else { random.usize(..2_000) };
    noise(&mut random, bytes).to_owned()
}

/// The recorded process: it stores batches, deletes the oldest, and opens the store again.
fn work(place: &Path) {
    let notes = Notes::open(place);
    let mut random = fastrand::Rng::with_seed(seed());
    let mut next = 1;
    for _ in 0..3 {
        let data_dir = DataDir::open(&place.join("data")).unwrap();
        let mut writer = Writer::open(&data_dir::store(data_dir.path())).unwrap();
        for _ in 0..thorough(12, 40) {
            let count = random.u64(1..30);
            writer.insert(&batch(&(next..next + count).collect::<Vec<_>>())).unwrap();
            notes.say(format!("stored {next} {count}"));
            next += count;
            if random.u8(..6) == 0 {
                let before = next.saturating_sub(random.u64(20..200)).max(1);
                notes.say(format!("deleting {before}"));
                writer.delete_before(time_of(before), 1_000).unwrap();
                notes.say(format!("deleted {before}"));
            }
        }
    }
}

#[derive(Default)]
struct Promised {
    stored: BTreeSet<u64>,
    deleting: u64,
    deleted: u64,
}

impl Promised {
    fn of<'a>(notes: impl Iterator<Item = &'a str>) -> Self {
        let mut promised = Self::default();
        for note in notes {
            let words: Vec<_> = note.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            match words[0] {
                "stored" => promised.stored.extend(number(1)..number(1) + number(2)),
                "deleting" => promised.deleting = promised.deleting.max(number(1)),
                "deleted" => promised.deleted = promised.deleted.max(number(1)),
                _ => panic!("not understood: {note}"),
            }
        }
        promised
    }

    fn compare(&self, path: &Path) {
        let data_dir = DataDir::open(path).unwrap();
        let store = data_dir::store(data_dir.path());
        let mut writer = Writer::open(&store).unwrap();
        let new = 1_000_000;
        writer.insert(&batch(&[new])).unwrap();
        drop(writer);
        let connection = rusqlite::Connection::open(&store).unwrap();
        let whole: String = connection.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
        let mut statement = connection.prepare("SELECT event_id, message FROM events").unwrap();
        let rows =
            statement.query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
        let mut found = BTreeSet::new();
        for row in rows {
            let (id, text) = row.unwrap();
            let number = id.parse().unwrap();
            assert!(text == message(number), "event {number} is not what was stored");
            assert!(found.insert(number), "event {number} is there twice");
        }
        assert!(found.remove(&new));
        let lost: Vec<_> =
            self.stored.range(self.deleting..).filter(|number| !found.contains(number)).collect();
        assert!(lost.is_empty(), "stored and gone: {lost:?}");
        assert_eq!(found.range(..self.deleted).next(), None, "deleted and back");
        assert_eq!(
            Reader::new(&store).count_total().unwrap(),
            found.len() as u64 + 1,
            "the counts are those of the rows"
        );
    }
}

/// Scenario: a process stores batches, deletes old events and starts again, and the power goes at any sync.
/// Guarantee: the store opens and is whole, has every batch whose commit returned (the cursor may have passed it), nothing
/// deleted comes back, and its counts are those of its rows.
#[test]
fn p2_power_loss_costs_the_store_nothing() {
    if let Some(place) = recorded_place() {
        return work(&place);
    }
    attack(test_name!(p2_power_loss_costs_the_store_nothing), 12, thorough(1, 2), |path, notes| {
        Promised::of(notes).compare(path);
    });
}
