//! `type: forebay`: from one Forebay to another, by two real processes.

mod fields;
mod kills;
mod refusals;
mod secured;

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::{
    binary::{Forebay, Place},
    http::request,
    until,
};

/// A Forebay that takes batches, and can come back at the address that it had.
struct Gateway {
    place: Place,
    process: Forebay,
    address: SocketAddr,
    /// Sections of its configuration.
    sections: Vec<String>,
}

impl Gateway {
    /// With the store as its sink, and a journal that keeps everything, by which it can be counted how often an event was taken.
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these sections, or entries of `http`, besides.
    fn start_with(sections: &[&str]) -> Self {
        let mut all = vec!["retention: { journal_keep: 1d }".to_owned()];
        all.extend(sections.iter().map(|section| (*section).to_owned()));
        let place = configured(Place::new(), &all);
        let process = place.start();
        let address = process.ingest();
        Self { place, process, address, sections: all }
    }

    /// Starts it again where it was, with other sections.
    fn start_again_with(&mut self, sections: Vec<String>) {
        self.sections = sections;
        if !self.sections.iter().any(|section| section.starts_with("ingest:")) {
            self.sections.push("ingest: { grpc: { listen: \"127.0.0.1:0\" } }".to_owned());
        }
        let place = Place::new().with_data_dir(self.place.data_dir().to_path_buf());
        let there = |section: &String| match section.starts_with("ingest:") {
            true => section.replace("127.0.0.1:0", &self.address.to_string()),
            false => section.clone(),
        };
        let sections: Vec<_> = self.sections.iter().map(there).collect();
        self.process = configured(place, &sections).start();
    }

    /// Ends it as a crash would, and starts it again.
    fn crash(&mut self) {
        self.process.kill();
        self.start_again_with(self.sections.clone());
    }

    /// Events in its journal: as many as it was given, each as often as it was taken.
    fn taken(&mut self) -> u64 {
        assert_eq!(self.process.stop(), Some(0));
        let said = self.place.run(&["validate", "--offline"]).ok();
        let events = said.split("ok    journal: ").nth(1).and_then(|rest| rest.split(' ').next());
        events.and_then(|events| events.parse().ok()).unwrap_or_else(|| panic!("{said}"))
    }

    /// The configuration of a sink that delivers here, and does not wait long after a failure.
    fn sink(&self, more: &str) -> String {
        sink(self.address, more)
    }
}

fn configured(place: Place, sections: &[String]) -> Place {
    sections.iter().fold(place, |place, section| match section.strip_prefix("http: ") {
        Some(entry) => place.http(entry),
        None => place.section(section),
    })
}

fn sink(to: SocketAddr, more: &str) -> String {
    format!(
        "{{ type: forebay, endpoint: \"http://{to}\", retry: {{ backoff_min: 20ms, backoff_max: 200ms }}, \
         breaker: {{ open_for: 100ms, successes: 1 }}{more} }}"
    )
}

/// Waits until the sink has delivered everything, and the store of the gateway has it.
#[track_caller]
fn settled(edge: &Forebay, gateway: &Forebay) {
    until("the edge has delivered all", || edge.metric("forebay_sink_lag_events", "up") == 0.0);
    until("the gateway has stored all", || gateway.metric("forebay_sink_lag_events", "events") == 0.0);
}

#[track_caller]
fn post(forebay: &Forebay, events: &[Value]) {
    let answer = forebay.post_json(Value::from(events).to_string()).ok(202).json();
    assert_eq!(answer["accepted"], events.len());
}

#[track_caller]
fn post_otlp(forebay: &Forebay, signal: &str, body: &[u8]) {
    let headers = [("Content-Type", "application/x-protobuf")];
    request(forebay.otlp(), "POST", &format!("/v1/{signal}"), &headers, body).unwrap().ok(200);
}

fn event(id: &str) -> Value {
    json!({"event_id": id, "service": "api", "message": "m", "timestamp": "2026-05-06T07:08:09.123456Z"})
}

/// Everything that a store has, in the order of ids.
fn stored(forebay: &Forebay) -> Vec<Value> {
    let mut events = forebay.all_events("limit=1000");
    events.sort_by_key(|event| event["event_id"].as_str().unwrap().to_owned());
    events
}
