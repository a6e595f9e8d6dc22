//! What goes wrong between Forebay and Cassandra.

use serde_json::json;

use super::{
    super::{Service, complains, event, large_events, p3_cuts_lose_and_double_nothing, post},
    Cassandra, attributes, delivered, export,
};
use crate::support::{binary::Place, until};

const HELD: &str = "CREATE TABLE mended.held (journal_id text, sink text, batch_id text, part int, parts int, data blob, \
                    PRIMARY KEY ((journal_id, sink, batch_id), part))";

/// Nothing is lost while an operator has something to mend, and each time the sink and `validate` say what: no password, a
/// wrong one, a datacenter that is not there, a keyspace, a table and rights that are missing, a server that is away.
#[test]
fn what_an_operator_can_mend_is_waited_for_by_cassandra() {
    let test = "what_an_operator_can_mend_is_waited_for_by_cassandra";
    let Some(mut cassandra) = Service::start("cassandra-guarded", test).map(Cassandra) else { return };
    // The first user is made a moment after the start.
    until("there is a user", || cassandra.try_cql("SELECT key FROM system.local").is_ok());
    cassandra.cql("CREATE ROLE writer WITH LOGIN = true AND PASSWORD = 'secret-1'");
    let writer = ", user: writer, password: secret-1";
    // What waits is not delivered by any deadline.
    let mut place = Place::empty().section("shutdown_timeout: 100ms");
    let wait = |place: &mut Place, cassandra: &Cassandra, keys: &str, id: &str, words: &str| {
        place.set_sink("db", Some(&cassandra.sink("mended", keys)));
        place.write();
        let said = place.run(&["validate"]);
        assert!(said.code != Some(0) && said.stdout.contains(words), "{words:?} in {said:?}");
        let mut forebay = place.start();
        post(&forebay, &[event(id)]);
        complains(&forebay, words);
        assert!(!forebay.get("/health").text().contains("secret-") && !forebay.log().contains("secret-"));
        forebay.stop();
    };
    wait(&mut place, &cassandra, "", "a", "the cluster asks for a user and a password");
    wait(
        &mut place,
        &cassandra,
        ", user: writer, password: secret-2",
        "b",
        "Provided username writer and/or password are incorrect",
    );
    let far = format!("{writer}, datacenter: dc2");
    wait(&mut place, &cassandra, &far, "c", "there is no datacenter dc2; there is datacenter1");
    let unmanaged = format!("{writer}, manage_schema: false");
    wait(
        &mut place,
        &cassandra,
        &unmanaged,
        "d",
        "the keyspace is not there; manage_schema: true lets Forebay make it",
    );
    wait(&mut place, &cassandra, writer, "e", "CREATE");
    cassandra.cql("GRANT CREATE ON ALL KEYSPACES TO writer");
    let validated = place.run(&["validate"]).ok();
    assert!(validated.contains("sink db"), "{validated}");
    cassandra.0.down("kill");
    wait(&mut place, &cassandra, writer, "f", "Connection refused");
    cassandra.0.up();
    let mut forebay = place.start();
    cassandra.wait_for("mended", 6);
    // Who makes a table may write to it, until somebody takes that away.
    cassandra.cql("REVOKE ALL ON TABLE mended.events FROM writer");
    cassandra.cql("REVOKE ALL ON KEYSPACE mended FROM writer");
    post(&forebay, &[event("g")]);
    complains(&forebay, "has no MODIFY permission on");
    let said = place.run(&["validate"]);
    assert!(
        said.stdout.contains("this user has no right to MODIFY on TABLE \"mended\".\"events\""),
        "{said:?}"
    );
    cassandra.cql("GRANT MODIFY ON TABLE mended.events TO writer");
    cassandra.wait_for("mended", 7);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
    forebay.stop();
    // Who holds has to read, too.
    place.set_sink("up", Some("{ type: otlp, endpoint: \"http://127.0.0.1:1\", fallback: db }"));
    place.write();
    cassandra.cql(HELD);
    cassandra.cql("GRANT MODIFY ON TABLE mended.held TO writer");
    let said = place.run(&["validate"]).stdout;
    assert!(said.contains("this user has no right to SELECT on TABLE \"mended\".\"held\""), "{said}");
    cassandra.cql("GRANT SELECT ON TABLE mended.held TO writer");
    let said = place.run(&["validate"]).stdout;
    assert!(!said.contains("has no right to"), "{said}");
}

