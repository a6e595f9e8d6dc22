//! `type: s3`, into a directory and against real servers: the binary delivers, objects are read back by the library that
//! wrote them, and Parquet also by an engine that has nothing to do with it.

pub(super) mod bucket;
mod faults;
mod front;
mod parts;
mod servers;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, local::LocalFileSystem};
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::RowAccessor as _,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Service, load, post};
use crate::support::{
    binary::{Forebay, Place},
    http::request,
    thorough, until,
};

const PATIENCE: &str = "retry: { backoff_min: 50ms, backoff_max: 200ms }, breaker: { failures: 1000 }";

/// Objects of a store by their keys.
pub(super) type Objects = BTreeMap<String, Vec<u8>>;

/// Everything below the store's root.
fn objects(store: &dyn ObjectStore) -> Objects {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        let mut objects = Objects::new();
        for object in listed {
            let body = match store.get(&object.location).await {
                // What a fallback held may have been released since.
                Err(object_store::Error::NotFound { .. }) => continue,
                body => body.unwrap().bytes().await.unwrap(),
            };
            objects.insert(object.location.to_string(), body.to_vec());
        }
        objects
    })
}

fn in_directory(path: &Path) -> Objects {
    objects(&LocalFileSystem::new_with_prefix(path).unwrap())
}

/// The events of NDJSON objects.
fn events_of(objects: &Objects) -> Vec<Value> {
    let mut events = Vec::new();
    for (key, body) in objects {
        assert!(key.ends_with(".ndjson.gz"), "{key}");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
        events.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    events
}

/// What tells the events of Parquet objects.
fn events_of_parquet(objects: &Objects) -> Vec<Value> {
    let mut events = Vec::new();
    for (key, body) in objects {
        assert!(key.ends_with(".parquet"), "{key}");
        let file = SerializedFileReader::new(Bytes::from(body.clone())).unwrap();
        events.extend(file.get_row_iter(None).unwrap().map(|row| {
            let row = row.unwrap();
            let text = |column| row.get_string(column).unwrap();
            json!({"event_id": text(0), "service": text(3), "message": text(4)})
        }));
    }
    events
}

/// The ids of the events; no id is there twice.
fn ids_of(objects: &Objects) -> BTreeSet<String> {
    let events = events_of(objects);
    let ids: BTreeSet<_> =
        events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), events.len(), "one event, one line of one object");
    ids
}

/// Waits until the sink has delivered so many events in this life of the process.
#[track_caller]
fn delivered(forebay: &Forebay, events: usize) {
    until("all is delivered", || {
        forebay.metric("forebay_sink_sent_events_total", "archive") >= events as f64
    });
}

/// An event with everything, one without metadata and one of a megabyte; of two services and three hours.
fn events() -> [Value; 3] {
    let metadata = json!({"a": [1, 2.5, null, {"ü": "\u{1F600} \"quoted\" \\ back\tslash"}], "zero": "\0"});
    [
        json!({"event_id": "a", "service": "api", "message": "Grüße, 世界 \u{1F600}\n'quoted' \0", "metadata": metadata,
            "timestamp": "2026-05-06T07:08:09.123456789Z"}),
        json!({"event_id": "b", "service": "ü/../x", "message": "", "timestamp": "1815-12-10T00:00:00.000000001Z"}),
        json!({"event_id": "c", "service": "api", "message": "x€".repeat(256 * 1024), "timestamp": "2026-05-06T09:00:00Z"}),
    ]
}

fn assert_events(found: &[Value]) {
    for expected in events() {
        let event = found.iter().find(|event| event["event_id"] == expected["event_id"]).unwrap();
        for field in ["service", "message", "timestamp"] {
            assert_eq!(event[field], expected[field]);
        }
        assert_eq!(event["metadata"], expected.get("metadata").cloned().unwrap_or_else(|| json!({})));
    }
    assert_eq!(found.len(), 3);
}

