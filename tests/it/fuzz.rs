//! The fuzz targets on any toolchain: every file of the corpus, and what a seeded mutation makes of it. What libFuzzer
//! found once is kept in the corpus, so it cannot come back unseen.

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use fastrand::Rng;

use crate::support::thorough;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Fewer files than this are a corpus that got lost.
const CORPUS_FILES_MIN: usize = 10;

/// Bytes with a meaning to one of the parsers.
const TOKENS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\n",
    "\r\n",
    "\t",
    " ",
    "null",
    "true",
    "-",
    "1e999",
    "9223372036854775808",
    "\\ud800",
    "\\u0000",
    "\u{feff}",
    "\u{2028}",
    "FBR1",
    "${",
    "${A}",
    "&a",
    "*a",
    "!!",
    "---",
    "\"service\":\"s\"",
    "\"message\":\"m\"",
    "\"metadata\":{",
    "\"timestamp\":",
    "\"event_id\":",
    "sinks:",
    "type: ",
    "\"stringValue\":",
    "\"doubleValue\":",
    "\"NaN\"",
    "\0",
    "\u{ff}",
];

/// Gives the target every file of its corpus, and `mutations` of each.
fn run(target: &str, judge: fn(&[u8]), mutations: usize) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= CORPUS_FILES_MIN, "{} has {} files", dir.display(), files.len());
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    for (index, file) in files.iter().enumerate() {
        let mut random = Rng::with_seed(index as u64);
        for mutation in 0..=mutations {
            let mut input = corpus[index].clone();
            if mutation > 0 {
                (0..random.usize(1..4)).for_each(|_| mutate(&mut input, &corpus, &mut random));
            }
            if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| judge(&input))) {
                let file = file.file_name().unwrap().to_string_lossy();
                eprintln!("{target}: mutation {mutation} of {file}: {}", input.escape_ascii());
                panic::resume_unwind(panic);
            }
        }
    }
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Rng) {
    let at = random.usize(0..=input.len());
    let end = (at + random.usize(0..16)).min(input.len());
    match random.u8(0..6) {
        0 => drop(input.drain(at..end)),
        1 => drop(input.splice(at..end, random.choice(TOKENS).unwrap().bytes())),
        2 => input[at..end].iter_mut().for_each(|byte| *byte = random.u8(..)),
        3 => drop(input.splice(at..at, input[at..end].to_vec().repeat(random.usize(1..70)))),
        4 => {
            let other = random.choice(corpus).unwrap();
            let from = random.usize(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.u8(0..8);
            }
        }
    }
}

/// What the fast parser accepts stands in the body, by a slow reading of the same JSON; what it rejects is wrong by that
/// reading, too, and has a place.
#[test]
fn bodies_are_what_a_slow_reading_says() {
    run("http_events", targets::http_events, thorough(200, 5_000));
}

/// The same for a body of lines, where each is judged alone.
#[test]
fn lines_are_what_a_slow_reading_says() {
    run("ndjson", targets::ndjson, thorough(200, 5_000));
}

/// Bytes as events and as a stored record: decoded or refused, and what was decoded can be encoded again.
#[test]
fn records_are_decoded_or_refused() {
    run("record", targets::record, thorough(200, 5_000));
}

/// A journal with damaged files opens, reads on to its end, and gives nothing for what was not written.
#[test]
fn a_damaged_journal_gives_only_what_was_written() {
    run("journal", targets::journal, thorough(1, 25));
}

/// A configuration loads, or every mistake in it has a place.
#[test]
fn every_mistake_of_a_configuration_has_a_place() {
    run("config", targets::config, thorough(100, 3_000));
}

/// What Forebay takes as OpenTelemetry in protobuf, the protocol's own library takes, and nothing else; parts are the whole,
/// and its JSON says the same.
#[test]
fn otlp_protobuf_is_what_the_protocols_library_says() {
    run("otlp_protobuf", targets::otlp_protobuf, thorough(200, 5_000));
}

/// The same of OpenTelemetry in JSON, which comes back from protobuf as it was.
#[test]
fn otlp_json_comes_back_as_it_was() {
    run("otlp_json", targets::otlp_json, thorough(200, 5_000));
}
