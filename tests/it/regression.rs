//! What was broken once, each test named after it.

use forebay::config::{};
use forebay_actors::{
    record::Position,
    runtime::supervisor::{},
    state::
};

use crate::support::testbed::{TestBed, config, run, sink};

/// Scenario: a sink that was never seen before starts with the process, or is added by a reload; the process dies
/// before the cursors are saved for the first time.
/// Guarantee: where the sink begins is on disk before anything is acknowledged: it was not, and the next start gave
/// the sink a later beginning, behind acknowledged events.
#[test]
fn r0001_a_new_sink_lost_its_beginning_in_a_crash() {
    run(async {
        let mut bed = TestBed::start(&config(&["a"])).await;
        assert_eq!(bed.saved_cursor("a"), Some(Position(0)));
        bed.post_many(5).await;
        let mut more = bed.config();
        more.sinks.insert("b".to_owned(), sink());
        bed.fake("b").order(|orders| orders.hang = true);
        bed.pipeline.apply(more).await;
        assert_eq!(bed.saved_cursor("b"), Some(Position(5)));
        bed.fake("b").heal();
        bed.end().await;
    });
}
