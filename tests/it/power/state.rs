//! The state alone, with so many letters kept and removed that sled uses its segments again.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use forebay::data_dir::{self, DataDir};
use forebay_actors::{
    event::Timestamp,
    record::{Position, SinkName, Span},
    state::{Cursor, Cursors, DeadLetter, DeadLetters, Reason, StateDb, WhenFull},
};

use super::{Notes, attack, noise, recorded_place, seed, test_name};
use crate::support::thorough;

/// Letters there are at a time.
const LETTERS_KEPT: usize = 12;

struct Opened {
    cursors: Cursors,
    letters: DeadLetters,
    _data_dir: DataDir,
}

fn sink() -> SinkName {
    SinkName::from("a")
}

fn open(path: &Path) -> Opened {
    let data_dir = DataDir::open(path).unwrap();
    let state = Arc::new(StateDb::open(&data_dir::state(data_dir.path())).unwrap());
    let cursors = Cursors::open(state.clone()).unwrap();
    cursors.activate(&sink(), WhenFull::Block, Position(0));
    Opened { cursors, letters: DeadLetters::open(state, u64::MAX).unwrap(), _data_dir: data_dir }
}

fn letter(number: u64) -> DeadLetter {
    let mut random = fastrand::Rng::with_seed(number);
    let bytes = random.usize(..20_000);
    let span = Span { first: Position(number), end: Position(number + 1) };
    let letter = DeadLetter::of_span(&sink(), span, Reason::Rejected, Timestamp::default());
    DeadLetter { error: noise(&mut random, bytes).to_owned(), ..letter }
}

fn work(place: &Path) {
    let notes = Notes::open(place);
    let mut random = fastrand::Rng::with_seed(seed());
    let mut kept = Vec::new();
    let mut number = 0;
    for _ in 0..2 {
        let opened = open(&place.join("data"));
        for _ in 0..thorough(100, 250) {
            number += 1;
            notes.say(format!("adding {number}"));
            opened.letters.add(&[letter(number)]).unwrap();
            notes.say(format!("added {number}"));
            kept.push(number);
            if kept.len() > LETTERS_KEPT {
                let removed = kept.swap_remove(random.usize(..kept.len()));
                let all = opened.letters.list(&sink(), None, usize::MAX).unwrap();
                let (id, _) = all.iter().find(|(_, letter)| letter.span.first.0 == removed).unwrap();
                notes.say(format!("removing {removed}"));
                opened.letters.remove(&sink(), *id).unwrap();
                notes.say(format!("removed {removed}"));
            }
            notes.say(format!("moving {number}"));
            opened.cursors.advance(&sink(), Cursor::at(Position(number)));
            opened.cursors.save().unwrap();
            notes.say(format!("saved {number}"));
        }
    }
}

fn compare<'a>(path: &Path, notes: impl Iterator<Item = &'a str>) {
    let mut said: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for note in notes {
        let (what, number) = note.split_once(' ').unwrap();
        said.entry(what).or_default().insert(number.parse().unwrap());
    }
    let all = |what: &str| said.get(what).cloned().unwrap_or_default();
    let last = |what: &str| all(what).last().copied().unwrap_or(0);
    // Twice: what opening mends must stay mended.
    for _ in 0..2 {
        let opened = open(path);
        let next = opened.cursors.get(&sink()).next.0;
        assert!((last("saved")..=last("moving")).contains(&next), "cursor {next}, saved {}", last("saved"));
        let listed = opened.letters.list(&sink(), None, usize::MAX).unwrap();
        let found: BTreeSet<_> = listed.iter().map(|(_, letter)| letter.span.first.0).collect();
        assert_eq!(listed.len(), found.len(), "a letter is there twice");
        assert!(listed.iter().all(|(_, found)| *found == letter(found.span.first.0)), "a letter has changed");
        let lost: Vec<_> =
            all("added").difference(&all("removing")).copied().filter(|n| !found.contains(n)).collect();
        assert!(lost.is_empty(), "letters are lost: {lost:?}");
        let back: Vec<_> = found.intersection(&all("removed")).copied().collect();
        assert!(back.is_empty(), "removed letters are back: {back:?}");
        assert!(found.is_subset(&all("adding")));
        let totals: u64 = opened.letters.all_totals().unwrap().iter().map(|(_, totals)| totals.letters).sum();
        assert_eq!(totals, found.len() as u64);
    }
}

/// Scenario: a process keeps and removes dead letters and saves a cursor, until sled has used its segments again many times,
/// and the power goes at any sync.
/// Guarantee: the state opens; no cursor goes back, no letter that was kept is gone or changed, none that was removed is
/// back.
#[test]
fn p2_power_loss_costs_no_dead_letter() {
    if let Some(place) = recorded_place() {
        return work(&place);
    }
    attack(test_name!(p2_power_loss_costs_no_dead_letter), 20, thorough(1, 2), |path, notes| {
        compare(path, notes)
    });
}
