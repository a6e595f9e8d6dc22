//! The journal, piece by piece: what it promises.

mod regressions;

use std::{fs, path::Path};

use tempfile::TempDir;

use super::*;
use crate::{
    event::{BlockBuilder, Draft, Events, IdSource, Stamp},
    runtime::clock::Clock,
};

pub(super) fn clock() -> Clock {
    Clock::from_fn(|| Timestamp::from_nanos(1_700_000_000_000_000_000))
}

/// Blocks of `messages`, one event each message.
pub(super) fn blocks(messages: &[String]) -> Vec<Stamped> {
    let mut builder = BlockBuilder::default();
    for message in messages {
        builder.push(&Draft { event_id: None, timestamp: None, service: "s", message, metadata: None });
    }
    let now = clock().now();
    let stamp = |count| Stamp { first_id: IdSource::new(1).first_of(count, now), ingested_at: now };
    builder
        .finish()
        .into_iter()
        .map(|block| {
            let count = block.count();
            block.stamped(stamp(count))
        })
        .collect()
}

/// Text that lz4 cannot shrink much.
pub(super) fn noise(seed: u64, bytes: usize) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push_str(&format!("{:016x}", random.u64(..)));
    }
    text.truncate(bytes);
    text
}

pub(super) fn open(dir: &Path, generation_bytes: u64) -> SledJournal {
    SledJournal::with_generation_bytes(dir, Durability::Fsync, Position(0), clock(), generation_bytes)
        .unwrap()
}

/// Every message from `from` on, with its position; damaged spans as `None`.
pub(super) fn read_all(journal: &dyn Journal, mut from: Position) -> Vec<(u64, Option<String>)> {
    let mut all = Vec::new();
    loop {
        let pieces = journal.read(from, 300_000).unwrap();
        let Some(last) = pieces.last() else { return all };
        let end = last.end();
        for piece in pieces {
            match piece {
                Piece::Record(record) => {
                    let (mut events, mut next) = (Events::new(&record.payload), record.first.0);
                    while let Some(event) = events.next_event() {
                        let position = next;
                        next += 1;
                        if position >= from.0 {
                            all.push((position, Some(event.unwrap().message.to_owned())));
                        }
                    }
                }
                Piece::Damaged(span) | Piece::Removed(span) => all.push((span.first.0, None)),
            }
        }
        from = end;
    }
}

/// What is committed is read back after reopening, over many generations, large and incompressible included.
#[test]
fn committed_events_survive_reopening() {
    let dir = TempDir::new().unwrap();
    let mut expected = Vec::new();
    for round in 0..4 {
        let journal = open(dir.path(), 400_000);
        for i in 0..5 {
            let messages: Vec<_> = [10, 1_000, 90_000, 300_000 * (i % 2), 1_500_000 * (i / 4)]
                .iter()
                .map(|&bytes| noise(round * 10 + i as u64, bytes))
                .collect();
            journal.commit(&blocks(&messages)).unwrap();
            expected.extend(messages);
        }
        let found: Vec<_> = read_all(&journal, Position(0)).into_iter().map(|(_, m)| m.unwrap()).collect();
        assert_eq!(found.len(), expected.len());
        assert!(found == expected, "round {round}: the messages differ");
    }
    assert!(open(dir.path(), 400_000).usage().generations > 8);
}

