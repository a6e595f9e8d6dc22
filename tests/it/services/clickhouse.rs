//! `type: clickhouse` against a real server: the binary delivers, the server's own HTTP interface is asked.
//!
//! Debian's server is of 2018. It knows neither fine times nor tokens, so its tests hold what works with the oldest; those of
//! the current engine hold what that adds.

mod current;
mod otel;

use serde_json::{Value, json};

use super::{
    Service, a_full_device_is_waited_for, assert_each_once, complains, event,
    p3_cuts_lose_and_double_nothing, post, through_kills,
};
use crate::support::{
    binary::{Forebay, Place},
    http::request,
    thorough, until,
};

pub(super) struct Clickhouse(Service);

impl Clickhouse {
    pub(super) fn start(test: &str) -> Option<Self> {
        Service::start("clickhouse", test).map(Self)
    }

    /// Today's.
    pub(super) fn start_current(test: &str) -> Option<Self> {
        Service::start("clickhouse-engine", test).map(Self)
    }

    /// What the server answers to a statement.
    #[track_caller]
    fn sql(&self, sql: &str) -> String {
        let (status, text) = self.try_sql(sql);
        assert_eq!(status, 200, "{text}");
        text.trim_end().to_owned()
    }

    fn try_sql(&self, sql: &str) -> (u16, String) {
        let address = ([127, 0, 0, 1], self.0.port).into();
        let answer = request(address, "POST", "/", &[], sql.as_bytes());
        answer.map_or((0, String::new()), |answer| (answer.status, answer.text()))
    }

    pub(super) fn sink(&self, keys: &str) -> String {
        let patience = "retry: { backoff_min: 50ms, backoff_max: 200ms }, breaker: { failures: 1000 }";
        format!("{{ type: clickhouse, url: \"http://127.0.0.1:{}\", {patience}{keys} }}", self.0.port)
    }

    fn count(&self) -> u64 {
        // Before the first batch there is no table.
        self.try_sql("SELECT count(DISTINCT event_id) FROM events").1.trim().parse().unwrap_or(0)
    }

    /// Until so many have come since now.
    #[track_caller]
    fn wait_for_more(&self, more: u64) {
        let before = self.count();
        until("rows arrive under load", || self.count() > before + more);
    }

    #[track_caller]
    fn wait_for(&self, count: u64) {
        until("the rows are there", || self.count() >= count);
        assert_eq!(self.count(), count);
    }
}

/// An event with everything, one without metadata and one of a megabyte.
fn events() -> [Value; 3] {
    let metadata = json!({"a": [1, 2.5, null, {"ü": "\u{1F600} \"quoted\" \\ back\tslash"}], "zero": "\0"});
    [
        json!({"event_id": "a", "service": "api", "message": "Grüße, 世界 \u{1F600}\n'quoted' \0", "metadata": metadata,
            "timestamp": "2026-05-06T07:08:09.123456789Z"}),
        json!({"event_id": "b", "service": "ü", "message": "", "timestamp": "1815-12-10T00:00:00.000000001Z"}),
        json!({"event_id": "c", "service": "long", "message": "x€".repeat(256 * 1024), "timestamp": "2261-01-01T00:00:00Z"}),
    ]
}

/// Posts them to a table of its own, waits for the rows, and compares what every server has; the rows' other columns.
fn rows_of_events(clickhouse: &Clickhouse, compression: &str, others: &str) -> Vec<Vec<String>> {
    let keys = format!(", compression: {compression}, table: events_{compression}");
    let forebay = Place::empty().sink("db", &clickhouse.sink(&keys)).start();
    let events = events();
    post(&forebay, &events);
    let count = format!("SELECT count() FROM events_{compression}");
    until("the rows are there", || clickhouse.try_sql(&count).1.trim() == "3");
    let rows = clickhouse.sql(&format!(
        "SELECT event_id, service, message, metadata, {others} FROM events_{compression} ORDER BY event_id FORMAT JSONCompact"
    ));
    let rows: Value = serde_json::from_str(&rows).unwrap();
    let rows = rows["data"].as_array().unwrap().iter().zip(&events).map(|(row, event)| {
        let row: Vec<_> =
            row.as_array().unwrap().iter().map(|field| field.as_str().unwrap().to_owned()).collect();
        for (field, name) in row.iter().zip(["event_id", "service", "message"]) {
            assert_eq!(field, event[name].as_str().unwrap(), "{name}");
        }
        let metadata: Value = serde_json::from_str(&row[3]).unwrap();
        assert_eq!(metadata, event.get("metadata").cloned().unwrap_or_else(|| json!({})));
        row[4..].to_vec()
    });
    rows.collect()
}

