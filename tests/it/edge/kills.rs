//! Crashes of both sides under load, and wires that break.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::Value;

use super::{Gateway, event, post, post_otlp, settled, sink};
use crate::{
    otlp::protobuf,
    support::{
        binary::{Forebay, Place},
        http::Connection,
        thorough, until,
        wire::{Cut, Wire},
    },
};

/// Posts events and requests of OpenTelemetry in turns until it is told to end; the ids and bodies that were acknowledged.
fn load(edge: (SocketAddr, SocketAddr), posts: &AtomicUsize, ended: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let (Ok(mut events), Ok(mut otlp)) = (Connection::open(edge.0), Connection::open(edge.1)) else {
        return acknowledged;
    };
    while !ended.load(Ordering::Relaxed) {
        let post = posts.fetch_add(1, Ordering::Relaxed);
        let names: Vec<_> = (0..50).map(|event| format!("p{post}-{event}")).collect();
        let answer = if post.is_multiple_of(4) {
            let texts: Vec<_> = names.iter().map(String::as_str).collect();
            let body = protobuf("api", &texts);
            otlp.request("POST", "/v1/logs", &[("Content-Type", "application/x-protobuf")], &body)
        } else {
            let body = Value::from(names.iter().map(|id| event(id)).collect::<Vec<_>>()).to_string();
            events.request("POST", "/events", &[("Content-Type", "application/json")], body.as_bytes())
        };
        match answer {
            Ok(answer) if matches!(answer.status, 200 | 202) => acknowledged.extend(names),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    acknowledged
}

/// What a store has, each by its own id or by its body, as often as it is there.
fn names(forebay: &Forebay) -> Vec<String> {
    let name = |event: Value| {
        let key = if event["metadata"]["signal"] == "logs" { "message" } else { "event_id" };
        event[key].as_str().unwrap().to_owned()
    };
    forebay.all_events("limit=1000").into_iter().map(name).collect()
}

/// Kills the edge, and where `both` the gateway too, again and again under load; everything that was acknowledged, and the
/// gateway, that has it.
fn kill(both: bool) -> (BTreeSet<String>, Gateway) {
    let mut gateway = Gateway::start();
    let place = Place::empty().sink("up", &gateway.sink(", batch: { max_events: 300 }"));
    let (posts, mut acknowledged) = (AtomicUsize::new(0), BTreeSet::new());
    for round in 0..thorough(4, 30) {
        let mut edge = place.start();
        let (address, ended) = ((edge.address, edge.otlp()), AtomicBool::new(false));
        acknowledged.extend(std::thread::scope(|scope| {
            let load = scope.spawn(|| load(address, &posts, &ended));
            let sent = || edge.metric("forebay_sink_sent_events_total", "up");
            until("events are handed on", || sent() > 600.0);
            if both && round % 2 == 0 {
                gateway.crash();
                let before = sent();
                until("it goes on", || sent() > before);
            }
            edge.kill();
            ended.store(true, Ordering::Relaxed);
            load.join().unwrap()
        }));
    }
    let edge = place.start();
    settled(&edge, &gateway.process);
    assert_eq!(edge.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    (acknowledged, gateway)
}

/// Scenario: SIGKILL of the edge under load, again and again, while batches are on their way.
/// Guarantee: everything that was acknowledged is in the gateway's store once. And the gateway has taken nothing twice: a batch
/// that comes again after the crash has the name that it had.
#[test]
fn p3_kills_of_the_edge_lose_nothing_and_double_nothing() {
    let (acknowledged, mut gateway) = kill(false);
    let names = names(&gateway.process);
    let distinct: BTreeSet<_> = names.iter().cloned().collect();
    assert_eq!(names.len(), distinct.len(), "nothing is there twice");
    assert!(acknowledged.is_subset(&distinct), "{} of {}", distinct.len(), acknowledged.len());
    assert_eq!(gateway.taken(), distinct.len() as u64, "nothing was taken twice");
}

/// Scenario: the same of both sides.
/// Guarantee: everything that was acknowledged is in the gateway's store, once.
#[test]
fn p3_kills_on_both_sides_lose_nothing_and_double_nothing_at_the_gateway() {
    let (acknowledged, gateway) = kill(true);
    let names = names(&gateway.process);
    let distinct: BTreeSet<_> = names.iter().cloned().collect();
    assert_eq!(names.len(), distinct.len(), "nothing is there twice");
    assert!(acknowledged.is_subset(&distinct), "{} of {}", distinct.len(), acknowledged.len());
}

/// Scenario: the wire between the two breaks again and again, in the middle of batches and of the answers to them.
/// Guarantee: every event arrives, and is taken once.
#[test]
fn p3_cuts_between_the_two_lose_nothing_and_double_nothing() {
    let mut gateway = Gateway::start();
    let cuts = thorough(12, 60);
    let spread = |bytes: usize| (1..=cuts).map(move |cut| bytes * cut / cuts);
    let plan = spread(6_000).map(Cut::Asked).zip(spread(500).map(Cut::Answered));
    let wire = Wire::to(gateway.address.port(), plan.flat_map(|(asked, answered)| [asked, answered]));
    let address = SocketAddr::from(([127, 0, 0, 1], wire.port));
    let edge = Place::empty().sink("up", &sink(address, ", compression: none")).start();
    let mut posted = 0;
    while wire.cuts_left() > 0 {
        post(&edge, &(0..40).map(|id| event(&format!("w{}", posted + id))).collect::<Vec<_>>());
        let texts: Vec<_> = (40..50).map(|id| format!("w{}", posted + id)).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        post_otlp(&edge, "logs", &protobuf("api", &texts));
        posted += 50;
        until("they come through", || edge.metric("forebay_buffer_events", "") == 0.0);
    }
    assert!(edge.metric("forebay_sink_retries_total", "up") > cuts as f64 / 2.0, "the wire broke");
    settled(&edge, &gateway.process);
    let distinct: BTreeSet<_> = names(&gateway.process).into_iter().collect();
    assert_eq!(distinct.len(), posted);
    assert_eq!(gateway.taken(), posted as u64);
}
