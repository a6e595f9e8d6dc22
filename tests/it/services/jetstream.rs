//! `buffer.backend: jetstream` against a real nats-server: the binary as receiver, as worker and as both.

mod access;
mod cluster;
mod ends;
mod fallback;
mod faults;
mod memory;
mod protocols;
mod rows;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_nats::jetstream::{self, Context, stream::Info};
use serde_json::{Value, json};

use super::{Service, event, load, post};
use crate::support::{binary::Place, http::Destination, testbed::incompressible, thorough, until};

/// The default is more than the test's server has.
const MAX_BYTES: &str = "max_bytes: 1GiB,";

/// A server whose stream is the journal of whoever is told to share it.
struct Shared {
    service: Service,
    runtime: tokio::runtime::Runtime,
}

impl Shared {
    fn start(test: &str) -> Option<Self> {
        Service::start("nats", test).map(Self::of)
    }

    fn of(service: Service) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { service, runtime }
    }

    /// A process that has its journal there; `more` are keys of `buffer.jetstream`, behind commas.
    fn place_with(&self, port: u16, more: &str) -> Place {
        place(&format!("127.0.0.1:{port}"), &format!("replicas: 1, ack_wait: 2s{more}"), MAX_BYTES)
    }

    fn place(&self) -> Place {
        self.place_with(self.service.port, "")
    }

    /// Asks the server as another client would.
    fn ask<T>(&self, ask: impl AsyncFnOnce(Context) -> T) -> T {
        self.runtime.block_on(async {
            let client = async_nats::connect(format!("127.0.0.1:{}", self.service.port)).await.unwrap();
            ask(jetstream::new(client)).await
        })
    }

    fn stream(&self) -> Info {
        self.ask(async |context| context.get_stream("FOREBAY").await.unwrap().cached_info().clone())
    }
}

/// A process whose journal is a stream of these servers.
fn place(servers: &str, jetstream: &str, buffer: &str) -> Place {
    let url = servers.split(',').map(|server| format!("nats://{server}")).collect::<Vec<_>>().join(",");
    // What the test's server takes is a little less than the largest event would need by default.
    Place::empty().http("max_event_bytes: 1100KiB").section(&format!(
        "buffer: {{ backend: jetstream, {buffer} jetstream: {{ url: \"{url}\", {jetstream} }} }}"
    ))
}

/// Everything that was acknowledged arrived, and no position was given to two events: whoever delivered a message, its batches
/// had the same ids.
#[track_caller]
fn all_arrived(destination: &Destination, acknowledged: &BTreeSet<String>) {
    let missing = || acknowledged.iter().filter(|id| !destination.has(id)).count();
    until(&format!("{} events arrive", acknowledged.len()), || missing() == 0);
    let (_, twice) = destination.positions();
    assert!(twice.is_empty(), "{twice:?}");
}

/// Scenario: events of every kind go through one process: unicode, a message of 1 MB, nothing but what is required.
/// Guarantee: they arrive as they were sent; everything is acknowledged to the stream, and goes from it.
#[test]
fn events_go_through_the_stream() {
    let Some(shared) = Shared::start("events_go_through_the_stream") else { return };
    let destination = Destination::start();
    let forebay = shared.place().sink("out", &destination.sink()).start();
    let mut large = event("large");
    large["message"] = (0..17).map(incompressible).collect::<String>()[..1_000_000].into();
    let mut rich = event("rich");
    rich["message"] = "Grüße, 世界 🌊 \u{0}".into();
    rich["metadata"] = json!({"a": {"b": [1.0, null, "\u{2028}"]}});
    post(&forebay, &[event("plain")]);
    post(&forebay, &[large.clone(), rich.clone()]);
    until("all are there", || destination.count() == 3);
    let events = destination.events();
    for sent in [&large, &rich] {
        let (times, event) = &events[sent["event_id"].as_str().unwrap()];
        assert_eq!(*times, 1);
        for key in ["message", "metadata", "timestamp", "service"] {
            // Who sends no metadata has an empty object.
            let expected = if sent[key].is_null() { &json!({}) } else { &sent[key] };
            assert_eq!(event[key], *expected, "{key}");
        }
    }
    until("nothing waits", || forebay.metric("forebay_buffer_events", "") == 0.0);
    until("the stream is empty", || shared.stream().state.messages == 0);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "out"), 0.0);
    assert_eq!(forebay.json("/health")["status"], "healthy");
}