/// Unicode, quotes, no metadata, a message of a megabyte, times to the nanosecond, packed or not: what the server reads is
/// what was sent.
#[test]
fn every_field_comes_back() {
    let Some(clickhouse) = Clickhouse::start("every_field_comes_back") else { return };
    for compression in ["none", "lz4", "gzip"] {
        let rows = rows_of_events(&clickhouse, compression, "timestamp, timestamp_nanos, ingested_at");
        assert_eq!(rows[0][..2], ["2026-05-06 07:08:09", "1778051289123456789"]);
        // What its own column cannot hold is at the beginning of its time, and whole beside it.
        assert_eq!(rows[1][..2], ["0000-00-00 00:00:00", "-4861727999999999999"]);
        assert!(rows.iter().all(|row| row[2].starts_with("20")), "{rows:?}");
    }
}

/// The same with the current engine, whose times hold nanoseconds.
#[test]
fn every_field_comes_back_from_the_current_engine() {
    let Some(clickhouse) = Clickhouse::start_current("every_field_comes_back_from_the_current_engine") else {
        return;
    };
    for compression in ["none", "lz4", "gzip", "zstd"] {
        let others = "toString(toUnixTimestamp64Nano(timestamp)), toString(timestamp), toString(ingested_at)";
        let rows = rows_of_events(&clickhouse, compression, others);
        assert_eq!(rows[0][..2], ["1778051289123456789", "2026-05-06 07:08:09.123456789"]);
        assert_eq!(rows[1][0], "-4861727999999999999");
        assert!(rows.iter().all(|row| row[2].starts_with("20")), "{rows:?}");
    }
}

/// Scenario: the process is killed again and again under load, so that batches come again.
/// Guarantee: every acknowledged event is one row, also before the engine has merged anything.
#[test]
fn p3_a_batch_that_comes_again_is_known_by_its_token() {
    let test = "p3_a_batch_that_comes_again_is_known_by_its_token";
    let Some(mut clickhouse) = Clickhouse::start_current(test) else { return };
    let place = Place::empty().sink("db", &clickhouse.sink(", batch: { max_events: 500 }"));
    let under_load = |_, _: &Forebay, clickhouse: &mut Clickhouse| clickhouse.wait_for_more(1_000);
    let acknowledged = through_kills(&place, thorough(4, 20), &mut clickhouse, under_load, |_, _| ());
    let rows = clickhouse.sql("SELECT event_id FROM events FORMAT TabSeparated");
    assert_each_once(&acknowledged, rows.lines().map(str::to_owned));
}

/// Scenario: the process and the server are killed again and again under load.
/// Guarantee: every acknowledged event is there, and is one row once the server has merged. (This old server knows no
/// tokens; with one that does there would not be two even before that.)
#[test]
fn p3_kills_on_both_sides_lose_nothing() {
    let Some(mut clickhouse) = Clickhouse::start("p3_kills_on_both_sides_lose_nothing") else { return };
    let place = Place::empty().sink("db", &clickhouse.sink(", batch: { max_events: 2000, max_wait: 100ms }"));
    let under_load = |round, _: &Forebay, clickhouse: &mut Clickhouse| {
        clickhouse.wait_for_more(1_000);
        if round % 2 == 0 {
            clickhouse.0.down("kill");
        }
    };
    let mended = |round, clickhouse: &mut Clickhouse| {
        if round % 2 == 0 {
            clickhouse.0.up();
        }
    };
    let acknowledged = through_kills(&place, thorough(4, 20), &mut clickhouse, under_load, mended);
    // While parts are being merged already, the server says yes and does nothing.
    until("the server has merged", || {
        clickhouse.sql("OPTIMIZE TABLE events FINAL");
        clickhouse.sql("SELECT count() = uniqExact(event_id) FROM events") == "1"
    });
    let rows = clickhouse.sql("SELECT event_id FROM events");
    assert_each_once(&acknowledged, rows.lines().map(str::to_owned));
}