/// Commits that overlap keep their order, come back whole, and never share a position, over many generations.
#[test]
fn overlapping_commits_stay_whole_and_in_order() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path(), 300_000);
    let committed: Vec<_> = std::thread::scope(|scope| {
        let commit = |thread: u64| {
            let one = |i| {
                let messages = [noise(thread * 100 + i, 30_000), noise(thread * 100 + i, 10)];
                let records = journal.commit(&blocks(&messages)).unwrap();
                assert!(records[0].end() <= journal.span().end, "a commit that returned is not shown");
                (records[0].first.0, messages)
            };
            (0..25).map(one).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || commit(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut expected: Vec<_> =
        committed.into_iter().flat_map(|(first, [a, b])| [(first, Some(a)), (first + 1, Some(b))]).collect();
    expected.sort();
    assert!(read_all(&journal, Position(0)) == expected, "the events differ");
    drop(journal);
    assert!(
        read_all(&open(dir.path(), 300_000), Position(0)) == expected,
        "the events differ after reopening"
    );
}

/// An old generation whose records are all whole is read from its log: whoever lags pays for no sled of its own. The lock
/// stands for sled here, which could not open the directory twice.
#[test]
fn an_old_generation_is_read_without_sled() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path(), 100_000);
    let messages: Vec<_> = (0..6).map(|i| noise(i, 60_000)).collect();
    messages.iter().for_each(|message| drop(journal.commit(&blocks(std::slice::from_ref(message))).unwrap()));
    // A thread of sled's may still hold it for a moment: this waits.
    let locked = fs::File::open(dir.path().join(format!("{:020}/db", 0))).unwrap();
    locked.lock().unwrap();
    let found: Vec<_> = read_all(&journal, Position(0)).into_iter().map(|(_, m)| m.unwrap()).collect();
    drop(locked);
    assert!(found == messages, "the messages differ");
}

/// sled must never write a value to a file of its own: it would not be synced.
#[test]
fn no_value_becomes_a_blob_file() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path(), u64::MAX);
    for i in 0..60 {
        journal.commit(&blocks(&[noise(i, 100_000)])).unwrap();
    }
    let generation = dir.path().join(format!("{:020}", 0));
    let blobs = fs::read_dir(generation.join("blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
    let usage = journal.usage();
    assert!(usage.disk_bytes < usage.stored_bytes * 3 / 2, "{usage:?}");
}

/// P8: a flipped bit costs the record it is in, which is put aside; everything else is read.
#[test]
fn p8_a_flipped_bit_costs_one_record_and_reading_goes_on() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path(), u64::MAX);
    for i in 0..30 {
        journal.commit(&blocks(&[noise(i, 50_000)])).unwrap();
    }
    drop(journal);
    let log = dir.path().join(format!("{:020}", 0)).join("db");
    let mut bytes = fs::read(&log).unwrap();
    // Nearly all of the file is the bodies of records, so its middle lies in one.
    let at = 700_000;
    bytes[at] ^= 4;
    fs::write(&log, bytes).unwrap();

    let journal = open(dir.path(), u64::MAX);
    let found = read_all(&journal, Position(0));
    let whole = found.iter().filter(|(_, message)| message.is_some()).count();
    assert_eq!(
        whole,
        29,
        "one record is damaged, all others are read: {:?}",
        found.iter().map(|(p, m)| (p, m.is_some())).collect::<Vec<_>>()
    );
    assert_eq!(journal.span().end, Position(30), "no position is given twice");
    assert!(journal.usage().damaged >= 1);
}

/// P8: a generation that sled cannot open is put aside; new events are taken and read.
#[test]
fn p8_a_destroyed_generation_is_put_aside() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path(), 100_000);
    for i in 0..6 {
        journal.commit(&blocks(&[noise(i, 90_000)])).unwrap();
    }
    drop(journal);
    let second = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).min().unwrap();
    fs::write(second.join("conf"), b"nonsense").unwrap();
    fs::write(second.join("db"), vec![7; 4096]).unwrap();

    let journal = open(dir.path(), 100_000);
    journal.commit(&blocks(&["new".to_owned()])).unwrap();
    let found = read_all(&journal, Position(0));
    assert!(found.first().is_some_and(|(_, message)| message.is_none()), "{:?}", found.first());
    assert_eq!(found.last().unwrap().1.as_deref(), Some("new"));
}

/// Scenario: a log of three generations is read, the second when it was prepared and has no files any more.
/// Guarantee: a read opens no generation but the first it needs, so that who prepares has done all that others wait for; and
/// what is prepared is read as it was opened.
#[test]
fn what_is_prepared_is_not_opened_again() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path(), 60_000);
    for i in 0..9 {
        journal.commit(&blocks(&[noise(i, 25_000)])).unwrap();
    }
    let read = |from| journal.read(Position(from), usize::MAX).unwrap();
    assert_eq!(read(0).last().map(Piece::end), Some(Position(3)), "the second is not open");
    journal.prepare(Position(3));
    fs::remove_dir_all(dir.path().join(format!("{:020}", 3))).unwrap();
    let pieces = read(3);
    assert!(pieces.iter().all(|piece| piece.record().is_some()), "{} pieces", pieces.len());
    assert_eq!(pieces.last().map(Piece::end), Some(Position(9)), "the newest is always open");
}

/// A cursor that is ahead of what a crash left (`interval` mode) never sees a position twice.
#[test]
fn positions_are_not_reused_below_the_floor() {
    let dir = TempDir::new().unwrap();
    open(dir.path(), u64::MAX).commit(&blocks(&["a".to_owned()])).unwrap();
    let floor = Position(50);
    let journal = SledJournal::open(dir.path(), Durability::Fsync, floor, clock()).unwrap();
    let records = journal.commit(&blocks(&["b".to_owned()])).unwrap();
    assert_eq!(records[0].first, floor);
    assert_eq!(
        read_all(&journal, Position(0)),
        [(0, Some("a".to_owned())), (1, None), (50, Some("b".to_owned()))]
    );
}
