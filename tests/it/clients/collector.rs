//! A real OpenTelemetry Collector in front: what it retries and what it gives up, by what Forebay answers.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{content, sdks};
use crate::{
    otlp::{every_signal, protobuf, stored},
    support::{
        binary::{Forebay, Place},
        clients::installed,
        collector::Collector,
        http::{Destination, request},
        thorough, until,
    },
};

/// Retries soon and for ever, and has room for all that waits meanwhile.
const PATIENT: &str = "retry_on_failure: { initial_interval: 50ms, max_interval: 300ms, max_elapsed_time: 0s }, \
    sending_queue: { queue_size: 100000 }, timeout: 10s";

/// The Collector's two exporters, pointed at this address; each with what else stands in its section.
fn exporters(address: SocketAddr) -> [(&'static str, String); 3] {
    let http = |more: &str| format!("{{ endpoint: \"http://{address}\", {more}, {PATIENT} }}");
    [
        ("otlp_grpc", format!("{{ endpoint: \"{address}\", tls: {{ insecure: true }}, {PATIENT} }}")),
        ("otlp_http", http("encoding: proto")),
        ("otlp_http", http("encoding: json, compression: zstd")),
    ]
}

/// Gives the Collector some items of every signal, and says what they are called.
#[track_caller]
fn give(collector: &Collector, service: &str, round: usize) -> Vec<String> {
    let mut given = Vec::new();
    for (signal, names, body) in every_signal(service, &round.to_string()) {
        let headers = [("Content-Type", "application/x-protobuf")];
        request(collector.http, "POST", &format!("/v1/{signal}"), &headers, &body).unwrap().ok(200);
        given.extend(names);
    }
    given
}

fn names_of(forebay: &Forebay, service: &str) -> BTreeSet<String> {
    let events = forebay.all_events(&format!("service={service}&limit=1000"));
    events.iter().map(|event| event["message"].as_str().unwrap().to_owned()).collect()
}

/// Everything the Collector was given while Forebay was killed and started again is in the store in the end.
fn through_restarts(test: &str, which: usize) {
    let kills = thorough(2, 8);
    let mut place = Place::new();
    let mut forebay = place.start();
    let address = forebay.otlp();
    // The next one listens where this one did.
    place = place.section(&format!("otlp: {{ listen: \"{address}\" }}"));
    let (name, section) = &exporters(address)[which];
    let Some(collector) = Collector::start(test, &[(name, section)]) else { return };

    let ended = AtomicBool::new(false);
    let given = std::thread::scope(|scope| {
        let giving = scope.spawn(|| {
            let mut given = Vec::new();
            for round in 0.. {
                if ended.load(Ordering::Relaxed) {
                    return given;
                }
                given.extend(give(&collector, "collected", round));
                // A few hundred items a second are enough; the Collector's queue is not what is tested.
                std::thread::park_timeout(std::time::Duration::from_millis(20));
            }
            given
        });
        // Whatever fails here, the other one has to come to its end.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..kills {
                let before = forebay.counted();
                until("some of it arrives", || forebay.counted() > before + 100);
                let retries = collector.said_about("Will retry").len();
                forebay.kill();
                until("the Collector retries", || collector.said_about("Will retry").len() > retries);
                forebay = place.start();
            }
        }));
        ended.store(true, Ordering::Relaxed);
        let given: Vec<String> = giving.join().unwrap();
        outcome.map(|()| given).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });

    let wanted: BTreeSet<_> = given.into_iter().collect();
    // What is missing in the end is told by its name, not by a count.
    let mut missing = wanted.clone();
    let all_there = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until("everything is in the store", || {
            missing = wanted.difference(&names_of(&forebay, "collected")).cloned().collect();
            missing.is_empty()
        });
    }));
    assert!(all_there.is_ok(), "of {} given, {} are lost: {missing:?}", wanted.len(), missing.len());
    assert_eq!(collector.said_about("Dropping data"), Vec::<String>::new());
}

/// The Collector loses nothing through SIGKILLs of Forebay: what was answered is there, what was not it sends again.
/// At least once: what was stored and not answered comes twice.
#[test]
fn the_collector_loses_nothing_through_restarts_over_grpc() {
    through_restarts("the_collector_loses_nothing_through_restarts_over_grpc", 0);
}

/// The same over HTTP.
#[test]
fn the_collector_loses_nothing_through_restarts_over_http() {
    through_restarts("the_collector_loses_nothing_through_restarts_over_http", 1);
}

/// The same over HTTP with JSON, packed with zstd.
#[test]
fn the_collector_loses_nothing_through_restarts_over_http_with_json() {
    through_restarts("the_collector_loses_nothing_through_restarts_over_http_with_json", 2);
}

