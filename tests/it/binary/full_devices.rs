//! One device after the other is full: the journal's by itself, the store's, the state's.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    binary::{Forebay, Place},
    device::Device,
    http::Destination,
    testbed::incompressible,
    until,
};

/// Posts events and keeps the ids of those that were acknowledged.
struct Producer<'a> {
    forebay: &'a Forebay,
    posts: usize,
    acknowledged: Vec<String>,
}

impl<'a> Producer<'a> {
    fn new(forebay: &'a Forebay) -> Self {
        Self { forebay, posts: 0, acknowledged: Vec::new() }
    }

    /// Posts so many events of so many incompressible bytes; `false` where the answer is 503 `disk_full`.
    fn post(&mut self, events: usize, bytes: usize) -> bool {
        self.posts += 1;
        let ids: Vec<_> = (0..events).map(|event| format!("f{:05}-{event}", self.posts)).collect();
        let event = |(index, id): (usize, &String)| json!({"service": "s", "message": &incompressible(self.posts + index)[..bytes], "event_id": id});
        let answer = self
            .forebay
            .post_json(Value::from(ids.iter().enumerate().map(event).collect::<Vec<_>>()).to_string());
        if answer.status != 202 {
            answer.error(503, "disk_full");
            return false;
        }
        self.acknowledged.extend(ids);
        true
    }

    fn all_came_to(&self, destination: &Destination) {
        until("everything is delivered", || self.acknowledged.iter().all(|id| destination.has(id)));
    }

    fn all_are_stored(&self) {
        until("everything is stored", || self.forebay.counted() as usize == self.acknowledged.len());
    }
}

/// A destination is down, and the journal itself fills its device, over several generations, up to the last byte.
/// When the destination is back, everything is delivered, what was delivered makes room, and events are accepted again:
/// nobody has to clear up, nothing is restarted, nothing acknowledged is lost.
#[test]
fn a_journal_that_fills_its_device_is_emptied_by_deliveries() {
    let place = Place::empty();
    let test = "a_journal_that_fills_its_device_is_emptied_by_deliveries";
    let Some(device) = Device::tmpfs(place.file("device"), 36, test) else { return };
    let destination = Destination::start();
    destination.answer(503);
    let place = place.with_data_dir(device.path.join("data")).sink("up", &destination.sink());
    let mut forebay = place.start();
    let mut producer = Producer::new(&forebay);
    while producer.post(16, 60_000) {
        assert!(producer.posts < 200, "the device is full, and everything is accepted");
    }
    // Every gap that is left.
    let mut refused = 0;
    for bytes in [60_000, 20_000, 5_000, 1_000, 100, 10] {
        for _ in 0..10 {
            refused += usize::from(!producer.post(1, bytes));
        }
    }
    forebay.get("/live").ok(200);
    assert_eq!(forebay.get("/ready").status, 503);
    let backlog = producer.acknowledged.len();
    destination.answer(200);
    producer.all_came_to(&destination);
    until("what was delivered makes room", || producer.post(16, 60_000));
    // Generations go once a second, and the newest never.
    (0..15).for_each(|_| until("it goes on", || producer.post(16, 60_000)));
    producer.all_came_to(&destination);
    assert_eq!(forebay.metric("forebay_actor_restarts_total", ""), 0.0);
    eprintln!("{backlog} events filled the device, {refused} requests were refused, 0 lost");
    assert_eq!(forebay.stop(), Some(0));
}

