//! `type: nats` against a real nats-server: the binary publishes, the stream is read back by a client.

mod window;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use async_nats::jetstream::{
    self, Context,
    consumer::pull::OrderedConfig,
    stream::{Config, DiscardPolicy},
};
use futures::StreamExt as _;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::{
    Service, assert_each_once, complains, event, large_events, p3_cuts_lose_and_double_nothing, post,
    through_kills,
};
use crate::support::{
    binary::{Forebay, Place},
    http::request,
    thorough, until,
};

pub(super) struct Nats {
    service: Service,
    runtime: tokio::runtime::Runtime,
}

/// A message of the stream.
#[derive(Debug)]
struct Stored {
    subject: String,
    id: String,
    payload: Vec<u8>,
}

impl Stored {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

impl Nats {
    pub(super) fn start(test: &str) -> Option<Self> {
        Service::start("nats", test).map(Self::of)
    }

    /// With these lines in its configuration.
    fn start_with(more: &str, test: &str) -> Option<Self> {
        let dir = Service::dir();
        std::fs::write(dir.path().join("more.conf"), more).unwrap();
        Service::start_in(dir, None, "nats", test).map(Self::of)
    }

    fn of(service: Service) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { service, runtime }
    }

    /// Does something with a connection of its own.
    fn with<T>(&self, work: impl AsyncFnOnce(Context) -> T) -> T {
        self.runtime.block_on(async {
            let client =
                async_nats::connect(format!("nats://127.0.0.1:{}", self.service.port)).await.unwrap();
            work(jetstream::new(client)).await
        })
    }

    fn make(&self, config: Config) {
        self.with(async |context| context.create_stream(config).await.map(drop).unwrap());
    }

    fn change(&self, config: Config) {
        self.with(async |context| context.update_stream(config).await.map(drop).unwrap());
    }

    /// Messages in the stream; 0 where there is none.
    fn count(&self) -> u64 {
        self.with(async |context| {
            let stream = context.get_stream("events").await;
            stream.map_or(0, |stream| stream.cached_info().state.messages)
        })
    }

    #[track_caller]
    fn wait_for(&self, count: u64) {
        until("the messages are there", || self.count() >= count);
        assert_eq!(self.count(), count);
    }

    /// All messages, in the stream's order.
    fn messages(&self) -> Vec<Stored> {
        let count = usize::try_from(self.count()).unwrap();
        self.with(async |context| {
            let stream = context.get_stream("events").await.unwrap();
            let consumer = stream.create_consumer(OrderedConfig::default()).await.unwrap();
            let messages = consumer.messages().await.unwrap().take(count);
            messages
                .map(|message| {
                    let message = message.unwrap();
                    let headers = message.headers.as_ref().unwrap();
                    Stored {
                        subject: message.subject.to_string(),
                        id: headers.get("Nats-Msg-Id").unwrap().to_string(),
                        payload: message.payload.to_vec(),
                    }
                })
                .collect()
                .await
        })
    }

