//! The same of every server: what is written comes back, crashes lose nothing, and an operator is told what to mend.

use base64::Engine as _;
use serde_json::json;

use super::{
    Objects, assert_events,
    bucket::{Bucket, Kind, Who},
    delivered, events, events_of, ids_of,
};
use crate::{
    services::{assert_each_once, complains, event, post, through_kills},
    support::{
        binary::{Forebay, Place},
        thorough, until,
    },
};

/// Unicode, quotes, no metadata, a message of a megabyte, times to the nanosecond; and one object that is large enough to go in
/// parts.
fn every_field_comes_back(kind: Kind, test: &str) {
    let Some(bucket) = Bucket::start(kind, test) else { return };
    let keys = ", batch: { max_events: 100000, max_bytes: 64MiB, max_wait: 3s }, \
                key: \"{service}/{stream}-{first}-{last}\"";
    let forebay = Place::empty().sink("archive", &bucket.sink(keys)).start();
    post(&forebay, &events());
    delivered(&forebay, 3);
    let found: Objects = renamed(bucket.objects());
    assert!(found.keys().all(|key| key.starts_with("a/b/")), "{:?}", found.keys());
    assert!(found.keys().any(|key| key.starts_with("a/b/%C3%BC%2F..%2Fx/")), "{:?}", found.keys());
    assert_events(&events_of(&found));

    // What nothing can pack: 30 MB of it are more than a request takes.
    let mut random = fastrand::Rng::with_seed(7);
    for post_at in 0..30 {
        let mut noise = vec![0; 768 * 1024];
        random.fill(&mut noise);
        let message = base64::engine::general_purpose::STANDARD.encode(&noise);
        let event = json!({"event_id": format!("large-{post_at}"), "service": "large", "message": message,
            "timestamp": "2026-05-06T09:00:00Z"});
        post(&forebay, &[event]);
    }
    delivered(&forebay, 33);
    let found = bucket.objects();
    let largest = found.values().map(Vec::len).max().unwrap();
    assert!(largest > 16 * 1024 * 1024, "no object went in parts: {largest}");
    assert_eq!(ids_of(&renamed(found)).len(), 33);
}

/// Keys without an extension get one, for what reads them.
fn renamed(objects: Objects) -> Objects {
    objects.into_iter().map(|(key, body)| (format!("{key}.ndjson.gz"), body)).collect()
}

#[test]
fn every_field_comes_back_from_minio() {
    every_field_comes_back(Kind::Minio, "every_field_comes_back_from_minio");
}

#[test]
fn every_field_comes_back_from_gcs() {
    every_field_comes_back(Kind::Gcs, "every_field_comes_back_from_gcs");
}

#[test]
fn every_field_comes_back_from_azurite() {
    every_field_comes_back(Kind::Azurite, "every_field_comes_back_from_azurite");
}

/// Scenario: the process and the server are killed again and again under load.
/// Guarantee: every acknowledged event is a line of exactly one object.
fn kills_on_both_sides_lose_nothing(kind: Kind, test: &str) {
    let Some(mut bucket) = Bucket::start(kind, test) else { return };
    let keys = ", batch: { max_events: 2000, max_wait: 100ms }";
    let place = Place::empty().sink("archive", &bucket.sink(keys));
    let under_load = |round: usize, forebay: &Forebay, bucket: &mut Bucket| {
        let metric = |name: &str| forebay.metric(name, "archive");
        until("events arrive under load", || metric("forebay_sink_sent_events_total") > 2_000.0);
        if round.is_multiple_of(2) {
            bucket.toggle(true);
            until("the sink has seen it", || metric("forebay_sink_errors_total") > 0.0);
        }
    };
    let mended = |round: usize, bucket: &mut Bucket| {
        if round.is_multiple_of(2) {
            bucket.toggle(false);
        }
    };
    let acknowledged = through_kills(&place, thorough(3, 12), &mut bucket, under_load, mended);
    assert_each_once(&acknowledged, ids_of(&bucket.objects()));
}

#[test]
fn p3_kills_on_both_sides_lose_nothing_in_minio() {
    kills_on_both_sides_lose_nothing(Kind::Minio, "p3_kills_on_both_sides_lose_nothing_in_minio");
}

#[test]
fn p3_kills_on_both_sides_lose_nothing_in_gcs() {
    kills_on_both_sides_lose_nothing(Kind::Gcs, "p3_kills_on_both_sides_lose_nothing_in_gcs");
}

