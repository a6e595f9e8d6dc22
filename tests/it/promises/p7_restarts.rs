//! P7: a panic in any actor is one restart of that actor, and every other one lives on.

use forebay_actors::runtime::{fault::Fault, supervisor::ChildState};

use crate::support::testbed::{NotAcknowledged, TestBed, config, eventually, run};

/// Scenario: under load every child is brought down in turn, by panic and by stop, several times.
/// Guarantee: each time is one restart of that child, counted, and none of another; producers hear a refusal or
/// nothing at worst; every acknowledged event comes to both sinks.
#[test]
fn p7_any_actor_may_die_under_load() {
    run(async {
        let bed = TestBed::start(&config(&["a", "b"])).await;
        let load = bed.load();
        let children: Vec<_> = bed.pipeline.children().cloned().collect();
        assert_eq!(children.len(), 7);
        for round in 1..=4 {
            for child in &children {
                let fault = if round % 2 == 0 { Fault::Stop } else { Fault::Panic };
                let enough = bed.acknowledged().len() + 100;
                assert!(bed.pipeline.inject(child.name(), fault));
                eventually("it was restarted", || child.restarts() == round).await;
                eventually("it runs", || child.state() == ChildState::Running).await;
                eventually("events are acknowledged again", || bed.acknowledged().len() >= enough).await;
            }
        }
        let failures = load.stop().await;
        assert!(failures.iter().all(|failure| *failure == NotAcknowledged::Unanswered), "{failures:?}");
        for name in ["a", "b"] {
            bed.settled(name).await;
            bed.assert_delivered(name);
        }
        for child in &children {
            let by = |cause| {
                bed.metric("forebay_actor_restarts_total", &[("actor", child.name()), ("cause", cause)])
            };
            assert_eq!((by("panic"), by("stop")), (2.0, 2.0), "{}", child.name());
        }
        assert_eq!(bed.metric("forebay_sink_dead_letters_total", &[]), 0.0);
        bed.end().await;
    });
}

/// Scenario: under load several children at a time are brought down, then all of them at once, again and again.
/// Guarantee: everything goes on, and every acknowledged event comes to both sinks.
#[test]
fn p7_several_actors_may_die_at_once() {
    run(async {
        let bed = TestBed::start(&config(&["a", "b"])).await;
        let load = bed.load();
        let children: Vec<_> = bed.pipeline.children().cloned().collect();
        let mut random = fastrand::Rng::with_seed(42);
        for round in 0..30 {
            let before: Vec<_> = children.iter().map(|child| child.restarts()).collect();
            let hit: Vec<_> = children.iter().map(|_| round % 5 == 0 || random.bool()).collect();
            for (child, _) in children.iter().zip(&hit).filter(|(_, hit)| **hit) {
                child.inject(if random.bool() { Fault::Panic } else { Fault::Stop });
            }
            let restarted =
                || (0..children.len()).all(|i| children[i].restarts() == before[i] + u64::from(hit[i]));
            eventually("all that were hit were restarted", restarted).await;
        }
        let enough = bed.acknowledged().len() + 500;
        eventually("events are acknowledged again", || bed.acknowledged().len() >= enough).await;
        load.stop().await;
        for name in ["a", "b"] {
            bed.settled(name).await;
            bed.assert_delivered(name);
        }
        bed.end().await;
    });
}

/// Scenario: a child's restart budget is spent by faults.
/// Guarantee: it is `Failed` for all to see, is retried at the slowest rate, and works again.
#[test]
fn p7_a_spent_budget_is_shown_and_overcome() {
    run(async {
        let mut config = config(&["a"]);
        config.supervisor.restarts_max = 2;
        config.supervisor.backoff_max = std::time::Duration::from_millis(200);
        let bed = TestBed::start(&config).await;
        let child = bed.pipeline.children().find(|child| child.name() == "sink:a").cloned();
        let child = child.expect("the sink is a child");
        for restarts in 1..=3 {
            eventually("it runs", || child.state() == ChildState::Running).await;
            child.inject(Fault::Panic);
            eventually("it died", || child.restarts() == restarts).await;
        }
        eventually("it has failed", || child.state() == ChildState::Failed).await;
        bed.post_many(3).await;
        bed.settled("a").await;
        bed.assert_delivered("a");
        bed.end().await;
    });
}
