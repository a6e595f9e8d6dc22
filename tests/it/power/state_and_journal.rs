//! The journal, the cursors and the dead letters after a power loss, as the process opens them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Notes, attack, noise, recorded_place, seed, test_name};
use crate::support::thorough;
use forebay::data_dir::{self, DataDir};
use forebay_actors::{
    event::{BlockBuilder, Draft, Events, IdSource, Stamp, Stamped, Timestamp},
    journal::{Durability, Journal as _, Piece, SledJournal},
    record::{Position, SinkName, Span},
    runtime::clock::Clock,
    state::{Cursor, Cursors, DeadLetter, DeadLetters, Reason, StateDb, WhenFull},
};

/// Stored bytes of a generation here: a few commits, so that generations roll all the time.
const GENERATION_BYTES: u64 = 150_000;

/// Threads whose commits overlap.
const THREADS: u64 = 2;

/// Times the recorded process opens everything again.
const LIVES: u64 = 3;

/// The journal and all around it, opened as the pipeline does.
struct Opened {
    journal: SledJournal,
    cursors: Cursors,
    letters: DeadLetters,
    _data_dir: DataDir,
}

fn sink() -> SinkName {
    SinkName::from("a")
}

fn open(path: &Path, durability: Durability) -> Opened {
    let data_dir = DataDir::open(path).unwrap();
    let state = Arc::new(StateDb::open(&data_dir::state(data_dir.path())).unwrap());
    let cursors = Cursors::open(state.clone()).unwrap();
    let letters = DeadLetters::open(state, u64::MAX).unwrap();
    let (dir, clock) = (data_dir::journal(data_dir.path()), Clock::system());
    let floor = cursors.furthest();
    let journal =
        SledJournal::with_generation_bytes(&dir, durability, floor, clock, GENERATION_BYTES).unwrap();
    cursors.activate(&sink(), WhenFull::Block, journal.span().first);
    cursors.save().unwrap();
    Opened { journal, cursors, letters, _data_dir: data_dir }
}

/// A message that says which it is, and whose text follows from that.
fn message(id: u64) -> String {
    let mut random = fastrand::Rng::with_seed(id);
    let bytes = match random.u8(..20) {
        // A record of several chunks.
        0 => 300_000,
        1..=6 => random.usize(20_000..60_000),
        _ => random.usize(..2_000),
    };
    format!("{id} {}", noise(&mut random, bytes))
}

/// Which message a text is; what is none of them is garbage.
fn id_of(text: &str) -> u64 {
    let id = text.split(' ').next().and_then(|id| id.parse().ok());
    let id = id.unwrap_or_else(|| panic!("no message of ours: {text:.80}"));
    assert!(text == message(id), "message {id} is not what was committed");
    id
}

fn blocks(ids: &[u64]) -> Vec<Stamped> {
    let mut builder = BlockBuilder::default();
    for id in ids {
        let message = message(*id);
        builder.push(&Draft {
            event_id: None,
            timestamp: None,
            service: "s",
            message: &message,
            metadata: None,
        });
    }
    let now = Timestamp::default();
    let stamp = |count| Stamp { first_id: IdSource::new(1).first_of(count, now), ingested_at: now };
    let stamped = |block: forebay_actors::event::Block| {
        let count = block.count();
        block.stamped(stamp(count))
    };
    builder.finish().into_iter().map(stamped).collect()
}

/// The recorded process: it opens everything, works with two threads, and opens it again.
fn work(place: &Path, durability: Durability) {
    let seed = seed();
    let notes = Notes::open(place);
    let next_id = AtomicU64::new(seed * 1_000_000);
    for life in 0..LIVES {
        let opened = open(&place.join("data"), durability);
        let unsynced = Mutex::default();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (opened, notes, next_id, unsynced) = (&opened, &notes, &next_id, &unsynced);
                let random = fastrand::Rng::with_seed(seed * 100 + life * 10 + thread);
                scope.spawn(move || work_as(opened, durability, notes, next_id, unsynced, random));
            }
        });
    }
}

