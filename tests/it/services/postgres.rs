//! `type: postgres` against a real server: the binary delivers, `psql` looks.

mod faults;
mod store;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt},
    process::Command,
};

use base64::Engine as _;
use forebay_actors::runtime::clock::Clock;
use serde_json::{Value, json};

use super::{
    Service, a_full_device_is_waited_for, assert_each_once, complains, event,
    p3_cuts_lose_and_double_nothing, post, through_kills,
};
use crate::support::{
    binary::{Forebay, Place},
    eventually, thorough, until,
};

pub(super) struct Postgres(Service);

impl Postgres {
    pub(super) fn start(test: &str) -> Option<Self> {
        Service::start("postgres", test).map(Self)
    }

    /// What a statement prints: a row a line.
    #[track_caller]
    pub(super) fn sql(&self, sql: &str) -> String {
        let ran = self.psql(sql);
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    }

    fn psql(&self, sql: &str) -> std::process::Output {
        let port = self.0.port.to_string();
        let mut psql = Command::new("psql");
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &port,
        ]);
        psql.args(["-c", sql, "postgres"]).output().unwrap()
    }

    fn url(&self, user: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/postgres", self.0.port)
    }

    /// A sink to it, with more keys, that does not wait long before it tries again.
    pub(super) fn sink(&self, keys: &str) -> String {
        self.sink_as("postgres", keys)
    }

    fn sink_as(&self, user: &str, keys: &str) -> String {
        let patience = "retry: { backoff_min: 50ms, backoff_max: 200ms }, breaker: { failures: 1000 }";
        format!("{{ type: postgres, url: \"{}\", {patience}{keys} }}", self.url(user))
    }

    pub(super) fn count(&self) -> u64 {
        // Before the first batch there is no table.
        let ran = self.psql("SELECT count(*) FROM events");
        String::from_utf8(ran.stdout).unwrap().trim().parse().unwrap_or(0)
    }

    #[track_caller]
    fn wait_for(&self, count: u64) {
        until("the rows are there", || self.count() >= count);
        assert_eq!(self.count(), count);
    }
}

/// Unicode, quotes, no metadata, a message of a megabyte, times to the microsecond in three centuries: what `psql` reads
/// is what was sent. The table was made, with the columns and the index that were promised.
#[test]
fn every_field_comes_back() {
    let Some(postgres) = Postgres::start("every_field_comes_back") else { return };
    let forebay = Place::empty().sink("db", &postgres.sink("")).start();
    let long = "x€".repeat(256 * 1024);
    let metadata = json!({"a": [1, 2.5, null, {"ü": "\u{1F600} \"quoted\" \\ back\tslash"}], "n": 9_007_199_254_740_993_i64});
    let events = [
        json!({"event_id": "one", "service": "api", "message": "Grüße, 世界 \u{1F600}\n'quoted'", "metadata": metadata,
            "timestamp": "2026-05-06T07:08:09.123456Z"}),
        json!({"event_id": "two", "service": "ü", "message": "", "timestamp": "1815-12-10T00:00:00.000001Z"}),
        json!({"event_id": "three", "service": "long", "message": long, "timestamp": "2261-01-01T00:00:00Z"}),
    ];
    post(&forebay, &events);
    postgres.wait_for(3);
    let rows = postgres.sql("SELECT json_agg(row_to_json(e) ORDER BY id) FROM (SELECT * FROM events) e");
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    let times =
        ["2026-05-06T07:08:09.123456+00:00", "1815-12-10T00:00:00.000001+00:00", "2261-01-01T00:00:00+00:00"];
    for ((row, event), time) in rows.iter().zip(&events).zip(times) {
        for field in ["event_id", "service", "message", "metadata"] {
            assert_eq!(row[field], event[field], "{field}");
        }
        assert_eq!(row["timestamp"], time);
        assert!(row["ingested_at"].is_string() && row["created_at"].is_string(), "{row}");
    }
    let index = postgres.sql("SELECT indexdef FROM pg_indexes WHERE indexname LIKE 'events_service_%'");
    assert!(index.ends_with("(service, \"timestamp\")"), "{index}");
}

