//! The journal and the cursors against a reference: a list of what was committed, under everything that may happen to
//! them.
//!
//! What the reference allows: a record in which a bit was changed may be gone. Everything else must be read, and nothing
//! must be read that is not what was committed. No position is ever given twice.

mod ops;
mod refused;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use proptest::prelude::*;
use tempfile::TempDir;

use self::ops::{Device, Op, Part, op, op_on_a_device};
use super::{
    tests::{blocks, clock, noise},
    *,
};
use crate::{
    event::Events,
    record::SinkName,
    state::{Cursor, Cursors, StateDb, WhenFull},
};

const GENERATION_BYTES: u64 = 150_000;

/// An event that was committed.
#[derive(Debug)]
struct Known {
    text: String,
    may_be_gone: bool,
}

/// The open journal and cursors.
struct Live {
    journal: SledJournal,
    cursors: Cursors,
}

/// A journal, and what is known of it.
struct Run {
    home: PathBuf,
    live: Option<Live>,
    events: BTreeMap<u64, Known>,
    /// The position of the next event.
    end: u64,
    /// Events before this may have been removed.
    passed: u64,
    saved: u64,
    messages: u64,
    copies: usize,
    is_full: bool,
}

fn sink() -> SinkName {
    SinkName::from("a")
}

fn open(home: &Path) -> Result<Live, String> {
    let state = Arc::new(StateDb::open(&home.join("state")).map_err(|e| e.to_string())?);
    let cursors = Cursors::open(state).map_err(|e| e.to_string())?;
    let (dir, floor) = (home.join("journal"), cursors.furthest());
    let journal =
        SledJournal::with_generation_bytes(&dir, Durability::Fsync, floor, clock(), GENERATION_BYTES);
    let journal = journal.map_err(|e| e.to_string())?;
    cursors.activate(&sink(), WhenFull::Block, Position(0));
    Ok(Live { journal, cursors })
}

impl Run {
    fn new(home: &Path) -> Self {
        let home = home.to_owned();
        let live = Some(open(&home).unwrap());
        let events = BTreeMap::new();
        Self { home, live, events, end: 0, passed: 0, saved: 0, messages: 0, copies: 0, is_full: false }
    }

