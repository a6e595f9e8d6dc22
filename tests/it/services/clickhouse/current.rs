//! The current engine: what comes again is known by its token, over its restarts too; and what it says when it cannot.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

use serde_json::json;

use super::{
    Clickhouse, Service, a_full_device_is_waited_for, assert_each_once, complains, event, post, through_kills,
};
use crate::support::{
    binary::{Forebay, Place},
    http::request,
    thorough, until,
};

/// Posts log records with these bodies; whether they were acknowledged.
fn post_logs(forebay: &Forebay, bodies: &[String]) -> bool {
    let record =
        |body: &String| json!({"timeUnixNano": "1778051289123456789", "body": {"stringValue": body}});
    let records: Vec<_> = bodies.iter().map(record).collect();
    let logs = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]});
    let headers = [("Content-Type", "application/json")];
    let answer = request(forebay.otlp(), "POST", "/v1/logs", &headers, logs.to_string().as_bytes());
    answer.is_ok_and(|answer| answer.status == 200)
}

/// Records in their table; 0 where there is none.
fn count_logs(clickhouse: &Clickhouse) -> u64 {
    clickhouse.try_sql("SELECT count() FROM otel_logs").1.trim().parse().unwrap_or(0)
}

/// Scenario: the engine and the process are killed again and again while events and log records come together, in batches of
/// both: the engine alone, the process while the engine is away, the process alone. Neither table makes one row of two by itself.
/// Guarantee: every acknowledged event and every acknowledged record is one row.
#[test]
fn p3_kills_on_both_sides_lose_and_double_nothing_in_the_current_engine() {
    let test = "p3_kills_on_both_sides_lose_and_double_nothing_in_the_current_engine";
    let Some(mut clickhouse) = Clickhouse::start_current(test) else { return };
    // The one that Forebay makes would hide what came twice when it merges. That of records is as Forebay makes it.
    clickhouse.sql(
        "CREATE TABLE events (event_id String, timestamp DateTime64(9, 'UTC'), service String, message String) \
         ENGINE = MergeTree ORDER BY event_id SETTINGS non_replicated_deduplication_window = 1000",
    );
    // Not packed: this engine's front unpacks slowly.
    let keys = ", compression: none, batch: { max_events: 2000, max_wait: 50ms }";
    let place = Place::empty().sink("db", &clickhouse.sink(keys));
    let (posts, logged) = (Cell::new(0), RefCell::new(BTreeSet::new()));
    let log_more = |forebay: &Forebay| {
        // Never the same names again: what was not acknowledged may be there all the same.
        let post = posts.replace(posts.get() + 1);
        let bodies: Vec<_> = (0..50).map(|record| format!("l{post}-{record}")).collect();
        if post_logs(forebay, &bodies) {
            logged.borrow_mut().extend(bodies);
        }
    };
    let both_arrive = |forebay: &Forebay, clickhouse: &Clickhouse| {
        let (events, logs) = (clickhouse.count(), count_logs(clickhouse));
        until("events and records arrive under load", || {
            log_more(forebay);
            clickhouse.count() > events + 1_000 && count_logs(clickhouse) > logs + 100
        });
    };
    let under_load = |round: usize, forebay: &Forebay, clickhouse: &mut Clickhouse| {
        both_arrive(forebay, clickhouse);
        if round % 3 < 2 {
            clickhouse.0.down("kill");
            let before = forebay.metric("forebay_sink_errors_total", "db");
            until("the sink sees it", || {
                log_more(forebay);
                forebay.metric("forebay_sink_errors_total", "db") > before
            });
        }
        if round.is_multiple_of(3) {
            clickhouse.0.up();
            both_arrive(forebay, clickhouse);
        }
    };
    let mended = |round: usize, clickhouse: &mut Clickhouse| {
        if round % 3 == 1 {
            clickhouse.0.up();
        }
    };
    let acknowledged = through_kills(&place, thorough(3, 15), &mut clickhouse, under_load, mended);
    for (acknowledged, column, table) in
        [(&acknowledged, "event_id", "events"), (&*logged.borrow(), "Body", "otel_logs")]
    {
        let rows = clickhouse.sql(&format!("SELECT {column} FROM {table} FORMAT TabSeparated"));
        assert_each_once(acknowledged, rows.lines().map(str::to_owned));
    }
    assert_eq!(place.run(&["dead-letter", "list", "db"]).ok(), "");
}

