//! How the process starts, or says why not, and how it ends.

use std::{fs, net::TcpListener};

use serde_json::json;

use crate::support::{
    binary::{Finished, Forebay, Place, command},
    eventually,
    http::Destination,
    testbed::incompressible,
    until,
};

fn post(forebay: &Forebay, id: &str) {
    let event = json!({"service": "s", "message": "m", "event_id": id});
    forebay.post_json(event.to_string()).ok(202);
}

/// The first thing somebody sees: where it listens, where the data is, the sinks, the memory budget, and a line to
/// try, which works.
#[test]
fn the_banner_says_what_one_wants_to_know() {
    let place = Place::new();
    let forebay = place.start();
    until("the banner is whole", || forebay.output().contains("curl"));
    let output = forebay.output();
    for wanted in
        ["listening on http://127.0.0.1:", "data in ", "events (store)", "memory at most", "curl -H"]
    {
        assert!(output.contains(wanted), "{wanted}: {output}");
    }
    assert!(output.contains(place.data_dir().file_name().unwrap().to_str().unwrap()));
    let line = output.lines().find(|line| line.contains("curl")).unwrap();
    let body = line.split('\'').nth(3).unwrap();
    forebay.post_json(body).ok(202);
}

/// A data directory that cannot be made is named, with what would be right.
#[test]
fn a_data_dir_that_is_a_file_is_named() {
    let place = Place::new();
    fs::write(place.data_dir(), "a file").unwrap();
    place.write();
    let said = place.run(&["run"]).failed(1);
    assert!(said.contains(place.data_dir().to_str().unwrap()), "{said}");
    assert!(said.contains("a directory that this user may write to is needed"), "{said}");
}

/// A second process on the same data ends at once and says why; the first one does not notice.
#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let place = Place::new();
    let mut first = place.start();
    let said = place.run(&[]).failed(1);
    assert!(said.contains("another forebay process is using it"), "{said}");
    post(&first, "still-here");
    first.stored("still-here");
    first.kill();
    let second = place.start();
    second.stored("still-here");
}

/// An address that is taken is named with its key.
#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new();
    let file = place.write();
    let text = fs::read_to_string(&file).unwrap();
    // The first address is that of `http`.
    fs::write(&file, text.replacen("127.0.0.1:0", &address, 1)).unwrap();
    let said = place.run(&["run"]).failed(1);
    assert!(said.contains("http.listen") && said.contains(&address), "{said}");
    let otlp = format!("otlp: {{ grpc: {{ listen: \"{address}\" }}, http: {{ listen: null }} }}");
    let place = Place::new().section(&otlp);
    place.write();
    let said = place.run(&["run"]).failed(1);
    assert!(said.contains("otlp.grpc.listen") && said.contains(&address), "{said}");
}

/// SIGTERM and SIGINT deliver what there is, and end with 0; nothing is delivered a second time afterwards.
#[test]
fn signals_drain_and_end_with_zero() {
    let destination = Destination::start();
    // Long waits for more: the drain must not wait for them.
    let place = Place::new().sink("up", &destination.sink()).section("batch: { max_wait: 1h }");
    let mut forebay = place.start();
    post(&forebay, "one");
    assert_eq!(forebay.stop(), Some(0));
    assert!(destination.has("one"));
    let mut forebay = place.start();
    forebay.stored("one");
    post(&forebay, "two");
    forebay.signal("INT");
    assert_eq!(forebay.wait().code(), Some(0));
    let events = destination.events();
    assert_eq!(events.values().map(|(times, _)| *times).collect::<Vec<_>>(), [1, 1]);
}

/// With a destination that is down the end comes at `shutdown_timeout` with code 3; what is left is delivered after
/// the next start, by a process that was told nothing about it.
#[test]
fn a_dead_destination_ends_with_three_and_loses_nothing() {
    let destination = Destination::start();
    destination.answer(503);
    let place = Place::new().sink("up", &destination.sink()).section("shutdown_timeout: 1s");
    let mut forebay = place.start();
    (0..100).for_each(|i| post(&forebay, &format!("e{i}")));
    until("it was tried", || destination.requests() > 0);
    forebay.signal("TERM");
    assert_eq!(forebay.wait().code(), Some(3));
    assert!(forebay.log().contains("not delivered by the deadline"), "{}", forebay.log());
    assert_eq!(destination.count(), 0);
    destination.answer(200);
    let forebay = place.start();
    until("the backlog comes", || destination.count() == 100);
    assert_eq!(forebay.counted(), 100);
}

/// A second signal ends at once, with the code that a shell expects, and what was accepted is there afterwards.
#[test]
fn a_second_signal_ends_at_once() {
    let destination = Destination::start();
    destination.answer(503);
    let place = Place::new().sink("up", &destination.sink()).section("shutdown_timeout: 10m");
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut forebay = place.start();
        post(&forebay, signal);
        forebay.signal("TERM");
        forebay.says("shutting down");
        forebay.signal(signal);
        assert_eq!(forebay.wait().code(), Some(code));
    }
    destination.answer(200);
    let _forebay = place.start();
    until("both come", || destination.has("TERM") && destination.has("INT"));
}

/// While it drains, new connections are refused; a client that keeps its connection open does not hold it up.
#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let place = Place::new().section("shutdown_timeout: 10m");
    let mut forebay = place.start();
    let mut idle = forebay.connect();
    idle.request("GET", "/live", &[], b"").unwrap().ok(200);
    let silent = forebay.connect();
    assert_eq!(forebay.stop(), Some(0));
    drop((idle, silent));
}