/// Scenario: the process is killed again and again under load, and the server is, too; sessions are cut in between.
/// Guarantee: every acknowledged event is one row.
#[test]
fn p3_kills_on_both_sides_lose_nothing_and_double_nothing() {
    let Some(mut postgres) = Postgres::start("p3_kills_on_both_sides_lose_nothing_and_double_nothing") else {
        return;
    };
    let place = Place::empty().sink("db", &postgres.sink(", batch: { max_events: 500 }"));
    let under_load = |round, _: &Forebay, postgres: &mut Postgres| {
        let before = postgres.count();
        until("rows arrive under load", || postgres.count() > before + 1_000);
        match round % 3 {
            0 => postgres.0.down("kill"),
            1 => drop(postgres.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forebay'",
            )),
            _ => {}
        }
    };
    let mended = |round, postgres: &mut Postgres| {
        if round % 3 == 0 {
            postgres.0.up();
        }
    };
    let acknowledged = through_kills(&place, thorough(6, 30), &mut postgres, under_load, mended);
    let rows = postgres.sql("SELECT event_id FROM events");
    assert_each_once(&acknowledged, rows.lines().map(str::to_owned));
}

/// One id in two posts, and twice in one, is one row: the first.
#[test]
fn an_id_is_one_row() {
    let Some(postgres) = Postgres::start("an_id_is_one_row") else { return };
    let forebay = Place::empty().sink("db", &postgres.sink("")).start();
    post(&forebay, &[event("a"), event("b"), event("a")]);
    postgres.wait_for(2);
    post(&forebay, &[event("b"), event("c")]);
    postgres.wait_for(3);
}

/// A text that the server cannot take, a zero byte, is a dead letter with the server's own words; its neighbours are
/// rows.
#[test]
fn what_the_server_refuses_is_a_dead_letter_alone() {
    let Some(postgres) = Postgres::start("what_the_server_refuses_is_a_dead_letter_alone") else { return };
    let place = Place::empty().sink("db", &postgres.sink(""));
    let mut forebay = place.start();
    let mut events: Vec<_> = (0..20).map(|n| event(&format!("e{n}"))).collect();
    events[7]["message"] = "zero\0byte".into();
    events[11]["metadata"] = json!({"zero": "\0"});
    post(&forebay, &events);
    postgres.wait_for(18);
    until("both are dead letters", || forebay.metric("forebay_sink_dead_letters_total", "db") == 2.0);
    assert_eq!(forebay.stop(), Some(0));
    let letters = place.run(&["dead-letter", "list", "db"]).ok();
    assert!(letters.contains("invalid byte sequence"), "{letters}");
    assert!(letters.contains("unsupported Unicode escape sequence"), "{letters}");
}

/// Nothing is lost while an operator has something to mend, and each time the sink says what: a wrong password, a table
/// that is missing, a column of another type, a right that is missing, a server that only reads.
#[test]
fn what_an_operator_can_mend_is_waited_for() {
    let Some(postgres) = Postgres::start("what_an_operator_can_mend_is_waited_for") else { return };
    postgres.sql("CREATE ROLE guarded LOGIN PASSWORD 'secret-1'");
    let sink = postgres.sink_as("guarded:secret-2", ", manage_schema: false");
    let forebay = Place::empty().sink("db", &sink).start();
    post(&forebay, &[event("a")]);
    complains(&forebay, "password authentication failed for user \\\"guarded\\\"");
    assert!(!forebay.get("/health").text().contains("secret-2") && !forebay.log().contains("secret-2"));
    postgres.sql("ALTER ROLE guarded PASSWORD 'secret-2'");
    complains(&forebay, "manage_schema: true lets Forebay make it");
    postgres.sql(
        "CREATE TABLE events (event_id text PRIMARY KEY, timestamp timestamptz, service text, message text, \
         metadata text, ingested_at timestamptz)",
    );
    complains(&forebay, "metadata is text, jsonb is needed");
    postgres.sql("ALTER TABLE events ALTER metadata TYPE jsonb USING metadata::jsonb");
    complains(&forebay, "has no right to INSERT");
    postgres.sql("GRANT INSERT, SELECT ON events TO guarded");
    postgres.wait_for(1);

    postgres.sql("ALTER SYSTEM SET default_transaction_read_only = on");
    postgres.sql("SELECT pg_reload_conf()");
    until("it only reads", || postgres.sql("SHOW default_transaction_read_only") == "on");
    post(&forebay, &[event("b")]);
    complains(&forebay, "read-only transaction");
    postgres.sql("BEGIN READ WRITE; ALTER TABLE events DROP COLUMN ingested_at; COMMIT");
    postgres.sql("ALTER SYSTEM RESET default_transaction_read_only");
    postgres.sql("SELECT pg_reload_conf()");
    complains(&forebay, "ingested_at");
    assert_eq!(postgres.count(), 1);
    postgres.sql("ALTER TABLE events ADD COLUMN ingested_at timestamptz");
    postgres.wait_for(2);
}