/// The same, and the process is killed while its journal fills the device: it starts again, and makes room.
#[test]
fn a_journal_that_fills_its_device_can_be_started_with() {
    let place = Place::empty();
    let test = "a_journal_that_fills_its_device_can_be_started_with";
    let Some(device) = Device::tmpfs(place.file("device"), 32, test) else { return };
    let destination = Destination::start();
    destination.answer(503);
    let place = place.with_data_dir(device.path.join("data")).sink("up", &destination.sink());
    let mut forebay = place.start();
    let mut producer = Producer::new(&forebay);
    while [60_000, 5_000, 100].iter().any(|bytes| producer.post(8, *bytes)) {
        assert!(producer.posts < 500, "the device is full, and everything is accepted");
    }
    let Producer { acknowledged, .. } = producer;
    forebay.kill();
    destination.answer(200);
    let mut forebay = place.spawn();
    forebay.wait_until_it_listens();
    let mut producer = Producer { forebay: &forebay, posts: 1_000, acknowledged };
    producer.all_came_to(&destination);
    until("what was delivered makes room", || producer.post(8, 60_000));
    assert_eq!(forebay.stop(), Some(0));
}

/// The store's device is full while it commits, and the journal's has room: events are accepted and delivered elsewhere,
/// the store is behind and says why; with space it catches up by itself.
#[test]
fn a_full_device_of_the_store_delays_the_store_alone() {
    let destination = Destination::start();
    let place = Place::new().sink("up", &destination.sink());
    let test = "a_full_device_of_the_store_delays_the_store_alone";
    let Some(device) = Device::tmpfs(place.data_dir().join("store"), 8, test) else { return };
    let mut forebay = place.start();
    let mut producer = Producer::new(&forebay);
    assert!(producer.post(10, 1_000));
    producer.all_are_stored();
    let ballast = device.fill();
    for _ in 0..40 {
        assert!(producer.post(10, 10_000), "the journal has room");
    }
    producer.all_came_to(&destination);
    let sink = || forebay.json("/health")["checks"]["sinks"]["events"].take();
    until("health says what the store lacks", || {
        let sink = sink();
        sink["status"] == "degraded" && sink["error"].as_str().is_some_and(|error| error.contains("full"))
    });
    forebay.get("/ready").ok(200);
    assert!(sink()["lag_events"].as_u64().unwrap() > 0);
    // What is stored already can be read all the same.
    forebay.stored(&producer.acknowledged[0]);
    fs::remove_file(ballast).unwrap();
    producer.all_are_stored();
    assert_eq!(forebay.stop(), Some(0));
}

/// The device of cursors and dead letters is full, while a destination refuses every event: events are accepted; what
/// cannot be noted waits, and health says why; with space every event is a dead letter, once.
#[test]
fn a_full_device_of_the_state_loses_neither_cursors_nor_letters() {
    let destination = Destination::start();
    let place = Place::empty().sink("up", &destination.sink());
    let test = "a_full_device_of_the_state_loses_neither_cursors_nor_letters";
    let Some(device) = Device::tmpfs(place.data_dir().join("state"), 8, test) else { return };
    let mut forebay = place.start();
    let mut producer = Producer::new(&forebay);
    assert!(producer.post(10, 100));
    producer.all_came_to(&destination);
    destination.refuse(Some("event_id"));
    let ballast = device.fill();
    (0..60).for_each(|_| assert!(producer.post(10, 2_000), "the journal has room"));
    until("health says what is missing", || {
        let sink = forebay.json("/health")["checks"]["sinks"]["up"].take();
        sink["error"].as_str().is_some_and(|error| error.to_lowercase().contains("space"))
    });
    forebay.get("/ready").ok(200);
    let letters = || forebay.metric("forebay_sink_dead_letters_total", "rejected");
    let before = letters();
    fs::remove_file(ballast).unwrap();
    until("every event is a dead letter", || letters() == 600.0);
    until("everything has its outcome", || forebay.metric("forebay_buffer_events", "") == 0.0);
    assert_eq!(forebay.metric("forebay_actor_restarts_total", ""), 0.0);
    eprintln!("600 refused events, {before} noted before the device was full, 600 after; 0 lost");
    assert_eq!(forebay.stop(), Some(0));
    let totals = place.run(&["dead-letter", "list"]).ok();
    assert!(totals.contains("600"), "{totals}");
}
