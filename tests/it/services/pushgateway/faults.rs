//! Crashes on both sides, wires that break and passwords that are wrong: in the end, the newest values are at the gateway.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    super::{Load, through_kills_under},
    Gateway, Service, complains, counter, delivered, export, metrics, sink_to,
};
use crate::support::{
    binary::{Forebay, Place},
    http::{Connection, request},
    thorough, until,
    wire::{Cut, Wire},
};

const GROUPS: usize = 3;
const SERIES: [&str; 4] = ["in", "out", "ü", "to \"q\""];
/// In each request.
const POINTS: usize = GROUPS * SERIES.len();
const FIRST_NANOS: u64 = 1_778_051_289_000_000_000;
const SENT: &str = "forebay_sink_sent_events_total";

/// A user's configuration of a gateway: a hash of bcrypt, the cheapest, of `right-456`.
const RELAY_ALONE: &str =
    "basic_auth_users: { relay: \"$2y$04$Ff3mKq0ZtVxR1sLw8bYpNe4hPZUXAh6CC2nKmr8IS.DYYwN9jFSBy\" }\n";

/// A request in which every series of every group has this value, later than those with smaller ones.
fn values(value: u64) -> Value {
    let series = |&direction: &&str| {
        let mut counter = counter("net.io", value, &[("dir", direction)]);
        counter["sum"]["dataPoints"][0]["timeUnixNano"] = (FIRST_NANOS + value).to_string().into();
        counter
    };
    let counters: Value = SERIES.iter().map(series).collect();
    let of = |group: usize| metrics(&group.to_string(), counters.clone())["resourceMetrics"][0].clone();
    json!({"resourceMetrics": (0..GROUPS).map(of).collect::<Vec<_>>()})
}

/// The one value that every series has in what a gateway answers.
#[track_caller]
fn value_of_all(text: &str) -> f64 {
    let of_series = text.lines().filter(|line| line.starts_with("net_io_bytes_total{"));
    let found: BTreeMap<_, _> = of_series.filter_map(|line| line.rsplit_once(' ')).collect();
    assert_eq!(found.len(), POINTS, "{found:?}");
    let values: BTreeSet<_> = found.values().collect();
    assert_eq!(values.len(), 1, "{found:?}");
    values.first().unwrap().parse().unwrap()
}

/// Posts values that grow until it is told to end, or the process has; those that were acknowledged, in texts of their order.
fn load(address: SocketAddr, posts: &AtomicUsize, ended: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let Ok(mut connection) = Connection::open(address) else { return acknowledged };
    while !ended.load(Ordering::Relaxed) {
        let value = posts.fetch_add(1, Ordering::Relaxed) as u64;
        let body = values(value).to_string();
        let json = [("Content-Type", "application/json")];
        match connection.request("POST", "/v1/metrics", &json, body.as_bytes()) {
            Ok(answer) if answer.status == 200 => acknowledged.push(format!("{value:09}")),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    acknowledged
}

/// Scenario: the gateway is ended in order and killed under load, and the process is killed beside it, before the gateway is
/// back and afterwards.
/// Guarantee: in the end every series at the gateway has the value that was acknowledged last, or a later one. A gateway has in
/// memory alone what it answered in the last second: what a SIGKILL takes of that, the next push brings, as these come.
#[test]
fn p3_kills_on_both_sides_leave_the_newest_values() {
    let test = "p3_kills_on_both_sides_leave_the_newest_values";
    let Some(mut gateway) = Gateway::start(test) else { return };
    let place = Place::empty().sink("push", &gateway.sink(""));
    let comes_back_first = |round: usize| round % 4 < 2;
    let grows = |forebay: &Forebay, name: &str, posts: usize| {
        let before = forebay.metric(name, "");
        let more = (posts * POINTS) as f64;
        until(&format!("{name} grows"), || forebay.metric(name, "") > before + more);
    };
    let under_load = |round: usize, forebay: &Forebay, gateway: &mut Gateway| {
        grows(forebay, SENT, 10);
        gateway.0.down(if round.is_multiple_of(2) { "stop" } else { "kill" });
        // So the last value of this life is one that the dead gateway had not.
        grows(forebay, "forebay_receiver_events_total", 3);
        if comes_back_first(round) {
            until("the sink has seen it", || forebay.metric("forebay_sink_errors_total", "push") > 0.0);
            gateway.0.up();
            grows(forebay, SENT, 10);
        }
        assert_eq!(forebay.metric("forebay_sink_refused_events_total", "push"), 0.0);
    };
    let mended = |round: usize, gateway: &mut Gateway| {
        if !comes_back_first(round) {
            gateway.0.up();
        }
    };
    let load = Load { address: Forebay::otlp, post: load };
    let acknowledged = through_kills_under(&load, &place, thorough(4, 40), &mut gateway, under_load, mended);
    let newest: f64 = acknowledged.last().unwrap().parse().unwrap();
    let found = value_of_all(&gateway.get("/metrics"));
    assert!(found >= newest, "{newest} was acknowledged, and {found} is there");
    assert_eq!(place.run(&["dead-letter", "list", "push"]).ok(), "");
}

/// Scenario: connections break again and again, in the middle of pushes and of the answers to them.
/// Guarantee: what counts as delivered is at the gateway, whole: every series has the newest value, each time.
#[test]
fn p3_cuts_leave_the_newest_values() {
    let Some(gateway) = Gateway::start("p3_cuts_leave_the_newest_values") else { return };
    // Of some pushes to a group, and of the answers to them.
    let (cuts, asked, answered) = (thorough(12, 60), 3000, 300);
    let spread = |bytes: usize| (1..=cuts).map(move |cut| bytes * cut / cuts);
    let plan = spread(asked).map(Cut::Asked).zip(spread(answered).map(Cut::Answered));
    let wire = Wire::to(gateway.0.port, plan.flat_map(|(asked, answered)| [asked, answered]));
    let forebay = Place::empty().sink("push", &sink_to(&format!("127.0.0.1:{}", wire.port), "")).start();
    for value in 1.. {
        export(&forebay, "/v1/metrics", &values(value));
        delivered(&forebay);
        assert_eq!(value_of_all(&gateway.get("/metrics")), value as f64);
        if wire.cuts_left() == 0 {
            break;
        }
    }
    // The groups of a batch are pushed side by side, so that one retry may be of several cuts.
    let retries = forebay.metric("forebay_sink_retries_total", "push");
    assert!(retries > cuts as f64 / 4.0, "the wire broke: {retries}");
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "push"), 0.0);
}

