use tempfile::TempDir;

use super::*;

fn names() -> (SinkName, SinkName) {
    (SinkName::from("up"), SinkName::from("overflow"))
}

fn span(first: u64, end: u64) -> Span {
    Span { first: Position(first), end: Position(end) }
}

fn open(dir: &TempDir) -> HeldBatches {
    HeldBatches::open(Arc::new(StateDb::open(dir.path()).unwrap())).unwrap()
}

fn hold(held: &HeldBatches, span: Span) -> HeldKey {
    let (owner, holder) = names();
    let key = held.intend(&owner, &holder, span).unwrap();
    assert!(held.held(&holder, &key, (span.count(), 10), Timestamp::default()).unwrap());
    key
}

/// What is held comes back oldest first, whatever the order in which it was held, also after the database was reopened,
/// and the sums are those of what is there.
#[test]
fn the_oldest_comes_first_and_the_sums_follow() {
    let dir = TempDir::new().unwrap();
    let (owner, holder) = names();
    let held = open(&dir);
    hold(&held, span(300, 310));
    let oldest = hold(&held, span(5, 6));
    hold(&held, span(256, 300));
    drop(held);
    let held = open(&dir);
    assert_eq!(held.total(&owner, &holder), HeldTotals { batches: 3, events: 55, bytes: 30 });
    assert_eq!(held.oldest(&owner, &holder).unwrap(), Some(oldest.clone()));
    held.read_back(&holder, &oldest).unwrap();
    assert_eq!(held.oldest(&owner, &holder).unwrap().unwrap().span, span(256, 300));
    assert_eq!(held.total(&owner, &holder), HeldTotals { batches: 2, events: 54, bytes: 20 });
    assert_eq!(held.leaving(&owner, &holder).unwrap(), Some(oldest.clone()));
    held.released(&holder, &oldest).unwrap();
    assert!(!held.has_leaving(&owner, &holder));
    assert_eq!(held.leaving(&owner, &holder).unwrap(), None);
    assert_eq!(held.totals().len(), 1);
}

/// Scenario: the owner dies before it has noted that a batch is held; what it left on a blocking thread notes it when the
/// next life has begun.
/// Guarantee: that comes too late: the batch is let go of, as the new life was told. What was noted in time is told.
#[test]
fn what_comes_too_late_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let (owner, holder) = names();
    let held = open(&dir);
    let late = held.intend(&owner, &holder, span(10, 20)).unwrap();
    hold(&held, span(0, 10));
    hold(&held, span(20, 30));
    drop(held);
    let held = open(&dir);
    assert_eq!(held.begin(&owner, &holder, Position(10)).unwrap(), [span(20, 30)]);
    assert!(!held.held(&holder, &late, (10, 10), Timestamp::default()).unwrap());
    assert_eq!(held.leaving(&owner, &holder).unwrap(), Some(late));
    assert_eq!(held.total(&owner, &holder).batches, 2);
    let other = SinkName::from("u");
    assert_eq!(held.begin(&other, &holder, Position(0)).unwrap(), [], "a name that another begins with");
}
