//! What is at a gateway is the sink's: a replay beside it, and a change of the sink, take nothing away.

use forebay_actors::runtime::clock::Clock;
use serde_json::{Value, json};

use super::{Gateway, counter, delivered, export, metrics};
use crate::support::{binary::Place, http::request, until};

const LATER: &str = "1778051290000000000";
const SCOPE: &str = "otel_scope_name=\"lib\",otel_scope_version=\"1.2\"";
const EVER: &str = "2200-01-01T00:00:00Z";

/// The same point, of a later time.
fn later(mut metric: Value) -> Value {
    metric["sum"]["dataPoints"][0]["timeUnixNano"] = LATER.into();
    metric
}

fn series(direction: &str, value: u64) -> String {
    format!("net_io_bytes_total{{dir=\"{direction}\",instance=\"1\",job=\"shop\",{SCOPE}}} {value}")
}

fn io(direction: &str, value: u64) -> Value {
    counter("net.io", value, &[("dir", direction)])
}

#[track_caller]
fn assert_has(gateway: &Gateway, lines: &[String]) {
    for line in lines {
        assert!(gateway.has(line), "{line}\n{}", gateway.get("/metrics"));
    }
}

/// The gateway does one thing after the other, so when this is back it has done what was asked before. It is a group more.
#[track_caller]
fn settle(gateway: &Gateway) {
    let pushed = request(gateway.address(), "PUT", "/metrics/job/marker", &[], b"marker 1\n");
    assert_eq!(pushed.unwrap().status, 200);
}

fn shops(gateway: &Gateway) -> usize {
    gateway.groups().iter().filter(|labels| labels["job"] == "shop").count()
}

/// Scenario: a sink with `delete_on_exit` has pushed an older and then a newer value, and the older one is replayed while the
/// process runs.
/// Guarantee: the group stays as it was, with the newer value and the other series of the metric, until the process ends. The
/// replay pushed the old value alone in place of the metric, and deleted the group when it was done.
#[test]
fn r0560_a_replay_took_away_what_its_sink_had_pushed() {
    let Some(gateway) = Gateway::start("r0560_a_replay_took_away_what_its_sink_had_pushed") else { return };
    for method in ["post", "put"] {
        let sink = gateway.sink(&format!(", delete_on_exit: true, method: {method}"));
        let place = Place::empty().section("retention: { journal_keep: 1h }").sink("push", &sink);
        let mut forebay = place.start();
        export(&forebay, "/v1/metrics", &metrics("1", json!([io("in", 7)])));
        delivered(&forebay);
        let between = Clock::system().now().to_string();
        export(&forebay, "/v1/metrics", &metrics("1", json!([later(io("in", 9)), io("out", 8)])));
        delivered(&forebay);
        let newest = [series("in", 9), series("out", 8)];
        assert_has(&gateway, &newest);

        let said =
            place.run(&["replay", "--sink", "push", "--from", "2020-01-01T00:00:00Z", "--to", &between]).ok();
        assert!(said.contains("replayed to push: 1 delivered, 0 refused"), "{said}");
        settle(&gateway);
        assert_has(&gateway, &newest);
        assert_eq!(forebay.stop(), Some(0));
        until("the group is deleted with its sink", || shops(&gateway) == 0);
    }
}

/// Scenario: a point became a dead letter while the gateway had another type under its name; that is mended, and the letter is
/// replayed while the process runs.
/// Guarantee: the point is pushed beside what the sink has, and the group stays. It was deleted when the replay was done.
#[test]
fn r0561_a_letter_that_was_replayed_took_its_group_with_it() {
    let Some(gateway) = Gateway::start("r0561_a_letter_that_was_replayed_took_its_group_with_it") else {
        return;
    };
    let mine = b"# TYPE net_io_bytes_total gauge\nnet_io_bytes_total 1\n";
    let pushed = request(gateway.address(), "PUT", "/metrics/job/other", &[], mine);
    assert_eq!(pushed.unwrap().status, 200);
    let place = Place::empty().sink("push", &gateway.sink(", delete_on_exit: true"));
    let mut forebay = place.start();
    export(&forebay, "/v1/metrics", &metrics("1", json!([io("in", 7)])));
    delivered(&forebay);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "push"), 1.0);
    let deleted = request(gateway.address(), "DELETE", "/metrics/job/other", &[], b"");
    assert_eq!(deleted.unwrap().status, 202);
    settle(&gateway);
    export(&forebay, "/v1/metrics", &metrics("1", json!([later(io("out", 8))])));
    delivered(&forebay);

    let done: Value = serde_json::from_str(&place.run(&["dead-letter", "replay", "push"]).ok()).unwrap();
    assert_eq!(done["delivered"], 1, "{done}");
    settle(&gateway);
    assert_has(&gateway, &[series("in", 7), series("out", 8)]);
    assert_eq!(forebay.stop(), Some(0));
    until("the group is deleted with its sink", || shops(&gateway) == 0);
}