/// Commits that `interval` has taken and not synced.
type Unsynced = Mutex<Vec<String>>;

fn work_as(
    opened: &Opened,
    durability: Durability,
    notes: &Notes,
    next_id: &AtomicU64,
    unsynced: &Unsynced,
    mut random: fastrand::Rng,
) {
    let unsynced = || unsynced.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..thorough(9, 20) {
        let count = random.u64(1..5);
        let first_id = next_id.fetch_add(count, Ordering::Relaxed);
        let records =
            opened.journal.commit(&blocks(&(first_id..first_id + count).collect::<Vec<_>>())).unwrap();
        let committed = format!("committed {} {first_id} {count}", records[0].first);
        if durability == Durability::Fsync {
            notes.say(committed);
        } else {
            unsynced().push(committed);
        }
        if durability != Durability::Fsync && random.u8(..3) == 0 {
            // What is taken while this syncs is for the next.
            let synced = std::mem::take(&mut *unsynced());
            opened.journal.sync().unwrap();
            synced.into_iter().for_each(|committed| notes.say(committed));
        }
        match random.u8(..4) {
            0 => save_cursor(opened, notes, records[0].first),
            1 => {
                let span = Span { first: records[0].first, end: records[0].end() };
                let letter = DeadLetter::of_span(&sink(), span, Reason::Rejected, Timestamp::default());
                let letter = DeadLetter { error: "e".repeat(random.usize(..9_000)), ..letter };
                opened.letters.add(&[letter]).unwrap();
                notes.say(format!("letter {}", span.first));
            }
            _ => {}
        }
    }
}

/// Moves the cursor, saves it, and trims behind it.
fn save_cursor(opened: &Opened, notes: &Notes, next: Position) {
    notes.say(format!("moving {next}"));
    opened.cursors.advance(&sink(), Cursor::at(next));
    opened.cursors.save().unwrap();
    notes.say(format!("saved {next}"));
    // Not all that could go, so that there are several generations.
    let upto = Position(next.0.saturating_sub(12));
    notes.say(format!("removing {upto}"));
    opened.journal.remove(upto, Timestamp::from_nanos(i64::MAX)).unwrap();
}

/// What the process had promised when the power went.
#[derive(Debug, Default)]
struct Promised {
    /// Ids of messages by position.
    committed: BTreeMap<u64, u64>,
    moving: u64,
    saved: u64,
    removing: u64,
    letters: BTreeSet<u64>,
}