/// Nothing is lost while an operator has something to mend, and each time the sink says what: a wrong password, a database
/// and a table that are missing, columns of another type, a user that only reads.
#[test]
fn what_an_operator_can_mend_is_waited_for() {
    let Some(clickhouse) = Clickhouse::start("what_an_operator_can_mend_is_waited_for") else { return };
    let mut place = Place::empty();
    let mut run = |keys: &str, id: &str| {
        place.set_sink("db", Some(&clickhouse.sink(keys)));
        let forebay = place.start();
        post(&forebay, &[event(id)]);
        forebay
    };
    let mut forebay = run(", user: guarded, password: secret-2", "a");
    complains(&forebay, "Wrong password for user guarded");
    assert!(!forebay.get("/health").text().contains("secret-2") && !forebay.log().contains("secret-2"));
    forebay.kill();
    let mut forebay = run(", user: reader", "b");
    complains(&forebay, "readonly mode");
    forebay.kill();
    let mut forebay = run(", user: guarded, password: secret-1, database: logs", "c");
    complains(&forebay, "Database logs doesn't exist");
    forebay.kill();
    let mut forebay = run(", manage_schema: false", "d");
    complains(&forebay, "manage_schema: true lets Forebay make it");
    clickhouse.sql(
        "CREATE TABLE events (event_id String, timestamp String, message Nullable(String), service String, mine Int8) \
         ENGINE = Log",
    );
    complains(&forebay, "timestamp is String, which cannot be written");
    clickhouse.sql("DROP TABLE events");
    clickhouse.sql(
        "CREATE TABLE events (event_id String, timestamp DateTime, message Nullable(String), service String, mine Int8) \
         ENGINE = Log",
    );
    clickhouse.wait_for(4);
    assert_eq!(clickhouse.sql("SELECT DISTINCT message, mine FROM events"), "m\t0");
    // The table is another under way: it is looked at again.
    clickhouse.sql("DROP TABLE events");
    clickhouse.sql(
        "CREATE TABLE events (timestamp DateTime, event_id String, message String, service String) ENGINE = Log",
    );
    post(&forebay, &[event("e")]);
    clickhouse.wait_for(1);
    forebay.kill();
}

/// A device that is full.
#[test]
fn a_full_server_is_waited_for() {
    let test = "a_full_server_is_waited_for";
    let Some(clickhouse) = Service::start_on_device("clickhouse", 64, test).map(Clickhouse) else { return };
    let sink = clickhouse.sink("");
    a_full_device_is_waited_for(&clickhouse.0, &sink, "No space left on device", || clickhouse.count());
}

/// Connections that break, with an engine that knows a batch by its token.
#[test]
fn p3_broken_connections_lose_and_double_nothing() {
    let test = "p3_broken_connections_lose_and_double_nothing";
    let Some(clickhouse) = Clickhouse::start_current(test) else { return };
    let sink = |port: u16| {
        clickhouse
            .sink(", batch: { max_wait: 20ms }")
            .replace(&format!(":{}\"", clickhouse.0.port), &format!(":{port}\""))
    };
    let count = || clickhouse.try_sql("SELECT count() FROM events").1.trim().parse().unwrap_or(0);
    p3_cuts_lose_and_double_nothing(&clickhouse.0, sink, (12_000, 600), count);
}

