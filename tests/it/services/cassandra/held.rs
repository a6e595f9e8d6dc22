//! Batches that Cassandra holds while a collector is down. That nothing is lost when everybody is killed meanwhile is shown in
//! `services/fallback.rs`.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::KeyValue,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;

use super::{super::complains, Cassandra, text};
use crate::{
    otlp::text as value,
    support::{
        binary::{Forebay, Place},
        http::request,
        otlp::{Answer, Receiver},
        testbed::incompressible,
        thorough, until,
        wire::{Cut, Wire},
    },
};

/// A collector that is down until it is said to be up.
struct Collector {
    receiver: Receiver,
    is_up: Arc<AtomicBool>,
    /// The messages that it took.
    taken: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Collector {
    fn down() -> Self {
        let (receiver, is_up, taken) = (Receiver::start(), Arc::new(AtomicBool::new(false)), Arc::default());
        let (up, took): (_, Arc<Mutex<Vec<Vec<u8>>>>) = (is_up.clone(), Arc::clone(&taken));
        receiver.judge(move |received| {
            if !up.load(Ordering::SeqCst) {
                return Some(Answer::Http(503, Vec::new(), Vec::new()));
            }
            took.lock().unwrap().push(received.message.clone());
            None
        });
        Self { receiver, is_up, taken }
    }

    fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::SeqCst);
    }

    fn place(&self, overflow: &str) -> Place {
        Place::empty()
            .sink("up", &self.receiver.sink("http", ", fallback: overflow"))
            .sink("overflow", overflow)
    }
}

/// A request of spans that have this name and that many bytes each.
fn request_of(name: &str, spans: usize, bytes: usize) -> Vec<u8> {
    let attribute =
        |key: &str, text: &str| KeyValue { key: key.into(), value: value(text), ..KeyValue::default() };
    let filler =
        |first: usize| (first..).map(incompressible).flat_map(str::chars).take(bytes).collect::<String>();
    let span = |number: usize| Span {
        trace_id: vec![7; 16],
        span_id: vec![number as u8; 8],
        name: name.to_owned(),
        start_time_unix_nano: 1_544_712_660_123_456_789,
        attributes: vec![attribute("filler", &filler(number)), attribute("secret", "s3cret")],
        ..Span::default()
    };
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![attribute("service.name", "shop")],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans { spans: (0..spans).map(span).collect(), ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    };
    request.encode_to_vec()
}

fn post(forebay: &Forebay, body: &[u8]) {
    let headers = [("Content-Type", "application/x-protobuf")];
    request(forebay.otlp(), "POST", "/v1/traces", &headers, body).unwrap().ok(200);
}

fn held(forebay: &Forebay) -> f64 {
    forebay.metric("forebay_sink_held_events", "sink=\"up\"")
}