/// Scenario: under way the table loses a column, is dropped, and is made by somebody else with another key.
/// Guarantee: what Forebay may mend it mends, for the rest it waits and says what would be right; no event is lost.
#[test]
fn a_table_that_changes_is_looked_at_again() {
    let Some(cassandra) = Cassandra::shared("a_table_that_changes_is_looked_at_again") else { return };
    let mut place = Place::empty().sink("db", &cassandra.sink("changed", ""));
    let mut forebay = place.start();
    post(&forebay, &[event("a")]);
    cassandra.wait_for("changed", 1);
    cassandra.cql("ALTER TABLE changed.events DROP metadata");
    post(&forebay, &[event("b")]);
    cassandra.wait_for("changed", 2);
    cassandra.cql("DROP TABLE changed.events");
    post(&forebay, &[event("c")]);
    cassandra.wait_for("changed", 1);
    // Rows of one time would overwrite each other.
    cassandra.cql("DROP TABLE changed.events");
    forebay.stop();
    place.set_sink("db", Some(&cassandra.sink("changed", ", manage_schema: false")));
    cassandra.cql(
        "CREATE TABLE changed.events (service text, time_bucket timestamp, timestamp timestamp, timestamp_nanos bigint, \
         event_id text, message text, metadata blob, ingested_at timestamp, mine int, \
         PRIMARY KEY ((service, time_bucket), timestamp))",
    );
    let forebay = place.start();
    post(&forebay, &[event("d")]);
    complains(&forebay, "metadata is blob, text is needed");
    complains(
        &forebay,
        "the clustering key is (timestamp), (timestamp, timestamp_nanos, event_id) is needed",
    );
    cassandra.cql("DROP TABLE changed.events");
    complains(&forebay, "the table events is not there; manage_schema: true lets Forebay make it");
    cassandra.cql(
        "CREATE TABLE changed.events (service text, time_bucket timestamp, timestamp timestamp, timestamp_nanos bigint, \
         event_id text, message text, metadata text, ingested_at timestamp, mine int, \
         PRIMARY KEY ((service, time_bucket), timestamp, timestamp_nanos, event_id))",
    );
    cassandra.wait_for("changed", 1);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// Scenario: the keyspace that Forebay makes is to have two copies of each row, and the cluster is one node. `consistency` asks for
/// both, and later for a mere note of a row.
/// Guarantee: the keyspace is by datacenter, with the copies that were given. As long as there are too few nodes the event waits, and
/// the sink says how many there have to be; what is asked for then is enough.
#[test]
fn too_few_replicas_are_waited_for() {
    let Some(cassandra) = Cassandra::shared("too_few_replicas_are_waited_for") else { return };
    let sink = |consistency: &str| {
        let copies = ", datacenter: datacenter1, replication_factor: 2";
        cassandra.sink("copies", &format!("{copies}, consistency: {consistency}"))
    };
    // What waits is not delivered by any deadline.
    let mut place = Place::empty().section("shutdown_timeout: 100ms").sink("db", &sink("two"));
    let mut forebay = place.start();
    post(&forebay, &[event("a")]);
    complains(&forebay, "Cannot achieve consistency level TWO");
    complains(&forebay, "required: 2, alive: 1");
    let keyspaces = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = 'copies'";
    let [keyspace] = &cassandra.cql(keyspaces)[..] else { panic!("there is one of each name") };
    let said = keyspace.columns[0].as_ref().unwrap().as_map().unwrap().iter();
    let said = said.map(|(key, value)| [key, value].map(|text| text.as_text().unwrap().as_str()));
    let class = "org.apache.cassandra.locator.NetworkTopologyStrategy";
    assert_eq!(said.collect::<Vec<_>>(), [["class", class], ["datacenter1", "2"]]);
    assert_eq!(forebay.metric("forebay_sink_sent_events_total", "db"), 0.0);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
    assert_eq!(forebay.metric("forebay_buffer_events", ""), 1.0);
    // Most of two copies could not be asked, either.
    cassandra.cql(
        "ALTER KEYSPACE copies WITH replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 1}",
    );
    assert!(cassandra.cql("SELECT event_id FROM copies.events").is_empty());
    forebay.stop();
    place.set_sink("db", Some(&sink("any")));
    let forebay = place.start();
    delivered(&forebay, 1);
    cassandra.wait_for("copies", 1);
}

/// Scenario: among others there are an event that is larger than the server takes, and a point whose metric has a name longer
/// than a key may be.
/// Guarantee: each of these is a dead letter with the server's or the driver's words, and all others are rows.
#[test]
fn what_cassandra_never_takes_is_a_dead_letter_alone() {
    let Some(cassandra) = Cassandra::shared("what_cassandra_never_takes_is_a_dead_letter_alone") else {
        return;
    };
    let place = Place::empty().sink("db", &cassandra.sink("rejected", ""));
    let forebay = place.start();
    let mut events: Vec<_> = (0..10).map(|id| event(&id.to_string())).collect();
    events[4]["message"] = "x".repeat(1_900_000).into();
    post(&forebay, &events);
    let metric =
        |name: &str| json!({"name": name, "gauge": {"dataPoints": [{"timeUnixNano": "1", "asDouble": 1.0}]}});
    let long = "m".repeat(70_000);
    let metrics = json!({"resourceMetrics": [{"resource": {"attributes": attributes(&[("host.name", "h")])},
        "scopeMetrics": [{"metrics": [metric("a"), metric(&long), metric("b")]}]}]});
    export(&forebay, "metrics", &metrics);
    until(&format!("all have their outcome: {}", forebay.get("/health").text()), || {
        forebay.metric("forebay_buffer_events", "") == 0.0
            && forebay.metric("forebay_sink_dead_letters_total", "db") == 2.0
    });
    assert_eq!(cassandra.ids("rejected").len(), 9);
    assert_eq!(cassandra.cql("SELECT metric_name FROM rejected.metrics").len(), 2);
    let letters = place.run(&["dead-letter", "list", "db"]).ok();
    for words in ["Rejected an oversized mutation", "65535"] {
        assert!(letters.contains(words), "{words:?} in {letters}");
    }
}

/// Connections that break, of the session's own and of its rows.
#[test]
fn p3_broken_connections_lose_and_double_nothing_in_cassandra() {
    let test = "p3_broken_connections_lose_and_double_nothing_in_cassandra";
    let Some(cassandra) = Cassandra::shared(test) else { return };
    let sink = |port: u16| cassandra.sink_at(port, "cut", ", batch: { max_wait: 20ms }");
    let count = || cassandra.ids("cut").len() as u64;
    p3_cuts_lose_and_double_nothing(&cassandra.0, sink, (20_000, 20_000), count);
}

/// Scenario: the device of the server is full to the last byte when a batch comes. Cassandra then ends, and has to be started
/// again when there is room.
/// Guarantee: the sink waits, and delivers when the server is back; nothing is lost, nothing doubled.
#[test]
fn a_full_cassandra_is_waited_for() {
    let Some(mut cassandra) =
        Service::start_on_device("cassandra", 128, "a_full_cassandra_is_waited_for").map(Cassandra)
    else {
        return;
    };
    let forebay = Place::empty().sink("db", &cassandra.sink("filled", ", timeout: 5s")).start();
    post(&forebay, &[event("first")]);
    cassandra.wait_for("filled", 1);
    let ballast = cassandra.0.fill();
    let events = large_events("full");
    (0..8).for_each(|_| post(&forebay, &events));
    until("the sink has seen it", || forebay.metric("forebay_sink_errors_total", "db") > 0.0);
    std::fs::remove_file(ballast).unwrap();
    cassandra.0.down("kill");
    cassandra.0.up();
    until("all is delivered", || forebay.metric("forebay_buffer_events", "") == 0.0);
    cassandra.wait_for("filled", 1 + events.len());
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}