impl Promised {
    fn of<'a>(notes: impl Iterator<Item = &'a str>) -> Self {
        let mut promised = Self::default();
        for note in notes {
            let mut words = note.split(' ');
            let what = words.next();
            let numbers: Vec<u64> = words.map(|number| number.parse().unwrap()).collect();
            match (what, &numbers[..]) {
                (Some("committed"), [first, id, count]) => {
                    promised.committed.extend((0..*count).map(|i| (first + i, id + i)));
                }
                (Some("moving"), [next]) => promised.moving = promised.moving.max(*next),
                (Some("saved"), [next]) => promised.saved = promised.saved.max(*next),
                (Some("removing"), [upto]) => promised.removing = promised.removing.max(*upto),
                (Some("letter"), [first]) => drop(promised.letters.insert(*first)),
                _ => panic!("not understood: {note}"),
            }
        }
        promised
    }

    /// The position after the last that was promised.
    fn end(&self) -> u64 {
        self.committed.last_key_value().map_or(0, |(last, _)| last + 1).max(self.saved)
    }

    /// Opens what the device holds and compares, twice: what opening mends must stay mended.
    fn compare(&self, path: &Path, durability: Durability) {
        let opened = open(path, durability);
        self.compare_state(&opened);
        let end = opened.journal.span().end;
        assert!(end.0 >= self.end(), "the next event gets {end}, but {} was given away", self.end());
        self.compare_journal(&opened.journal);
        let new = opened.journal.commit(&blocks(&[1, 2])).unwrap();
        assert_eq!(new[0].first, end);
        opened.journal.sync().unwrap();
        drop(opened);
        let opened = open(path, durability);
        self.compare_state(&opened);
        self.compare_journal(&opened.journal);
        let again = opened.journal.read(end, usize::MAX).unwrap();
        let found = matches!(&again[..], [Piece::Record(record)] if record.payload == new[0].payload);
        assert!(found, "what was committed after the power came back: {again:?}");
    }

    fn compare_state(&self, opened: &Opened) {
        let next = opened.cursors.get(&sink()).next.0;
        assert!(
            (self.saved..=self.moving.max(self.saved)).contains(&next),
            "the cursor is at {next}, and was saved at {} and about to be at {}",
            self.saved,
            self.moving
        );
        let letters = opened.letters.list(&sink(), None, usize::MAX).unwrap();
        let found: BTreeSet<_> = letters.iter().map(|(_, letter)| letter.span.first.0).collect();
        assert!(self.letters.is_subset(&found), "{found:?} is not all of {:?}", self.letters);
        let totals = opened.letters.all_totals().unwrap();
        assert_eq!(totals.iter().map(|(_, t)| t.letters).sum::<u64>(), letters.len() as u64);
    }

    fn compare_journal(&self, journal: &SledJournal) {
        let (mut from, mut found, mut ids) = (journal.span().first, BTreeMap::new(), BTreeSet::new());
        loop {
            let pieces = journal.read(from, 200_000).unwrap();
            let Some(last) = pieces.last() else { break };
            assert!(last.end() > from, "reading does not go on: {pieces:?}");
            from = last.end();
            for piece in pieces {
                match piece {
                    Piece::Record(record) => {
                        let mut events = Events::new(&record.payload);
                        for at in record.first.0..record.end().0 {
                            let event = events.next_event().expect("a record has as many events as it says");
                            let id = id_of(event.unwrap().message);
                            assert_eq!(found.insert(at, id), None, "position {at} is there twice");
                            assert!(ids.insert(id) || id < 10, "message {id} is there twice");
                        }
                    }
                    Piece::Damaged(span) | Piece::Removed(span) => {
                        let kept = |at: &&u64| **at >= self.removing;
                        let mut promised = self.committed.range(span.first.0..span.end.0).map(|(at, _)| at);
                        let promised = promised.find(kept);
                        assert_eq!(promised, None, "{span:?} is damaged");
                    }
                }
            }
        }
        for (at, id) in self.committed.range(self.removing..) {
            assert_eq!(found.get(at), Some(id), "what was acknowledged at {at}, of {:?}", found.keys());
        }
    }
}

/// Scenario: a process commits with two threads over many generations, saves cursors, keeps dead letters, trims and starts
/// again; the power goes at any sync or acknowledgement, and of what was not synced nothing, everything or any part is
/// on the device.
/// Guarantee: everything opens, every acknowledged event is read once at its place, no position is given twice, no saved
/// cursor or letter is gone, and nothing is read that was never written.
#[test]
fn p1_power_loss_costs_nothing_that_was_synced() {
    if let Some(place) = recorded_place() {
        return work(&place, Durability::Fsync);
    }
    attack(test_name!(p1_power_loss_costs_nothing_that_was_synced), 20, thorough(1, 2), |path, notes| {
        Promised::of(notes).compare(path, Durability::Fsync);
    });
}

/// Scenario: as before, in `interval` mode.
/// Guarantee: what was there when a tick's sync began is there; cursors may be ahead of what was lost, and no position is
/// given twice.
#[test]
fn p1_power_loss_in_interval_mode_costs_what_came_after_the_tick() {
    let durability = Durability::Interval(Duration::from_secs(3600));
    if let Some(place) = recorded_place() {
        return work(&place, durability);
    }
    let test = test_name!(p1_power_loss_in_interval_mode_costs_what_came_after_the_tick);
    attack(test, 10, 1, |path, notes| Promised::of(notes).compare(path, durability));
}