/// Scenario: the collector is down; small requests come, some of more than a megabyte, and a span that no row of this server
/// could have. Meanwhile the table is told to forget everything after a second.
/// Guarantee: each batch is held in parts that do not expire, its spans are rows meanwhile; when the collector is up it gets, byte
/// for byte and in order, what another one got at once, and nothing stays held. What was given and what was read back are the same
/// number.
#[test]
fn what_cassandra_holds_comes_back_byte_for_byte() {
    let Some(cassandra) = Cassandra::shared("what_cassandra_holds_comes_back_byte_for_byte") else { return };
    let collector = Collector::down();
    let overflow = cassandra.sink("held_bytes", ", only_as_fallback: true");
    // Large requests are cut in the journal, so neither gets quite the bytes that were posted.
    let other = Collector::down();
    other.set_up(true);
    let forebay = collector.place(&overflow).sink("other", &other.receiver.sink("http", "")).start();
    let requests = [
        request_of("first", 1, 10),
        request_of("Grüße \u{1F600}", 3, 1_000),
        request_of("large", 40, 40_000),
        request_of("huge", 1, 1_900_000),
        request_of("last", 2, 0),
    ];
    post(&forebay, &requests[0]);
    until("the first is held", || held(&forebay) == 1.0);
    cassandra.cql("ALTER TABLE held_bytes.held WITH default_time_to_live = 1");
    requests[1..].iter().for_each(|request| post(&forebay, request));
    until("all is held", || held(&forebay) == 47.0);

    let parts = cassandra.cql("SELECT batch_id, parts, data, TTL(data) FROM held_bytes.held");
    assert!(parts.len() >= 6, "{}", parts.len());
    for part in &parts {
        let [_, of, data, ttl] = &part.columns[..] else { panic!() };
        let (of, bytes) = (of.as_ref().unwrap(), data.as_ref().unwrap().as_blob().unwrap().len());
        assert!(bytes <= 512 * 1024 && ttl.is_none(), "{of:?}, {bytes} bytes, {ttl:?}");
    }
    let is_split = |part: &&scylla::value::Row| part.columns[1].as_ref().unwrap().as_int().unwrap() > 1;
    assert!(parts.iter().filter(is_split).count() >= 4, "the large ones have parts");
    let rows = || {
        let rows = cassandra.cql("SELECT operation_name FROM held_bytes.traces_overflow");
        rows.iter().map(|row| text(&row.columns[0])).collect::<Vec<_>>()
    };
    let shown = rows();
    assert_eq!(shown.len(), 46);
    assert!(!shown.iter().any(|name| name == "huge"));
    forebay.says("an event is held, but is no row");

    collector.set_up(true);
    until("all is read back", || held(&forebay) == 0.0);
    let [taken, expected] = [&collector, &other].map(|collector| collector.taken.lock().unwrap().concat());
    assert!(taken == expected, "{} bytes of {}", taken.len(), expected.len());
    assert!(taken.starts_with(&requests[..2].concat()) && taken.ends_with(&requests[3..].concat()));
    for metric in ["forebay_sink_given_to_fallback_events_total", "forebay_sink_read_back_events_total"] {
        assert_eq!(forebay.metric(metric, "sink=\"up\""), 47.0, "{metric}");
    }
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    until("nothing is held", || cassandra.cql("SELECT part FROM held_bytes.held").is_empty());
    assert_eq!(rows().len(), 46, "rows stay until they expire");
}

const HELD: &str = "CREATE TABLE held_schema.held (journal_id text, sink text, batch_id text, part int, parts int, data blob, \
                    PRIMARY KEY ((journal_id, sink, batch_id), part))";

