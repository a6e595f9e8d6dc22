//! The journal, piece by piece: what it promises, and what was broken once.

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
fn read_all(journal: &dyn Journal, mut from: Position) -> Vec<(u64, Option<String>)> {
    let mut all = Vec::new();
    loop {
        let pieces = journal.read(from, 300_000).unwrap();
        let Some(last) = pieces.last() else { return all };
        let end = last.end();
        for piece in pieces {
            match piece {
                Piece::Record(record) => {
                    for (i, event) in Events::new(&record.payload).enumerate() {
                        let position = record.first.0 + i as u64;
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

/// Scenario: logs of every length around the mebibyte in which they are looked through.
/// Guarantee: a whole journal is found whole. Records that began in the last window's margin were taken for missing.
#[test]
fn r0008_the_end_of_a_log_was_taken_for_damaged() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path(), u64::MAX);
    for i in 0..60 {
        journal.commit(&blocks(&[noise(i, 60_000)])).unwrap();
        let found = verify(dir.path()).unwrap();
        assert_eq!((found.events, found.damaged), (i + 1, 0));
    }
}

/// Scenario: the witness of the newest generation holds zeros, as after a power loss, or any other number.
/// Guarantee: the journal opens, and no position is given twice. It panicked, or had no positions left to give.
#[test]
fn r0302_a_witness_of_zeros_kept_the_journal_from_opening() {
    for witness in [0, 1, u64::MAX] {
        let dir = TempDir::new().unwrap();
        open(dir.path(), u64::MAX).commit(&blocks(&["a".to_owned(), "b".to_owned()])).unwrap();
        // The second opening begins a generation at 2, so that a witness can say less than where it began.
        open(dir.path(), u64::MAX).commit(&blocks(&["c".to_owned()])).unwrap();
        fs::write(dir.path().join(format!("{:020}", 2)).join("head"), u64::to_be_bytes(witness)).unwrap();
        assert_eq!(verify(dir.path()).unwrap().damaged, 0);

        let journal = open(dir.path(), u64::MAX);
        assert_eq!(journal.span().end, Position(3));
        let found: Vec<_> = read_all(&journal, Position(0)).into_iter().map(|(_, m)| m.unwrap()).collect();
        assert_eq!(found, ["a", "b", "c"]);
    }
}

/// Scenario: the log of the newest generation is gone.
/// Guarantee: the journal opens without it, and what is new follows behind what was lost. It did not open any more.
#[test]
fn r0303_a_missing_log_kept_the_journal_from_opening() {
    let dir = TempDir::new().unwrap();
    for message in ["a", "b"] {
        open(dir.path(), u64::MAX).commit(&blocks(&[message.to_owned()])).unwrap();
    }
    fs::remove_file(dir.path().join(format!("{:020}", 1)).join("db")).unwrap();

    let journal = open(dir.path(), u64::MAX);
    journal.commit(&blocks(&["new".to_owned()])).unwrap();
    let expected = [(0, Some("a".to_owned())), (1, None), (2, Some("new".to_owned()))];
    assert_eq!(read_all(&journal, Position(0)), expected);
    assert_eq!(journal.usage().damaged, 2, "the generation, and its gap for who reads");
}

/// Scenario: somebody deletes a generation while the journal is open.
/// Guarantee: its positions are a gap, and reading goes on behind it. It failed at that place again and again.
#[test]
fn r0306_a_deleted_generation_stopped_the_reading() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path(), 1);
    for message in ["a", "b", "c"] {
        journal.commit(&blocks(&[message.to_owned()])).unwrap();
    }
    fs::remove_dir_all(dir.path().join(format!("{:020}", 1))).unwrap();
    let expected = [(0, Some("a".to_owned())), (1, None), (2, Some("c".to_owned()))];
    assert_eq!(read_all(&journal, Position(0)), expected);
}

/// Scenario: a client sends events whose text is a whole record at another event's place, or a further chunk of one.
/// Guarantee: they are events like any other. Such a text stood where the other event's bytes were looked for.
#[test]
fn r0304_a_record_within_an_event_was_taken_for_one() {
    // Without zeros and repetitions, or the text would be compressed and stand nowhere.
    let first = Position(0x0102_0304_0506_0708);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok();
    let record = |nanos: i64| {
        let (written_at, payload) =
            (Timestamp::from_nanos(0x1112_1314_1516_1718 + nanos), "f".repeat(90).into());
        text(
            stored::encode(&Record { first, count: 0x2122_2324, written_at, payload }, &mut Vec::new())
                .to_vec(),
        )
    };
    // One whose checksum happens to be text, too.
    let forged_record = (0..200).find_map(record).expect("one of so many checksums is text");
    let forged_chunk = "FBRc".to_owned() + &text(stored::key(first.plus(1), 1).to_vec()).unwrap();
    let dir = TempDir::new().unwrap();
    let at_first = || {
        SledJournal::with_generation_bytes(dir.path(), Durability::Fsync, first, clock(), u64::MAX).unwrap()
    };
    let journal = at_first();
    let mut messages = vec!["a".to_owned(), format!("{forged_chunk}{}", noise(7, 150_000))];
    messages.extend([forged_record.clone(), forged_chunk.clone(), "c".to_owned()]);
    messages.iter().for_each(|message| drop(journal.commit(&blocks(std::slice::from_ref(message))).unwrap()));
    drop(journal);
    let log = fs::read(dir.path().join(format!("{:020}", first.0)).join("db")).unwrap();
    for forged in [&forged_record, &forged_chunk] {
        assert!(
            memchr::memmem::find(&log, forged.as_bytes()).is_some(),
            "it is stored as the client wrote it"
        );
    }

    let found = verify(dir.path()).unwrap();
    assert_eq!((found.events, found.damaged), (5, 0));
    let found: Vec<_> = read_all(&at_first(), first).into_iter().map(|(_, m)| m.unwrap()).collect();
    assert!(found == messages, "the messages differ");
    assert!(!dir.path().join("quarantine").exists(), "nothing was damaged");
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

/// Three generations of three commits each; their directories, oldest first.
fn three_generations(dir: &Path) -> Vec<std::path::PathBuf> {
    let journal = open(dir, 60_000);
    for i in 0..9 {
        journal.commit(&blocks(&[noise(i, 25_000)])).unwrap();
    }
    let mut generations: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    generations.sort();
    assert_eq!(generations.len(), 3);
    generations
}

/// Scenario: after a power loss the witness, which is not synced, is empty, or zeros as long as it was, or anything.
/// Guarantee: it is not believed: everything is read, and positions go on behind it. Zeros were taken for the position 0,
/// and the process did not start any more.
#[test]
fn r0301_a_witness_of_zeros_stopped_every_start() {
    for witness in [&[][..], &[0; 8], &[0; 12], &[0xff; 12], &[7; 40]] {
        let dir = TempDir::new().unwrap();
        let newest = three_generations(dir.path()).pop().unwrap();
        fs::write(newest.join("head"), witness).unwrap();
        let journal = open(dir.path(), 60_000);
        assert_eq!(journal.span(), Span { first: Position(0), end: Position(9) }, "{witness:?}");
        assert!(read_all(&journal, Position(0)).iter().all(|(_, message)| message.is_some()));
        assert_eq!(verify(dir.path()).unwrap().damaged, 0);
    }
}

/// Scenario: a crash comes while the next generation is made: its directory is there, and of its files none, or some.
/// Guarantee: it counts as not begun. Without its log the process did not start any more, and with half of its settings four
/// milliards of positions were skipped and reported as lost.
#[test]
fn r0302_a_half_made_generation_stopped_every_start() {
    for files in [&[][..], &["conf"], &["conf", "db"]] {
        let dir = TempDir::new().unwrap();
        let conf = fs::read(three_generations(dir.path())[0].join("conf")).unwrap();
        let next = dir.path().join(format!("{:020}", 9));
        fs::create_dir_all(next.join("blobs")).unwrap();
        for file in files {
            let half: &[u8] = if *file == "conf" { &conf[..conf.len() / 2] } else { &[] };
            fs::write(next.join(file), half).unwrap();
        }
        verify(dir.path()).unwrap();
        let journal = open(dir.path(), 60_000);
        assert_eq!(journal.span(), Span { first: Position(0), end: Position(9) }, "{files:?}");
        assert_eq!(journal.commit(&blocks(&["next".to_owned()])).unwrap()[0].first, Position(9));
        assert!(read_all(&journal, Position(0)).iter().all(|(_, message)| message.is_some()));
        assert_eq!(journal.usage().damaged, 0);
    }
}

/// Scenario: a crash comes while a generation is removed, or somebody removes its log.
/// Guarantee: what is half removed is cleared away; what lacks its log is a gap, and reading goes on behind it. It was an
/// error that every reading met again.
#[test]
fn r0303_nobody_could_read_past_a_generation_without_its_log() {
    let dir = TempDir::new().unwrap();
    let generations = three_generations(dir.path());
    fs::remove_file(generations[1].join("db")).unwrap();
    let half_removed = dir.path().join(format!("discarded-{:020}", 77));
    fs::create_dir(&half_removed).unwrap();
    let journal = open(dir.path(), 60_000);
    let found: Vec<_> = read_all(&journal, Position(0)).iter().map(|(at, m)| (*at, m.is_some())).collect();
    let whole = |range: std::ops::Range<u64>| range.map(|at| (at, true)).collect::<Vec<_>>();
    assert_eq!(found, [whole(0..3), vec![(3, false)], whole(6..9)].concat());
    assert!(!half_removed.exists());
    assert_eq!(journal.remove(Position(9), Timestamp::from_nanos(i64::MAX)).unwrap(), 2);
    drop(journal);
    assert_eq!(open(dir.path(), 60_000).span(), Span { first: Position(9), end: Position(9) });
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

/// Scenario: a record of several chunks holds several events, and somebody reads from the second on, as a sink does that
/// restarts with its cursor there.
/// Guarantee: they are read. The search for the record's beginning found its last chunk, and the rest of its events were
/// reported as damaged.
#[test]
fn r0306_the_rest_of_a_record_of_several_chunks_was_taken_for_damaged() {
    let dir = TempDir::new().unwrap();
    let journal = open(dir.path(), u64::MAX);
    let messages: Vec<_> = (0..4).map(|i| noise(i, 60_000)).collect();
    let records = journal.commit(&blocks(&messages)).unwrap();
    assert_eq!(records.len(), 1, "all are in one record");
    for from in 0..4 {
        let found: Vec<_> = read_all(&journal, Position(from)).into_iter().map(|(_, m)| m.unwrap()).collect();
        assert!(found == messages[from as usize..], "from {from}");
    }
}

/// Scenario: a bit flips in the first chunk of a large record, or in one behind it; other records lie behind it.
/// Guarantee: it costs that record alone. What its further chunks held was never looked at before sled opened the log, and
/// sled wipes everything behind the first damage.
#[test]
fn r0307_a_flipped_bit_in_a_large_record_cost_all_behind_it() {
    for at in [1_000, 150_000, 390_000] {
        let dir = TempDir::new().unwrap();
        let journal = open(dir.path(), u64::MAX);
        let sizes = [300, 400_000, 50_000, 250_000, 1];
        let messages: Vec<_> = sizes.into_iter().zip(0..).map(|(bytes, seed)| noise(seed, bytes)).collect();
        for message in &messages {
            journal.commit(&blocks(std::slice::from_ref(message))).unwrap();
        }
        drop(journal);
        let log = dir.path().join(format!("{:020}", 0)).join("db");
        let mut bytes = fs::read(&log).unwrap();
        bytes[at + 1_000] ^= 1;
        fs::write(&log, bytes).unwrap();
        assert_eq!(verify(dir.path()).unwrap().damaged, 1);
        let found = read_all(&open(dir.path(), u64::MAX), Position(0));
        let mut expected: Vec<_> = (0..).zip(messages.into_iter().map(Some)).collect();
        expected[1].1 = None;
        assert!(
            found == expected,
            "{at}: {:?}",
            found.iter().map(|(p, m)| (p, m.is_some())).collect::<Vec<_>>()
        );
    }
}

/// Scenario: a bit flips in what sled wrote between the records, as in a message's length or in the name of a tree.
/// Guarantee: it costs nothing. All records were whole, so no copy was made, and sled wiped what it could not reach any more.
#[test]
fn r0308_a_flipped_bit_between_records_cost_all_behind_it() {
    let home = TempDir::new().unwrap();
    let journal = open(home.path(), u64::MAX);
    let messages: Vec<_> = (0..20).map(|i| noise(i, 50)).collect();
    for message in &messages {
        journal.commit(&blocks(std::slice::from_ref(message))).unwrap();
    }
    drop(journal);
    let log = home.path().join(format!("{:020}", 0)).join("db");
    let whole = fs::read(&log).unwrap();
    let starts: Vec<_> = memchr::memmem::find_iter(&whole, stored::MAGIC).collect();
    for (index, start) in starts.into_iter().enumerate() {
        // The header of sled's message is right before the record.
        let mut bytes = whole.clone();
        bytes[start - 1 - index] ^= 1 << (index % 8);
        fs::write(&log, bytes).unwrap();
        let journal = open(home.path(), u64::MAX);
        let found: Vec<_> = read_all(&journal, Position(0)).into_iter().filter_map(|(_, m)| m).collect();
        assert!(found == messages, "{} bytes before record {index}: {} are read", index + 1, found.len());
    }
}
