//! What may be wrong with a server while events come: it is a standby, its table changes, its sessions go; who it is, and
//! who asks, is proven by certificates.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt},
    path::Path,
};

use super::{Postgres, complains, event, post};
use crate::{
    security::Authority,
    support::{binary::Place, until},
};

impl Postgres {
    /// A file in the server's own directory, as the server wants it.
    fn file(&self, name: &str, text: &str) {
        let data = self.0.dir.path().join("data");
        let (file, owner) = (data.join(name), fs::metadata(&data).unwrap());
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    /// Sessions that write, each with the moment it began.
    fn writers(&self) -> BTreeSet<String> {
        let sql = "SELECT pid, backend_start FROM pg_stat_activity WHERE application_name = 'forebay'";
        self.sql(sql).lines().map(str::to_owned).collect()
    }
}

/// Scenario: the server becomes a standby, which can be read and not written, and is promoted later.
/// Guarantee: the sink says so and waits, questions are answered meanwhile, and everything is delivered in the end.
#[test]
fn a_standby_is_read_and_waited_for() {
    let Some(mut postgres) = Postgres::start("a_standby_is_read_and_waited_for") else { return };
    let forebay = Place::empty().sink("db", &postgres.sink(", store: true")).start();
    post(&forebay, &[event("a")]);
    forebay.stored("a");
    postgres.0.down("stop");
    postgres.file("standby.signal", "");
    postgres.0.up();
    post(&forebay, &[event("b")]);
    complains(&forebay, "read-only transaction");
    assert_eq!(forebay.json("/events?count=true")["count"], 1);
    postgres.sql("SELECT pg_promote()");
    forebay.stored("b");
    postgres.wait_for(2);
}

/// Scenario: the table changes under a running sink: a column that must be filled is added, one gets another type, the table
/// is renamed away.
/// Guarantee: none of it costs an event; the sink says what is wrong, and goes on once it is mended, or makes a new table.
#[test]
fn a_table_may_change_under_a_running_sink() {
    let Some(postgres) = Postgres::start("a_table_may_change_under_a_running_sink") else { return };
    let forebay = Place::empty().sink("db", &postgres.sink("")).start();
    post(&forebay, &[event("a")]);
    postgres.wait_for(1);
    postgres.sql(
        "ALTER TABLE events ADD mine int NOT NULL DEFAULT 0; ALTER TABLE events ALTER mine DROP DEFAULT",
    );
    post(&forebay, &[event("b")]);
    complains(&forebay, "null value in column \\\"mine\\\"");
    postgres.sql("ALTER TABLE events ALTER mine SET DEFAULT 0");
    postgres.wait_for(2);
    postgres.sql("ALTER TABLE events ALTER ingested_at TYPE boolean USING true");
    post(&forebay, &[event("c")]);
    complains(&forebay, "ingested_at is boolean, timestamp with time zone is needed");
    postgres.sql("ALTER TABLE events ALTER ingested_at TYPE timestamptz USING now()");
    postgres.wait_for(3);
    postgres.sql("ALTER TABLE events RENAME TO kept");
    post(&forebay, &[event("d")]);
    postgres.wait_for(1);
    assert_eq!(postgres.sql("SELECT count(*) FROM kept"), "3");
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "db"), 0.0);
}

/// Scenario: rows go straight into the table as bytes, and a column of it becomes one that would take them for something else.
/// Guarantee: none is written as what it is not; the sink waits until the column is mended.
#[test]
fn a_column_of_another_type_takes_no_bytes() {
    let Some(postgres) = Postgres::start("a_column_of_another_type_takes_no_bytes") else { return };
    let forebay = Place::empty().sink("db", &postgres.sink(", idempotent: false")).start();
    let with_metadata = |id: &str| {
        let mut event = event(id);
        event["metadata"] = serde_json::json!({"a": 1});
        event
    };
    post(&forebay, &[with_metadata("a")]);
    postgres.wait_for(1);
    postgres.sql("ALTER TABLE events ALTER metadata TYPE text");
    post(&forebay, &[with_metadata("b")]);
    complains(&forebay, "metadata is text, jsonb is needed");
    postgres.sql("ALTER TABLE events ALTER metadata TYPE jsonb USING metadata::jsonb");
    postgres.wait_for(2);
    assert_eq!(postgres.sql("SELECT DISTINCT metadata FROM events"), "{\"a\": 1}");
}

