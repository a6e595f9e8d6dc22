//! What is called lost.

use super::ledger::Ledger;

/// A loss shows by its number, also beside a double and an event that was never acknowledged.
#[test]
fn a_loss_is_not_hidden_by_a_double() {
    let ledger = Ledger::default();
    ledger.acknowledge(0..200);
    assert_eq!(ledger.lost(), (200, Some(0)));
    let arrived: Vec<u64> = (0..131).chain(132..200).chain([7, 500]).collect();
    ledger.deliver(&arrived);
    assert_eq!((ledger.acknowledged(), ledger.delivered()), (200, (200, 1)));
    assert_eq!(ledger.lost(), (1, Some(131)));
    ledger.deliver(&[131]);
    assert_eq!(ledger.lost(), (0, None));
}