/// The log says errors and warnings on standard error, as JSON where that is asked for, and nothing on standard output.
#[test]
fn logs_are_json_where_asked() {
    let place = Place::new().section("log: { level: debug, format: json }");
    let mut forebay = place.start();
    let banner = forebay.output();
    assert_eq!(forebay.stop(), Some(0));
    let log = forebay.log();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().any(|line| line["fields"]["message"].as_str().unwrap().contains("shutting down")));
    eventually("the banner was all", || (forebay.output().len() >= banner.len()).then_some(()));
}

/// Without a file the embedded configuration holds, with its variables, in the directory where it is started.
#[test]
fn without_a_file_the_embedded_defaults_hold() {
    let place = Place::new();
    let dir = place.file("elsewhere");
    fs::create_dir(&dir).unwrap();
    let finished = Finished::of(command().current_dir(&dir).args(["validate", "--offline"]));
    let said = finished.ok();
    assert!(said.contains("the embedded configuration"), "{said}");
    assert!(!dir.join("data").exists(), "validate changes nothing");
    let finished =
        Finished::of(command().current_dir(&dir).args(["validate", "--offline"]).env("BATCH_SIZE", "none"));
    let said = finished.failed(1);
    assert!(said.contains("BATCH_SIZE") && said.contains("batch.max_events"), "{said}");
}

/// Scenario: a server with three sinks; then a reload takes one away and puts two others there.
/// Guarantee: the thread of each sink is behind where the processor is short (P4: what takes events in goes first), and neither
/// those of the way in are, of the house and of HTTP, nor sled's, which write commits.
#[test]
fn p4_threads_of_sinks_are_behind_those_that_take_events_in() {
    let mut place = Place::new().sink("a", "{ type: blackhole }").sink("b", "{ type: blackhole }");
    let forebay = place.start();
    let all_of = |names: &[&str]| {
        until("just these sinks are there", || {
            let health = forebay.json("/health");
            let there = health["checks"]["sinks"].as_object().expect("an object of sinks");
            there.keys().eq(names)
        });
        let sinks = names.len();
        until("so many threads are behind", || {
            niceness_of(&forebay, "actix-rt").iter().filter(|n| **n > 0).count() == sinks
        });
        let niceness = niceness_of(&forebay, "actix-rt");
        assert!(niceness.iter().all(|n| [0, 5].contains(n)), "{niceness:?}");
        // Of the way in, of the house and of one HTTP worker at least.
        assert!(niceness.len() >= sinks + 3, "{niceness:?}");
        let of_sled = niceness_of(&forebay, "sled-io");
        assert!(!of_sled.is_empty() && of_sled.iter().all(|n| *n == 0), "{of_sled:?}");
    };
    all_of(&["a", "b", "events"]);
    place.set_sink("a", None);
    place.set_sink("c", Some("{ type: blackhole }"));
    place.set_sink("d", Some("{ type: blackhole }"));
    place.write();
    forebay.signal("HUP");
    all_of(&["b", "c", "d", "events"]);
}

/// Scenario: a destination is away for seconds, while more comes in than its sink keeps in memory.
/// Guarantee: the sink reads what it has missed on a thread that is further behind than its own (P4: what takes events in goes
/// first), and only then.
#[test]
fn p4_a_sink_that_is_long_behind_reads_behind_all_others() {
    const EVENTS: usize = 400;
    let away = Destination::start();
    away.answer(503);
    let forebay = Place::empty().sink("away", &away.sink()).start();
    for first in (0..EVENTS).step_by(10) {
        let event = |index| json!({"service": "s", "message": incompressible(index)}).to_string() + "\n";
        forebay.post_lines((first..first + 10).map(event).collect::<String>()).ok(202);
    }
    // The lag is that of the first event, and the last has to be old as well.
    let lag = || forebay.metric("forebay_sink_lag_seconds", "sink=\"away\"");
    let posted = lag();
    until("it is long behind", || lag() > posted + 4.0);
    let catch_up = || niceness_of(&forebay, "catch-up");
    assert!(catch_up().is_empty(), "nothing is to be read yet: what it has in memory is not delivered");
    away.answer(200);
    // It stays for some seconds after its last read.
    let own = niceness_of(&forebay, "actix-rt").into_iter().max().expect("there are actors");
    until("something is read behind all others", || catch_up().into_iter().any(|niceness| niceness > own));
    until("everything is delivered", || away.count() == EVENTS);
}

/// By how much each thread of such a name is nicer than the process. Actors and HTTP workers run on `actix-rt`.
fn niceness_of(forebay: &Forebay, name: &str) -> Vec<i64> {
    let of = |thread: u32| {
        let stat = fs::read_to_string(format!("/proc/{}/task/{thread}/stat", forebay.id())).ok()?;
        // The name stands in parentheses, and may have some itself.
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
        let niceness: i64 = fields.split_ascii_whitespace().nth(16)?.parse().ok()?;
        Some((name.to_owned(), niceness))
    };
    let process = of(forebay.id()).expect("the first thread is there to the end").1;
    let threads = fs::read_dir(format!("/proc/{}/task", forebay.id())).unwrap();
    let threads = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let named = threads.filter_map(of).filter(|(found, _)| found.starts_with(name));
    named.map(|(_, niceness)| niceness - process).collect()
}