/// Scenario: Forebay may make no table, and there is none to hold in, then one of another key, then a right one. Of what is held
/// a part is lost; later the whole table, with what it had. The sink has `fields`.
/// Guarantee: `validate` and the health say each time what is missing, and nothing is lost for it; what is not whole is never
/// delivered, but a dead letter. Rows have what `fields` lets out, the collector gets all.
#[test]
fn what_is_missing_to_hold_in_cassandra_is_said() {
    let Some(cassandra) = Cassandra::shared("what_is_missing_to_hold_in_cassandra_is_said") else { return };
    let collector = Collector::down();
    // Who makes rows makes no table to hold in.
    let made = Place::empty().sink("db", &cassandra.sink("held_schema", "")).start();
    made.post_json(r#"{"event_id": "a", "service": "s", "message": "m"}"#).ok(202);
    cassandra.wait_for("held_schema", 1);
    drop(made);
    let keys =
        ", only_as_fallback: true, fields: { drop: [metadata.attributes.secret] }, manage_schema: false";
    let place = collector.place(&cassandra.sink("held_schema", keys));
    place.write();
    let validate = |words: &str| {
        let said = place.run(&["validate"]).stdout;
        assert!(said.contains(words), "{words:?} in {said}");
    };
    let nothing = "the table held is not there; manage_schema: true lets Forebay make it";
    validate(nothing);
    let mut forebay = place.start();
    post(&forebay, &request_of("a", 1, 10));
    complains(&forebay, nothing);
    cassandra.cql(
        "CREATE TABLE held_schema.held (journal_id text, sink text, batch_id text, part int, data text, \
         PRIMARY KEY (journal_id, sink, part))",
    );
    let unfit = "the columns of held do not fit; parts is missing, int is needed; data is text, blob is needed; the partition \
                 key is (journal_id), (journal_id, sink, batch_id) is needed";
    validate(unfit);
    complains(&forebay, unfit);
    cassandra.cql("DROP TABLE held_schema.held");
    cassandra.cql(HELD);
    until("the first is held", || held(&forebay) == 1.0);
    let said = place.run(&["validate"]).stdout;
    assert!(!said.contains("table held") && !said.contains("columns of held"), "{said}");

    let first = cassandra.cql("SELECT journal_id, sink, batch_id FROM held_schema.held").remove(0);
    let [journal_id, sink, batch_id] = &first.columns[..] else { panic!() };
    post(&forebay, &request_of("b", 1, 1_200_000));
    until("the second is held", || held(&forebay) == 2.0);
    let secrets = cassandra.cql("SELECT trace_data FROM held_schema.traces_overflow");
    assert_eq!(secrets.len(), 2);
    assert!(secrets.iter().all(|row| text(&row.columns[0]).contains("filler")));
    assert!(!secrets.iter().any(|row| text(&row.columns[0]).contains("s3cret")));
    let of_first = format!(
        "journal_id = '{}' AND sink = '{}' AND batch_id = '{}'",
        text(journal_id),
        text(sink),
        text(batch_id)
    );
    // Of the second, of three parts, the last.
    let parts = cassandra.cql("SELECT journal_id, sink, batch_id, part FROM held_schema.held");
    let second = parts.iter().find(|row| row.columns[2] != *batch_id).unwrap();
    let of_second = of_first.replace(&text(batch_id), &text(&second.columns[2]));
    cassandra.cql(&format!("DELETE FROM held_schema.held WHERE {of_second} AND part = 2"));
    collector.set_up(true);
    until("the first is read back, the second given up", || held(&forebay) == 0.0);
    assert_eq!(collector.taken.lock().unwrap().concat(), request_of("a", 1, 10));
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 1.0);
    let letters = place.run(&["dead-letter", "list", "up"]).ok();
    assert!(letters.contains("is damaged"), "{letters}");

    collector.set_up(false);
    post(&forebay, &request_of("c", 1, 10));
    until("the third is held", || held(&forebay) == 1.0);
    // What was fetched to try the collector with is in memory, and needs no table.
    forebay.kill();
    cassandra.cql("DROP TABLE held_schema.held");
    collector.set_up(true);
    let forebay = place.start();
    complains(&forebay, nothing);
    assert_eq!(held(&forebay), 1.0, "it is waited for");
    cassandra.cql(HELD);
    until("the third is given up", || held(&forebay) == 0.0);
    let letters = place.run(&["dead-letter", "list", "up"]).ok();
    assert!(letters.contains("is not there any more"), "{letters}");
    assert_eq!(collector.taken.lock().unwrap().concat(), request_of("a", 1, 10));
}

/// Scenario: connections to Cassandra break again and again, in the middle of what it is given to hold, of what it gives back and
/// of what it is told to forget. The sink is to write no rows.
/// Guarantee: the collector gets everything, once and in order, nothing stays held, and there is not even a table of rows.
#[test]
fn p3_broken_connections_lose_and_double_nothing_that_cassandra_holds() {
    let test = "p3_broken_connections_lose_and_double_nothing_that_cassandra_holds";
    let Some(cassandra) = Cassandra::shared(test) else { return };
    let cuts = thorough(8, 40);
    let plan = (1..=cuts).map(|cut| 24_000 * cut / cuts);
    let plan = plan.flat_map(|bytes| [Cut::Asked(bytes), Cut::Answered(bytes)]);
    let wire = Wire::to(cassandra.0.port, plan);
    let collector = Collector::down();
    let keys = ", only_as_fallback: true, held_rows: false";
    let forebay = collector.place(&cassandra.sink_at(wire.port, "held_cut", keys)).start();
    let mut posted = Vec::new();
    while wire.cuts_left() > 0 {
        collector.set_up(false);
        for _ in 0..5 {
            let request = request_of(&format!("s{}", posted.len()), 2, 2_000);
            post(&forebay, &request);
            posted.extend(request);
        }
        until("all is held", || held(&forebay) == 10.0);
        collector.set_up(true);
        until("all is read back", || held(&forebay) == 0.0);
    }
    assert!(collector.taken.lock().unwrap().concat() == posted);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    until("nothing is held", || cassandra.cql("SELECT part FROM held_cut.held").is_empty());
    let tables =
        cassandra.cql("SELECT table_name FROM system_schema.tables WHERE keyspace_name = 'held_cut'");
    assert_eq!(tables.iter().map(|row| text(&row.columns[0])).collect::<Vec<_>>(), ["held"]);
}