    /// The ids of all events; there is no second message of any.
    #[track_caller]
    fn ids(&self) -> BTreeSet<String> {
        let messages = self.messages();
        let ids: BTreeSet<_> =
            messages.iter().map(|message| message.json()["event_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), messages.len(), "one event, one message");
        ids
    }

    pub(super) fn sink(&self, keys: &str) -> String {
        self.sink_at(self.service.port, keys)
    }

    fn sink_at(&self, port: u16, keys: &str) -> String {
        let patience = "retry: { backoff_min: 50ms, backoff_max: 200ms }, breaker: { failures: 1000 }";
        format!("{{ type: nats, url: \"nats://127.0.0.1:{port}\", {patience}{keys} }}")
    }
}

/// Lets Forebay make the stream.
pub(super) const MADE: &str = ", stream: events, manage_stream: true";

fn stream() -> Config {
    Config { name: "events".to_owned(), subjects: vec!["events.>".to_owned()], ..Config::default() }
}

fn delivered(forebay: &Forebay) {
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
}

/// Unicode, quotes, no metadata, a message of a megabyte, times to the nanosecond: what the stream has is what was sent, in
/// order, under a subject that is one token of its service, and under the event's own id. The stream that Forebay makes is as
/// asked for.
#[test]
fn every_field_comes_back_from_a_stream() {
    let Some(nats) = Nats::start("every_field_comes_back_from_a_stream") else { return };
    let keys = ", stream: events, manage_stream: true, stream_max_bytes: 1GiB, stream_max_age: 2d, stream_duplicate_window: 5m";
    let place = Place::empty().sink("db", &nats.sink(keys));
    place.write();
    place.run(&["validate"]).ok();
    assert!(nats.with(async |context| context.get_stream("events").await.is_err()), "a probe makes nothing");
    let forebay = place.start();
    let metadata = json!({"a": [1, 2.5, null, {"ü": "\u{1F600} \"quoted\" \\ back\tslash"}], "zero": "\0"});
    let events = [
        json!({"event_id": "a", "service": "api", "message": "Grüße, 世界 \u{1F600}\n'quoted' \0", "metadata": metadata,
            "timestamp": "2026-05-06T07:08:09.123456789Z"}),
        json!({"event_id": "b ü\r\n", "service": "a.b *>ü", "message": "", "timestamp": "1815-12-10T00:00:00.000000001Z"}),
        json!({"event_id": "c", "service": "long", "message": "x€".repeat(256 * 1024), "timestamp": "2261-01-01T00:00:00Z"}),
    ];
    post(&forebay, &events);
    nats.wait_for(3);
    let messages = nats.messages();
    let heads: Vec<_> =
        messages.iter().map(|message| (message.subject.as_str(), message.id.as_str())).collect();
    assert_eq!(heads, [("events.api", "a"), ("events.a_b___ü", "b%20%C3%BC%0D%0A"), ("events.long", "c")]);
    for (message, event) in messages.iter().zip(&events) {
        let json = message.json();
        for field in ["event_id", "service", "message", "timestamp"] {
            assert_eq!(json[field], event[field], "{field}");
        }
        assert_eq!(json["metadata"], event.get("metadata").cloned().unwrap_or_else(|| json!({})));
        assert!(json["ingested_at"].as_str().unwrap().starts_with("20"));
    }
    let made =
        nats.with(async |context| context.get_stream("events").await.unwrap().cached_info().config.clone());
    assert_eq!((made.subjects, made.discard), (vec!["events.*".to_owned()], DiscardPolicy::New));
    assert_eq!((made.max_bytes, made.max_age), (1 << 30, Duration::from_secs(2 * 86400)));
    assert_eq!((made.duplicate_window, made.num_replicas), (Duration::from_secs(300), 1));
}

/// Requests of OpenTelemetry are what they were, by signal, and events that came as such are log records; a thousand events
/// of one post stand in their order.
#[test]
fn requests_come_back_as_requests() {
    let Some(nats) = Nats::start("requests_come_back_as_requests") else { return };
    nats.make(Config { subjects: vec!["otlp.>".to_owned()], ..stream() });
    let forebay = Place::empty().sink("db", &nats.sink(", encoding: otlp")).start();
    let json = [("Content-Type", "application/json")];
    let resource = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]});
    let span = json!({"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "pay", "kind": 2,
        "startTimeUnixNano": "1778051289123456789", "endTimeUnixNano": "1778051289223456789"});
    let traces = json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]});
    let answer = request(forebay.otlp(), "POST", "/v1/traces", &json, traces.to_string().as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let events: Vec<_> = (0..1_000).map(|id| event(&format!("e{id}"))).collect();
    post(&forebay, &events);
    delivered(&forebay);
    let (mut names, mut ids) = (Vec::new(), Vec::new());
    for message in nats.messages() {
        match message.subject.as_str() {
            "otlp.traces" => {
                let request = ExportTraceServiceRequest::decode(&message.payload[..]).unwrap();
                let span = &request.resource_spans[0].scope_spans[0].spans[0];
                names.push((span.name.clone(), span.start_time_unix_nano));
            }
            "otlp.logs" => {
                let request = ExportLogsServiceRequest::decode(&message.payload[..]).unwrap();
                let logs = request.resource_logs.into_iter().flat_map(|logs| logs.scope_logs);
                let records = logs.flat_map(|logs| logs.log_records);
                ids.extend(records.map(|record| format!("{:?}", record.attributes[0].value)));
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(names, [("pay".to_owned(), 1_778_051_289_123_456_789)]);
    assert_eq!(ids.len(), 1_000);
    assert!(ids.iter().enumerate().all(|(at, id)| id.contains(&format!("\"e{at}\""))), "in order");
}

/// Scenario: the process and the server are killed again and again under load.
/// Guarantee: every acknowledged event is in the stream, and no event is twice.
#[test]
fn p3_kills_on_both_sides_lose_and_double_nothing_in_a_stream() {
    let test = "p3_kills_on_both_sides_lose_and_double_nothing_in_a_stream";
    // What the system has of a process survives its SIGKILL; to sync each message would only make the backlog take minutes.
    let dir = Service::dir();
    std::fs::write(dir.path().join("sync"), "2m").unwrap();
    let Some(mut nats) = Service::start_in(dir, None, "nats", test).map(Nats::of) else { return };
    // As long as the test may take: beyond it a stream knows no message.
    let keys = format!("{MADE}, stream_duplicate_window: 1h, batch: {{ max_events: 2000, max_wait: 100ms }}");
    let place = Place::empty().sink("db", &nats.sink(&keys));
    let more = |nats: &Nats| {
        let before = nats.count();
        until("messages arrive under load", || nats.count() > before + 500);
    };
    let under_load = |round, forebay: &Forebay, nats: &mut Nats| {
        more(nats);
        if round % 2 == 0 {
            nats.service.down("kill");
            until("the sink has seen it", || forebay.metric("forebay_sink_errors_total", "db") > 0.0);
        }
        if round % 4 == 0 {
            nats.service.up();
            more(nats);
        }
    };
    let mended = |round, nats: &mut Nats| {
        if round % 4 == 2 {
            nats.service.up();
        }
    };
    let acknowledged = through_kills(&place, thorough(4, 20), &mut nats, under_load, mended);
    assert_each_once(&acknowledged, nats.ids());
}

/// Connections that break in the middle of batches and of their acknowledgements.
#[test]
fn p3_broken_wires_lose_and_double_nothing_in_a_stream() {
    let test = "p3_broken_wires_lose_and_double_nothing_in_a_stream";
    let Some(nats) = Nats::start(test) else { return };
    let sink = |port| nats.sink_at(port, &format!("{MADE}, batch: {{ max_wait: 20ms }}"));
    p3_cuts_lose_and_double_nothing(&nats.service, sink, (30_000, 15_000), || nats.count());
}

/// Scenario: the device of the server is full to the last byte. It leaves messages without an answer then, until it is started
/// again.
/// Guarantee: the sink says so and waits; behind the restart, everything is there, and nothing twice.
#[test]
fn a_full_device_of_a_stream_is_waited_for() {
    let test = "a_full_device_of_a_stream_is_waited_for";
    let Some(service) = Service::start_on_device("nats", 64, test) else { return };
    let mut nats = Nats::of(service);
    let forebay = Place::empty().sink("db", &nats.sink(&format!("{MADE}, timeout: 1s"))).start();
    post(&forebay, &[event("first")]);
    nats.wait_for(1);
    let ballast = nats.service.fill();
    let events = large_events("full");
    post(&forebay, &events);
    complains(&forebay, "no word of a message to events.api within 1s");
    std::fs::remove_file(ballast).unwrap();
    nats.service.down("kill");
    nats.service.up();
    delivered(&forebay);
    assert_eq!(nats.ids().len(), 1 + events.len());
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// Nothing is lost while an operator has something to mend, and each time the sink and `validate` say what: a wrong password,
/// an account without JetStream, a stream that is missing, is another one, or would never say that it has anything. Of rights to
/// publish, `validate` says that it cannot know them.
#[test]
fn what_an_operator_can_mend_is_waited_for_by_nats() {
    let Some(nats) = Nats::start("what_an_operator_can_mend_is_waited_for_by_nats") else { return };
    let mut place = Place::empty();
    let mut run = |keys: &str, id: &str, words: &str, is_seen_by_validate: bool| {
        place.set_sink("db", Some(&nats.sink(keys)));
        place.write();
        let validated = place.run(&["validate"]);
        let said = format!("{}{}", validated.stdout, validated.stderr);
        assert_eq!(said.contains(words), is_seen_by_validate, "{words:?}: {said}");
        assert_eq!(said.contains("authorised is not known"), !is_seen_by_validate, "{words:?}: {said}");
        let mut forebay = place.start();
        post(&forebay, &[event(id)]);
        complains(&forebay, words);
        let log = forebay.log();
        assert!(!forebay.get("/health").text().contains("secret-") && !log.contains("secret-"));
        assert!(!log.contains("async_nats"), "the client keeps quiet: {log}");
        forebay.kill();
    };
    run(", user: forebay, password: secret-456", "a", "authorization violation", true);
    run(", user: plain, password: secret-123", "b", "JetStream not enabled for account", true);
    run("", "c", "no stream takes the subject events.*", true);
    run(", stream: events", "d", "manage_stream: true lets Forebay make it", true);
    nats.make(Config { no_ack: true, ..stream() });
    run("", "e", "has no_ack set", true);
    nats.change(stream());
    run(", user: reader, password: secret-123", "f", "Permissions Violation for Publish to", false);
    nats.make(Config { name: "others".to_owned(), subjects: vec!["others".to_owned()], ..Config::default() });
    run(", stream: others", "g", "takes the subjects others, and none of events.*", true);
    place.set_sink("db", Some(&nats.sink(", stream: events, user: forebay, password: secret-123")));
    let forebay = place.start();
    delivered(&forebay);
    assert_eq!(nats.ids(), ["a", "b", "c", "d", "e", "f", "g"].map(str::to_owned).into());
    // It goes away under way, and another one comes.
    nats.with(async |context| context.delete_stream("events").await.map(drop).unwrap());
    post(&forebay, &[event("h")]);
    complains(&forebay, "the stream events is not there");
    nats.make(stream());
    nats.wait_for(1);
    let said = place.run(&["validate"]).ok();
    assert!(said.contains("whether they may publish only a message would show"), "{said}");
}

/// The port of a server that is this one, but for what stands behind `"ts":"` in what it sends. One connection is taken.
fn told_another_time(server: u16, change: impl Fn(&mut [u8]) + Send + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).unwrap();
        let (mut asking, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut asking, &mut asked));
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = server.read(&mut bytes) {
            let time = memchr::memmem::find(&bytes[..count], br#""ts":""#);
            change(time.map_or(&mut [], |at| &mut bytes[at..count]));
            if client.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
    });
    port
}

/// Scenario: `validate` while the stream is there; where the server says the time of another year; where it is so old that it says
/// none.
/// Guarantee: the clock is compared with that of the stream's server, and one that is off is a warning that says by how much.
#[test]
fn validate_compares_the_clock_of_the_stream() {
    let Some(nats) = Nats::start("validate_compares_the_clock_of_the_stream") else { return };
    nats.make(stream());
    let validated = |port: u16| {
        let place = Place::empty().sink("db", &nats.sink_at(port, ""));
        place.write();
        place.run(&["validate"]).ok()
    };
    let clock = |said: &str| {
        let row = said.lines().find(|line| line.contains("sink db") && line.contains("yes"));
        row.and_then(|row| row.split_whitespace().last()).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    assert_eq!(clock(&validated(nats.service.port)), "same");
    let year = told_another_time(nats.service.port, |time| {
        if let Some(year) = time.get_mut(6..10) {
            year.copy_from_slice(b"2020");
        }
    });
    let said = validated(year);
    assert!(clock(&said) == "behind" && said.contains("warn  sink db: its clock is "), "{said}");
    let silent = told_another_time(nats.service.port, |time| {
        if let Some(key) = time.get_mut(1..3) {
            key.copy_from_slice(b"tz");
        }
    });
    assert_eq!(clock(&validated(silent)), "-");
}

/// Scenario: a stream that takes no more after half of a batch, for longer than it knows what it has.
/// Guarantee: the sink says so and waits; what was taken is not sent again, so nothing is twice.
#[test]
fn p3_a_full_stream_is_waited_for_beyond_its_window() {
    let Some(nats) = Nats::start("p3_a_full_stream_is_waited_for_beyond_its_window") else { return };
    let full = Config {
        max_messages: 50,
        discard: DiscardPolicy::New,
        duplicate_window: Duration::from_millis(100),
        ..stream()
    };
    nats.make(full.clone());
    let forebay = Place::empty().sink("db", &nats.sink("")).start();
    post(&forebay, &(0..100).map(|id| event(&format!("e{id}"))).collect::<Vec<_>>());
    complains(&forebay, "maximum messages exceeded");
    until("it was tried for longer than that", || forebay.metric("forebay_sink_retries_total", "db") > 10.0);
    nats.change(Config { max_messages: 1_000, ..full });
    delivered(&forebay);
    assert_eq!(nats.ids().len(), 100);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// What is too large for the stream, or for the server, becomes a dead letter alone, with the server's words; what was sent
/// with it arrives once.
#[test]
fn a_message_that_is_too_large_is_rejected_alone() {
    let Some(nats) = Nats::start_with("max_payload: 65536", "a_message_that_is_too_large_is_rejected_alone")
    else {
        return;
    };
    nats.make(Config { max_message_size: 20_000, ..stream() });
    let place = Place::empty().sink("db", &nats.sink(""));
    let forebay = place.start();
    let mut events: Vec<_> = (0..100).map(|id| event(&format!("e{id}"))).collect();
    events[33]["message"] = "x".repeat(30_000).into();
    events[66]["message"] = "x".repeat(90_000).into();
    post(&forebay, &events);
    delivered(&forebay);
    let found = nats.ids();
    assert!(found.len() == 98 && !found.contains("e33") && !found.contains("e66"), "{found:?}");
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 2.0);
    let letters = place.run(&["dead-letter", "list", "db"]).ok();
    for words in ["message size exceeds maximum allowed", "larger than the server takes"] {
        assert!(letters.contains(words), "{words}: {letters}");
    }
}

pub(super) fn pem(name: &str, der: &[u8]) -> String {
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {name}-----\n{}\n-----END {name}-----\n", lines.join("\n"))
}

/// The server is known by its certificate, and the sink by a key that signs; a server of another authority gets nothing.
#[test]
fn servers_and_sinks_know_each_other() {
    let test = "servers_and_sinks_know_each_other";
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let dir = Service::dir();
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = write("tls.pem", pem("CERTIFICATE", key.cert.der()));
    let secret = write("tls.key", pem("PRIVATE KEY", &key.signing_key.serialize_der()));
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let stranger = write("other.pem", pem("CERTIFICATE", other.cert.der()));
    write("more.conf", format!("tls {{ cert_file: \"{certificate}\", key_file: \"{secret}\" }}\n"));
    let Some(service) = Service::start_in(dir, None, "nats", test) else { return };
    let nats = Nats::of(service);
    let nkey = "nkey: SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y";
    let keys = |ca: &str, nkey: &str| format!("{MADE}, {nkey}, tls: {{ ca_file: \"{ca}\" }}");
    let mut place = Place::empty().sink("db", &nats.sink(&keys(&stranger, nkey)));
    let mut forebay = place.start();
    post(&forebay, &[event("a")]);
    complains(&forebay, "certificate");
    forebay.kill();
    // The seed of somebody else.
    let unknown = nkeys::KeyPair::new_user().seed().unwrap();
    place.set_sink("db", Some(&nats.sink(&keys(&certificate, &format!("nkey: {unknown}")))));
    let mut forebay = place.start();
    complains(&forebay, "authorization violation");
    assert!(!forebay.log().contains(&unknown));
    forebay.kill();
    place.set_sink("db", Some(&nats.sink(&keys(&certificate, nkey))));
    let forebay = place.start();
    delivered(&forebay);
    assert_eq!(forebay.metric("forebay_sink_sent_events_total", "db"), 1.0);
    assert!(Path::new(&certificate).exists());
}