/// Scenario: a gateway asks for a password, and the sink has a wrong one, in its URL or in a header; a reload mends it.
/// Guarantee: the sink and `validate` say so, and no word says the password; nothing is lost, and everything is pushed with the
/// right one.
#[test]
fn a_password_that_a_gateway_does_not_know_is_waited_for() {
    let dir = Service::dir();
    fs::write(dir.path().join("web.yml"), RELAY_ALONE).unwrap();
    let test = "a_password_that_a_gateway_does_not_know_is_waited_for";
    let Some(gateway) = Service::start_in(dir, None, "pushgateway", test).map(Gateway) else { return };
    let in_base64 = |password: &str| STANDARD.encode(format!("relay:{password}"));
    let by_url = |password: &str| sink_to(&format!("relay:{password}@127.0.0.1:{}", gateway.0.port), "");
    let by_header = |password: &str| {
        gateway.sink(&format!(", headers: {{ authorization: \"Basic {}\" }}", in_base64(password)))
    };
    for (value, sink) in [(1, &by_url as &dyn Fn(&str) -> String), (3, &by_header as &dyn Fn(&str) -> String)]
    {
        let mut place = Place::empty().sink("push", &sink("wrong-123"));
        let forebay = place.start();
        export(&forebay, "/v1/metrics", &values(value));
        let words = "answered 401 Unauthorized";
        complains(&forebay, words);
        forebay.says(words);
        let validated = place.run(&["validate"]).failed(1);
        assert!(validated.contains(words), "{validated}");
        let row = validated.lines().find(|line| line.contains(" pushgateway ")).unwrap_or_default();
        let columns: Vec<_> = row.split_whitespace().collect();
        assert_eq!(columns, ["FAIL", "sink", "push", "pushgateway", "yes", "NO", "?", "-"], "{validated}");
        for said in [validated, forebay.get("/health").text(), forebay.log()] {
            assert!(!said.contains("wrong-123") && !said.contains(&in_base64("wrong-123")), "{said}");
        }
        export(&forebay, "/v1/metrics", &values(value + 1));
        assert_eq!(forebay.metric("forebay_buffer_events", ""), 2.0 * POINTS as f64);

        place.set_sink("push", Some(&sink("right-456")));
        place.write();
        assert!(place.run(&["reload"]).ok().contains("push"));
        delivered(&forebay);
        let basic = format!("Basic {}", in_base64("right-456"));
        let as_relay = [("Authorization", &*basic)];
        let text = request(gateway.address(), "GET", "/metrics", &as_relay, b"").unwrap().ok(200).text();
        assert_eq!(value_of_all(&text), (value + 1) as f64);
        assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "push"), 0.0);
        place.run(&["validate"]).ok();
    }
}

/// Scenario: the device that the gateway keeps its file on is full to the last byte when values come, and has room again before the
/// gateway ends.
/// Guarantee: it takes them all the same, since it has them in memory, and that is what a delivery to it means; they are in its
/// file when it could be written again.
#[test]
fn a_gateway_that_cannot_write_its_file_takes_values_all_the_same() {
    let test = "a_gateway_that_cannot_write_its_file_takes_values_all_the_same";
    let Some(service) = Service::start_on_device("pushgateway", 8, test) else { return };
    let mut gateway = Gateway(service);
    let forebay = Place::empty().sink("push", &gateway.sink("")).start();
    let ballast = gateway.0.fill();
    export(&forebay, "/v1/metrics", &metrics("1", json!([counter("net.io", 7, &[])])));
    delivered(&forebay);
    let has = |gateway: &Gateway| {
        gateway.get("/metrics").lines().any(|line| line.starts_with("net_io") && line.ends_with(" 7"))
    };
    assert!(has(&gateway), "{}", gateway.get("/metrics"));
    fs::remove_file(ballast).unwrap();
    gateway.0.down("stop");
    gateway.0.up();
    until("it has kept the value", || has(&gateway));
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "push"), 0.0);
}

/// Scenario: a label of a megabyte, and a description as long.
/// Guarantee: the label is at the gateway, whole, and of the description its beginning, which is for people.
#[test]
fn texts_of_a_megabyte_come_to_the_gateway() {
    let Some(gateway) = Gateway::start("texts_of_a_megabyte_come_to_the_gateway") else { return };
    let forebay = Place::empty().sink("push", &gateway.sink("")).start();
    let long = "x".repeat(1 << 20);
    let mut described = counter("net.io", 7, &[("path", &long)]);
    described["description"] = long.clone().into();
    export(&forebay, "/v1/metrics", &metrics("1", json!([described])));
    delivered(&forebay);
    let shown = gateway.get("/metrics");
    assert!(shown.contains(&format!("path=\"{long}\"")), "{} bytes", shown.len());
    assert!(shown.contains("# HELP net_io_bytes_total xxx"));
    assert_eq!(forebay.metric(SENT, "push"), 1.0);
}