    fn journal(&self) -> &SledJournal {
        &self.live.as_ref().expect("it is open between operations").journal
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Commit(sizes) => {
                let messages = self.messages(sizes);
                let committed = self.journal().commit(&blocks(&messages));
                self.know(committed, messages);
            }
            Op::CommitTogether(one, other) => self.commit_together(one, other),
            Op::Ack(percent) => self.ack(self.end * *percent as u64 / 100),
            Op::Remove => self.remove(),
            Op::ReadFrom(percent) => self.compare(self.end * *percent as u64 / 100),
            Op::Roll => {
                for _ in 0..2 {
                    self.apply(&Op::Commit(vec![GENERATION_BYTES as usize * 2]));
                }
                assert!(self.is_full || self.journal().usage().generations > 1, "no generation was begun");
            }
            Op::Reopen => self.reopen(|_| {}),
            Op::Crash => self.crash(),
            Op::Corrupt { generation, file, at, bit } => self.corrupt(*generation, *file, *at, *bit),
            Op::Fill => self.fill(),
            Op::Free => self.free(),
        }
    }

    fn messages(&mut self, sizes: &[usize]) -> Vec<String> {
        let message = |bytes: &usize| {
            self.messages += 1;
            noise(self.messages, *bytes)
        };
        sizes.iter().map(message).collect()
    }

    /// Takes note of a commit that should be the next.
    fn know(&mut self, committed: Result<Vec<Arc<Record>>, JournalError>, messages: Vec<String>) {
        match committed {
            Ok(records) => {
                assert_eq!(records[0].first.0, self.end, "a commit is the next");
                self.know_at(self.end, messages);
            }
            Err(error) => assert!(self.is_full, "{error}"),
        }
        assert_eq!(self.journal().span().end.0, self.end);
    }

    fn know_at(&mut self, first: u64, messages: Vec<String>) {
        for (at, text) in (first..).zip(messages) {
            let known = self.events.insert(at, Known { text, may_be_gone: false });
            assert!(known.is_none(), "position {at} was given twice");
        }
        self.end = self.events.last_key_value().map_or(0, |(last, _)| last + 1);
    }

    fn commit_together(&mut self, one: &[usize], other: &[usize]) {
        let batches = [self.messages(one), self.messages(other)];
        let journal = self.journal();
        let committed: Vec<_> = std::thread::scope(|scope| {
            let commit = |messages: &Vec<String>| {
                let messages = messages.clone();
                scope.spawn(move || journal.commit(&blocks(&messages)))
            };
            let threads: Vec<_> = batches.iter().map(commit).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (records, messages) in committed.into_iter().zip(batches) {
            match records {
                Ok(records) => self.know_at(records[0].first.0, messages),
                Err(error) => assert!(self.is_full, "{error}"),
            }
        }
        assert_eq!(self.events.len() as u64, self.end, "two commits leave no gap");
        assert_eq!(self.journal().span().end.0, self.end);
    }

    fn ack(&mut self, next: u64) {
        let cursors = &self.live.as_ref().expect("it is open between operations").cursors;
        cursors.advance(&sink(), Cursor::at(Position(next)));
        match cursors.save() {
            Ok(()) => self.saved = self.saved.max(next),
            Err(error) => assert!(self.is_full, "{error}"),
        }
    }

    fn remove(&mut self) {
        let upto = Position(self.saved);
        self.passed = self.passed.max(self.saved);
        self.journal().remove(upto, Timestamp::from_nanos(i64::MAX)).unwrap();
    }

    /// Reads everything from a position on.
    fn compare(&self, from: u64) {
        let (journal, mut found) = (self.journal(), BTreeMap::new());
        let begin = journal.span().first;
        assert!(begin.0 <= self.passed, "what was not passed must stay");
        let mut at = Position(from).max(begin);
        let from = at.0;
        loop {
            let pieces = journal.read(at, 300_000).unwrap();
            let Some(last) = pieces.last() else { break };
            assert!(last.end() > at, "reading does not go on: {pieces:?}");
            at = last.end();
            for piece in pieces {
                match piece {
                    Piece::Record(record) => {
                        let mut events = Events::new(&record.payload);
                        for at in record.first.0..record.end().0 {
                            let event = events.next_event().expect("a record has as many events as it says");
                            let text = event.unwrap().message.to_owned();
                            assert!(found.insert(at, text).is_none(), "position {at} is there twice");
                        }
                    }
                    Piece::Damaged(span) | Piece::Removed(span) => {
                        let mut known = self.events.range(span.first.0..span.end.0);
                        let whole = known.find(|(at, known)| **at >= from && !known.may_be_gone);
                        assert!(
                            whole.is_none(),
                            "{span:?} is damaged, but {:?} was not touched",
                            whole.map(|(at, _)| at)
                        );
                    }
                }
            }
        }
        for (at, known) in self.events.range(from..) {
            match found.remove(at) {
                Some(text) => assert!(text == known.text, "the event at {at} is another"),
                None => assert!(known.may_be_gone, "the event at {at} is gone"),
            }
        }
        // A reading begins with the record that holds its place.
        found.retain(|at, _| *at >= from);
        assert!(found.is_empty(), "nobody committed {:?}", found.keys());
    }

    /// Closes it, lets something happen, and opens it again.
    fn reopen(&mut self, meanwhile: impl FnOnce(&mut Self)) {
        self.live = None;
        meanwhile(self);
        let live = open(&self.home).or_else(|error| {
            // A start needs some space.
            assert!(self.is_full, "{error}");
            self.free();
            open(&self.home)
        });
        self.live = Some(live.unwrap());
        assert_eq!(self.journal().span().end.0, self.end, "the next event gets another place");
        let cursor = self.live.as_ref().expect("it was just opened").cursors.get(&sink());
        // What could not be saved on a full device may still have come there.
        assert!(cursor.next.0 == self.saved || cursor.next.0 > self.saved && self.has_device(), "{cursor:?}");
    }

    fn crash(&mut self) {
        self.copies += 1;
        let copy = self.home.with_file_name(format!("copy-{}", self.copies));
        copy_directory(&self.home, &copy);
        self.reopen(|run| run.home = copy);
        self.compare(0);
    }

    fn corrupt(&mut self, generation: usize, file: Part, at: usize, bit: u8) {
        self.reopen(|run| {
            let mut generations: Vec<_> = fs::read_dir(run.home.join("journal"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| {
                    path.file_name().is_some_and(|name| name.to_string_lossy().parse::<u64>().is_ok())
                })
                .collect();
            generations.sort();
            let generation = &generations[generation * generations.len() / 100];
            let file = match file {
                Part::Log => Some(generation.join("db")),
                Part::Settings => Some(generation.join("conf")),
                Part::Witness => Some(generation.join("head")),
                Part::Snapshot => {
                    fs::read_dir(generation).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
                        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap."))
                    })
                }
            };
            let Some(path) = file.filter(|path| path.exists()) else { return };
            let mut bytes = fs::read(&path).unwrap();
            if bytes.is_empty() {
                return;
            }
            let at = at % bytes.len();
            if path.ends_with("db") {
                run.expect_damage(&bytes, at);
            }
            bytes[at] ^= 1 << bit;
            fs::write(&path, bytes).unwrap();
        });
        self.compare(0);
    }

    /// What may be gone when the byte `at` of a log changes: the record in which it lies.
    fn expect_damage(&mut self, log: &[u8], at: usize) {
        let found: Vec<_> = memchr::memmem::find_iter(log, stored::MAGIC).collect();
        let further = |key, from| {
            let is_it = |offset: &&usize| {
                **offset as u64 >= from && stored::parse_further(&log[**offset..]) == Some(key)
            };
            found.iter().find(is_it).map(|offset| *offset as u64)
        };
        for offset in &found {
            let Some(header) = stored::Header::parse(&log[*offset..]) else { continue };
            let Some(place) = stored::Place::find(&header, *offset as u64, further) else { continue };
            // What stands before a further chunk is the record's, too.
            let is_in = |(offset, bytes): (u64, usize)| {
                (offset as usize - stored::FURTHER_BYTES.min(offset as usize)..offset as usize + bytes)
                    .contains(&at)
            };
            if place.parts().any(is_in) {
                let events = self.events.range_mut(header.first.0..header.end().0);
                events.for_each(|(_, known)| known.may_be_gone = true);
            }
        }
    }

    fn has_device(&self) -> bool {
        self.home.ends_with("device")
    }

    fn ballast(&self) -> PathBuf {
        self.home.join("ballast")
    }

    fn fill(&mut self) {
        if !self.has_device() {
            return;
        }
        let mut file = fs::File::create(self.ballast()).unwrap();
        let mut block = vec![0; 1 << 20];
        while !block.is_empty() {
            // Smaller and smaller pieces, down to the last byte.
            if file.write_all(&block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
        self.is_full = true;
    }

    fn free(&mut self) {
        if self.is_full {
            fs::remove_file(self.ballast()).unwrap();
            self.is_full = false;
        }
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Does it all, and reads everything at the end, also after it was opened again.
fn agrees(home: &Path, ops: &[Op]) {
    let mut run = Run::new(home);
    ops.iter().for_each(|op| run.apply(op));
    run.free();
    run.compare(0);
    run.apply(&Op::Commit(vec![10]));
    run.reopen(|_| {});
    run.compare(0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 14, ..ProptestConfig::default() })]

    /// Any sequence of commits, also together, of acknowledgements, removals, readings, rolls, reopenings, crashes and changed
    /// bits agrees with the list.
    #[test]
    fn the_journal_agrees_with_a_list(ops in proptest::collection::vec(op(), 1..25)) {
        let dir = TempDir::new().unwrap();
        agrees(&dir.path().join("home"), &ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// The same on a device of its own that is full now and then: what was taken stays, what was refused leaves no trace, and
    /// when there is space again nothing needs a restart.
    #[test]
    fn the_journal_agrees_with_a_list_on_a_full_device(ops in proptest::collection::vec(op_on_a_device(), 1..25)) {
        let dir = TempDir::new().unwrap();
        let Some(device) = Device::mount(dir.path().join("device")) else {
            let _ = writeln!(std::io::stderr(), "SKIPPED the_journal_agrees_with_a_list_on_a_full_device: a tmpfs cannot be mounted here");
            return Ok(());
        };
        agrees(&device.0, &ops);
    }
}
