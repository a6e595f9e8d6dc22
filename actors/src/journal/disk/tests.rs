//! What only the inside of a journal can be made to do.

use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use super::*;
use crate::journal::{
    tests::{blocks, clock, read_all},
    verify,
};

/// A journal in `interval` mode that is synced when the test says so.
fn interval(dir: &Path) -> SledJournal {
    let durability = Durability::Interval(std::time::Duration::MAX);
    SledJournal::open(dir, durability, Position(0), clock()).unwrap()
}

fn commit(journal: &SledJournal, message: &str) -> Result<Vec<Arc<Record>>, JournalError> {
    journal.commit(&blocks(&[message.to_owned()]))
}

/// What a failed append leaves: no writer.
fn append_fails(journal: &SledJournal) {
    *journal.writer() = None;
}

/// What a failed publishing leaves: a writer that must not be used.
fn publishing_fails(journal: &SledJournal) {
    let writer = journal.writer();
    writer.as_ref().unwrap().target.end_at(journal.head());
}

/// Scenario: `interval`; an event is taken, the commit behind it fails, and the next begins a new generation.
/// Guarantee: what was taken is on the device after the tick. A tick looked at the newest generation alone, and a roll synced
/// only what had not failed.
#[test]
fn r0280_a_failed_commit_left_the_generation_before_unsynced() {
    for fails in [append_fails, publishing_fails] {
        let dir = TempDir::new().unwrap();
        let journal = interval(dir.path());
        commit(&journal, "before").unwrap();
        // Somebody holds it, so that sled does not write it because it is closed.
        let held = journal.shelf().written();
        fails(&journal);
        commit(&journal, "behind").unwrap();
        assert_eq!(journal.usage().generations, 2);
        journal.sync().unwrap();
        assert_eq!(verify(dir.path()).unwrap().events, 2, "both are in their logs");
        assert_eq!(journal.shelf().written().len(), 1, "what is synced is closed");
        drop(held);
    }
}

/// Scenario: the same, and the generation before cannot be synced: its log was deleted.
/// Guarantee: no tick says that all is synced while it is there; what was taken is read until then; one that is delivered and
/// removed is missed by no tick; and however many there are, one is kept beside the newest.
#[test]
fn r0280_what_cannot_be_synced_is_not_said_to_be() {
    let dir = TempDir::new().unwrap();
    let journal = interval(dir.path());
    let lose_log = |first| fs::remove_file(journal.generation_dir(Position(first)).join("db")).unwrap();
    commit(&journal, "zero").unwrap();
    lose_log(0);
    append_fails(&journal);
    commit(&journal, "one").unwrap();
    for _ in 0..2 {
        assert!(matches!(journal.sync(), Err(JournalError::Io { .. })));
    }
    let expected = [(0, Some("zero".to_owned())), (1, Some("one".to_owned()))];
    assert_eq!(read_all(&journal, Position(0)), expected);

    lose_log(1);
    publishing_fails(&journal);
    commit(&journal, "two").unwrap();
    let written = || journal.shelf().written().iter().map(|(first, _)| first.0).collect::<Vec<_>>();
    assert_eq!(written(), [1, 2]);
    assert!(journal.sync().is_err());
    journal.remove(Position(2), Timestamp::from_nanos(i64::MAX)).unwrap();
    journal.sync().unwrap();
    assert_eq!(written(), [2]);
}

/// Scenario: `interval`; a tick cannot sync what was taken, and more comes.
/// Guarantee: that goes into another generation, where the next tick syncs it, and what was taken before is read. It was written
/// behind what might be missing, where a crash would have cost it, too.
#[test]
fn r0590_what_came_after_a_failed_sync_lay_behind_what_it_had_lost() {
    let dir = TempDir::new().unwrap();
    let journal = interval(dir.path());
    commit(&journal, "before").unwrap();
    let before = journal.shelf().written().swap_remove(0).1;
    before.lose_a_sync();
    assert!(journal.sync().is_err());
    commit(&journal, "behind").unwrap();
    assert_eq!(journal.usage().generations, 2);
    assert!(journal.sync().is_err(), "the first is still needed, and not synced");
    assert!(before.is_unsynced() && !journal.shelf().written()[1].1.is_unsynced());
    let expected = [(0, Some("before".to_owned())), (1, Some("behind".to_owned()))];
    assert_eq!(read_all(&journal, Position(0)), expected);
    journal.remove(Position(1), Timestamp::from_nanos(i64::MAX)).unwrap();
    journal.sync().unwrap();
}

/// Scenario: `interval`; a tick cannot sync while a commit is appended and waits for its turn, and which then goes into another
/// generation.
/// Guarantee: it is there alone. The log before ends at the head, whatever of the commit came into it.
#[test]
fn r0600_what_went_elsewhere_is_not_read_where_it_was_appended() {
    let dir = TempDir::new().unwrap();
    let journal = interval(dir.path());
    commit(&journal, "before").unwrap();
    let before = journal.shelf().written().swap_remove(0).1;
    std::thread::scope(|scope| {
        let turn = journal.turn();
        scope.spawn(|| commit(&journal, "elsewhere").unwrap());
        let is_record = |piece: &Piece| matches!(piece, Piece::Record(_));
        while !before.read(Position(1), Position(2), usize::MAX).iter().any(is_record) {
            std::thread::yield_now();
        }
        before.lose_a_sync();
        drop(turn);
    });
    let expected = [(0, Some("before".to_owned())), (1, Some("elsewhere".to_owned()))];
    assert_eq!(read_all(&journal, Position(0)), expected);
    // Closing writes what sled has.
    drop((journal, before));

    let last = |generation: &Path| Closed::look(generation, Position(0)).unwrap().last_end();
    let generation = dir.path().join(format!("{:020}", 0));
    assert_eq!(last(&generation), Some(Position(1)));
    let without_witness = TempDir::new().unwrap();
    fs::copy(generation.join("db"), without_witness.path().join("db")).unwrap();
    assert_eq!(last(without_witness.path()), Some(Position(2)), "the commit had come into it");
}

/// Scenario: sled has replaced something, and a few commits come.
/// Guarantee: it is freed. It stayed until the thread had sixty-four pieces of the kind, each of which may hold a segment's buffer.
#[test]
fn r0611_what_sled_had_replaced_stayed_in_memory() {
    let dir = TempDir::new().unwrap();
    let journal = SledJournal::open(dir.path(), Durability::Fsync, Position(0), clock()).unwrap();
    let freed = Arc::new(AtomicBool::new(false));
    let piece = freed.clone();
    sled::pin().defer(move || piece.store(true, Ordering::Release));
    // What another test's thread looks at just now may hold it up for a commit or two.
    let commits =
        (0..12).take_while(|_| !freed.load(Ordering::Acquire)).map(|i| commit(&journal, &i.to_string()));
    commits.for_each(|committed| drop(committed.unwrap()));
    assert!(freed.load(Ordering::Acquire));
}
