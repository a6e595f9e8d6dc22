//! P2 and P3 where a sink has a standby: `fallback` holds its batches while its breaker is open, `on_failure` takes them.
//!
//! The sink is `a`, its standby `b`, which has nothing of its own.

use std::time::Duration;

use forebay::config::{BreakerConfig, Config};
use forebay_actors::{
    runtime::fault::Fault,
    state::{Books as _, HeldBatches, HeldTotals, Reason, StateDb},
};

use crate::support::{
    destination::Fake,
    testbed::{TestBed, config, event_id, events_with, eventually, run},
    thorough,
};

/// A sink with a fallback. Its breaker opens at the first failure, and is tried again soon.
fn with_fallback() -> Config {
    let mut config = config(&["a", "b"]);
    let sinks = &mut config.sinks;
    let a = sinks.get_mut("a").expect("it is configured");
    a.fallback = Some("b".to_owned());
    a.breaker = BreakerConfig { failures: 1, open_for: Duration::from_millis(20), successes: 1 };
    let b = sinks.get_mut("b").expect("it is configured");
    b.only_as_fallback = true;
    // By default it would stay open for as long as a test is patient.
    b.breaker = BreakerConfig { open_for: Duration::from_millis(20), ..BreakerConfig::default() };
    config
}

fn down(fake: &Fake) {
    fake.order(|orders| orders.fail = u64::MAX);
}

fn pair(bed: &TestBed, name: &str) -> f64 {
    bed.metric(name, &[("sink", "a"), ("to", "b")])
}

/// Nothing is held any more, at the holder or in the books.
async fn nothing_is_held(bed: &TestBed) {
    bed.fake("b").until("the fallback holds nothing", |seen| seen.held.is_empty()).await;
    eventually("the books are empty", || pair(bed, "forebay_sink_held_batches") == 0.0).await;
}

/// The positions at which batches that were taken begin.
fn firsts(bed: &TestBed) -> Vec<u64> {
    let first = |(id, _): &(String, Vec<String>)| id.split('-').next().and_then(|first| first.parse().ok());
    bed.fake("a").seen().taken.iter().filter_map(first).collect()
}

/// Scenario: a destination is down for a while; meanwhile and later events come.
/// Guarantee: what came meanwhile counts as held, and the journal waits for none of it; when the destination is back, held
/// batches come under their old ids, the oldest first, and both sides have counted the same. Nothing stays held.
#[test]
fn p2_what_a_destination_missed_is_held_and_read_back_oldest_first() {
    run(async {
        let bed = TestBed::start_with(&with_fallback(), |fake| down(&fake("a"))).await;
        for _ in 0..8 {
            bed.post_many(5).await;
            bed.settled("a").await;
        }
        let held = bed.fake("b").seen().held.len();
        assert!(held >= 2, "{held} batches");
        eventually("the gauge shows what is held", || pair(&bed, "forebay_sink_held_events") == 40.0).await;
        assert_eq!(pair(&bed, "forebay_sink_held_batches"), held as f64);
        assert_eq!(pair(&bed, "forebay_sink_given_to_fallback_events_total"), 40.0);
        assert_eq!(bed.metric("forebay_sink_sent_events_total", &[("sink", "b")]), 40.0);
        let report = bed.pipeline.sink_probe("a").expect("it is configured").report();
        let fallback = report.fallback.expect("it has a fallback");
        assert_eq!(fallback.holds.expect("it holds").held_events, 40);
        assert_eq!(fallback.sink.expect("it has a name").as_str(), "b");
        let lag = || bed.pipeline.sink_probe("a").expect("it is configured").report().lag_events;
        eventually("the journal waits for nothing", || lag() == 0).await;
        let report = bed.pipeline.sink_probe("b").expect("it is configured").report();
        assert_eq!(report.holds[&"a".into()].held_batches, held as u64);
        assert_eq!(bed.fake("a").seen().count(), 0);

        bed.fake("a").heal();
        bed.post_many(3).await;
        nothing_is_held(&bed).await;
        bed.settled("a").await;
        bed.assert_delivered("a");
        let (firsts, seen) = (firsts(&bed), bed.fake("a").seen());
        let of_held: Vec<_> = firsts.iter().filter(|first| **first < 40).collect();
        assert!(of_held.is_sorted() && of_held.len() == held, "{firsts:?}");
        assert_eq!(seen.count(), 43, "each once");
        assert!(seen.taken.iter().all(|(id, _)| seen.asked.contains(id)));
        // Before the breaker had closed, the last may have been held, too.
        let given = pair(&bed, "forebay_sink_given_to_fallback_events_total");
        assert_eq!(pair(&bed, "forebay_sink_read_back_events_total"), given);
        assert_eq!(bed.metric("forebay_sink_sent_events_total", &[("sink", "a")]), 43.0);
        assert!(bed.pipeline.sink_probe("b").expect("it is configured").report().holds.is_empty());
        bed.end().await;
    });
}