/// Unicode, quotes, no metadata, a message of a megabyte, times to the nanosecond: what lies in the objects is what was
/// sent, under keys that say what they hold. A service's name never leaves its place in the key.
#[test]
fn every_field_comes_back_from_a_directory() {
    let dir = TempDir::with_prefix("forebay-it-").unwrap();
    let archive = dir.path().join("archive");
    let sink = format!("{{ type: s3, url: \"file://{}\", batch: {{ max_wait: 100ms }} }}", archive.display());
    let forebay = Place::empty().sink("archive", &sink).start();
    post(&forebay, &events());
    delivered(&forebay, 3);
    let found = in_directory(&archive);
    assert_events(&events_of(&found));
    let keys: Vec<_> = found.keys().map(|key| key.rsplit_once('/').unwrap().0).collect();
    assert_eq!(
        keys,
        [
            "events/%C3%BC%2F..%2Fx/date=1815-12-10/hour=00",
            "events/api/date=2026-05-06/hour=07",
            "events/api/date=2026-05-06/hour=09",
        ]
    );
}

/// Parquet as an engine reads it that did not write it: every field, and times as times.
#[test]
fn parquet_is_read_by_others() {
    let Some(engine) = Service::start("clickhouse-engine", "parquet_is_read_by_others") else { return };
    let dir = TempDir::with_prefix("forebay-it-").unwrap();
    let archive = dir.path().join("archive");
    let sink = format!(
        "{{ type: s3, url: \"file://{}\", format: parquet, batch: {{ max_wait: 100ms }}, \
         key: \"{{stream}}-{{first}}-{{last}}.parquet\" }}",
        archive.display()
    );
    let forebay = Place::empty().sink("archive", &sink).start();
    post(&forebay, &events());
    delivered(&forebay, 3);
    let sql = format!(
        "SELECT event_id, service, message, metadata, toString(timestamp_nanos) AS nanos, \
         toString(toTimeZone(timestamp, 'UTC')) AS timestamp, toTypeName(ingested_at) AS kind \
         FROM file('{}/*.parquet', Parquet) ORDER BY event_id FORMAT JSON",
        archive.display()
    );
    let answer = request(([127, 0, 0, 1], engine.port).into(), "POST", "/", &[], sql.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let rows = answer.json()["data"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 3);
    for (row, expected) in rows.iter().zip(events()) {
        for field in ["event_id", "service", "message"] {
            assert_eq!(row[field], expected[field]);
        }
        assert!(row["kind"].as_str().unwrap().contains("DateTime64(6"), "{row}");
    }
    assert_eq!(rows[0]["nanos"], "1778051289123456789");
    assert_eq!(rows[0]["timestamp"], "2026-05-06 07:08:09.123456");
    assert_eq!(
        serde_json::from_str::<Value>(rows[0]["metadata"].as_str().unwrap()).unwrap(),
        events()[0]["metadata"]
    );
    assert_eq!(rows[1]["metadata"], Value::Null);
}

/// Scenario: the process is killed again and again under load, so that batches come again.
/// Guarantee: every acknowledged event is a line of exactly one object.
#[test]
fn p3_an_event_is_in_one_object() {
    let dir = TempDir::with_prefix("forebay-it-").unwrap();
    let archive = dir.path().join("archive");
    let keys = "batch: { max_events: 500, max_wait: 100ms }";
    let sink = format!("{{ type: s3, url: \"file://{}\", {keys} }}", archive.display());
    let place = Place::empty().sink("archive", &sink);
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut acknowledged = BTreeSet::new();
    for _ in 0..thorough(4, 20) {
        let mut forebay = place.start();
        let address = forebay.address;
        ended.store(false, Ordering::Relaxed);
        acknowledged.extend(std::thread::scope(|scope| {
            let load = scope.spawn(|| load(address, &posts, &ended));
            let sent = || forebay.metric("forebay_sink_sent_events_total", "archive");
            until("events arrive under load", || sent() > 2_000.0);
            forebay.kill();
            ended.store(true, Ordering::Relaxed);
            load.join().unwrap()
        }));
    }
    let forebay = place.start();
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
    let found = ids_of(&in_directory(&archive));
    assert!(acknowledged.is_subset(&found), "{} of {}", found.len(), acknowledged.len());
}