/// What an application in Python sends to a Collector is the same behind it, whatever exporter it takes from there.
#[test]
fn the_collector_hands_on_what_the_python_sdk_sends() {
    let test = "the_collector_hands_on_what_the_python_sdk_sends";
    let Some(directory) = installed("python", test) else { return };
    let forebay = Place::new().start();
    for (number, (name, section)) in exporters(forebay.otlp()).iter().enumerate() {
        let exporters =
            [(*name, section.as_str()), ("file", "{ path: $DIR/written.json, flush_interval: 20ms }")];
        let Some(collector) = Collector::start(test, &exporters) else { return };
        let service = format!("behind-{number}");
        let ids = sdks::run(sdks::python(&directory), collector.grpc, &service, &sdks::over("grpc", None));
        content::check(&stored(&forebay, &service, content::ITEMS), &ids);
        until("the Collector wrote every signal to its file", || {
            collector.written("written.json").len() == 3
        });
    }
}

/// A refusal that passes is one on which the Collector waits as long as it is told, and then everything arrives: a
/// destination is down, the buffer is full, and answers are 503 with `Retry-After` and UNAVAILABLE with `RetryInfo`.
#[test]
fn the_collector_waits_while_the_buffer_is_full() {
    for which in thorough(0..2, 0..3) {
        let destination = Destination::start();
        destination.answer(500);
        let forebay = Place::empty()
            .sink("up", &destination.sink())
            .section("buffer: { durability: memory, memory_events_max: 150 }")
            .start();
        let (name, section) = &exporters(forebay.otlp())[which];
        let test = "the_collector_waits_while_the_buffer_is_full";
        let Some(collector) = Collector::start(test, &[(name, section)]) else { return };
        let given: BTreeSet<_> = (0..10).flat_map(|round| give(&collector, "waits", round)).collect();
        until("the Collector is told when to come again", || {
            // Its own interval is never that long.
            collector.said_about("Will retry").iter().any(|line| line.contains("Throttle (5s)"))
        });
        destination.answer(200);
        until("everything arrives", || {
            let arrived = destination.events();
            let names = arrived.values().map(|(_, event)| event["message"].as_str().unwrap().to_owned());
            names.collect::<BTreeSet<_>>() == given
        });
        assert_eq!(collector.said_about("Dropping data"), Vec::<String>::new());
    }
}

/// What can never be taken is given up by the Collector at once, with the reason in its log, and does not stand in the
/// way of what comes behind: a body that is too large.
#[test]
fn the_collector_gives_up_what_is_too_large() {
    let forebay = Place::new().section("otlp: { listen: \"127.0.0.1:0\", max_body_bytes: 10KiB }").start();
    for (which, (name, section)) in exporters(forebay.otlp()).iter().enumerate() {
        let Some(collector) =
            Collector::start("the_collector_gives_up_what_is_too_large", &[(name, section)])
        else {
            return;
        };
        let service = format!("large-{which}");
        let large = protobuf(&service, &[&"x".repeat(20_000)]);
        let headers = [("Content-Type", "application/x-protobuf")];
        request(collector.http, "POST", "/v1/logs", &headers, &large).unwrap().ok(200);
        until("the Collector gives it up", || !collector.said_about("Dropping data").is_empty());
        let said = collector.said_about("Dropping data");
        // Of an error in JSON, the Collector understands only the code.
        let reason = if section.contains("json") { "Code 413" } else { "otlp.max_body_bytes" };
        assert!(said[0].contains(reason), "it says which bound: {said:?}");
        assert_eq!(collector.said_about("Will retry"), Vec::<String>::new());
        give(&collector, &service, 0);
        stored(&forebay, &service, 30);
    }
}

/// An item that is refused on its own costs itself alone, and the Collector says so: a partial success is not an error.
#[test]
fn the_collector_hears_of_items_that_are_refused() {
    let forebay = Place::new().http("max_event_bytes: 10KiB").start();
    for (which, (name, section)) in exporters(forebay.otlp()).iter().enumerate() {
        let Some(collector) =
            Collector::start("the_collector_hears_of_items_that_are_refused", &[(name, section)])
        else {
            return;
        };
        let service = format!("partial-{which}");
        let body = protobuf(&service, &["before", &"x".repeat(20_000), "behind"]);
        let headers = [("Content-Type", "application/x-protobuf")];
        request(collector.http, "POST", "/v1/logs", &headers, &body).unwrap().ok(200);
        let messages: Vec<_> =
            stored(&forebay, &service, 2).iter().map(|event| event["message"].clone()).collect();
        assert_eq!(messages, ["before", "behind"]);
        until("the Collector hears of it", || !collector.said_about("Partial success").is_empty());
        let said = collector.said_about("Partial success");
        assert!(said[0].contains("\"dropped_log_records\":1"), "{said:?}");
        assert!(said[0].contains("max_event_bytes"), "it says which bound: {said:?}");
    }
}