/// Columns that are missing in a table of an older day are added, and nothing else of it is touched.
#[test]
fn missing_columns_are_added() {
    let Some(postgres) = Postgres::start("missing_columns_are_added") else { return };
    postgres.sql(
        "CREATE TABLE events (event_id text PRIMARY KEY, timestamp timestamptz, service varchar(40), message text, mine int); \
         INSERT INTO events VALUES ('old', now(), 's', 'm', 7)",
    );
    let forebay = Place::empty().sink("db", &postgres.sink("")).start();
    post(&forebay, &[event("new")]);
    postgres.wait_for(2);
    assert_eq!(postgres.sql("SELECT mine FROM events WHERE event_id = 'old'"), "7");
    assert_eq!(postgres.sql("SELECT count(ingested_at) FROM events"), "1");
}

/// Partitions are made for the months that come, also after the table was taken away; what is far off stands with the
/// others. An id is still one row.
#[test]
fn months_have_partitions() {
    let Some(postgres) = Postgres::start("months_have_partitions") else { return };
    let forebay =
        Place::empty().sink("db", &postgres.sink(", partitions: monthly, table: logs.events")).start();
    let now = Clock::system().now().to_chrono();
    let at = |id: &str, time: &str| {
        let mut event = event(id);
        event["timestamp"] = time.into();
        event
    };
    let today = now.to_rfc3339();
    let events = [at("far", "1970-01-01T00:00:00Z"), at("now", &today), at("now", &today)];
    post(&forebay, &events);
    let count = || String::from_utf8(postgres.psql("SELECT count(*) FROM logs.events").stdout).unwrap();
    until("both are rows", || count().trim() == "2");
    let partition = format!("logs.events_{}", now.format("%Y_%m"));
    let rows = postgres
        .sql(&format!("SELECT event_id FROM {partition} UNION ALL SELECT event_id FROM logs.events_others"));
    assert_eq!(rows, "now\nfar");
    postgres.sql("DROP TABLE logs.events");
    post(&forebay, &[at("again", &today)]);
    until("the table is made anew", || count().trim() == "1");
    assert_eq!(postgres.sql(&format!("SELECT event_id FROM {partition}")), "again");
}

/// Without `idempotent` rows go straight in, and an id may come twice.
#[test]
fn without_idempotence_rows_go_straight_in() {
    let Some(postgres) = Postgres::start("without_idempotence_rows_go_straight_in") else { return };
    let forebay = Place::empty().sink("db", &postgres.sink(", idempotent: false")).start();
    post(&forebay, &[event("a"), event("a"), event("b")]);
    postgres.wait_for(3);
}

/// Over TLS the server's certificate is checked: one of an authority that is not trusted, or for another host, is refused
/// with a word about it, and no password is sent.
#[test]
fn tls_is_checked() {
    let Some(postgres) = Postgres::start("tls_is_checked") else { return };
    let mut place = Place::empty();
    let (near, far) = (Certificate::of("127.0.0.1"), Certificate::of("db.example.com"));
    let data = postgres.0.dir.path().join("data");
    let serve = |certificate: &Certificate| {
        for (name, text) in [("server.crt", &certificate.chain), ("server.key", &certificate.key)] {
            let file = data.join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
            let owner = fs::metadata(&data).unwrap();
            std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        postgres.sql("ALTER SYSTEM SET ssl = on");
        postgres.sql("SELECT pg_reload_conf()");
    };
    serve(&far);
    until("the server has TLS", || postgres.sql("SHOW ssl") == "on");
    let file = place.file("ca.pem");
    let ca_file = |certificate: &Certificate| {
        fs::write(&file, &certificate.chain).unwrap();
        format!(", tls: {{ ca_file: {} }}", file.display())
    };
    let url = format!("{}?sslmode=require", postgres.url("postgres"));
    let sink = |keys: &str| postgres.sink(keys).replace(&postgres.url("postgres"), &url);
    place.set_sink("db", Some(&sink("")));
    let mut forebay = place.start();
    post(&forebay, &[event("a")]);
    complains(&forebay, "UnknownIssuer");
    forebay.kill();
    place.set_sink("db", Some(&sink(&ca_file(&far))));
    let mut forebay = place.start();
    complains(&forebay, "not valid for name");
    assert_eq!(postgres.count(), 0);
    forebay.kill();
    serve(&near);
    place.set_sink("db", Some(&sink(&ca_file(&near))));
    let _forebay = place.start();
    postgres.wait_for(1);
    let sessions = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                    WHERE ssl AND application_name = 'forebay'";
    until("its session is encrypted", || postgres.sql(sessions) == "1");
}

/// A certificate that has signed itself, and its key, in PEM.
struct Certificate {
    chain: String,
    key: String,
}

impl Certificate {
    fn of(host: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        Self {
            chain: pem("CERTIFICATE", made.cert.der()),
            key: pem("PRIVATE KEY", &made.signing_key.serialize_der()),
        }
    }
}

/// As OpenSSL reads it: in lines.
fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap());
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.collect::<Vec<_>>().join("\n"))
}

