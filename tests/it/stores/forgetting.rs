//! What retention asks of a store.

use forebay::store::{Order, PURGE_SLICE_ROWS, Query};
use forebay_actors::event::Timestamp;

use super::{Subject, draft, time};

/// Slices go oldest first, however the events were stored, also where many have one time, and stop at the cutoff.
pub fn the_oldest_go_first_a_slice_at_a_time(subject: &Subject) {
    let slice = PURGE_SLICE_ROWS as i64;
    let (count, kept) = (3 * slice, 20);
    // Two of each time, in no order.
    let ids: Vec<_> = (0..count).map(|i| (i * 7_919 % count / 2, format!("e{i}"))).collect();
    let drafts: Vec<_> = ids.iter().map(|(at, id)| draft(id, *at, "s")).collect();
    subject.deliver(0, &drafts);
    let cutoff = time((count - kept) / 2);
    let mut gone = 0;
    while let more @ 1.. = subject.purge(cutoff) as i64 {
        assert!(more <= slice, "{more} of a slice of {slice}");
        gone += more;
        let oldest = Query { order: Order::Oldest, limit: 1, ..Query::default() };
        let oldest = subject.page(&oldest).unwrap().events.remove(0);
        assert_eq!(oldest.timestamp, time(gone / 2), "the oldest went first");
    }
    assert_eq!(gone, count - kept);
    // What goes as a whole partition is not counted.
    assert!(subject.purge(Timestamp::from_nanos(i64::MAX)) <= kept as u64);
    assert_eq!(subject.page(&Query { limit: 1, ..Query::default() }).unwrap().events, []);
}

/// Before anything was stored there is nothing to forget.
pub fn nothing_is_forgotten_of_what_is_not_there(subject: &Subject) {
    assert_eq!(subject.purge(time(0)), 0);
}