/// Scenario: what is read back hangs at the destination while new events come.
/// Guarantee: these do not wait for it.
#[test]
fn p4_reading_back_delays_no_new_event() {
    run(async {
        let mut config = with_fallback();
        // Time enough to have the fallback fail before anything is read back.
        config.sinks.get_mut("a").expect("it is configured").breaker.open_for = Duration::from_millis(500);
        let bed = TestBed::start_with(&config, |fake| down(&fake("a"))).await;
        let (a, b) = (bed.fake("a"), bed.fake("b"));
        let held = bed.post_many(5).await;
        bed.settled("a").await;
        // What is new closes the breaker, because what is held cannot be fetched yet.
        down(&b);
        a.order(|orders| (orders.fail, orders.hang_before) = (0, 5));
        let first = bed.post_many(5).await;
        bed.settled("a").await;
        b.heal();
        let on_its_way = |id: &String| id == "0-5";
        a.until("what is held is on its way", |seen| seen.asked.last().is_some_and(on_its_way)).await;
        let second = bed.post_many(5).await;
        bed.settled("a").await;
        let seen = a.seen();
        assert_eq!(seen.events(), [first, second, held.clone()].concat()[..10], "what is held still hangs");
        a.heal();
        nothing_is_held(&bed).await;
        assert_eq!(a.seen().events()[10..], held);
        bed.end().await;
    });
}

/// Scenario: the process dies at each step there is: before and after the holder has the batch, when that is noted, while it
/// is read back, and before the holder has let go of it.
/// Guarantee: every event comes to the destination, and nothing stays held, not even what nobody knew to be there.
#[test]
fn p2_a_crash_at_any_step_loses_nothing_and_forgets_nothing() {
    type Order = fn(&Fake, &Fake);
    let steps: [(&str, Order); 5] = [
        ("before the holder has it", |_, b| b.order(|orders| orders.hang = true)),
        ("before it is noted that the holder has it", |_, b| b.order(|orders| orders.hold_in_silence = true)),
        ("when that is noted", |_, _| ()),
        ("while it is read back", |a, _| a.order(|orders| (orders.fail, orders.hang) = (0, true))),
        ("before the holder has let go of it", |a, b| {
            a.heal();
            b.order(|orders| orders.fail_to_release = true);
        }),
    ];
    for (step, order) in steps {
        println!("{step}");
        run(async move {
            let bed = TestBed::start_with(&with_fallback(), |fake| down(&fake("a"))).await;
            let (a, b) = (bed.fake("a"), bed.fake("b"));
            let from_the_start =
                step.starts_with("before the holder has it") || step.starts_with("before it is");
            if from_the_start {
                order(&a, &b);
            }
            bed.post_many(7).await;
            match step {
                "before the holder has it" => a.until("it was tried", |seen| !seen.asked.is_empty()).await,
                "before it is noted that the holder has it" => {
                    b.until("it is held", |seen| !seen.held.is_empty()).await;
                }
                _ => bed.settled("a").await,
            }
            if !from_the_start {
                order(&a, &b);
                if step == "while it is read back" {
                    let asked = a.seen().asked.len();
                    a.until("it is on its way", |seen| seen.asked.len() > asked).await;
                } else if step == "before the holder has let go of it" {
                    a.until("it is read back", |seen| seen.count() == 7).await;
                }
            }
            let bed = bed.crash().await;
            a.heal();
            b.heal();
            bed.post_many(2).await;
            bed.settled("a").await;
            nothing_is_held(&bed).await;
            bed.assert_delivered("a");
            let ids = a.seen();
            let again =
                ids.taken.iter().filter(|(id, _)| ids.taken.iter().filter(|(i, _)| i == id).count() > 2);
            assert_eq!(again.count(), 0, "{step}: at most once more");
            bed.end().await;
        });
    }
}