/// Events of more months than the server takes in one insert arrive in several.
#[test]
fn many_partitions_are_halved() {
    let Some(clickhouse) = Clickhouse::start("many_partitions_are_halved") else { return };
    let forebay = Place::empty().sink("db", &clickhouse.sink("")).start();
    let months = (0..240).map(|month| {
        let mut event = event(&format!("e{month}"));
        event["timestamp"] = format!("{}-{:02}-05T00:00:00Z", 2000 + month / 12, month % 12 + 1).into();
        event
    });
    post(&forebay, &months.collect::<Vec<_>>());
    clickhouse.wait_for(240);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// All that `forebay validate` says of a sink to it.
fn validate(clickhouse: &Clickhouse, keys: &str) -> String {
    let place = Place::empty().sink("db", &clickhouse.sink(keys));
    place.write();
    let run = place.run(&["validate"]);
    run.stdout + &run.stderr
}

/// The row of its table.
fn row(cells: &str) -> String {
    format!("sink db      clickhouse  {cells}")
}

/// `forebay validate` says what of the server is as it should be, row by row, and makes nothing.
#[test]
fn validate_says_what_of_clickhouse_is_wrong() {
    let Some(clickhouse) = Clickhouse::start("validate_says_what_of_clickhouse_is_wrong") else { return };
    let validate = |keys: &str| validate(&clickhouse, keys);
    let said = validate("");
    assert!(said.contains(&row("yes        yes         yes     same")), "{said}");
    assert!(said.contains("the table is not there yet; it will be made"), "{said}");
    assert_eq!(clickhouse.sql("EXISTS TABLE events").trim(), "0", "it makes nothing");
    let said = validate(", manage_schema: false");
    assert!(said.contains(&row("yes        yes         NO      same")), "{said}");
    let said = validate(", user: nobody, password: wrong");
    assert!(said.contains(&row("yes        NO          ?       -")), "{said}");
    let may_only_read = "the user \"reader\" may only read: their setting readonly is not 0";
    let said = validate(", user: reader");
    assert!(said.contains(&row("yes        NO          ?       same")), "{said}");
    assert!(said.contains(may_only_read) && !said.contains("the table is not there yet"), "{said}");
    clickhouse.sql("CREATE TABLE events (event_id String, timestamp Date, service String) ENGINE = Memory");
    let said = validate("");
    assert!(said.contains(&row("yes        yes         NO      same")), "{said}");
    assert!(said.contains("message is missing"), "{said}");
    clickhouse.sql("DROP TABLE events");
    clickhouse.sql(
        "CREATE TABLE events (event_id String, timestamp DateTime, message String, service String) ENGINE = Memory",
    );
    let said = validate(", user: reader");
    assert!(
        said.contains(&row("yes        NO          yes     same")) && said.contains(may_only_read),
        "{said}"
    );
}

/// Scenario: `validate` with the current engine, which is asked for each right: there is no table; the user may make none, then
/// with one that is there; they may only read.
/// Guarantee: `authorised` is what a delivery would come upon, of the table of events and of those of OpenTelemetry.
#[test]
fn validate_asks_the_current_engine_for_rights() {
    let Some(clickhouse) = Clickhouse::start_current("validate_asks_the_current_engine_for_rights") else {
        return;
    };
    let validate = |keys: &str| validate(&clickhouse, keys);
    let said = validate("");
    assert!(said.contains(&row("yes        yes         yes     same")), "{said}");
    let said = validate(", manage_schema: false");
    assert!(said.contains(&row("yes        yes         NO      same")), "{said}");
    clickhouse.sql(
        "CREATE TABLE mine (event_id String, timestamp DateTime, message String, service String) \
         ENGINE = MergeTree ORDER BY event_id",
    );
    clickhouse.sql("SET allow_ddl = 0");
    let said = validate("");
    assert!(said.contains(&row("yes        NO          ?       same")), "{said}");
    assert!(said.contains("default.events: the user \"default\" may not make and write it"), "{said}");
    let said = validate(", table: mine, otel: events");
    assert!(said.contains(&row("yes        yes         yes     same")), "{said}");
    let said = validate(", table: mine");
    assert!(said.contains(&row("yes        NO          yes     same")), "{said}");
    assert!(said.contains("default.otel_logs: the user \"default\" may not make and write it"), "{said}");
    clickhouse.sql("SET readonly = 1");
    let said = validate(", table: mine, otel: events");
    assert!(said.contains(&row("yes        NO          yes     same")), "{said}");
    assert!(said.contains("may only read"), "{said}");
}

/// Scenario: a table has as many parts as its server lets it.
/// Guarantee: the sink slows down and says why; nothing is lost or becomes a dead letter, and it goes on once they are merged.
fn too_many_parts_are_waited_for(clickhouse: &Clickhouse) {
    clickhouse.sql(
        "CREATE TABLE events (event_id String, timestamp DateTime, message String, service String) ENGINE = MergeTree \
         ORDER BY event_id SETTINGS parts_to_delay_insert = 3, parts_to_throw_insert = 3",
    );
    clickhouse.sql("SYSTEM STOP MERGES");
    let forebay = Place::empty().sink("db", &clickhouse.sink("")).start();
    for id in 1..=3 {
        post(&forebay, &[event(&format!("e{id}"))]);
        clickhouse.wait_for(id);
    }
    post(&forebay, &[event("e4")]);
    complains(&forebay, "Too many parts");
    assert!(forebay.metric("forebay_sink_errors_total", "throttled") > 0.0);
    clickhouse.sql("SYSTEM START MERGES");
    clickhouse.sql("OPTIMIZE TABLE events FINAL");
    clickhouse.wait_for(4);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// With the server of 2018.
#[test]
fn too_many_parts_of_an_old_server() {
    let Some(clickhouse) = Clickhouse::start("too_many_parts_of_an_old_server") else { return };
    too_many_parts_are_waited_for(&clickhouse);
}

/// With today's words for it.
#[test]
fn too_many_parts_of_the_current_engine() {
    let Some(clickhouse) = Clickhouse::start_current("too_many_parts_of_the_current_engine") else { return };
    too_many_parts_are_waited_for(&clickhouse);
}

/// Scenario: connections break after inserts with `async_insert`, at a server that is told not to look for what comes twice,
/// and a table that never makes one row of two.
/// Guarantee: a batch that comes again is known by its token all the same, since the insert says that it is to count. (The engine
/// is one process and gathers nothing, so what a server does with tokens of batches that it has gathered is not seen here.)
#[test]
fn p3_an_async_insert_that_comes_again_is_known_by_its_token() {
    let test = "p3_an_async_insert_that_comes_again_is_known_by_its_token";
    let Some(clickhouse) = Clickhouse::start_current(test) else { return };
    clickhouse.sql("SET deduplicate_insert = 'disable'");
    clickhouse.sql(
        "CREATE TABLE events (event_id String, timestamp DateTime64(9, 'UTC'), service String, message String) \
         ENGINE = MergeTree ORDER BY event_id SETTINGS non_replicated_deduplication_window = 1000",
    );
    let sink = |port: u16| {
        clickhouse
            .sink(", async_insert: true, batch: { max_wait: 20ms }")
            .replace(&format!(":{}\"", clickhouse.0.port), &format!(":{port}\""))
    };
    let count = || clickhouse.try_sql("SELECT count() FROM events").1.trim().parse().unwrap_or(0);
    p3_cuts_lose_and_double_nothing(&clickhouse.0, sink, (12_000, 600), count);
}

/// What may be gathered by the server is acknowledged when it is written. A server without `async_insert` says that it has none.
#[test]
fn an_async_insert_is_delivered_when_it_is_there() {
    let test = "an_async_insert_is_delivered_when_it_is_there";
    let keys = ", async_insert: true";
    if let Some(clickhouse) = Clickhouse::start_current(test) {
        let forebay = Place::empty().sink("db", &clickhouse.sink(keys)).start();
        post(&forebay, &[event("a")]);
        until("it is acknowledged", || forebay.metric("forebay_buffer_events", "") == 0.0);
        assert_eq!(clickhouse.count(), 1);
    }
    let Some(clickhouse) = Clickhouse::start(test) else { return };
    let forebay = Place::empty().sink("db", &clickhouse.sink(keys)).start();
    post(&forebay, &[event("a")]);
    complains(&forebay, "Unknown setting async_insert");
}
