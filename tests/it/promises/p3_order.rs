//! P3: at least once, in journal order per sink, in batches with deterministic ids.

use forebay_actors::runtime::fault::Fault;

use crate::support::testbed::{TestBed, config, run};

/// Scenario: requests of many sizes, one after the other; of two sinks one fails again and again.
/// Guarantee: with concurrency 1 both take every event once, in the order of the acknowledgements.
#[test]
fn p3_every_sink_takes_events_in_order() {
    run(async {
        let mut config = config(&["a", "b"]);
        config.batch.max_events = 100;
        let bed = TestBed::start(&config).await;
        for request in 0..60 {
            if request % 6 == 0 {
                bed.fake("b").order(|orders| orders.fail = 2);
            }
            bed.post_many(1 + request * 7 % 90).await;
        }
        let acknowledged = bed.acknowledged();
        for name in ["a", "b"] {
            bed.settled(name).await;
            assert_eq!(bed.fake(name).seen().events(), acknowledged);
        }
        bed.end().await;
    });
}

/// Scenario: a sink dies, by panic and by stop, while its destination holds a batch that was cut by time; meanwhile
/// there are more events, so that a batch cut now would be longer.
/// Guarantee: it asks again for the batch with the same id, and the batches behind follow without gap or overlap.
#[test]
fn p3_batch_ids_are_the_same_after_a_restart_of_the_sink() {
    run(async {
        let bed =
            TestBed::start_with(&config(&["a"]), |fake| fake("a").order(|orders| orders.hang = true)).await;
        bed.post_many(7).await;
        for (asked, fault) in [(1, Fault::Panic), (2, Fault::Stop), (3, Fault::Panic)] {
            bed.fake("a").until("the batch is on its way", |seen| seen.asked.len() == asked).await;
            bed.post_many(5).await;
            bed.pipeline.inject("sink:a", fault);
        }
        bed.fake("a").until("the batch is on its way", |seen| seen.asked.len() == 4).await;
        assert_eq!(bed.fake("a").seen().asked, ["0-7"; 4]);
        bed.fake("a").heal();
        bed.settled("a").await;
        assert_batches_follow(&bed, "a", 22);
        bed.end().await;
    });
}

/// Scenario: the process dies while batches are on their way, cut by time and cut by size, before the cursor has
/// moved; the next life has more events at hand.
/// Guarantee: the same events have the same batch id, so a destination that remembers ids has every event once.
#[test]
fn p3_batch_ids_are_the_same_after_a_crash_of_the_pipeline() {
    run(async {
        let mut config = config(&["a"]);
        config.batch.max_events = 10;
        for (events, first) in [(7, "0-7"), (25, "0-10")] {
            let hang = |fake: &dyn Fn(&str) -> _| {
                let fake: crate::support::destination::Fake = fake("a");
                fake.order(|orders| orders.hang = true);
            };
            let mut bed = TestBed::start_with(&config, hang).await;
            bed.post_many(events).await;
            for asked in 1..4 {
                bed.fake("a").until("the batch is on its way", |seen| seen.asked.len() >= asked).await;
                bed = bed.crash().await;
                bed.post_many(6).await;
            }
            bed.fake("a").until("the batch is on its way", |seen| seen.asked.len() >= 4).await;
            assert_eq!(bed.fake("a").seen().asked, [first; 4]);
            bed.fake("a").heal();
            bed.settled("a").await;
            assert_batches_follow(&bed, "a", events + 18);
            bed.end().await;
        }
    });
}

/// Scenario: the process dies after the destination took batches and before anybody noted it.
/// Guarantee: they come again under the same ids: at least once, and once for who remembers ids.
#[test]
fn p3_what_was_taken_but_not_noted_comes_again_under_the_same_id() {
    run(async {
        let mut config = config(&["a"]);
        config.batch.max_events = 10;
        let mut bed = TestBed::start(&config).await;
        for life in 1..6 {
            bed.post_many(13).await;
            bed.fake("a").until("everything was taken", |seen| seen.distinct().len() == life * 13).await;
            bed = bed.crash().await;
        }
        bed.settled("a").await;
        bed.assert_delivered("a");
        assert_batches_follow(&bed, "a", 65);
        bed.end().await;
    });
}

/// The distinct batches that were taken lie one behind the other and come to `events`.
fn assert_batches_follow(bed: &TestBed, sink: &str, events: usize) {
    let parse = |id: &String| {
        let (first, end) = id.split_once('-').expect("an id is a range");
        (first.parse::<usize>().expect("a position"), end.parse::<usize>().expect("a position"))
    };
    let seen = bed.fake(sink).seen();
    let mut batches: Vec<_> = seen.taken.iter().map(|(id, _)| parse(id)).collect();
    batches.sort_unstable();
    batches.dedup();
    let mut at = 0;
    for (first, end) in batches {
        assert_eq!(first, at, "a gap or an overlap");
        at = end;
    }
    assert_eq!(at, events);
}