/// Scenario: a column of a table that the sink knows becomes one of another type and the same width.
/// Guarantee: the next batch is written in the new type. Nanoseconds were read as milliseconds, and counted as delivered.
#[test]
fn r0585_a_column_of_another_type_took_wrong_times() {
    let test = "r0585_a_column_of_another_type_took_wrong_times";
    let Some(clickhouse) = Clickhouse::start_current(test) else { return };
    let forebay = Place::empty().sink("db", &clickhouse.sink("")).start();
    let post_at = |id: &str| {
        let event =
            json!({"service": "s", "message": "m", "event_id": id, "timestamp": "2026-05-06T07:08:09.5Z"});
        forebay.post_json(event.to_string()).ok(202);
    };
    post_at("before");
    clickhouse.wait_for(1);
    clickhouse.sql("ALTER TABLE events MODIFY COLUMN ingested_at DateTime64(3, 'UTC')");
    post_at("after");
    clickhouse.wait_for(2);
    let wrong = "SELECT countIf(abs(dateDiff('hour', ingested_at, now())) > 24 OR toYear(timestamp) != 2026) FROM events";
    assert_eq!(clickhouse.sql(wrong), "0");
}

/// Nothing is lost while an operator has something to mend, and each time the sink says what: a wrong password, a user that is
/// not there, and a database and a table that are missing. (The engine knows no users; the words about them are the front's.)
#[test]
fn what_an_operator_can_mend_in_the_current_engine_is_waited_for() {
    let test = "what_an_operator_can_mend_in_the_current_engine_is_waited_for";
    let Some(clickhouse) = Clickhouse::start_current(test) else { return };
    let mut place = Place::empty();
    let mut run = |keys: &str, id: &str| {
        place.set_sink("db", Some(&clickhouse.sink(&format!("{keys}, database: logs"))));
        let forebay = place.start();
        post(&forebay, &[event(id)]);
        forebay
    };
    let refused = |forebay: &Forebay, words: &str| {
        complains(forebay, words);
        assert!(forebay.metric("forebay_sink_errors_total", "refused") > 0.0);
    };
    let mut forebay = run(", user: guarded, password: secret-2", "a");
    refused(&forebay, "guarded: Authentication failed");
    assert!(!forebay.get("/health").text().contains("secret-2") && !forebay.log().contains("secret-2"));
    forebay.kill();
    let mut forebay = run(", user: nobody, password: secret-1", "b");
    refused(&forebay, "nobody: Authentication failed");
    forebay.kill();
    let forebay = run(", user: guarded, password: secret-1, manage_schema: false", "c");
    refused(&forebay, "Database logs does not exist");
    clickhouse.sql("CREATE DATABASE logs");
    complains(&forebay, "manage_schema: true lets Forebay make it");
    clickhouse.sql(
        "CREATE TABLE logs.events (event_id String, timestamp DateTime64(9, 'UTC'), service String, message String) \
         ENGINE = MergeTree ORDER BY event_id",
    );
    until("all has its outcome", || forebay.metric("forebay_buffer_events", "") == 0.0);
    let ids = clickhouse.sql("SELECT event_id FROM logs.events ORDER BY event_id FORMAT TabSeparated");
    assert_eq!(ids, "a\nb\nc");
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// A device that is full, in today's words for it; each row is counted.
#[test]
fn a_full_current_engine_is_waited_for() {
    let test = "a_full_current_engine_is_waited_for";
    let Some(clickhouse) = Service::start_on_device("clickhouse-engine", 64, test).map(Clickhouse) else {
        return;
    };
    let count = || clickhouse.try_sql("SELECT count() FROM events").1.trim().parse().unwrap_or(0);
    a_full_device_is_waited_for(&clickhouse.0, &clickhouse.sink(""), "not enough space", count);
}