/// Scenario: destination and fallback are both down, and the fallback comes back first.
/// Guarantee: until then events wait in the journal, and both say why; then they are held.
#[test]
fn p2_a_fallback_that_fails_leaves_events_in_the_journal() {
    run(async {
        let bed = TestBed::start_with(&with_fallback(), |fake| {
            down(&fake("a"));
            down(&fake("b"));
        })
        .await;
        let ids = bed.post_many(5).await;
        let report = |name: &str| bed.pipeline.sink_probe(name).expect("it is configured").report();
        let error = || report("a").fallback.and_then(|fallback| fallback.error).unwrap_or_default();
        eventually("the sink says what its fallback says", || {
            error().contains("the holder was told to fail")
        })
        .await;
        eventually("so does the fallback", || report("b").error.is_some()).await;
        assert!(report("a").error.is_some_and(|error| error.contains("told to fail")));
        assert!(bed.metric("forebay_sink_errors_total", &[("sink", "b"), ("cause", "connect")]) > 0.0);
        assert_eq!((bed.cursor("a").0, bed.fake("b").seen().held.len()), (0, 0));
        bed.fake("b").heal();
        bed.settled("a").await;
        assert_eq!(pair(&bed, "forebay_sink_given_to_fallback_events_total"), 5.0);
        bed.fake("a").heal();
        nothing_is_held(&bed).await;
        assert_eq!(bed.fake("a").seen().events(), ids);
        bed.end().await;
    });
}

/// Scenario: of what was held, the destination refuses some events when they are read back, after it has failed some times;
/// everything is older than `retry.max_age` by then.
/// Guarantee: the refused ones are dead letters, alone; nothing expires that is held or can be.
#[test]
fn p2_what_is_refused_when_it_is_read_back_is_a_dead_letter() {
    run(async {
        let mut config = with_fallback();
        config.sinks.get_mut("a").expect("it is configured").retry.max_age = Some(Duration::from_millis(1));
        let bed = TestBed::start_with(&config, |fake| down(&fake("a"))).await;
        let mut messages = vec!["a good one"; 20];
        messages[13] = "refuse this";
        let mut ids = bed.post(&messages).await;
        bed.settled("a").await;
        bed.fake("a").order(|orders| (orders.fail, orders.reject) = (3, Some("refuse")));
        nothing_is_held(&bed).await;
        let letters = bed.dead_letters("a");
        assert_eq!(letters.iter().filter_map(event_id).collect::<Vec<_>>(), [ids.remove(13)]);
        assert_eq!(events_with(&letters, Reason::Rejected), 1);
        assert_eq!(bed.fake("a").seen().events(), ids);
        bed.end().await;
    });
}

/// Scenario: what was held is damaged at the holder, and some of it is gone.
/// Guarantee: its events are a dead letter that says so, one for each batch; what is whole is read back all the same.
#[test]
fn p8_what_is_damaged_at_the_holder_costs_itself() {
    run(async {
        let mut config = with_fallback();
        // Time enough to damage it before anything is fetched.
        config.sinks.get_mut("a").expect("it is configured").breaker.open_for = Duration::from_secs(1);
        let bed = TestBed::start_with(&config, |fake| down(&fake("a"))).await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(bed.post_many(5).await);
            bed.settled("a").await;
        }
        bed.fake("b").with_held(|held| {
            let keys: Vec<_> = held.keys().cloned().collect();
            assert_eq!(keys.len(), 3);
            held.remove(&keys[0]);
            let mut damaged = held[&keys[1]].to_vec();
            damaged[70] ^= 1;
            held.insert(keys[1].clone(), damaged.into());
        });
        bed.fake("a").heal();
        bed.fake("a").until("the last is read back", |seen| seen.count() == 5).await;
        eventually("the books are empty", || pair(&bed, "forebay_sink_held_batches") == 0.0).await;
        assert_eq!(bed.fake("a").seen().events(), ids[2]);
        let letters = bed.dead_letters("a");
        assert_eq!(events_with(&letters, Reason::Damaged), 10);
        assert!(
            letters[0].error.contains("is not there any more") && letters[1].error.contains("is damaged")
        );
        bed.end().await;
    });
}

