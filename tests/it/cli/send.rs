//! `forebay send` against the real process.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use serde_json::{Value, json};

use crate::support::{
    binary::{Finished, Forebay, Place, command},
    data_dir, skipped, until,
};

/// The command, sending to this process unless the arguments say otherwise.
fn send(forebay: &Forebay, arguments: &[&str]) -> Command {
    let mut command = command();
    command.env_remove("FOREBAY_TOKEN").arg("send").args(arguments);
    if !arguments.contains(&"--to") {
        command.args(["--to", &format!("http://{}", forebay.address)]);
    }
    command
}

fn run(forebay: &Forebay, arguments: &[&str]) -> Finished {
    Finished::of(&mut send(forebay, arguments))
}

/// Starts it with its standard input open.
fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[track_caller]
fn finish(child: Child) -> Finished {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[track_caller]
fn summary(finished: Finished, code: i32) -> Value {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{e}: {finished:?}"))
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    let line = |i| json!({"service": "s", "message": format!("number {i}"), "event_id": format!("e{i}")});
    numbers.map(|i| format!("{}\n", line(i))).collect()
}

fn file(place: &Place, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = place.file(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Ids in the store, as soon as it has so many. What is acknowledged is on its way there: an empty buffer says nothing yet.
fn ids(forebay: &Forebay, count: u64) -> Vec<String> {
    until("the store has all", || forebay.counted() >= count);
    let events = forebay.all_events("limit=1000&order=oldest");
    let mut ids: Vec<_> = events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// A file arrives line by line, packed or not, from a path or standard input; the summary counts it, for people and for
/// programs.
#[test]
fn a_file_arrives() {
    let place = Place::new();
    let forebay = place.start();
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(lines(0..700).as_bytes()).unwrap();
    let plain = file(&place, "plain.ndjson", lines(700..800));
    let gz = file(&place, "packed-by-any-name", gz.finish().unwrap());
    let zst = zstd::encode_all(lines(800..900).as_bytes(), 1).unwrap();
    let told = summary(run(&forebay, &[&gz, "--json", "--gzip"]), 0);
    let wanted =
        json!({"accepted": 700, "rejected": 0, "undelivered": 0, "lines_done": 700, "stopped": null});
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(&told[key], value, "{key}: {told}");
    }
    assert_eq!(told["bytes"], lines(0..700).len());
    let said = run(&forebay, &[&plain, "--batch", "1", "--in-flight", "1"]).ok();
    assert!(said.contains("100 accepted, 0 rejected") && said.contains(&plain), "{said}");
    let mut child = piped(&mut send(&forebay, &["-"]));
    child.stdin.take().unwrap().write_all(&zst).unwrap();
    let said = finish(child).ok();
    assert!(said.starts_with("standard input to http://127.0.0.1:"), "{said}");
    let grpc = file(&place, "grpc.ndjson", lines(900..1_000));
    let to = format!("grpc://{}", forebay.ingest());
    assert!(run(&forebay, &[&grpc, "--to", &to]).ok().contains("100 accepted"));
    let mut wanted: Vec<_> = (0..1_000).map(|i| format!("e{i}")).collect();
    wanted.sort();
    assert_eq!(ids(&forebay, 1_000), wanted);
}

/// What comes on standard input goes on at once, not when it ends.
#[test]
fn standard_input_is_sent_as_it_comes() {
    let forebay = Place::new().start();
    let mut child = piped(&mut send(&forebay, &[]));
    let mut stdin = child.stdin.take().unwrap();
    for i in 0..3 {
        stdin.write_all(lines(i..i + 1).as_bytes()).unwrap();
        forebay.stored(&format!("e{i}"));
    }
    drop(stdin);
    assert!(finish(child).ok().contains("3 accepted"));
}

/// Wrong lines are named with their number and what is wrong, and cost nobody else; with --strict they stop it, and what it says
/// then is where to go on.
#[test]
fn wrong_lines_are_named() {
    let place = Place::new().http("max_event_bytes: 1KiB");
    let forebay = place.start();
    let large = json!({"service": "s", "message": "m".repeat(2_000)});
    let text = format!("{}no JSON\n\n{{\"service\":\"s\"}}\n{}{large}\n", lines(0..3), lines(3..5));
    let path = file(&place, "events.ndjson", text);
    let told = summary(run(&forebay, &[&path, "--json"]), 1);
    assert_eq!(
        (&told["accepted"], &told["rejected"], &told["lines_done"]),
        (&5.into(), &3.into(), &9.into())
    );
    let reasons: Vec<_> = told["reasons"].as_array().unwrap().iter().collect();
    let of = |i: usize| (reasons[i]["line"].as_u64().unwrap(), reasons[i]["reason"].as_str().unwrap());
    assert!(of(0).0 == 4 && of(0).1.contains("not valid JSON"), "{told}");
    assert_eq!(of(1), (6, "message: it is required"));
    // Only the server knows how large an event may be.
    assert!(of(2).0 == 9 && of(2).1.contains("max_event_bytes"), "{told}");
    assert_eq!(ids(&forebay, 5).len(), 5);

    let said = run(&forebay, &[&path, "--strict"]).failed(1);
    assert!(said.contains("a line is wrong") && said.contains("line 4: "), "{said}");
    assert!(said.contains("go on with --skip-lines 3"), "{said}");
    let told = summary(run(&forebay, &[&path, "--json", "--skip-lines", "6"]), 1);
    assert_eq!((&told["accepted"], &told["rejected"]), (&2.into(), &1.into()));
}

/// Ten thousand requests that a real web server logged arrive, field for field.
#[test]
fn a_real_log_arrives() {
    let path = data_dir().join("access_events.ndjson.gz");
    let Ok(packed) = fs::File::open(&path) else {
        let why = format!("{} is not there", path.display());
        assert!(std::env::var_os("CI").is_none() || !data_dir().exists(), "{why}");
        return skipped("a_real_log_arrives", &why);
    };
    let mut text = String::new();
    MultiGzDecoder::new(packed).read_to_string(&mut text).unwrap();
    let forebay = Place::new().start();
    let told = summary(run(&forebay, &[path.to_str().unwrap(), "--json"]), 0);
    assert_eq!((&told["accepted"], &told["lines_done"]), (&9_999.into(), &9_999.into()));
    until("the store has all", || forebay.counted() >= 9_999);
    let fields = |event: &Value| {
        let fields = ["timestamp", "service", "message", "metadata"];
        fields.iter().map(|field| event[*field].to_string()).collect::<Vec<_>>()
    };
    let mut wanted: Vec<_> = text.lines().map(|line| fields(&serde_json::from_str(line).unwrap())).collect();
    let mut found: Vec<_> = forebay.all_events("limit=1000").iter().map(fields).collect();
    wanted.sort();
    found.sort();
    assert!(wanted == found, "every field of every line");
}

/// The OTLP schema's own examples arrive, over several lines as they are published or a line each, each signal where it belongs.
#[test]
fn otlp_requests_arrive() {
    let dir: PathBuf = data_dir().join("otlp");
    if !dir.exists() {
        let why = format!("{} is not there", dir.display());
        assert!(std::env::var_os("CI").is_none() || !data_dir().exists(), "{why}");
        return skipped("otlp_requests_arrive", &why);
    }
    let place = Place::new();
    let forebay = place.start();
    let to = format!("http://{}", forebay.otlp());
    let (mut in_lines, mut stored) = (String::new(), 0);
    for (name, signal) in [("logs", "logs"), ("events", "logs"), ("metrics", "metrics"), ("trace", "traces")]
    {
        let path = dir.join(name).with_extension("json");
        let path = path.to_str().unwrap();
        let told = summary(run(&forebay, &[path, "--to", &to, "--json"]), 0);
        stored += told["accepted"].as_u64().unwrap();
        assert!(told["accepted"].as_u64() > Some(0) && told["lines_done"] == 1, "{name}, {signal}: {told}");
        let document: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        in_lines.push_str(&format!("{document}\n"));
    }
    assert_eq!(ids(&forebay, stored).len() as u64, stored);
    let path = file(&place, "lines.json", format!("{in_lines}{{\"resourceLogs\":7}}\n"));
    let told = summary(run(&forebay, &[&path, "--to", &to, "--json", "--gzip"]), 1);
    assert_eq!(
        (&told["accepted"], &told["rejected"], &told["lines_done"]),
        (&stored.into(), &1.into(), &5.into())
    );
    assert!(told["reasons"][0]["reason"].as_str().unwrap().contains("no OTLP request"), "{told}");
    assert_eq!(ids(&forebay, 2 * stored).len() as u64, 2 * stored);
    // Events at the wrong door are told so, and not counted.
    let events = file(&place, "events.ndjson", lines(0..2));
    let told = summary(run(&forebay, &[&events, "--to", &to, "--json"]), 1);
    assert!(
        told["accepted"] == 0 && told["stopped"].as_str().is_some_and(|why| why.contains("404")),
        "{told}"
    );
}

/// Ctrl-C ends it with what is durable, up to a line from which --skip-lines goes on: then every line is there once.
#[test]
fn an_interruption_says_where_to_go_on() {
    let place = Place::new();
    let forebay = place.start();
    let path = file(&place, "events.ndjson", lines(0..3_000));
    let child = piped(&mut send(&forebay, &[&path, "--json", "--rate", "1000", "--batch", "10"]));
    until("some are durable", || forebay.metric("forebay_receiver_events_total", "") >= 100.0);
    let told = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(told.unwrap().success());
    let told = summary(finish(child), 130);
    let done = told["lines_done"].as_u64().unwrap();
    assert!((100..3_000).contains(&done), "{told}");
    assert_eq!(
        (&told["stopped"], &told["accepted"], &told["undelivered"]),
        (&"interrupted".into(), &done.into(), &0.into())
    );
    assert_eq!(ids(&forebay, done).len() as u64, done, "what it had read is delivered, and nothing else");
    let rest = summary(run(&forebay, &[&path, "--json", "--skip-lines", &done.to_string()]), 0);
    assert_eq!(rest["accepted"], 3_000 - done);
    assert_eq!(ids(&forebay, 3_000).len(), 3_000);
}

/// A server that is not there is given up after the attempts, with its address and where to go on; with attempts for ever it is
/// waited for.
#[test]
fn a_server_that_is_not_there() {
    let place = Place::new();
    let mut forebay = place.start();
    let (path, to) = (file(&place, "events.ndjson", lines(0..50)), format!("http://{}", forebay.address));
    forebay.kill();
    let said = run(&forebay, &[&path, "--to", &to, "--attempts", "2"]).failed(1);
    assert!(said.contains("not delivered in 2 attempts") && said.contains("refused"), "{said}");
    assert!(said.contains("--skip-lines 0"), "{said}");
    let waiting = piped(&mut send(&forebay, &[&path, "--to", &to, "--attempts", "forever"]));
    let config = fs::read_to_string(place.config_file()).unwrap();
    let address = forebay.address.to_string();
    fs::write(place.config_file(), config.replacen("127.0.0.1:0", &address, 1)).unwrap();
    let mut forebay = place.spawn();
    forebay.wait_until_it_listens();
    assert!(finish(waiting).ok().contains("50 accepted"));
    assert_eq!(ids(&forebay, 50).len(), 50);
}

/// Without --to it goes where the configuration listens; arguments and files that fit nothing are named.
#[test]
fn arguments_are_checked() {
    let place = Place::new();
    let forebay = place.start();
    let path = file(&place, "events.ndjson", lines(0..5));
    let said = place.run(&["send", &path]).failed(1);
    assert!(said.contains("http.listen") && said.contains("--to"), "port 0 is no address: {said}");
    let config = fs::read_to_string(place.config_file()).unwrap();
    let address = forebay.address.to_string();
    fs::write(place.config_file(), config.replacen("127.0.0.1:0", &address, 1)).unwrap();
    assert!(place.run(&["send", &path]).ok().contains("5 accepted"));

    let said = run(&forebay, &["/nowhere/events.ndjson"]).failed(1);
    assert!(said.contains("/nowhere/events.ndjson: No such file"), "{said}");
    let said = run(&forebay, &[place.file("").to_str().unwrap()]).failed(1);
    assert!(said.contains("it is a directory"), "{said}");
    let said = run(&forebay, &[&path, "--to", "ftp://127.0.0.1"]).failed(1);
    assert!(said.contains("ftp") && said.contains("http://"), "{said}");
    let said = run(&forebay, &[&path, "--format", "otlp-json", "--to", "grpc://127.0.0.1:1"]).failed(1);
    assert!(said.contains("OTLP as JSON goes over HTTP"), "{said}");
    let empty = file(&place, "token", "\n");
    assert!(run(&forebay, &[&path, "--token-file", &empty]).failed(1).contains("it is empty"));
    run(&forebay, &[&path, "--batch", "0"]).failed(2);
    run(&forebay, &[&path, "--attempts", "never"]).failed(2);
    run(&forebay, &[&path, "--cert", &path]).failed(2);
    assert_eq!(summary(run(&forebay, &[&file(&place, "empty", ""), "--json"]), 0)["accepted"], 0);
}
