//! Health, readiness, metrics, rate limits and backpressure.

use serde_json::{Value, json};

use super::{array, event};
use crate::support::{binary::Place, http::Destination, until};

/// Every metric that is promised is there once events have flowed, with its help and type.
#[test]
fn every_promised_metric_is_there() {
    let destination = Destination::start();
    destination.refuse(Some("poison"));
    let forebay = Place::new().sink("up", &destination.sink()).start();
    forebay.post_json(array(&["one", "two"])).ok(202);
    forebay.post_json(json!({"service": "s", "message": "poison"}).to_string()).ok(202);
    forebay.post_json("{").error(400, "malformed_json");
    until("the poison is a dead letter", || forebay.metric("forebay_sink_dead_letters_total", "up") == 1.0);
    let text = forebay.get("/metrics").ok(200).text();
    for name in [
        "forebay_actor_mailbox_messages",
        "forebay_actor_mailbox_capacity",
        "forebay_actor_messages_total",
        "forebay_actor_handle_seconds_bucket",
        "forebay_actor_restarts_total",
        "forebay_actor_state",
        "forebay_buffer_events",
        "forebay_buffer_bytes",
        "forebay_buffer_disk_bytes",
        "forebay_buffer_max_bytes",
        "forebay_buffer_oldest_age_seconds",
        "forebay_buffer_commit_seconds_bucket",
        "forebay_buffer_commit_requests_bucket",
        "forebay_sink_sent_events_total",
        "forebay_sink_sent_bytes_total",
        "forebay_sink_errors_total",
        "forebay_sink_retries_total",
        "forebay_sink_dead_letters_total",
        "forebay_sink_lag_events",
        "forebay_sink_lag_seconds",
        "forebay_sink_deliver_seconds_bucket",
        "forebay_sink_breaker_state",
        "forebay_receiver_events_total",
        "forebay_receiver_rejected_total",
        "forebay_receiver_request_seconds_bucket",
        "forebay_build_info",
    ] {
        assert!(
            text.lines()
                .any(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "))),
            "{name} is missing in\n{text}"
        );
    }
    assert_eq!(forebay.metric("forebay_receiver_events_total", ""), 3.0);
    assert_eq!(forebay.metric("forebay_receiver_rejected_total", "malformed_json"), 1.0);
    until("the store and the destination were sent theirs", || {
        forebay.metric("forebay_sink_sent_events_total", "\"events\"") == 3.0
            && forebay.metric("forebay_sink_sent_events_total", "\"up\"") == 2.0
    });
    assert!(forebay.metric("forebay_sink_errors_total", "rejected") >= 1.0);
    let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
    assert_eq!(text.lines().filter(|line| line.starts_with("# HELP")).count(), families);
}

/// `/health` has the shape that is promised, and the probes of Kubernetes answer under both of their names.
#[test]
fn health_has_its_shape() {
    let forebay = Place::new().start();
    forebay.post_json(event("one").to_string()).ok(202);
    forebay.stored("one");
    until("everything is healthy", || forebay.get("/health").json()["status"] == "healthy");
    until("the sink reports", || {
        forebay.json("/health")["checks"]["sinks"]["events"]["last_successful_send"].is_string()
    });
    let health = forebay.json("/health");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(health["uptime_seconds"].is_u64());
    let checks = &health["checks"];
    assert_eq!(checks["application"]["status"], "healthy");
    let missing = |part: &Value, keys: &[&str]| -> Vec<String> {
        keys.iter().filter(|key| part.get(**key).is_none()).map(|key| (*key).to_owned()).collect()
    };
    let buffer = ["current_size", "max_size", "usage_percent", "dropped"];
    assert_eq!(missing(&checks["buffer"], &buffer), [""; 0]);
    let sink = ["state", "last_successful_send", "lag_events", "lag_seconds", "retry_attempts", "error"];
    assert_eq!(missing(&checks["sinks"]["events"], &sink), [""; 0], "{checks}");
    assert!(checks["system_resources"]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
    for path in ["/health/live", "/live"] {
        assert_eq!(forebay.json(path), json!({"status": "alive"}));
    }
    for path in ["/health/ready", "/ready"] {
        assert_eq!(forebay.json(path), json!({"status": "ready"}));
    }
}

/// A sink whose destination is down shows as degraded with its error; the process stays ready; it recovers alone.
#[test]
fn a_sink_that_is_down_degrades_but_does_not_unready() {
    let destination = Destination::start();
    destination.answer(500);
    let forebay = Place::new().sink("up", &destination.sink()).start();
    forebay.post_json(event("one").to_string()).ok(202);
    until("it is degraded", || forebay.json("/health")["status"] == "degraded");
    let sink = forebay.json("/health")["checks"]["sinks"]["up"].take();
    assert!(sink["error"].as_str().is_some_and(|error| error.contains("500")), "{sink}");
    assert_eq!(sink["lag_events"], 1);
    forebay.get("/ready").ok(200);
    until("it retries", || {
        forebay.json("/health")["checks"]["sinks"]["up"]["retry_attempts"].as_u64() > Some(2)
    });
    destination.answer(200);
    until("it has the event", || destination.has("one"));
    until("it is healthy", || forebay.json("/health")["status"] == "healthy");
}

/// While the journal is full because a sink is behind, posts get 503 with `Retry-After`, nothing half-accepted, and
/// readiness says 503; when the sink comes back, both recover without a restart.
#[test]
fn a_full_journal_refuses_and_recovers() {
    let destination = Destination::start();
    destination.answer(503);
    let place = Place::empty().sink("up", &destination.sink());
    let place = place.section("buffer: { durability: memory, max_bytes: 64KiB, memory_events_max: 100000 }");
    let forebay = place.start();
    let mut accepted = 0;
    let refused = loop {
        let ids: Vec<_> = (0..20).map(|i| format!("f{accepted:05}-{i}")).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        let answer = forebay.post_json(array(&ids));
        match answer.status {
            202 => accepted += ids.len(),
            _ => break answer,
        }
        assert!(accepted < 10_000, "the bound is never reached");
    };
    refused.error(503, "journal_full");
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    let not_ready = forebay.get("/ready");
    not_ready.error(503, "not_ready");
    assert!(not_ready.header("retry-after").is_some());
    forebay.get("/live").ok(200);
    assert_eq!(forebay.get("/health").ok(503).json()["status"], "unhealthy");
    destination.answer(200);
    until("what was accepted is delivered", || destination.count() == accepted);
    until("it takes events again", || forebay.post_json(event("again").to_string()).status == 202);
    until("it is ready", || forebay.get("/ready").status == 200);
    until("the new one arrives", || destination.has("again"));
    assert_eq!(destination.count(), accepted + 1, "nothing of what was refused was kept");
}

/// Beyond the rate of a class requests get 429 with `Retry-After`; other classes are not touched.
#[test]
fn rates_are_limited_by_class() {
    let limits = "limits: { ingest: { per_client_per_second: 1, burst: 3 }, query: { global_per_second: 1, burst: 2 } }";
    let forebay = Place::new().section(limits).start();
    let answers: Vec<_> = (0..6).map(|i| forebay.post_json(event(&format!("l{i}")).to_string())).collect();
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    assert!((3..6).contains(&accepted), "{accepted}");
    let refused = answers.iter().find(|answer| answer.status != 202).unwrap();
    refused.error(429, "rate_limited");
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    let refused = (0..10).map(|_| forebay.get("/events")).find(|answer| answer.status != 200).unwrap();
    refused.error(429, "rate_limited");
    (0..10).for_each(|_| drop(forebay.get("/ready").ok(200)));
    assert!(forebay.metric("forebay_receiver_rejected_total", "rate_limited") >= 1.0);
    until("after a while it goes on", || forebay.post_json(event("later").to_string()).status == 202);
}
