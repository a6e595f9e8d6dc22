//! P10: a hot reload replaces only what changed; cursors survive; a bad configuration changes nothing.

use std::fs;

use forebay::config::Config;

use crate::support::testbed::{TestBed, config, run, sink};

/// Scenario: under load a new configuration changes one sink, removes one, adds one and leaves one as it is.
/// Guarantee: the destination of the one that stays is not built again; the changed one goes on at its cursor, without
/// loss; the new one begins at the head; the removed one is asked no more.
#[test]
fn p10_a_reload_replaces_only_what_changed() {
    run(async {
        let mut bed = TestBed::start(&config(&["changed", "kept", "removed"])).await;
        let before = bed.post_many(30).await;
        for name in ["changed", "kept", "removed"] {
            bed.settled(name).await;
        }
        let load = bed.load();
        crate::support::testbed::eventually("the load is on", || bed.acknowledged().len() > 500).await;

        let mut new = bed.config();
        new.sinks.remove("removed");
        new.sinks.insert("new".to_owned(), sink());
        new.sinks.get_mut("changed").expect("it is configured").mailbox_batches = 3;
        let changes = bed.pipeline.apply(new.clone()).await;
        assert_eq!(changes.sinks_changed, ["changed"]);
        assert_eq!(
            (changes.sinks_added, changes.sinks_removed),
            (vec!["new".into()], vec!["removed".into()])
        );
        assert_eq!(bed.config().sinks, new.sinks);
        let removed = bed.fake("removed").seen();

        let after = bed.post_many(30).await;
        load.stop().await;
        for name in ["changed", "kept", "new"] {
            bed.settled(name).await;
        }
        for name in ["changed", "kept"] {
            bed.assert_delivered(name);
        }
        let built = |name: &str| bed.fake(name).seen().built;
        assert_eq!((built("kept"), built("changed"), built("new")), (1, 2, 1));
        assert_eq!(bed.fake("removed").seen().asked, removed.asked);
        let seen = bed.fake("new").seen();
        assert!(
            before.iter().all(|id| !seen.events().contains(&id.as_str())),
            "a new sink begins at the head"
        );
        assert!(after.iter().all(|id| seen.events().contains(&id.as_str())));
        let names: Vec<_> = bed.pipeline.children().map(|child| child.name().to_owned()).collect();
        assert!(names.contains(&"sink:new".to_owned()) && !names.contains(&"sink:removed".to_owned()));
        bed.end().await;
    });
}

/// Scenario: a sink with a backlog is removed, others go on, and it comes back; later the process restarts with it
/// and with one more sink.
/// Guarantee: it goes on where it was, over the time it was away and over the restart; the one more begins at the
/// head.
#[test]
fn p10_a_removed_sink_comes_back_where_it_was() {
    run(async {
        let with = config(&["a", "b"]);
        let without = config(&["b"]);
        let mut bed = TestBed::start_with(&with, |fake| fake("a").order(|orders| orders.hang = true)).await;
        bed.post_many(10).await;
        bed.pipeline.apply(without).await;
        bed.post_many(10).await;
        bed.settled("b").await;
        bed.fake("a").heal();
        bed.pipeline.apply(with).await;
        bed.post_many(10).await;
        bed.settled("a").await;
        bed.assert_delivered("a");
        assert_eq!(bed.fake("a").seen().events(), bed.acknowledged());

        let more = config(&["a", "b", "c"]);
        let bed = bed.restart(&more, std::time::Duration::from_secs(10)).await;
        let last = bed.post_many(10).await;
        for name in ["a", "b", "c"] {
            bed.settled(name).await;
        }
        assert_eq!(bed.fake("a").seen().events(), bed.acknowledged());
        assert_eq!(bed.fake("c").seen().events(), last);
        bed.end().await;
    });
}

/// Scenario: a file is wrong in several places.
/// Guarantee: there is no configuration to apply, and each mistake is named; the pipeline is as it was. (That the
/// process stays with the old one is tested with the binary.)
#[test]
fn p10_a_bad_configuration_changes_nothing() {
    run(async {
        let mut bed = TestBed::start(&config(&["a"])).await;
        bed.post_many(5).await;
        bed.settled("a").await;
        let file = bed.path().join("forebay.yaml");
        fs::write(&file, "sinks:\n  a: { type: blackhol }\nbufer: {}\n").expect("the file can be written");
        let error = Config::load(&file, &|_| None).expect_err("it is wrong").to_string();
        assert!(error.contains("blackhol") && error.contains("bufer"), "{error}");

        let same = bed.config();
        let changes = bed.pipeline.apply(same).await;
        assert!(changes.is_empty());
        bed.post_many(5).await;
        bed.settled("a").await;
        bed.assert_delivered("a");
        assert_eq!(bed.fake("a").seen().built, 1, "nothing was replaced");
        bed.end().await;
    });
}

/// Scenario: keys that need a restart change together with a sink.
/// Guarantee: they are named as such, and what runs goes by the old ones.
#[test]
fn p10_what_needs_a_restart_is_said_and_not_half_applied() {
    run(async {
        let mut bed = TestBed::start(&config(&["a", "b"])).await;
        let mut new = bed.config();
        new.buffer.max_bytes += 1;
        new.sinks.get_mut("b").expect("it is configured").concurrency = 2.into();
        let changes = bed.pipeline.apply(new).await;
        assert_eq!((changes.needs_restart, changes.sinks_changed), (vec!["buffer"], vec!["b".to_owned()]));
        let old = config(&["a", "b"]);
        assert_eq!(bed.config().buffer, old.buffer);
        assert_eq!(bed.config().sinks["b"].concurrency, 2.into());
        bed.post_many(5).await;
        for name in ["a", "b"] {
            bed.settled(name).await;
            bed.assert_delivered(name);
        }
        bed.end().await;
    });
}
