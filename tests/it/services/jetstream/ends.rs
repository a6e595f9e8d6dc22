//! What cannot be begun, and is said.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};

use super::*;
use crate::services::s3::bucket::{Bucket, Kind};

/// What `validate` and a start say of the configuration, which is the same.
#[track_caller]
pub(super) fn refused(place: &Place, words: &str) {
    place.write();
    let said = place.run(&["validate"]).failed(1);
    assert!(said.contains(words), "{said}");
    let mut process = place.spawn();
    assert_eq!(process.wait().code(), Some(1));
    assert!(process.log().contains(words), "{}", process.log());
}

/// Scenario: the server is not there, the password is wrong, the account has no JetStream, messages may not be large enough,
/// or the stream would lose events.
/// Guarantee: the process does not begin, and says what is wrong; `validate` says the same. A good one is found good.
#[test]
fn what_cannot_be_a_journal_is_refused() {
    let Some(shared) = Shared::start("what_cannot_be_a_journal_is_refused") else { return };
    let nobody = crate::support::free_port();
    let sink = "{ type: blackhole }";
    refused(&shared.place_with(nobody, "").sink("out", sink), "onnect");
    let wrong = ", user: forebay, password: wrong";
    refused(&shared.place_with(shared.service.port, wrong).sink("out", sink), "uthori");
    let plain = ", user: plain, password: secret-123";
    refused(&shared.place_with(shared.service.port, plain).sink("out", sink), "JetStream cannot be used");
    // An event may be of 2 MiB by default, which is more than this server takes.
    let url = format!(
        "buffer: {{ backend: jetstream, jetstream: {{ url: \"nats://127.0.0.1:{}\" }} }}",
        shared.service.port
    );
    refused(&Place::empty().section(&url).sink("out", sink), "max_payload of the server");
    shared.ask(async |context| {
        let mut stream = Config {
            name: "FOREBAY".to_owned(),
            subjects: vec!["FOREBAY.records".to_owned()],
            max_age: Duration::from_secs(3600),
            ..Config::default()
        };
        context.create_stream(stream.clone()).await.unwrap();
        stream.name = "GOOD".to_owned();
        stream.subjects = vec!["GOOD.records".to_owned()];
        stream.discard = DiscardPolicy::New;
        stream.max_age = Duration::ZERO;
        context.create_stream(stream).await.unwrap();
    });
    refused(&shared.place().sink("out", sink), "discard should be new, max_age should be 0");
    let good = shared.place_with(shared.service.port, ", stream: GOOD").sink("out", sink);
    good.write();
    assert!(good.run(&["validate"]).ok().contains("ok    journal: the stream GOOD: 0 messages"));
}

/// Scenario: a process whose fallback holds events, by the books of its data directory, is told to use a stream from now on.
/// Guarantee: it refuses, because nobody would read them back; when they are read back it begins.
#[test]
fn what_is_held_is_not_left_behind() {
    let Some(shared) = Shared::start("what_is_held_is_not_left_behind") else { return };
    let Some(bucket) = Bucket::start(Kind::Minio, "what_is_held_is_not_left_behind") else { return };
    let destination = Destination::start();
    destination.answer(503);
    let out = destination.sink().replace("{ type", "{ fallback: overflow, type");
    let overflow = bucket.sink(", only_as_fallback: true");
    let disk = Place::empty().sink("out", &out).sink("overflow", &overflow);
    let mut forebay = disk.start();
    post(&forebay, &[event("held")]);
    until("it is held", || forebay.metric("forebay_sink_held_events", "out") == 1.0);
    forebay.kill();
    let stream = shared.place().with_data_dir(disk.data_dir().to_owned());
    let stream = stream.sink("out", &out).sink("overflow", &overflow);
    stream.write();
    let mut process = stream.spawn();
    assert_eq!(process.wait().code(), Some(1));
    assert!(process.log().contains("1 events of the sink out are held by overflow"), "{}", process.log());
    destination.answer(200);
    let mut forebay = disk.start();
    until("it is delivered", || destination.has("held"));
    until("nothing is held", || forebay.metric("forebay_sink_held_events", "out") == 0.0);
    assert_eq!(forebay.stop(), Some(0));
    let forebay = stream.start();
    post(&forebay, &[event("in the stream")]);
    until("it is delivered", || destination.has("in the stream"));
}

/// Scenario: a process whose journal on disk has events that were not delivered is told to use a stream from now on.
/// Guarantee: it refuses, and says how many; with them delivered it begins.
#[test]
fn a_journal_on_disk_is_not_left_behind() {
    let Some(shared) = Shared::start("a_journal_on_disk_is_not_left_behind") else { return };
    let destination = Destination::start();
    destination.answer(503);
    let disk = Place::empty().sink("out", &destination.sink());
    let mut forebay = disk.start();
    post(&forebay, &[event("on disk")]);
    forebay.kill();
    let stream = shared.place().with_data_dir(disk.data_dir().to_owned()).sink("out", &destination.sink());
    stream.write();
    let mut process = stream.spawn();
    assert_eq!(process.wait().code(), Some(1));
    assert!(process.log().contains("1 events that the sink out has not had"), "{}", process.log());
    destination.answer(200);
    let mut forebay = disk.start();
    until("it is delivered", || destination.has("on disk"));
    assert_eq!(forebay.stop(), Some(0));
    let forebay = stream.start();
    post(&forebay, &[event("in the stream")]);
    until("it is delivered", || destination.has("in the stream"));
}