/// The server is ended in order: killed, it forgets what it had confirmed in the last seconds, which Azure does not.
#[test]
fn p3_kills_and_restarts_lose_nothing_in_azurite() {
    kills_on_both_sides_lose_nothing(Kind::Azurite, "p3_kills_and_restarts_lose_nothing_in_azurite");
}

/// Nothing is lost while an operator has something to mend, and each time the sink and `validate` say what: credentials that
/// nobody knows, a bucket that is missing, a server that is away.
fn what_an_operator_can_mend_is_waited_for(kind: Kind, [unknown, missing]: [&str; 2], test: &str) {
    let Some(mut bucket) = Bucket::start(kind, test) else { return };
    let mut place = Place::empty();
    for (who, name, id, word) in
        [(Who::Stranger, "archive", "a", unknown), (Who::Writer, "missing", "b", missing)]
    {
        place.set_sink("archive", Some(&bucket.sink_as(who, name, "")));
        place.write();
        let refused = place.run(&["validate"]);
        assert!(refused.stdout.contains(word) || refused.stderr.contains(word), "{refused:?}");
        let mut forebay = place.start();
        post(&forebay, &[event(id)]);
        complains(&forebay, word);
        let secret = who.secret();
        assert!(!forebay.get("/health").text().contains(secret) && !forebay.log().contains(secret));
        // Not in order: it would try for the whole of its time.
        forebay.kill();
    }
    bucket.toggle(true);
    place.set_sink("archive", Some(&bucket.sink("")));
    let forebay = place.start();
    post(&forebay, &[event("c")]);
    complains(&forebay, "tcp connect error");
    bucket.toggle(false);
    delivered(&forebay, 3);
    let expected = ["a", "b", "c"].map(str::to_owned).into();
    assert_eq!(ids_of(&bucket.objects()), expected);
    place.run(&["validate"]).ok();
    assert_eq!(ids_of(&bucket.objects()), expected, "a probe leaves nothing behind");
}

#[test]
fn what_an_operator_can_mend_is_waited_for_by_s3() {
    let words = ["403 SignatureDoesNotMatch", "404 NoSuchBucket"];
    let test = "what_an_operator_can_mend_is_waited_for_by_s3";
    what_an_operator_can_mend_is_waited_for(Kind::Minio, words, test);
}

#[test]
fn what_an_operator_can_mend_is_waited_for_by_gcs() {
    let words = ["401 AuthenticationRequired", "404 NoSuchBucket"];
    let test = "what_an_operator_can_mend_is_waited_for_by_gcs";
    what_an_operator_can_mend_is_waited_for(Kind::Gcs, words, test);
}

#[test]
fn what_an_operator_can_mend_is_waited_for_by_azure() {
    let words = ["403 AuthorizationFailure", "404 ContainerNotFound"];
    let test = "what_an_operator_can_mend_is_waited_for_by_azure";
    what_an_operator_can_mend_is_waited_for(Kind::Azurite, words, test);
}

/// An object that is there is left alone where `overwrite` is off, and counts as delivered.
fn an_object_that_is_there_can_be_left_alone(kind: Kind, test: &str) {
    let Some(bucket) = Bucket::start(kind, test) else { return };
    let keys = ", overwrite: false, batch: { max_events: 1 }";
    let place = Place::empty().sink("archive", &bucket.sink(keys));
    let mut forebay = place.start();
    post(&forebay, &[event("a")]);
    delivered(&forebay, 1);
    forebay.stop();
    let before = bucket.objects();
    // The cursor is lost: everything that is kept is delivered again.
    std::fs::remove_dir_all(place.data_dir().join("state")).unwrap();
    let forebay = place.start();
    until("it was delivered again", || forebay.metric("forebay_sink_sent_events_total", "archive") == 1.0);
    assert_eq!(bucket.objects(), before);
    assert_eq!(forebay.metric("forebay_sink_sent_bytes_total", "archive"), 0.0);
}

#[test]
fn an_object_that_is_in_minio_can_be_left_alone() {
    an_object_that_is_there_can_be_left_alone(Kind::Minio, "an_object_that_is_in_minio_can_be_left_alone");
}

#[test]
fn an_object_that_is_in_gcs_can_be_left_alone() {
    an_object_that_is_there_can_be_left_alone(Kind::Gcs, "an_object_that_is_in_gcs_can_be_left_alone");
}

#[test]
fn an_object_that_is_in_azurite_can_be_left_alone() {
    an_object_that_is_there_can_be_left_alone(
        Kind::Azurite,
        "an_object_that_is_in_azurite_can_be_left_alone",
    );
}