/// Scenario: two receivers and two workers share the load; one of each is killed with SIGKILL in the middle of it.
/// Guarantee: everything that either receiver has acknowledged is delivered, by the worker that is left, in the batches that
/// the other would have made of it.
#[test]
fn p1_p3_one_receiver_and_one_worker_die_and_nothing_is_lost() {
    let test = "p1_p3_one_receiver_and_one_worker_die_and_nothing_is_lost";
    let Some(shared) = Shared::start(test) else { return };
    let destination = Destination::start();
    let worker = || shared.place().sink("out", &destination.sink());
    let mut receivers = [shared.place().start(), shared.place().start()];
    let mut workers = [worker().start(), worker().start()];
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let acknowledged: BTreeSet<String> = std::thread::scope(|scope| {
        let loads: Vec<_> = receivers
            .iter()
            .flat_map(|receiver| [receiver.address; 2])
            .map(|address| {
                scope.spawn({
                    let (posts, ended) = (&posts, &ended);
                    move || load(address, posts, ended)
                })
            })
            .collect();
        until("both workers deliver", || {
            workers.iter().all(|worker| worker.metric("forebay_sink_sent_events_total", "out") > 0.0)
        });
        workers[1].kill();
        let before = posts.load(Ordering::Relaxed);
        until("it goes on", || posts.load(Ordering::Relaxed) > before + 100);
        receivers[1].kill();
        let before = posts.load(Ordering::Relaxed);
        until("it goes on", || posts.load(Ordering::Relaxed) > before + 100);
        ended.store(true, Ordering::Relaxed);
        loads.into_iter().flat_map(|load| load.join().unwrap()).collect()
    });
    assert!(acknowledged.len() > 10_000, "{}", acknowledged.len());
    all_arrived(&destination, &acknowledged);
    until("nothing waits", || workers[0].metric("forebay_sink_lag_events", "out") == 0.0);
    until("the stream is empty", || shared.stream().state.messages == 0);
    assert_eq!(workers[0].metric("forebay_sink_dead_letters_total", "out"), 0.0);
}

/// Scenario: a worker has taken events that its destination does not take, and is killed.
/// Guarantee: another worker gets them when the time of the first is over, under the same batch ids.
#[test]
fn p3_what_a_dead_worker_had_taken_goes_to_another() {
    let Some(shared) = Shared::start("p3_what_a_dead_worker_had_taken_goes_to_another") else { return };
    let destination = Destination::start();
    destination.answer(503);
    let place = || shared.place().sink("out", &destination.sink());
    let mut first = place().start();
    post(&first, &[event("a"), event("b")]);
    until("it tries", || destination.requests() > 1);
    let second = place().start();
    first.kill();
    destination.answer(200);
    all_arrived(&destination, &["a", "b"].map(str::to_owned).into());
    until("the second has delivered them", || second.metric("forebay_sink_sent_events_total", "out") == 2.0);
    until("the stream is empty", || shared.stream().state.messages == 0);
}

/// Scenario: a worker that holds events is told to end, with an `ack_wait` far longer than this test waits.
/// Guarantee: it gives them back, says that it has not delivered them, and another gets them at once.
#[test]
fn p9_a_worker_that_ends_gives_back_what_it_had_taken() {
    let Some(shared) = Shared::start("p9_a_worker_that_ends_gives_back_what_it_had_taken") else { return };
    let destination = Destination::start();
    destination.answer(503);
    let place = || {
        place(&format!("127.0.0.1:{}", shared.service.port), "replicas: 1, ack_wait: 10m", MAX_BYTES)
            .sink("out", &destination.sink())
    };
    let mut first = place().section("shutdown_timeout: 300ms").start();
    post(&first, &[event("a")]);
    until("it tries", || destination.requests() > 1);
    let _second = place().start();
    assert_eq!(first.stop(), Some(3));
    destination.answer(200);
    all_arrived(&destination, &["a".to_owned()].into());
}

/// Scenario: a receiver without any sink takes an event before there was ever a worker; then a worker comes, and gets a second
/// sink by a reload.
/// Guarantee: what was taken before is the worker's; what comes behind is both sinks'.
#[test]
fn p2_a_receiver_alone_keeps_events_for_workers_to_come() {
    let Some(shared) = Shared::start("p2_a_receiver_alone_keeps_events_for_workers_to_come") else { return };
    let receiver = shared.place().start();
    post(&receiver, &[event("early")]);
    let destinations = [Destination::start(), Destination::start()];
    let mut place = shared.place().sink("one", &destinations[0].sink());
    let worker = place.start();
    until("the first has it", || destinations[0].has("early"));
    place.set_sink("two", Some(&destinations[1].sink()));
    place.write();
    worker.signal("HUP");
    post(&receiver, &[event("late")]);
    until("both have it", || destinations.iter().all(|destination| destination.has("late")));
}

/// Scenario: events that every sink has had are kept for a while, and delivered once more.
/// Guarantee: `replay` finds them in the stream, asked through the running process and beside none.
#[test]
fn replays_read_the_stream() {
    let Some(shared) = Shared::start("replays_read_the_stream") else { return };
    let destination = Destination::start();
    let place = shared.place().section("retention: { journal_keep: 1h }").sink("out", &destination.sink());
    let mut forebay = place.start();
    for index in 0..3 {
        post(&forebay, &[event(&format!("r{index}"))]);
    }
    until("all are there", || destination.count() == 3);
    until("nothing waits", || forebay.metric("forebay_buffer_events", "") == 0.0);
    let replay =
        ["replay", "--sink", "out", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"];
    assert!(place.run(&replay).ok().contains("3 delivered"));
    assert_eq!(forebay.stop(), Some(0));
    assert!(place.run(&replay).ok().contains("3 delivered"));
    assert!(destination.events().values().all(|(times, _)| *times == 3));
}
