//! A table of a real server as the event store: the same answers, bounds and errors as from the embedded one, and what is
//! PostgreSQL's own.

use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use forebay::{
    config::{Partitions, PostgresSink},
    destination::postgres::PostgresDestination,
    store::{PostgresStore, postgres::QUESTIONS_MAX},
};
use forebay_actors::runtime::clock::Clock;
use serde_json::{Value, json};

use super::{Postgres, event, post};
use crate::{
    http_api::query,
    services::Wire,
    stores::{self, Subject},
    support::{
        binary::{Forebay, Place},
        thorough, until,
        wire::Cut,
    },
};

impl Postgres {
    /// A place whose event store is a table of this server.
    fn place(&self, keys: &str) -> Place {
        Place::empty().sink("db", &self.sink(&format!(", store: true{keys}")))
    }

    /// Another session, in which a statement goes on.
    pub(super) fn session(&self, sql: &str) -> Session {
        let port = self.0.port.to_string();
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-p", &port, "-c", sql, "postgres"]);
        Session(psql.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

/// `psql` with something to do; it ends with the test.
pub(super) struct Session(Child);

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ids(forebay: &Forebay, query: &str) -> Vec<String> {
    let events = forebay.all_events(query);
    events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

/// Every check of the embedded store, on a table as Forebay makes it, on one in partitions, and on one without a unique
/// key.
#[test]
fn a_table_answers_as_the_embedded_store_does() {
    let Some(postgres) = Postgres::start("a_table_answers_as_the_embedded_store_does") else { return };
    let kinds = [
        ("plain", Partitions::None, true),
        ("cut", Partitions::Monthly, true),
        ("loose", Partitions::None, false),
    ];
    for (kind, partitions, idempotent) in &kinds[..thorough(2, 3)] {
        for (number, (name, check)) in stores::CHECKS.iter().enumerate() {
            eprintln!("{name}, {kind}");
            let table = format!("{kind}.t{number}");
            let options = PostgresSink {
                table,
                partitions: *partitions,
                idempotent: *idempotent,
                store: true,
                ..PostgresSink::to(postgres.url("postgres"))
            };
            let store = || PostgresStore::new(&options, 1);
            let impatient = Arc::new(store().with_scan_max(Duration::ZERO));
            let destination = Box::new(PostgresDestination::new(&options).unwrap());
            check(&Subject::of(destination, Arc::new(store()), impatient));
        }
    }
}

/// Every check of the questions over HTTP.
#[test]
fn a_table_is_asked_as_the_embedded_store_is() {
    let Some(postgres) = Postgres::start("a_table_is_asked_as_the_embedded_store_is") else { return };
    for (number, (name, check)) in query::CHECKS.iter().enumerate() {
        eprintln!("{name}");
        check(&postgres.place(&format!(", table: t{number}")));
    }
}

/// A time is kept to the microsecond and cut off below, in events and in questions: neighbouring ranges still have each
/// event once.
#[test]
fn times_are_kept_to_the_microsecond() {
    let Some(postgres) = Postgres::start("times_are_kept_to_the_microsecond") else { return };
    let forebay = postgres.place("").start();
    let at = |id: &str, nanos: u32| {
        let mut event = event(id);
        event["timestamp"] = format!("2026-05-06T07:08:09.{nanos:09}Z").into();
        event
    };
    post(&forebay, &[at("a", 123_456_000), at("b", 123_456_789), at("c", 123_457_001)]);
    until("they are stored", || forebay.counted() == 3);
    assert_eq!(forebay.json("/events/b")["timestamp"], "2026-05-06T07:08:09.123456Z");
    let between = |from: u32, to: u32| {
        let time = |nanos: u32| format!("2026-05-06T07:08:09.{nanos:09}Z");
        ids(&forebay, &format!("order=oldest&from={}&to={}", time(from), time(to)))
    };
    assert_eq!(between(123_456_789, 123_457_001), ["a", "b"]);
    assert_eq!(between(123_457_001, 123_458_000), ["c"]);
    assert_eq!(between(123_456_000, 123_456_789), [""; 0], "less than a microsecond is none");
}

/// In a table without a unique key an id may stand twice. Asked for by its id it is the first that came; a page has both.
#[test]
fn an_id_that_is_there_twice_is_its_first() {
    let Some(postgres) = Postgres::start("an_id_that_is_there_twice_is_its_first") else { return };
    let forebay = postgres.place(", idempotent: false").start();
    let said = |id: &str, message: &str| {
        let mut event = event(id);
        event["message"] = message.into();
        event
    };
    post(&forebay, &[said("a", "first"), said("a", "second"), said("b", "other")]);
    until("they are stored", || forebay.counted() == 3);
    assert_eq!(forebay.json("/events/a")["message"], "first");
    assert_eq!(ids(&forebay, "order=oldest"), ["a", "a", "b"]);
}

/// Scenario: the server goes, and comes back, while somebody asks.
/// Guarantee: as long as it is away each question gets 503 and is told when to ask again, and none hangs; the first one
/// after it is back is answered, and what came meanwhile is there.
#[test]
fn a_server_that_is_away_is_unavailable_and_comes_back() {
    let Some(mut postgres) = Postgres::start("a_server_that_is_away_is_unavailable_and_comes_back") else {
        return;
    };
    let forebay = postgres.place("").start();
    post(&forebay, &[event("a")]);
    forebay.stored("a");
    for how in ["stop", "kill"] {
        postgres.0.down(how);
        for path in ["/events", "/events/a", "/events/stats", "/events?count=true"] {
            let answer = forebay.get(path);
            assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
            let error = answer.error(503, "store_unavailable");
            assert!(error["message"].as_str().unwrap().contains("127.0.0.1"), "{error}");
        }
        post(&forebay, &[event(how)]);
        postgres.0.up();
        assert_eq!(forebay.json("/events/a")["event_id"], "a", "the first question after it is back");
        forebay.stored(how);
    }
    // Sessions that were ended behind its back cost no question either.
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forebay'");
    assert_eq!(ids(&forebay, "order=oldest").len(), 3);
}

/// Scenario: somebody holds the table, as a change of its schema does, while questions come.
/// Guarantee: each gets 503 after a time that is bounded, and an answer again once the table is free.
#[test]
fn a_table_that_is_held_is_unavailable() {
    let Some(postgres) = Postgres::start("a_table_that_is_held_is_unavailable") else { return };
    let forebay = postgres.place("").start();
    post(&forebay, &[event("a")]);
    forebay.stored("a");
    let holder = postgres.session("BEGIN; LOCK TABLE events; SELECT pg_sleep(600)");
    let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'events'::regclass AND mode = 'AccessExclusiveLock' AND granted";
    until("it is held", || postgres.sql(locks) == "1");
    let error = forebay.get("/events").error(503, "store_unavailable");
    assert!(error["message"].as_str().unwrap().contains("lock timeout"), "{error}");
    drop(holder);
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()");
    until("it is free", || forebay.get("/events").status == 200);
}

/// Scenario: what an operator can mend is wrong with the table or the user.
/// Guarantee: 503 with the server's own words and without a secret; a table that is not made yet is empty, unless making it
/// is its owner's part. Reading goes on where writing does not.
#[test]
fn what_an_operator_can_mend_is_said() {
    let Some(postgres) = Postgres::start("what_an_operator_can_mend_is_said") else { return };
    let says = |forebay: &Forebay, words: &str| {
        let error = forebay.get("/events").error(503, "store_unavailable");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words) && !message.contains("secret"), "{words:?} in {error}");
    };
    postgres.sql("CREATE ROLE guarded LOGIN PASSWORD 'secret-1'");
    let place = |password: &str, keys: &str| {
        Place::empty()
            .sink("db", &postgres.sink_as(&format!("guarded:{password}"), &format!(", store: true{keys}")))
    };
    let forebay = place("secret-2", "").start();
    says(&forebay, "password authentication failed");
    drop(forebay);
    let forebay = place("secret-1", ", manage_schema: false").start();
    says(&forebay, "relation \\\"events\\\" does not exist".replace('\\', "").as_str());
    drop(forebay);
    let forebay = place("secret-1", "").start();
    assert_eq!(forebay.json("/events")["events"], json!([]));
    postgres.sql(
        "CREATE TABLE events (event_id text PRIMARY KEY, timestamp timestamptz, service text, message text, \
         metadata jsonb, ingested_at timestamptz)",
    );
    says(&forebay, "id does not exist");
    postgres.sql("ALTER TABLE events ADD id bigserial");
    says(&forebay, "permission denied");
    postgres.sql("GRANT SELECT, INSERT ON events TO guarded");
    postgres.sql("INSERT INTO events VALUES ('theirs', '2026-01-01', NULL, NULL, NULL)");
    let theirs = forebay.json("/events/theirs");
    assert_eq!(
        (&theirs["service"], &theirs["metadata"]),
        (&json!(""), &json!({})),
        "columns that others left empty"
    );
    assert_eq!(theirs["ingested_at"], "2026-01-01T00:00:00Z");
    assert_eq!(forebay.counted(), 1);
}

/// Questions share at most so many sessions, which are used again and only read.
#[test]
fn questions_share_their_sessions() {
    let Some(postgres) = Postgres::start("questions_share_their_sessions") else { return };
    let forebay = postgres.place(", pool_max: 5").start();
    post(&forebay, &[event("a")]);
    forebay.stored("a");
    let pids = || {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'forebay' AND query LIKE '%events%e WHERE%'";
        postgres.sql(sql).lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let ask = || {
        std::thread::scope(|scope| {
            for _ in 0..4 * QUESTIONS_MAX {
                scope.spawn(|| {
                    (0..5).for_each(|_| assert_eq!(forebay.json("/events?count=true")["count"], 1))
                });
            }
        });
    };
    ask();
    let before = pids();
    // Of the five, one is for deliveries and one for a probe.
    assert!((1..=3).contains(&before.len()), "{before:?}");
    ask();
    assert!(pids().is_subset(&before) || before.len() < 3, "sessions are used again");
    assert!(pids().len() <= 3);
}

/// Scenario: connections break again and again, in the middle of questions and of the answers to them.
/// Guarantee: each answer is right, or 503.
#[test]
fn broken_connections_give_no_wrong_answer() {
    let Some(postgres) = Postgres::start("broken_connections_give_no_wrong_answer") else { return };
    let cuts = thorough(12, 60);
    let plan =
        (1..=cuts).flat_map(|cut| [Cut::Answered(40_000 * cut / cuts), Cut::Asked(4_000 * cut / cuts)]);
    let forebay = postgres.place("").start();
    let events: Vec<_> = (0..200).map(|n| event(&format!("e{n:03}"))).collect();
    post(&forebay, &events);
    until("they are stored", || forebay.counted() == 200);
    drop(forebay);
    let wire = Wire::to(postgres.0.port, plan);
    let sink = postgres
        .sink(", store: true")
        .replace(&format!(":{}/", postgres.0.port), &format!(":{}/", wire.port));
    let forebay = Place::empty().sink("db", &sink).start();
    let (mut right, mut refused) = (0, 0);
    while wire.cuts_left() > 0 {
        let answer = forebay.get("/events?limit=100&order=oldest");
        if answer.status == 200 {
            let page = answer.json();
            let found: Vec<_> =
                page["events"].as_array().unwrap().iter().map(|e| e["event_id"].clone()).collect();
            assert_eq!(found, (0..100).map(|n| Value::from(format!("e{n:03}"))).collect::<Vec<_>>());
            right += 1;
        } else {
            answer.error(503, "store_unavailable");
            refused += 1;
        }
    }
    assert!(refused > 0, "the wire broke, {right} times without being noticed");
    assert_eq!(ids(&forebay, "order=oldest").len(), 200);
}

/// Retention deletes what is too old: months as a whole where there are partitions, and rows elsewhere.
#[test]
fn retention_forgets_rows_and_drops_months() {
    let Some(postgres) = Postgres::start("retention_forgets_rows_and_drops_months") else { return };
    let now = Clock::system().now().to_chrono();
    let days_ago = |id: &str, days: u64| {
        let mut event = event(id);
        event["timestamp"] = (now - chrono::Days::new(days)).to_rfc3339().into();
        event
    };
    let events = [days_ago("young", 1), days_ago("old", 40), days_ago("older", 400), days_ago("far", 20_000)];
    for keys in ["", ", partitions: monthly"] {
        let table = if keys.is_empty() { "plain" } else { "cut" };
        let keys = format!("{keys}, table: {table}");
        let forebay = postgres.place(&keys).start();
        post(&forebay, &events);
        until("they are stored", || forebay.counted() == 4);
        drop(forebay);
        let month = |days| format!("{table}_{}", (now - chrono::Days::new(days)).format("%Y_%m"));
        let is_there = |name: &str| postgres.sql(&format!("SELECT to_regclass('{name}') IS NOT NULL")) == "t";
        assert_eq!(is_there(&month(400)), table == "cut");
        let place = postgres.place(&keys).section("retention: { days: 30, schedule: \"* * * * * *\" }");
        let forebay = place.start();
        until("the young is left", || forebay.counted() == 1);
        assert_eq!(ids(&forebay, ""), ["young"]);
        assert!(!is_there(&month(400)), "a month that is over goes as a whole");
        assert_eq!(is_there(&month(1)), table == "cut");
        // The month is made again where one of it still comes.
        post(&forebay, &[days_ago("late", 400), days_ago("new", 0)]);
        until("both went their way", || ids(&forebay, "") == ["new", "young"]);
    }
}

/// Every question is a walk along its index from its place: read from the plans of the statements that were really made, over
/// a table in which no other way would be worth it.
#[test]
fn questions_follow_an_index_from_their_place() {
    let Some(postgres) = Postgres::start("questions_follow_an_index_from_their_place") else { return };
    postgres.sql("ALTER SYSTEM SET session_preload_libraries = 'auto_explain'");
    postgres.sql("ALTER ROLE postgres SET auto_explain.log_min_duration = 0");
    postgres.sql("SELECT pg_reload_conf()");
    let forebay = postgres.place("").start();
    post(&forebay, &[event("a")]);
    forebay.stored("a");
    // The one service has fallen silent, the other speaks all the time.
    postgres.sql(
        "INSERT INTO events (event_id, timestamp, service, message, metadata, ingested_at) \
         SELECT 'e' || i, '2026-05-06'::timestamptz + i * interval '1 second', \
         CASE WHEN i < 100 THEN 'silent' ELSE 's' || i % 10 END, repeat('m', 100), '{}', now() \
         FROM generate_series(1, 60000) i; ANALYZE events",
    );
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forebay'");
    let log = postgres.0.dir.path().join("server.log");
    let plan_of = |path: &str| {
        let before = std::fs::read_to_string(&log).unwrap().len();
        forebay.get(path).ok(200);
        let mut plan = String::new();
        until("its plan is logged", || {
            let text = std::fs::read_to_string(&log).unwrap();
            plan = text[before..].to_owned();
            plan.contains("Scan") && plan.ends_with('\n')
        });
        plan
    };
    let cursor = forebay.json("/events?limit=1")["next_cursor"].as_str().unwrap().to_owned();
    let of_service =
        forebay.json("/events?limit=1&service=silent")["next_cursor"].as_str().unwrap().to_owned();
    let (by_time, by_service) = ("events_timestamp_id_idx", "events_service_timestamp_idx");
    for (path, index, condition) in [
        ("/events?limit=100".to_owned(), by_time, "ROW(\"timestamp\", id) <= ROW("),
        (format!("/events?limit=100&cursor={cursor}"), by_time, "ROW(\"timestamp\", id) <= ROW("),
        (
            "/events?limit=100&order=oldest&from=2026-05-06T05:00:00Z".to_owned(),
            by_time,
            "ROW(\"timestamp\", id) >= ROW(",
        ),
        ("/events?limit=100&q=nowhere".to_owned(), by_time, "ROW(\"timestamp\", id) <= ROW("),
        ("/events?limit=100&service=silent".to_owned(), by_service, "ROW(service, \"timestamp\") <= ROW("),
        (
            format!("/events?limit=100&service=silent&cursor={of_service}"),
            by_service,
            "ROW(service, \"timestamp\") <= ROW(",
        ),
        (
            "/events?limit=100&service=s3&order=oldest".to_owned(),
            by_service,
            "ROW(service, \"timestamp\") >= ROW(",
        ),
        ("/events?limit=100&service=none".to_owned(), by_service, "ROW(service, \"timestamp\") <= ROW("),
        ("/events/e77".to_owned(), "events_pkey", "(event_id = "),
        (
            "/events/stats?from=2026-05-06T05:00:00Z&to=2026-05-06T05:10:00Z".to_owned(),
            by_time,
            "\"timestamp\" >= ",
        ),
        ("/events/stats?service=silent".to_owned(), by_service, "service = "),
    ] {
        let plan = plan_of(&path);
        assert!(plan.contains(&format!("using {index} on")), "{path}: not by {index}:\n{plan}");
        let conditions = plan.lines().filter(|line| line.trim_start().starts_with("Index Cond:"));
        assert!(
            conditions.clone().any(|line| line.contains(condition)),
            "{path}: not from its place:\n{plan}"
        );
        assert!(!plan.contains("Seq Scan"), "{path}:\n{plan}");
        let sorts = plan.lines().filter(|line| line.contains("Sort  ("));
        assert!(
            !path.starts_with("/events?") || sorts.clone().all(|line| line.contains("Incremental")),
            "{path}:\n{plan}"
        );
    }
}
