//! `type: otlp` in front of a real OpenTelemetry Collector that asks for a token, over gRPC and over HTTP.
//!
//! For the sink, a batch is delivered where the Collector has answered OK, and what that means is the Collector's own to say:
//!
//! | what stands behind its receiver | OK means | survives its SIGKILL |
//! |---|---|---|
//! | exporters alone, `sending_queue: { enabled: false }` or none | the exporter has handed it on | yes, as far as what is behind it keeps it |
//! | exporters with a `sending_queue` that has a `storage` | it is in the queue on the disk | yes |
//! | the processor `batch`, or a queue in memory | it is in memory | no: [`what_a_collector_batches_is_in_its_memory`], [`what_a_collector_queues_in_memory_ends_with_it`] |
//!
//! The `file` exporter, by which the tests see what arrived, has two ways to lose what was answered with OK, both outside of
//! Forebay's sight. It writes through a buffer, which a SIGKILL takes, unless it rotates its files. And one exporter in
//! pipelines of several signals is one open file: an orderly end closes it with the first of these pipelines, so that what the
//! batch processors of the others hand on then is lost, and the Collector panics. Every pipeline has an exporter of its own
//! here.
//!
//! A Collector listens before all of its exporters are ready, so that the sink is led to it by a [`Wire`], once it is.

mod fields;

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Load, complains, through_kills_under};
use crate::{
    otlp::every_signal,
    support::{
        binary::{Forebay, Place},
        collector::Collector,
        device::Device,
        http::{Connection, request},
        otlp::{Answer, Receiver},
        thorough, until,
        wire::{Cut, Wire},
    },
};

const SIGNALS: [&str; 3] = ["logs", "traces", "metrics"];

const PROTOBUF: [(&str, &str); 1] = [("Content-Type", "application/x-protobuf")];

/// Files that are written before a request is answered. In each life others, since a SIGKILL may leave half a line.
const TO_FILES: &str = "file/$SIGNAL: { path: $DIR/$SIGNAL-$LIFE.json, rotation: { max_megabytes: 1000 } }";

/// A Collector and the way to it.
struct Behind {
    collector: Collector,
    wire: Wire,
    protocol: &'static str,
}

impl Behind {
    /// One whose pipelines have these processors and this exporter, in which `$SIGNAL` is a pipeline's signal.
    #[track_caller]
    fn start(protocol: &'static str, processors: &str, exporter: &str, test: &str) -> Option<Self> {
        let collector = Collector::start_as(test, configuration(processors, exporter))?;
        let behind = Self { collector, wire: Wire::to(0, []), protocol };
        behind.lead();
        Some(behind)
    }

    fn lead(&self) {
        let Collector { grpc, http, .. } = &self.collector;
        self.wire.lead_to(Some(if self.protocol == "grpc" { grpc.port() } else { http.port() }));
    }

    fn up(&mut self) {
        self.collector.up();
        self.lead();
    }

    fn end(&mut self, how: End) {
        // Its port may soon be another's.
        self.wire.lead_to(None);
        match how {
            End::Ordered => self.collector.stop(),
            End::Killed => self.collector.kill(),
        }
    }

    fn place(&self, token: &str) -> Place {
        let sink = format!(
            "{{ type: otlp, endpoint: \"http://127.0.0.1:{}\", protocol: {}, headers: {{ authorization: \"Bearer {token}\" }}, \
             retry: {{ backoff_min: 20ms, backoff_max: 100ms }}, breaker: {{ open_for: 100ms, successes: 1 }} }}",
            self.wire.port, self.protocol
        );
        Place::empty().sink("up", &sink)
    }

    /// The names of all items in the files of all lives.
    fn filed(&self) -> BTreeSet<String> {
        let written = |signal| self.collector.written_in_all_lives(&format!("{signal}-$LIFE.json"));
        let mut names = BTreeSet::new();
        SIGNALS.into_iter().flat_map(written).for_each(|request| names_in(&request, &mut names));
        names
    }
}