/// Scenario: a destination with `on_failure` is down, and comes back.
/// Guarantee: what came meanwhile went elsewhere for good, under the same ids, and was counted; nothing of it comes back.
#[test]
fn p2_on_failure_diverts_for_good() {
    run(async {
        let mut config = with_fallback();
        let a = config.sinks.get_mut("a").expect("it is configured");
        a.on_failure = a.fallback.take();
        let bed = TestBed::start_with(&config, |fake| down(&fake("a"))).await;
        let diverted = bed.post_many(5).await;
        bed.settled("a").await;
        assert_eq!(bed.fake("b").seen().events(), diverted);
        assert_eq!(pair(&bed, "forebay_sink_diverted_events_total"), 5.0);
        let report = || bed.pipeline.sink_probe("a").expect("it is configured").report();
        let shown = || report().on_failure.and_then(|standby| standby.diverted_events);
        eventually("the health shows it", || shown() == Some(5)).await;
        bed.fake("a").heal();
        let later = bed.post_many(5).await;
        bed.settled("a").await;
        let [own, others] = ["a", "b"].map(|name| bed.fake(name).seen());
        let all: Vec<_> = own.events().into_iter().chain(others.events()).collect();
        assert_eq!(all.len(), 10, "each event once, at one of them");
        assert!(later.iter().all(|id| all.contains(&id.as_str())));
        bed.end().await;
    });
}

/// Scenario: the sink of `on_failure` takes a batch but for three of its events, which it names; of the next it leaves out two
/// without naming them.
/// Guarantee: the named ones are dead letters, each with the words about it; the others are counted as refused. All of them
/// counted as delivered, and the named ones were lost.
#[test]
fn r0580_what_on_failure_named_or_left_out_counted_as_delivered() {
    run(async {
        let mut config = with_fallback();
        let a = config.sinks.get_mut("a").expect("it is configured");
        a.on_failure = a.fallback.take();
        let bed = TestBed::start_with(&config, |fake| down(&fake("a"))).await;
        let b = bed.fake("b");
        b.order(|orders| orders.name = Some("unwanted"));
        let mut messages = vec!["a good one"; 20];
        let wrong = [("unwanted 0", 0), ("unwanted 7", 7), ("unwanted 19", 19)];
        wrong.iter().for_each(|(message, index)| messages[*index] = *message);
        let mut ids = bed.post(&messages).await;
        bed.settled("a").await;
        let letters = bed.dead_letters("a");
        let found: Vec<_> =
            letters.iter().map(|letter| (event_id(letter).unwrap(), letter.error.clone())).collect();
        let expected: Vec<_> = wrong
            .iter()
            .map(|(message, index)| (ids[*index].clone(), format!("b: the destination names {message}")))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(events_with(&letters, Reason::Rejected), 3);
        for (_, index) in wrong.iter().rev() {
            ids.remove(*index);
        }
        assert_eq!(b.seen().events(), ids, "each once");
        assert_eq!(pair(&bed, "forebay_sink_diverted_events_total"), 17.0);
        let labels = [("sink", "a"), ("reason", "rejected")];
        assert_eq!(bed.metric("forebay_sink_dead_letters_total", &labels), 3.0);

        b.order(|orders| (orders.name, orders.leave_out) = (None, 2));
        bed.post(&["a good one"; 5]).await;
        bed.settled("a").await;
        assert_eq!(pair(&bed, "forebay_sink_diverted_events_total"), 20.0);
        assert_eq!(bed.metric("forebay_sink_sent_events_total", &[("sink", "b")]), 20.0);
        assert_eq!(bed.metric("forebay_sink_refused_events_total", &[("sink", "b")]), 2.0);
        bed.end().await;
    });
}