/// Scenario: no process runs, and a command replays to a sink with `delete_on_exit`.
/// Guarantee: what it has pushed stays: it is not the sink that ends.
#[test]
fn r0563_a_replay_of_a_command_deleted_what_it_had_pushed() {
    let Some(gateway) = Gateway::start("r0563_a_replay_of_a_command_deleted_what_it_had_pushed") else {
        return;
    };
    let place = Place::empty().section("retention: { journal_keep: 1h }");
    let place = place.sink("push", &gateway.sink(", delete_on_exit: true"));
    let mut forebay = place.start();
    export(&forebay, "/v1/metrics", &metrics("1", json!([io("in", 7)])));
    delivered(&forebay);
    assert_eq!(forebay.stop(), Some(0));
    until("the group is deleted with its sink", || shops(&gateway) == 0);

    let said = place.run(&["replay", "--sink", "push", "--from", "2020-01-01T00:00:00Z", "--to", EVER]).ok();
    assert!(said.contains("replayed to push: 1 delivered, 0 refused"), "{said}");
    settle(&gateway);
    assert_has(&gateway, &[series("in", 7)]);
}

/// Scenario: the last series of a metric ends, and so does the last metric of the group; `method: post`.
/// Guarantee: they are gone from the gateway, and others of the group are there. A push of what is left by its names left them.
#[test]
fn r0566_the_last_series_of_a_metric_stayed_for_ever() {
    let Some(gateway) = Gateway::start("r0566_the_last_series_of_a_metric_stayed_for_ever") else { return };
    let forebay = Place::empty().sink("push", &gateway.sink("")).start();
    let warm = json!({"name": "temp", "unit": "Cel",
        "gauge": {"dataPoints": [{"timeUnixNano": "1778051289000000000", "asDouble": 21.5}]}});
    export(&forebay, "/v1/metrics", &metrics("1", json!([warm, io("in", 7)])));
    delivered(&forebay);
    let is_there = || gateway.get("/metrics").contains("temp_celsius{");
    assert!(is_there(), "{}", gateway.get("/metrics"));

    // It has no recorded value.
    let ended = json!({"name": "temp", "unit": "Cel", "gauge": {"dataPoints": [{"timeUnixNano": LATER, "flags": 1}]}});
    export(&forebay, "/v1/metrics", &metrics("1", json!([ended])));
    delivered(&forebay);
    assert!(!is_there(), "{}", gateway.get("/metrics"));
    assert_has(&gateway, &[series("in", 7)]);

    let mut ended = later(io("in", 7));
    ended["sum"]["dataPoints"][0]["flags"] = 1.into();
    export(&forebay, "/v1/metrics", &metrics("1", json!([ended])));
    delivered(&forebay);
    // A gateway answers a DELETE before it has done it.
    until("the group is empty", || !gateway.get("/metrics").contains("net_io_bytes_total{"));
    assert_eq!(forebay.metric("forebay_sink_refused_events_total", "push"), 0.0);
}

/// Scenario: a reload changes the sink, but nothing of its gateway; another one removes it.
/// Guarantee: the first takes no group and no value away; the second deletes what was pushed.
#[test]
fn r0567_a_sink_that_changed_deleted_its_groups() {
    let Some(gateway) = Gateway::start("r0567_a_sink_that_changed_deleted_its_groups") else { return };
    let mut place = Place::empty().sink("other", "{ type: blackhole }");
    place.set_sink("push", Some(&gateway.sink(", delete_on_exit: true")));
    let forebay = place.start();
    export(&forebay, "/v1/metrics", &metrics("1", json!([io("in", 7)])));
    delivered(&forebay);

    place.set_sink("push", Some(&gateway.sink(", delete_on_exit: true, batch: { max_events: 7 }")));
    place.write();
    assert!(place.run(&["reload"]).ok().contains("push"));
    export(&forebay, "/v1/metrics", &metrics("1", json!([io("out", 8)])));
    delivered(&forebay);
    settle(&gateway);
    assert_has(&gateway, &[series("in", 7), series("out", 8)]);

    // Under other options it begins anew, and nothing is deleted behind its first push.
    place.set_sink("push", Some(&gateway.sink(", delete_on_exit: true, headers: { x-forebay: test }")));
    place.write();
    assert!(place.run(&["reload"]).ok().contains("push"));
    export(&forebay, "/v1/metrics", &metrics("1", json!([io("out", 9)])));
    delivered(&forebay);
    settle(&gateway);
    assert_has(&gateway, &[series("out", 9)]);

    place.set_sink("push", None);
    place.write();
    place.run(&["reload"]).ok();
    until("the group is deleted with its sink", || shops(&gateway) == 0);
}
