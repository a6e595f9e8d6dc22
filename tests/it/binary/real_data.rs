//! Ten thousand requests that a real web server logged.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};

use crate::support::{binary::Place, data_dir, http::Destination, skipped, until};

const FILE: &str = "access_events.ndjson.gz";

/// The file as it is; where it cannot be read, that `test` is skipped is said.
fn packed(test: &str) -> Option<Vec<u8>> {
    let path = data_dir().join(FILE);
    let read = fs::read(&path);
    if let Err(error) = &read {
        let why = format!("{}: {error}", path.display());
        let expected = std::env::var_os("CI").is_some() && path.parent().is_some_and(Path::exists);
        assert!(!expected, "{why}");
        skipped(test, &why);
    }
    read.ok()
}

/// The events in it.
fn events(packed: &[u8]) -> Vec<Value> {
    let mut text = String::new();
    MultiGzDecoder::new(packed).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The fields that were sent.
fn sent(event: &Value) -> Value {
    let fields = ["timestamp", "service", "message", "metadata"];
    fields.iter().map(|field| ((*field).to_owned(), event[*field].clone())).collect()
}

/// Checks that these are the events that were sent, in whatever order.
#[track_caller]
fn same(what: &str, wanted: &BTreeMap<String, Value>, found: impl IntoIterator<Item = Value>) {
    let mut seen = 0;
    for event in found {
        let id = event["event_id"].as_str().unwrap();
        assert_eq!(Some(&sent(&event)), wanted.get(id), "{what}: {id}");
        seen += 1;
    }
    assert_eq!(seen, wanted.len(), "{what}");
}

/// All real requests go in with one post; pages by cursor in both orders, counts, the HTTP sink and the file sink
/// with its rotated and packed files give every one of them back, field for field.
#[test]
fn real_requests_come_back_field_for_field() {
    let Some(packed) = packed("real_requests_come_back_field_for_field") else { return };
    let events = events(&packed);
    assert_eq!(events.len(), 9_999);
    let destination = Destination::start();
    let place = Place::new().sink("up", &destination.sink());
    let out = place.file("out");
    let file = format!(
        "{{ type: file, path: {}/all.ndjson, rotate_bytes: 512KiB, compression: gzip, batch: {{ max_events: 500 }} }}",
        out.display()
    );
    let mut forebay = place.sink("archive", &file).start();
    let body: String = events.iter().map(|event| format!("{event}\n")).collect();
    let answer = forebay.post_lines(&body).ok(202).json();
    assert_eq!(answer["accepted"], 9_999);
    let ids = answer["event_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
    let wanted: BTreeMap<String, Value> = ids.zip(events.iter().map(sent)).collect();
    assert_eq!(wanted.len(), 9_999, "ids are unique");
    until("every sink has all", || forebay.metric("forebay_buffer_events", "") == 0.0);

    let newest = forebay.all_events("limit=1000");
    let mut oldest = forebay.all_events("limit=777&order=oldest");
    same("oldest first", &wanted, oldest.clone());
    assert!(oldest.windows(2).all(|pair| pair[0]["timestamp"].as_str() <= pair[1]["timestamp"].as_str()));
    oldest.reverse();
    assert_eq!(newest, oldest);
    same("the HTTP sink", &wanted, destination.events().into_values().map(|(_, event)| event));

    let mut by_minute = BTreeMap::<String, u64>::new();
    for event in &events {
        *by_minute.entry(format!("{}:00Z", &event["timestamp"].as_str().unwrap()[..16])).or_default() += 1;
    }
    let stats = forebay.json("/events/stats?bucket=1m");
    let counted = stats["buckets"].as_array().unwrap().iter();
    let counted: BTreeMap<_, _> = counted
        .map(|bucket| (bucket["bucket"].as_str().unwrap().to_owned(), bucket["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(counted, by_minute);
    let stats = forebay.json("/events/stats?bucket=1h&group_by=service");
    let hours = stats["buckets"].as_array().unwrap();
    assert!(hours.iter().all(|hour| hour["service"] == "www"));
    assert_eq!(hours.iter().map(|hour| hour["count"].as_u64().unwrap()).sum::<u64>(), 9_999);

    let names =
        || -> Vec<PathBuf> { fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect() };
    let is = |path: &PathBuf, extension: &str| path.extension().is_some_and(|found| found == extension);
    until("every rotated file is packed", || {
        let plain = names().iter().filter(|path| is(path, "ndjson")).count();
        plain == 1 && names().iter().all(|path| !is(path, "tmp"))
    });
    assert_eq!(forebay.stop(), Some(0));
    let mut text = fs::read_to_string(out.join("all.ndjson")).unwrap();
    let packed: Vec<_> = names().into_iter().filter(|path| is(path, "gz")).collect();
    assert!(packed.len() >= 5, "{packed:?}");
    for path in packed {
        MultiGzDecoder::new(File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    }
    same("the files", &wanted, text.lines().map(|line| serde_json::from_str(line).unwrap()));
}

/// Scenario: the command of the README, to the letter: the file is the body of one request, packed as it is, without ids in the
/// answer.
/// Guarantee: the answer is the README's, and the store has every event of the file as it was sent.
#[test]
fn the_file_goes_in_packed_as_the_readme_says() {
    let Some(packed) = packed("the_file_goes_in_packed_as_the_readme_says") else { return };
    // The file is of 2015, and a night may begin in here.
    let forebay = Place::new().section("retention: { days: 36500 }").start();
    let headers = [("Content-Type", "application/x-ndjson"), ("Content-Encoding", "gzip")];
    let answer = forebay.post("/events?ids=false", &headers, &packed).ok(202).json();
    assert_eq!(answer, json!({"accepted": 9_999, "rejected": []}));
    until("the store has all", || forebay.metric("forebay_buffer_events", "") == 0.0);
    assert_eq!(forebay.counted(), 9_999);
    let texts = |events: &[Value]| {
        let mut texts: Vec<_> = events.iter().map(|event| sent(event).to_string()).collect();
        texts.sort_unstable();
        texts
    };
    let stored = texts(&forebay.all_events("limit=1000"));
    assert!(stored == texts(&events(&packed)), "{} events, and not those that were sent", stored.len());
}