/// Scenario: batches are held; a configuration comes that takes the sink, its fallback or the key away.
/// Guarantee: that is noticed before anything changes, and said with the key; with nothing held there is nothing to say.
#[test]
fn p10_what_holds_something_cannot_be_taken_away() {
    run(async {
        let bed = TestBed::start_with(&with_fallback(), |fake| down(&fake("a"))).await;
        let faults = async |config: &Config| -> Vec<String> {
            let misplaced = bed.pipeline.misplaced(config, false).await.expect("the books can be read");
            misplaced.iter().map(ToString::to_string).collect()
        };
        let mut without = with_fallback();
        without.sinks.get_mut("a").expect("it is configured").fallback = None;
        assert_eq!(faults(&without).await, [""; 0], "nothing is held yet");
        bed.post_many(5).await;
        bed.settled("a").await;
        assert_eq!(faults(&with_fallback()).await, [""; 0]);
        let found = faults(&without).await;
        assert!(found[0].contains("sinks.a.fallback: 5 events of \"a\" are held by \"b\""), "{found:?}");
        without.sinks.remove("a");
        assert!(faults(&without).await[0].starts_with("sinks.a: 5 events"), "{:?}", faults(&without).await);
        bed.fake("a").heal();
        nothing_is_held(&bed).await;
        assert_eq!(faults(&without).await, [""; 0]);
        bed.end().await;
    });
}

/// Scenario: rounds of everything at once, drawn from a seed: destination and fallback fail, hang and panic; events are
/// refused; actors die; the process restarts in order or crashes.
/// Guarantee: at the end every acknowledged event is delivered or a dead letter, and nothing stays held.
#[test]
fn p2_with_a_fallback_every_event_has_its_outcome_whatever_happens() {
    for seed in 1..=thorough(6, 60) {
        println!("seed {seed}");
        run(chaos(seed));
    }
}

async fn chaos(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut config = with_fallback();
    config.batch.max_events = random.usize(5..200);
    let a = config.sinks.get_mut("a").expect("it is configured");
    (a.concurrency, a.breaker.successes) = (random.usize(1..4).into(), random.u32(1..3));
    let mut bed = TestBed::start(&config).await;
    for _ in 0..12 {
        bed.fake("a").order(|orders| {
            orders.hang = random.u8(..5) == 0;
            orders.fail = if random.bool() { random.u64(..200) } else { 0 };
            orders.panic = random.u64(..2);
            orders.reject = random.bool().then_some("refuse");
        });
        bed.fake("b").order(|orders| {
            orders.hang = random.u8(..5) == 0;
            orders.fail = random.u64(..4);
            (orders.hold_in_silence, orders.fail_to_release) = (random.u8(..6) == 0, random.u8(..4) == 0);
        });
        let producer = bed.producer();
        for _ in 0..random.usize(1..20) {
            let mut messages = vec!["a good one"; random.usize(1..60)];
            if random.u8(..4) == 0 {
                messages[0] = "refuse this";
            }
            if random.u8(..6) == 0 {
                let fault = if random.bool() { Fault::Panic } else { Fault::Stop };
                bed.pipeline.inject("sink:a", fault);
            }
            // What was not acknowledged was not promised.
            let _ = producer.post(&messages).await;
        }
        bed = match random.u8(..3) {
            0 => bed.crash().await,
            1 => bed.restart(&config, Duration::from_millis(random.u64(..20))).await,
            _ => bed,
        };
    }
    bed.fake("a").heal();
    bed.fake("b").heal();
    bed.settled("a").await;
    nothing_is_held(&bed).await;
    bed.assert_outcomes("a");
    let letters = bed.dead_letters("a");
    assert!(letters.iter().all(|letter| letter.event.is_some()), "nothing was damaged: {letters:?}");
    let state = forebay::data_dir::state(bed.path());
    let (dir, _) = bed.stop(Duration::from_secs(10)).await;
    let books = HeldBatches::open(StateDb::open(&state).expect("the state can be opened").into());
    let books = books.expect("the books can be read");
    assert_eq!(books.total(&"a".into(), &"b".into()), HeldTotals::default());
    drop(dir);
}