/// Scenario: four deliveries at the same time, all held by the server; later their sessions are ended from outside.
/// Guarantee: each has a session of its own, there are no more, they are used again, and new ones take the place of those that
/// broke.
#[test]
fn deliveries_share_a_pool() {
    let Some(postgres) = Postgres::start("deliveries_share_a_pool") else { return };
    let keys = ", concurrency: 4, batch: { max_events: 10, max_wait: 10ms }";
    let forebay = Place::empty().sink("db", &postgres.sink(keys)).start();
    let events = |prefix: &str| (0..200).map(|n| event(&format!("{prefix}{n}"))).collect::<Vec<_>>();
    post(&forebay, &[event("first")]);
    postgres.wait_for(1);
    let holder = postgres.session("BEGIN; LOCK TABLE events IN EXCLUSIVE MODE; SELECT pg_sleep(600)");
    let held = "SELECT count(*) FROM pg_locks WHERE relation = 'events'::regclass AND mode = 'ExclusiveLock' AND granted";
    until("the table is held", || postgres.sql(held) == "1");
    post(&forebay, &events("a"));
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'forebay' AND wait_event_type = 'Lock'";
    until("four deliveries wait", || postgres.sql(waiting) == "4");
    let sessions = postgres.writers();
    assert_eq!(sessions.len(), 4, "{sessions:?}");
    drop(holder);
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()");
    postgres.wait_for(201);
    post(&forebay, &events("b"));
    postgres.wait_for(401);
    assert_eq!(postgres.writers(), sessions, "they are used again");
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'forebay'");
    post(&forebay, &events("c"));
    postgres.wait_for(601);
    let new = postgres.writers();
    assert!((1..=4).contains(&new.len()) && new.is_disjoint(&sessions), "{new:?}");
}

/// Scenario: the server asks for a certificate of the client, and the sink for one of the server, by an authority of their
/// own, as a URL of libpq says it (`sslmode=verify-full`).
/// Guarantee: without its certificate the sink is told what is missing, and nothing is lost; with it, it is let in by the
/// name that stands there.
#[test]
fn certificates_are_asked_for_on_both_sides() {
    let Some(postgres) = Postgres::start("certificates_are_asked_for_on_both_sides") else { return };
    let authority = Authority::new();
    let (server, client) = (authority.identity("the server"), authority.identity("certified"));
    postgres.sql("CREATE ROLE certified LOGIN; GRANT CREATE ON SCHEMA public TO certified");
    postgres.file("server.crt", &server.pem());
    postgres.file("server.key", &server.key_pem());
    postgres.file("root.crt", &authority.pem());
    let hba = fs::read_to_string(postgres.0.dir.path().join("data/pg_hba.conf")).unwrap();
    let certified = "hostssl all certified all cert\nhost all certified all reject\n";
    postgres.file("pg_hba.conf", &format!("{certified}{hba}"));
    for setting in ["ssl = on", "ssl_ca_file = 'root.crt'"] {
        postgres.sql(&format!("ALTER SYSTEM SET {setting}"));
    }
    postgres.sql("SELECT pg_reload_conf()");
    until("the server has TLS", || postgres.sql("SHOW ssl") == "on");
    let mut place = Place::empty();
    let file = |place: &Place, name: &str, text: String| {
        fs::write(place.file(name), text).unwrap();
        Path::display(&place.file(name)).to_string()
    };
    let ca = file(&place, "ca.pem", authority.pem());
    let url = format!("postgres://certified@localhost:{}/postgres?sslmode=verify-full", postgres.0.port);
    let sink = |keys: &str| {
        let sink = postgres.sink(&format!(", tls: {{ ca_file: {ca}{keys} }}"));
        sink.replace(&postgres.url("postgres"), &url)
    };
    place.set_sink("db", Some(&sink("")));
    let mut forebay = place.start();
    post(&forebay, &[event("a")]);
    complains(&forebay, "requires a valid client certificate");
    forebay.kill();
    let (cert, key) =
        (file(&place, "client.pem", client.pem()), file(&place, "client.key", client.key_pem()));
    place.set_sink("db", Some(&sink(&format!(", cert_file: {cert}, key_file: {key}"))));
    let _forebay = place.start();
    postgres.wait_for(1);
    let names = "SELECT client_dn FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'forebay'";
    until("it is known by its certificate", || postgres.sql(names).contains("CN=certified"));
}