/// A device that is full.
#[test]
fn a_full_server_is_waited_for() {
    let test = "a_full_server_is_waited_for";
    let Some(postgres) = Service::start_on_device("postgres", 128, test).map(Postgres) else { return };
    a_full_device_is_waited_for(&postgres.0, &postgres.sink(""), "No space left on device", || {
        postgres.count()
    });
}

/// Connections that break.
#[test]
fn p3_broken_connections_lose_and_double_nothing() {
    let test = "p3_broken_connections_lose_and_double_nothing";
    let Some(postgres) = Postgres::start(test) else { return };
    let sink = |port: u16| {
        postgres
            .sink(", batch: { max_wait: 20ms }")
            .replace(&format!(":{}/", postgres.0.port), &format!(":{port}/"))
    };
    p3_cuts_lose_and_double_nothing(&postgres.0, sink, (20_000, 2_000), || postgres.count());
}

/// `forebay validate` says of a server that it can be reached, or why not.
#[test]
fn validate_reaches_the_server() {
    let Some(mut postgres) = Postgres::start("validate_reaches_the_server") else { return };
    let place = Place::empty().sink("db", &postgres.sink(""));
    place.write();
    let said = place.run(&["validate"]).ok();
    assert!(said.contains("ok    sink db      postgres  yes        yes         yes     same"), "{said}");
    assert_eq!(postgres.sql("SELECT to_regclass('events') IS NULL"), "t", "it makes nothing");
    postgres.0.down("stop");
    let said = eventually("it fails", || {
        let run = place.run(&["validate"]);
        (run.code != Some(0)).then(|| run.stdout + &run.stderr)
    });
    assert!(said.contains("Connection refused"), "{said}");
    assert!(said.contains("FAIL  sink db      postgres  NO         ?           ?       -"), "{said}");
}

/// `manage_schema` made every fault of the table pass for one that Forebay would mend with its first batch. It makes tables and
/// adds columns, and nothing else.
#[test]
fn r0504_validate_passed_a_table_that_cannot_be_written() {
    let Some(postgres) = Postgres::start("r0504_validate_passed_a_table_that_cannot_be_written") else {
        return;
    };
    postgres.sql("CREATE ROLE guarded LOGIN PASSWORD 'secret-1'");
    let place = Place::empty().sink("db", &postgres.sink_as("guarded:secret-1", ""));
    place.write();
    let says = |words: &str, row: &str| {
        let run = place.run(&["validate"]);
        assert!(run.code != Some(0) && run.stdout.contains(words), "{words:?} in {run:?}");
        assert!(run.stdout.contains(&format!("FAIL  sink db      postgres  {row}")), "{row:?} in {run:?}");
    };
    let (right, schema) = ("yes        NO          ?", "yes        yes         NO");
    says("is not there, and this user may not make it", right);
    postgres.sql("GRANT CREATE ON SCHEMA public TO guarded");
    place.run(&["validate"]).ok();
    let columns = "event_id text, timestamp timestamptz, service text, message text, metadata";
    postgres.sql(&format!("CREATE TABLE events ({columns} text, ingested_at timestamptz)"));
    says("metadata is text, jsonb is needed", schema);
    postgres.sql(&format!("DROP TABLE events; CREATE TABLE events ({columns} jsonb)"));
    says("no right to INSERT", right);
    postgres.sql("GRANT INSERT, SELECT ON events TO guarded");
    says("has no unique key (event_id)", schema);
    // Neither of these tells the server that a row is there already.
    postgres.sql("CREATE UNIQUE INDEX ON events (event_id) WHERE service = 'a'");
    postgres.sql("CREATE UNIQUE INDEX ON events (event_id, service)");
    says("has no unique key (event_id)", schema);
    postgres.sql("CREATE UNIQUE INDEX ON events (event_id) INCLUDE (service)");
    place.run(&["validate"]).ok();
}
