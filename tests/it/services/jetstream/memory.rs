//! What a process with its journal in the stream takes, against the sum that it printed.

use super::*;
use crate::support::{binary::Forebay, memory::assert_peak};

/// Clients that post at the same time.
const CLIENTS: usize = 4;

/// Events of a request: about a megabyte.
const REQUEST_EVENTS: usize = 16;

/// So many requests of events of 60 KB, each until it is taken; the ids.
fn post_large(forebay: &Forebay, client: usize, requests: usize) -> Vec<String> {
    let (mut connection, mut taken) = (forebay.connect(), Vec::new());
    for request in 0..requests {
        let ids: Vec<_> = (0..REQUEST_EVENTS).map(|index| format!("m{client}-{request}-{index}")).collect();
        let large = |(index, id): (usize, &String)| {
            let mut event = event(id);
            event["message"] = incompressible(client + request + index).into();
            event
        };
        let body = Value::from(ids.iter().enumerate().map(large).collect::<Vec<_>>()).to_string();
        until("it is taken", || {
            let headers = [("Content-Type", "application/json")];
            let answer =
                connection.request("POST", "/events", &headers, body.as_bytes()).expect("it answers");
            assert!(matches!(answer.status, 202 | 503), "{}", answer.text());
            answer.status == 202
        });
        taken.extend(ids);
    }
    taken
}

/// Scenario: thousands of events of 60 KB come while the destination is down; then it takes all of them. A second sink has them
/// at once.
/// Guarantee: the process' memory stays below the sum that it printed, and everything arrives.
#[test]
fn p6_a_backlog_in_the_stream_stays_within_the_printed_sum() {
    let Some(shared) = Shared::start("p6_a_backlog_in_the_stream_stays_within_the_printed_sum") else {
        return;
    };
    let destination = Destination::start();
    destination.answer(503);
    let place = shared.place().sink("down", &destination.sink()).sink("nowhere", "{ type: blackhole }");
    let forebay = place.start();
    let requests = thorough(32, 80);
    let acknowledged: BTreeSet<String> = std::thread::scope(|scope| {
        let forebay = &forebay;
        let clients: Vec<_> =
            (0..CLIENTS).map(|client| scope.spawn(move || post_large(forebay, client, requests))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(acknowledged.len(), CLIENTS * requests * REQUEST_EVENTS);
    until("it was tried", || destination.requests() > 0);
    until("the other sink has everything", || {
        forebay.metric("forebay_sink_sent_events_total", "sink=\"nowhere\"") as usize >= acknowledged.len()
    });
    assert_eq!(destination.count(), 0);
    assert_peak(&forebay, &format!("{} events wait in the stream", acknowledged.len()));
    destination.answer(200);
    all_arrived(&destination, &acknowledged);
    assert_peak(&forebay, "and delivered");
}