#[derive(Clone, Copy)]
enum End {
    Ordered,
    Killed,
}

fn configuration(processors: &str, exporter: &str) -> String {
    let auth = "auth: { authenticator: bearertokenauth }";
    let mut text = format!(
        "\
extensions:
  bearertokenauth: {{ token: secret-123 }}
  file_storage: {{ directory: $DIR/queues, create_directory: true }}
receivers:
  otlp:
    protocols:
      grpc: {{ endpoint: \"127.0.0.1:0\", {auth} }}
      http: {{ endpoint: \"127.0.0.1:0\", {auth} }}
processors:
  batch: {{ timeout: 1h }}
exporters:
"
    );
    for signal in SIGNALS {
        text.push_str(&format!("  {}\n", exporter.replace("$SIGNAL", signal)));
    }
    text.push_str(
        "\
service:
  extensions: [bearertokenauth, file_storage]
  telemetry: { metrics: { level: none }, logs: { encoding: json } }
  pipelines:
",
    );
    for signal in SIGNALS {
        let name = exporter.split(':').next().unwrap().replace("$SIGNAL", signal);
        let pipeline = format!("{{ receivers: [otlp], processors: [{processors}], exporters: [{name}] }}");
        text.push_str(&format!("    {signal}: {pipeline}\n"));
    }
    text
}

/// Bodies of log records, and names of spans and metrics. Nothing else in the tests' requests is called so.
fn names_in(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| names_in(value, names)),
        Value::Object(fields) => {
            let name = fields.get("name").or_else(|| fields.get("body")?.get("stringValue"));
            names.extend(name.and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| names_in(value, names));
        }
        _ => {}
    }
}

/// Posts every signal until it is told to end, or the process has; the names that were acknowledged.
fn load(address: SocketAddr, posts: &AtomicUsize, ended: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let Ok(mut connection) = Connection::open(address) else { return acknowledged };
    while !ended.load(Ordering::Relaxed) {
        let post = posts.fetch_add(1, Ordering::Relaxed).to_string();
        for (signal, names, body) in every_signal("load", &post) {
            match connection.request("POST", &format!("/v1/{signal}"), &PROTOBUF, &body) {
                Ok(answer) if answer.status == 200 => acknowledged.extend(names),
                Ok(_) => {}
                Err(_) => return acknowledged,
            }
        }
    }
    acknowledged
}

/// Posts every signal once; the names.
#[track_caller]
fn post(forebay: &Forebay, round: &str) -> BTreeSet<String> {
    let mut posted = BTreeSet::new();
    for (signal, names, body) in every_signal("once", round) {
        request(forebay.otlp(), "POST", &format!("/v1/{signal}"), &PROTOBUF, &body).unwrap().ok(200);
        posted.extend(names);
    }
    posted
}

fn sent(forebay: &Forebay) -> f64 {
    forebay.metric("forebay_sink_sent_events_total", "up")
}

fn delivered(forebay: &Forebay) {
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
}

/// Ends the Collector in order and as a crash would, and the process with it and without it, under load. `arrived` says what
/// is behind the Collector, once all that was acknowledged is delivered to it.
fn kills_on_both_sides(mut behind: Behind, arrived: impl Fn(&Behind, &BTreeSet<String>) -> BTreeSet<String>) {
    let place = behind.place("secret-123");
    let comes_back_first = |round: usize| round % 4 < 2;
    let under_load = |round: usize, forebay: &Forebay, behind: &mut Behind| {
        until("it arrives under load", || sent(forebay) > 300.0);
        behind.end(if round.is_multiple_of(2) { End::Ordered } else { End::Killed });
        if comes_back_first(round) {
            until("the sink has seen it", || forebay.metric("forebay_sink_errors_total", "up") > 0.0);
            behind.up();
            let before = sent(forebay);
            until("it arrives again", || sent(forebay) > before + 300.0);
        }
        assert_eq!(forebay.metric("forebay_sink_refused_events_total", "up"), 0.0);
    };
    let mended = |round: usize, behind: &mut Behind| {
        if !comes_back_first(round) {
            behind.up();
        }
    };
    let load = Load { address: Forebay::otlp, post: load };
    let acknowledged = through_kills_under(&load, &place, thorough(4, 40), &mut behind, under_load, mended);
    assert_eq!(place.run(&["dead-letter", "list", "up"]).ok(), "");
    let arrived = arrived(&behind, &acknowledged);
    let lost: Vec<_> = acknowledged.difference(&arrived).collect();
    assert!(lost.is_empty(), "of {} acknowledged, {} are lost: {lost:?}", acknowledged.len(), lost.len());
}

/// Scenario: a Collector that writes what comes before it answers is restarted and killed under load, and the process is
/// killed beside it.
/// Guarantee: every acknowledged item is in its files. At least once: what was written and not answered comes again.
#[test]
fn p3_kills_on_both_sides_lose_nothing_at_a_collector_over_grpc() {
    let test = "p3_kills_on_both_sides_lose_nothing_at_a_collector_over_grpc";
    let Some(behind) = Behind::start("grpc", "", TO_FILES, test) else { return };
    kills_on_both_sides(behind, |behind, _| behind.filed());
}

/// The same over HTTP.
#[test]
fn p3_kills_on_both_sides_lose_nothing_at_a_collector_over_http() {
    let test = "p3_kills_on_both_sides_lose_nothing_at_a_collector_over_http";
    let Some(behind) = Behind::start("http", "", TO_FILES, test) else { return };
    kills_on_both_sides(behind, |behind, _| behind.filed());
}

/// Scenario: the same, and the Collector hands on to a server over gRPC, without a queue.
/// Guarantee: every acknowledged item has come to that server.
#[test]
fn p3_kills_on_both_sides_lose_nothing_behind_a_collector_without_a_queue() {
    let test = "p3_kills_on_both_sides_lose_nothing_behind_a_collector_without_a_queue";
    let receiver = Receiver::start();
    let keys = "tls: { insecure: true }, sending_queue: { enabled: false }";
    let exporter = format!("otlp_grpc/$SIGNAL: {{ endpoint: \"{}\", {keys} }}", receiver.address);
    let Some(behind) = Behind::start("http", "", &exporter, test) else { return };
    kills_on_both_sides(behind, |_, _| receiver.taken().into_iter().collect());
}

/// Scenario: the same, with queues on the disk in the Collector.
/// Guarantee: every acknowledged item comes to that server.
#[test]
fn p3_kills_on_both_sides_lose_nothing_behind_a_collector_with_a_queue_on_disk() {
    let test = "p3_kills_on_both_sides_lose_nothing_behind_a_collector_with_a_queue_on_disk";
    let receiver = Receiver::start();
    let keys = "tls: { insecure: true }, sending_queue: { storage: file_storage, queue_size: 100000 }, \
        retry_on_failure: { initial_interval: 50ms, max_elapsed_time: 0s }";
    let exporter = format!("otlp_grpc/$SIGNAL: {{ endpoint: \"{}\", {keys} }}", receiver.address);
    let Some(behind) = Behind::start("grpc", "", &exporter, test) else { return };
    kills_on_both_sides(behind, |_, acknowledged| {
        let taken = || receiver.taken().into_iter().collect::<BTreeSet<_>>();
        until("what lay in the queues comes", || acknowledged.is_subset(&taken()));
        taken()
    });
}

/// Scenario: connections break again and again, in the middle of calls and of the answers to them.
/// Guarantee: every item is in the Collector's files. At least once: what was written when its answer was cut comes again.
#[test]
fn p3_cuts_lose_nothing_at_a_collector() {
    let test = "p3_cuts_lose_nothing_at_a_collector";
    for protocol in ["grpc", "http"] {
        let Some(mut behind) = Behind::start(protocol, "", TO_FILES, test) else { return };
        // About what a delivery of every signal takes either way, and the beginning of a connection.
        let (cuts, asked, answered) = (thorough(12, 60), 3000, 500);
        let spread = |bytes: usize| (1..=cuts).map(move |cut| bytes * cut / cuts);
        let plan = spread(asked).map(Cut::Asked).zip(spread(answered).map(Cut::Answered));
        behind.wire = Wire::to(0, plan.flat_map(|(asked, answered)| [asked, answered]));
        behind.lead();
        let forebay = behind.place("secret-123").start();
        let mut posted = BTreeSet::new();
        for round in 0.. {
            posted.extend(post(&forebay, &format!("cut-{round}")));
            delivered(&forebay);
            if behind.wire.cuts_left() == 0 {
                break;
            }
        }
        // While the breaker is open, probes are cut as well, and these are no retries.
        let retries = forebay.metric("forebay_sink_retries_total", "up");
        assert!(retries > cuts as f64 / 4.0, "the wire broke: {retries}");
        assert_eq!(behind.filed(), posted);
        for counted in ["refused_events", "dead_letters"] {
            assert_eq!(forebay.metric(&format!("forebay_sink_{counted}_total"), "up"), 0.0, "{counted}");
        }
    }
}

/// Scenario: a Collector gathers batches in memory, has answered OK to what the sink sent, and ends.
/// Guarantee: none that Forebay could give. An orderly end writes what was gathered, and a SIGKILL takes it: the Collector had
/// said that it has it.
#[test]
fn what_a_collector_batches_is_in_its_memory() {
    let test = "what_a_collector_batches_is_in_its_memory";
    for protocol in ["grpc", "http"] {
        let Some(mut behind) = Behind::start(protocol, "batch", TO_FILES, test) else { return };
        let forebay = behind.place("secret-123").start();
        let mut expected = BTreeSet::new();
        for (how, is_kept) in [(End::Ordered, true), (End::Killed, false)] {
            let names = post(&forebay, if is_kept { "kept" } else { "lost" });
            delivered(&forebay);
            assert_eq!(behind.filed(), expected, "it is answered, and not written");
            behind.end(how);
            if is_kept {
                expected.extend(names);
            }
            assert_eq!(behind.filed(), expected);
            behind.up();
        }
        assert_eq!(sent(&forebay), 60.0);
        assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    }
}

/// Scenario: a Collector queues in memory, as its exporters do by default, what the server behind it does not take at the moment;
/// it has answered OK to the sink, and ends.
/// Guarantee: none that Forebay could give. The queue ends with the Collector, be it in order.
#[test]
fn what_a_collector_queues_in_memory_ends_with_it() {
    let test = "what_a_collector_queues_in_memory_ends_with_it";
    let receiver = Receiver::start();
    let exporter =
        format!("otlp_grpc/$SIGNAL: {{ endpoint: \"{}\", tls: {{ insecure: true }} }}", receiver.address);
    let Some(mut behind) = Behind::start("grpc", "", &exporter, test) else { return };
    let forebay = behind.place("secret-123").start();
    for (round, how) in [End::Ordered, End::Killed].into_iter().enumerate() {
        receiver.judge(|_| Some(Answer::Grpc(14, "away", None)));
        let queued = post(&forebay, &format!("queued-{round}"));
        delivered(&forebay);
        behind.end(how);
        behind.up();
        receiver.judge(|_| None);
        let next = post(&forebay, &format!("next-{round}"));
        let taken = || receiver.taken().into_iter().collect::<BTreeSet<_>>();
        until("the next are behind it", || next.is_subset(&taken()));
        assert!(taken().is_disjoint(&queued), "{:?}", taken());
    }
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 0.0);
}

/// Nothing is lost while the token is wrong: the sink and `validate` say so in the Collector's words, and no word says the
/// token.
#[test]
fn a_token_that_a_collector_does_not_know_is_waited_for() {
    for protocol in ["grpc", "http"] {
        let test = "a_token_that_a_collector_does_not_know_is_waited_for";
        let Some(behind) = Behind::start(protocol, "", TO_FILES, test) else { return };
        let place = behind.place("secret-456");
        let mut forebay = place.start();
        let posted = post(&forebay, "waits");
        let words = "authorization does not match expected scheme or token";
        complains(&forebay, words);
        let validated = place.run(&["validate"]).failed(1);
        assert!(validated.contains(words), "{validated}");
        for said in [validated, forebay.get("/health").text(), forebay.log()] {
            assert!(!said.contains("secret-456"), "{said}");
        }
        forebay.kill();
        let place = behind.place("secret-123").with_data_dir(place.data_dir().to_owned());
        let forebay = place.start();
        delivered(&forebay);
        assert_eq!(behind.filed(), posted);
        assert_eq!(place.run(&["dead-letter", "list", "up"]).ok(), "");
    }
}

/// Scenario: the Collector has no pipeline for one of the signals, until somebody mends its configuration.
/// Guarantee: the sink says so in the Collector's words and waits; then everything arrives, and nothing has become a dead letter.
#[test]
fn a_signal_without_a_pipeline_is_waited_for() {
    for (protocol, words) in
        [("grpc", "unknown service opentelemetry.proto.collector.trace"), ("http", "404")]
    {
        let test = "a_signal_without_a_pipeline_is_waited_for";
        let whole = configuration("", TO_FILES);
        let lines: Vec<_> = whole.lines().filter(|line| !line.starts_with("    traces:")).collect();
        let Some(collector) = Collector::start_as(test, lines.join("\n")) else { return };
        let mut behind = Behind { collector, wire: Wire::to(0, []), protocol };
        behind.lead();
        let place = behind.place("secret-123");
        let forebay = place.start();
        let posted = post(&forebay, "waits");
        complains(&forebay, words);
        behind.end(End::Ordered);
        behind.collector.configure(whole);
        behind.up();
        delivered(&forebay);
        assert_eq!(behind.filed(), posted);
        assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    }
}

/// Scenario: the disk that the Collector's exporters write to is full to the last byte, and has room again later.
/// Guarantee: the sink waits, and everything is in the files then; nothing has become a dead letter.
#[test]
fn a_collector_on_a_full_disk_is_waited_for() {
    let test = "a_collector_on_a_full_disk_is_waited_for";
    let dir = TempDir::with_prefix("forebay-it-").unwrap();
    let Some(device) = Device::tmpfs(dir.path().join("device"), 8, test) else { return };
    for protocol in ["grpc", "http"] {
        let below = device.path.join(protocol);
        fs::create_dir(&below).unwrap();
        let exporter = TO_FILES.replace("$DIR", &below.display().to_string());
        let Some(behind) = Behind::start(protocol, "", &exporter, test) else { return };
        let forebay = behind.place("secret-123").start();
        let mut posted = post(&forebay, "before");
        delivered(&forebay);
        let ballast = device.fill();
        posted.extend((0..20).flat_map(|round| post(&forebay, &format!("full{round}"))));
        complains(&forebay, "no space left on device");
        fs::remove_file(ballast).unwrap();
        delivered(&forebay);
        let mut filed = BTreeSet::new();
        for file in fs::read_dir(&below).unwrap() {
            let mut text = fs::read_to_string(file.unwrap().path()).unwrap();
            // The full disk may have cut a line, to which the next one is joined.
            for begins in ["{\"resourceLogs\"", "{\"resourceSpans\"", "{\"resourceMetrics\""] {
                text = text.replace(begins, &format!("\n{begins}"));
            }
            let requests = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            requests.for_each(|request| names_in(&request, &mut filed));
        }
        assert_eq!(posted.difference(&filed).collect::<Vec<_>>(), [""; 0], "{protocol}");
        assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    }
}
