//! What was broken once.

use super::*;

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

/// Scenario: the log of the newest generation is gone.
/// Guarantee: the journal opens without it, and what is new follows behind what was lost. It did not open any more.
#[test]
fn r0322_a_missing_log_kept_the_journal_from_opening() {
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
fn r0325_a_deleted_generation_stopped_the_reading() {
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
fn r0323_a_record_within_an_event_was_taken_for_one() {
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
    let large = format!("{forged_chunk}{}", noise(7, 150_000));
    let mut messages =
        vec!["a".to_owned(), large, forged_record.clone(), forged_chunk.clone(), "c".to_owned()];
    // Before a record of several chunks a log is looked through in another way than behind it.
    for _ in 0..2 {
        messages.reverse();
        let dir = TempDir::new().unwrap();
        let at_first = || {
            SledJournal::with_generation_bytes(dir.path(), Durability::Fsync, first, clock(), u64::MAX)
                .unwrap()
        };
        let journal = at_first();
        let commit = |message| drop(journal.commit(&blocks(std::slice::from_ref(message))).unwrap());
        messages.iter().for_each(commit);
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
    assert_eq!(journal.remove(Position(9), Timestamp::from_nanos(i64::MAX)).unwrap().parts, 2);
    drop(journal);
    assert_eq!(open(dir.path(), 60_000).span(), Span { first: Position(9), end: Position(9) });
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

/// Scenario: several readers stand in a generation whose log is gone, between two that are whole.
/// Guarantee: that one is put aside, once, and the others are read. Whoever came second looked again, and put its neighbour aside.
#[test]
fn r0390_a_second_reader_put_the_next_generation_aside() {
    for _ in 0..20 {
        let dir = TempDir::new().unwrap();
        let generations = three_generations(dir.path());
        fs::remove_file(generations[1].join("db")).unwrap();
        let journal = open(dir.path(), 60_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| drop(journal.read(Position(3), 1).unwrap()));
            }
        });
        assert!(generations[0].exists() && generations[2].exists());
        let found = read_all(&journal, Position(0));
        let whole = found.iter().filter(|(_, message)| message.is_some()).map(|(at, _)| *at);
        assert_eq!(whole.collect::<Vec<_>>(), [0, 1, 2, 6, 7, 8]);
    }
}

/// Scenario: very many commits of one small event each.
/// Guarantee: no generation takes much more of the device than it may hold. sled's list of trees grew with the square of their
/// number, to many times that, and a journal whose newest generation was as large as its cap refused everything for ever.
#[test]
fn r0391_small_records_swelled_a_generation() {
    let dir = TempDir::new().unwrap();
    let hour = Duration::from_secs(3600);
    let journal = SledJournal::open(dir.path(), Durability::Interval(hour), Position(0), clock()).unwrap();
    let event = ["small".to_owned()];
    let mut usage = journal.usage();
    for commit in 0..60_000 {
        journal.commit(&blocks(&event)).unwrap();
        usage = journal.usage();
        if usage.generations > 1 {
            assert!(commit > 5_000, "{commit} of them make more than one");
            break;
        }
    }
    assert_eq!(usage.generations, 2);
    assert!(usage.disk_bytes < 5 * GENERATION_BYTES / 2, "{usage:?}");
    assert!(usage.stored_bytes < GENERATION_BYTES, "{usage:?}: it was full, not swollen");
}
