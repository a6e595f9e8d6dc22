//! What was broken in a pipeline.

use std::time::Duration;

use forebay::config::{Durability, SupervisorConfig, WhenFull};
use forebay_actors::{
    record::Position,
    runtime::{fault::Fault, supervisor::ChildState},
    state::Reason,
};

use crate::support::testbed::{
    TestBed, config, event_id, events_with, eventually, incompressible, run, sink,
};

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

/// Scenario: a reload changes two sinks. The first is behind, by a generation that everybody else has passed; the
/// second holds its thread, so that its end takes two seconds, in which retention runs.
/// Guarantee: the journal waits for a sink also while it is replaced: it did not, and the generation was removed.
#[test]
fn r0002_retention_removed_what_a_sink_in_reload_still_needed() {
    run(async {
        let config = config(&["a", "b", "c"]);
        let bed = TestBed::start_with(&config, |fake| fake("a").order(|orders| orders.hang = true)).await;
        bed.post_many(10).await;
        bed.settled("b").await;
        bed.settled("c").await;
        // Every start begins a generation.
        let mut bed = bed.restart(&config, Duration::from_millis(20)).await;
        bed.fake("b").order(|orders| orders.hold_thread = true);
        bed.post_many(1).await;
        bed.settled("c").await;
        let mut new = config.clone();
        for name in ["a", "b"] {
            new.sinks.get_mut(name).expect("it is configured").mailbox_batches = 3;
        }
        bed.pipeline.apply(new).await;
        ["a", "b"].iter().for_each(|name| bed.fake(name).heal());
        for name in ["a", "b", "c"] {
            bed.settled(name).await;
            bed.assert_delivered(name);
            assert_eq!(bed.dead_letters(name), []);
        }
        bed.end().await;
    });
}

/// Scenario: a destination panics whenever one event is in the batch; restarts are budgeted as by default.
/// Guarantee: the event stands alone after a number of tries that grows with the logarithm of the batch: it grew with
/// its square and more, because what was known of a batch was forgotten with it, and every try was a restart.
#[test]
fn r0003_a_poison_record_that_panics_was_hardly_ever_isolated() {
    run(async {
        let mut config = config(&["a"]);
        config.supervisor = SupervisorConfig::default();
        let bed = TestBed::start(&config).await;
        bed.fake("a").order(|orders| orders.panic_on = Some("poison"));
        let mut messages = vec!["a good one"; 5_000];
        messages[1_234] = "poison";
        let mut ids = bed.post(&messages).await;
        bed.settled("a").await;
        let letters = bed.dead_letters("a");
        assert_eq!(letters.iter().filter_map(event_id).collect::<Vec<_>>(), [ids.remove(1_234)]);
        assert_eq!(letters[0].reason, Reason::Panicked);
        let seen = bed.fake("a").seen();
        assert_eq!(seen.events(), ids);
        assert!(seen.asked.len() < 40, "asked {} times", seen.asked.len());
        assert!(seen.built > 10, "after a panic the destination is built anew");
        let child = bed.pipeline.children().find(|child| child.name() == "sink:a").expect("it is a child");
        assert_eq!(child.state(), ChildState::Running);
        bed.end().await;
    });
}

/// Scenario: the journal is full and a hung sink has to skip its oldest events; then it catches up.
/// Guarantee: a skipped range is accounted for once, as dropped: it was a second time, as damaged.
#[test]
fn r0004_a_skipped_range_was_dead_lettered_twice() {
    run(async {
        let mut config = config(&["a"]);
        config.buffer.durability = Durability::Memory;
        config.buffer.memory_events_max = 100;
        let a = config.sinks.get_mut("a").expect("it is configured");
        a.when_full = WhenFull::DropOldest;
        let bed = TestBed::start_with(&config, |fake| fake("a").order(|orders| orders.hang = true)).await;
        bed.post_many(10).await;
        bed.fake("a").until("the first batch is on its way", |seen| !seen.asked.is_empty()).await;
        for _ in 0..49 {
            bed.producer().post_patiently(&["one of ten"; 10]).await;
        }
        bed.fake("a").heal();
        bed.settled("a").await;
        let letters = bed.dead_letters("a");
        let dropped = events_with(&letters, Reason::DroppedOldest);
        assert!(letters.iter().all(|letter| letter.reason == Reason::DroppedOldest), "{letters:?}");
        let mut spans: Vec<_> = letters.iter().map(|letter| letter.span).collect();
        spans.sort_by_key(|span| span.first);
        assert!(
            spans.windows(2).all(|pair| pair[0].end <= pair[1].first),
            "no position is dropped twice: {spans:?}"
        );
        // A batch that was on its way when its range was dropped came all the same.
        let delivered = bed.fake("a").seen().distinct().len() as u64;
        assert!(dropped >= 350 && delivered + dropped >= 500, "{delivered} and {dropped}");
        bed.assert_outcomes("a");
        bed.end().await;
    });
}

/// Scenario: durability `memory`; a healthy sink takes everything at once; more events come than may be held.
/// Guarantee: what every sink has is no reason to refuse: it was, until retention came by.
#[test]
fn r0005_memory_mode_refused_for_events_that_were_delivered() {
    run(async {
        let mut config = config(&["a"]);
        config.buffer.durability = Durability::Memory;
        config.buffer.memory_events_max = 100;
        let bed = TestBed::start(&config).await;
        for _ in 0..50 {
            bed.post_many(10).await;
            bed.settled("a").await;
        }
        bed.assert_delivered("a");
        let view = bed.pipeline.view();
        eventually("nothing is held", || view.journal.span().count() == 0).await;
        bed.end().await;
    });
}

