//! `forebay validate`, and what a wrong configuration is answered with at the start.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::support::{
    binary::{Finished, Place, command},
    http::Destination,
    until,
};

/// Everything that is right is said to be, sink by sink; the journal is looked through, also while a process runs.
#[test]
fn what_is_right_is_said_to_be() {
    let destination = Destination::start();
    let place = Place::new().sink("up", &destination.sink());
    place.write();
    let said = place.run(&["validate"]).ok();
    for line in [
        "ok    configuration",
        "ok    data_dir",
        "      destination  type   reachable  authorised  schema  clock",
        "ok    sink up      http   yes        yes         -       -",
        "ok    sink events  store  yes        yes         -       -",
        "ok    sink events: empty, or not there yet",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!place.data_dir().exists(), "it changes nothing");
    destination.answer(503);
    let mut forebay = place.start();
    forebay.post_json(json!({"service": "s", "message": "m", "event_id": "one"}).to_string()).ok(202);
    forebay.stored("one");
    let said = place.run(&["validate"]).ok();
    assert!(said.contains("ok    journal") && said.contains("ok    sink events: 1 events"), "{said}");
    forebay.kill();
    let said = place.run(&["validate", place.config_file().to_str().unwrap()]).ok();
    assert!(said.contains("ok    journal: 1 events"), "{said}");
}

/// A destination that cannot be reached is a failure, unless nobody wants to know.
#[test]
fn a_destination_that_is_not_there_is_named() {
    let gone = Destination::start().sink();
    let place = Place::new().sink("up", &gone);
    place.write();
    let said = place.run(&["validate"]).failed(1);
    assert!(said.contains("FAIL  sink up      http   NO         ?           ?       -"), "{said}");
    assert!(said.contains("FAIL  sink up") && said.contains("no connection"), "{said}");
    let said = place.run(&["validate", "--offline"]).ok();
    assert!(said.contains("ok    sink up: its options can be used") && !said.contains("reachable"), "{said}");
}

/// Every mistake in a file is named with file, line, key and the nearest key there is, by `validate` and at the start.
#[test]
fn mistakes_are_named_with_file_line_and_nearest_key() {
    let place = Place::new();
    let file = place.write();
    let text = "data_dir: ./data\nhttp:\n  listen: here\n  max_body_byte: 1MiB\nbuffer: { durability: fsnc }\nsinks:\n  \
                up: { type: http }\n  events: { type: store, batch: { max_events: 0 } }\n";
    fs::write(&file, text).unwrap();
    for command in ["validate", "run", "reload"] {
        let said = place.run(&[command]).failed(1);
        for wanted in [
            "forebay.yaml:3: http.listen",
            "forebay.yaml:4: http.max_body_byte: is not a key of `http`; did you mean `max_body_bytes`?",
            "forebay.yaml:5: buffer.durability",
            "did you mean `fsync`?",
            "forebay.yaml:7: sinks.up.url: is missing",
            "forebay.yaml:8: sinks.events.batch.max_events: is 0",
        ] {
            assert!(said.contains(wanted), "{command}: {wanted}\n{said}");
        }
    }
    let said = place.run(&["validate", "nowhere.yaml"]).failed(1);
    assert!(said.contains("nowhere.yaml: cannot be read"), "{said}");
    fs::write(place.file("forebay.ini"), "a = b").unwrap();
    let said = place.run(&["validate", "forebay.ini"]).failed(1);
    assert!(said.contains("forebay.ini"), "{said}");
}

/// The three formats say the same.
#[test]
fn toml_and_json_are_taken_by_their_names() {
    let place = Place::new();
    place.write();
    for (name, text) in [
        ("f.toml", "data_dir = \"d\"\n[sinks.events]\ntype = \"store\"\n"),
        ("f.json", r#"{"data_dir": "d", "sinks": {"events": {"type": "store"}}}"#),
    ] {
        fs::write(place.file(name), text).unwrap();
        place.run(&["validate", "--offline", place.file(name).to_str().unwrap()]).ok();
    }
}

fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

/// Damage in the journal is found by `validate`, which changes nothing; the process starts all the same, puts the
/// damaged record aside, counts it, and delivers every other event.
#[test]
fn damage_in_the_journal_is_found_and_put_aside() {
    let destination = Destination::start();
    destination.answer(503);
    let place = Place::empty().sink("up", &destination.sink());
    let mut forebay = place.start();
    // One commit each, with text that cannot be compressed away.
    for i in 0..20 {
        let noise: String = (0..20_000).map(|_| fastrand::alphanumeric()).collect();
        let message = format!("{noise} marker-{i:02}-here");
        forebay
            .post_json(
                json!({"service": "s", "message": message, "event_id": format!("e{i:02}")}).to_string(),
            )
            .ok(202);
    }
    forebay.kill();
    let mut found = Vec::new();
    files(&place.data_dir().join("journal"), &mut found);
    let mut hits = 0;
    for path in found {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = memchr::memmem::find(&bytes, b"marker-07") {
            bytes[at..at + 6].copy_from_slice(b"rotten");
            fs::write(&path, bytes).unwrap();
            hits += 1;
        }
    }
    assert_eq!(hits, 1);
    let said = place.run(&["validate", "--offline"]).failed(1);
    assert!(said.contains("FAIL  journal") && said.contains("damaged"), "{said}");
    place.run(&["validate", "--offline"]).failed(1);
    destination.answer(200);
    let forebay = place.start();
    until("all others are delivered", || {
        destination.count() >= 19 && forebay.metric("forebay_buffer_events", "") == 0.0
    });
    assert_eq!(destination.count(), 19);
    assert!(!destination.has("e07"));
    until("the damage is counted", || forebay.metric("forebay_buffer_damaged_records", "") >= 1.0);
    forebay.post_json(json!({"service": "s", "message": "m", "event_id": "later"}).to_string()).ok(202);
    until("it goes on", || destination.has("later"));
}

/// Everything below a directory: files with their bytes, and the rest by name.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(everything(&path));
        }
        // The memory that SQLite's connections share, readers too, is no data.
        let has_bytes = kind.is_file() && path.extension().is_none_or(|ending| ending != "db-shm");
        let bytes = has_bytes.then(|| fs::read(&path).unwrap());
        found.insert(path, bytes);
    }
    found
}

/// Scenario: `validate` of a data directory that is not there, of one that a process has left in order, and of one that a process
/// was killed in, with events in the journal, cursors, books and a store.
/// Guarantee: every file has the same name and bytes afterwards, none is new, and no copy stays behind. The small database
/// was opened, which wrote to it.
#[test]
fn r0266_validate_wrote_to_the_data_directory() {
    let destination = Destination::start();
    let place = Place::new().sink("up", &destination.sink());
    place.write();
    let scratch = tempfile::tempdir().unwrap();
    let unchanged = || {
        let before = everything(&place.file(""));
        let mut validate = command();
        validate.current_dir(place.file("")).env("TMPDIR", scratch.path());
        let said = Finished::of(validate.arg("--config").arg(place.config_file()).arg("validate")).ok();
        let after = everything(&place.file(""));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        let changed: Vec<_> = before.iter().filter(|(path, bytes)| after[*path] != **bytes).collect();
        assert!(changed.is_empty(), "{:?}", changed.iter().map(|(path, _)| path).collect::<Vec<_>>());
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
        said
    };
    unchanged();
    assert!(!place.data_dir().exists());

    let mut forebay = place.start();
    forebay.post_json(json!({"service": "s", "message": "m", "event_id": "one"}).to_string()).ok(202);
    forebay.stored("one");
    until("it is delivered", || destination.has("one"));
    assert_eq!(forebay.stop(), Some(0));
    let said = unchanged();
    assert!(said.contains("ok    sink events: 1 events"), "{said}");

    let mut forebay = place.start();
    forebay.post_json(json!({"service": "s", "message": "m", "event_id": "two"}).to_string()).ok(202);
    forebay.stored("two");
    until("it is delivered", || destination.has("two"));
    forebay.kill();
    let said = unchanged();
    assert!(said.contains("ok    sink events: 2 events"), "{said}");
}