/// Scenario: `Health` and `Retention`, which nobody sends anything, are brought down.
/// Guarantee: they come back as every actor does: they ended for good, because nobody held their address.
#[test]
fn r0006_an_actor_that_is_sent_nothing_never_came_back() {
    run(async {
        let bed = TestBed::start(&config(&["a"])).await;
        for name in ["health", "retention"] {
            let child =
                bed.pipeline.children().find(|child| child.name() == name).expect("it is a child").clone();
            child.inject(Fault::Panic);
            eventually("it was restarted", || child.restarts() == 1).await;
            eventually("it runs", || child.state() == ChildState::Running).await;
        }
        bed.end().await;
    });
}

/// Scenario: an actor is brought down, and again before it is back.
/// Guarantee: that is two restarts: the second fault was taken while the actor rested, and forgotten.
#[test]
fn r0007_a_fault_during_the_rest_was_forgotten() {
    run(async {
        let mut config = config(&["a"]);
        config.supervisor.backoff_min = Duration::from_millis(50);
        let bed = TestBed::start(&config).await;
        let child =
            bed.pipeline.children().find(|child| child.name() == "sink:a").expect("it is a child").clone();
        child.inject(Fault::Panic);
        eventually("it rests", || child.state() == ChildState::Restarting).await;
        child.inject(Fault::Stop);
        eventually("it was restarted twice", || child.restarts() == 2).await;
        bed.end().await;
    });
}

/// Scenario: the cursors are gone (a damaged or forgotten `state/`), and the journal has events that nobody delivered.
/// Guarantee: everything that is kept is delivered: every sink counted as new, began at the head, and the backlog was
/// removed without a word.
#[test]
fn r0201_lost_cursors_lost_the_backlog() {
    run(async {
        let config = config(&["a"]);
        let bed = TestBed::start_with(&config, |fake| fake("a").order(|orders| orders.hang = true)).await;
        bed.post_many(10).await;
        let lose = |dir: &std::path::Path| {
            std::fs::remove_dir_all(forebay::data_dir::state(dir)).expect("the state can be removed");
        };
        let bed = bed.restart_after(&config, Duration::from_millis(20), lose).await;
        bed.fake("a").heal();
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.end().await;
    });
}

/// Scenario: a sink is taken out of the configuration with a backlog, which is then removed, and comes back.
/// Guarantee: what is gone is accounted for as expired, and the sink goes on: it read the empty journal again and again,
/// at full speed, for ever.
#[test]
fn r0202_a_sink_behind_an_empty_journal_never_got_on() {
    run(async {
        let both = config(&["a", "b"]);
        let bed = TestBed::start_with(&both, |fake| fake("b").order(|orders| orders.hang = true)).await;
        bed.post_many(10).await;
        bed.settled("a").await;
        let mut bed = bed.restart(&config(&["a"]), Duration::from_millis(20)).await;
        let journal = bed.pipeline.view().journal;
        eventually("the backlog is removed", || journal.span().count() == 0).await;
        bed.fake("b").heal();
        bed.pipeline.apply(both).await;
        bed.settled("b").await;
        let letters = bed.dead_letters("b");
        assert_eq!(events_with(&letters, Reason::Expired), 10, "{letters:?}");
        bed.post_many(3).await;
        bed.settled("b").await;
        assert_eq!(bed.fake("b").seen().distinct().len(), 3);
        bed.end().await;
    });
}

/// Scenario: a batch of half a mebibyte is cut by time and on its way; the process restarts with a smaller
/// `batch.max_bytes`.
/// Guarantee: the batch is cut where it was planned, and delivered: the sink waited for room that only this cut makes.
#[test]
fn r0203_a_smaller_batch_limit_stopped_a_sink_for_ever() {
    run(async {
        let mut config = config(&["a"]);
        let bed = TestBed::start_with(&config, |fake| fake("a").order(|orders| orders.hang = true)).await;
        let messages: Vec<_> = (0..30).map(incompressible).collect();
        bed.post(&messages).await;
        bed.fake("a").until("a batch is on its way", |seen| !seen.asked.is_empty()).await;
        config.batch.max_bytes = 128 * 1024;
        let bed = bed.restart(&config, Duration::from_millis(20)).await;
        bed.fake("a").heal();
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.end().await;
    });
}

/// Scenario: a sink has less than a full batch, and `batch.max_wait` is an hour.
/// Guarantee: it says until when it waits, so that health does not take it for stuck; see the test of this number there.
#[test]
fn r0281_a_sink_did_not_say_that_its_batch_gathers() {
    run(async {
        let mut config = config(&["a"]);
        config.batch.max_wait = Duration::from_secs(3600);
        let bed = TestBed::start(&config).await;
        // The first after a pause goes at once.
        bed.post_many(1).await;
        bed.settled("a").await;
        bed.post_many(1).await;
        let board = bed.pipeline.view().board;
        let gathers = || board.read().0.sinks.get("a").and_then(|sink| sink.report.gathers_until).is_some();
        eventually("it says so", gathers).await;
        bed.end().await;
    });
}
