//! Who the journal's server lets in, and what he may do there.

use std::process::Command;

use super::{
    super::{
        nats::pem,
        s3::bucket::{Bucket, Kind},
    },
    ends::refused,
    *,
};

/// The seed that the test's server knows.
const SEED: &str = "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y";

/// Changes the configuration of a server that runs, until its next start.
fn reconfigure(service: &Service, from: &str, to: &str) {
    let file = service.dir.path().join("nats.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&file, text.replace(from, to)).unwrap();
    let pid = std::fs::read_to_string(service.dir.path().join("pid")).unwrap();
    assert!(Command::new("kill").args(["-HUP", pid.trim()]).status().unwrap().success());
}

/// Scenario: a user with a password, and one who signs with an nkey; an nkey and a token that the server does not know, although it
/// lets in who brings nothing at all.
/// Guarantee: events of those who are known go through the stream; the others do not begin; what is secret is said nowhere.
#[test]
fn who_is_known_comes_in_and_nobody_else() {
    let Some(shared) = Shared::start("who_is_known_comes_in_and_nobody_else") else { return };
    let destination = Destination::start();
    let place = |keys: &str| shared.place_with(shared.service.port, keys).sink("out", &destination.sink());
    for (id, keys, secret) in [("user", "user: forebay, password", "secret-123"), ("nkey", "nkey", SEED)] {
        let forebay = place(&format!(", {keys}: {secret}")).start();
        post(&forebay, &[event(id)]);
        until("it arrives", || destination.has(id));
        assert!(!forebay.log().contains(secret) && !forebay.output().contains(secret), "{id}");
    }
    let unknown = nkeys::KeyPair::new_user().seed().unwrap();
    for (key, secret) in [("nkey", unknown.as_str()), ("token", "one-that-nobody-knows")] {
        let place = place(&format!(", {key}: {secret}"));
        refused(&place, "uthori");
        assert!(!place.run(&["validate"]).failed(1).contains(secret), "{key}");
    }
}

/// Scenario: a server that encrypts, at an address that says so and at one that does not; the journal is told the certificate that
/// it has, that of another, and none.
/// Guarantee: events go through the stream of the one that is known, and of no other.
#[test]
fn the_journals_server_is_known_by_its_certificate() {
    let dir = Service::dir();
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let of_loopback = || rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (key, other) = (of_loopback(), of_loopback());
    let certificate = write("tls.pem", pem("CERTIFICATE", key.cert.der()));
    let secret = write("tls.key", pem("PRIVATE KEY", &key.signing_key.serialize_der()));
    let stranger = write("other.pem", pem("CERTIFICATE", other.cert.der()));
    write("more.conf", format!("tls {{ cert_file: \"{certificate}\", key_file: \"{secret}\" }}\n"));
    let test = "the_journals_server_is_known_by_its_certificate";
    let Some(service) = Service::start_in(dir, None, "nats", test) else { return };
    let destination = Destination::start();
    let place = |scheme: &str, keys: &str| {
        let url = format!("{scheme}://127.0.0.1:{}", service.port);
        let jetstream = format!("jetstream: {{ url: \"{url}\", replicas: 1, ack_wait: 2s{keys} }}");
        Place::empty()
            .http("max_event_bytes: 1100KiB")
            .section(&format!("buffer: {{ backend: jetstream, {MAX_BYTES} {jetstream} }}"))
            .sink("out", &destination.sink())
    };
    let knows = |file: &str| format!(", nkey: {SEED}, tls: {{ ca_file: \"{file}\" }}");
    refused(&place("tls", &knows(&stranger)), "certificate");
    refused(&place("tls", ""), "certificate");
    for scheme in ["tls", "nats"] {
        let forebay = place(scheme, &knows(&certificate)).start();
        post(&forebay, &[event(scheme)]);
        until("it arrives", || destination.has(scheme));
    }
}

/// Scenario: a user who may do everything but publish to the stream's subject; then the server is told that he may.
/// Guarantee: a post gets 503, the log has the server's reason, and nothing of it is in the stream; later posts are taken and
/// delivered, without a restart.
#[test]
fn who_may_not_publish_acknowledges_nothing_until_he_may() {
    let Some(shared) = Shared::start("who_may_not_publish_acknowledges_nothing_until_he_may") else { return };
    let destination = Destination::start();
    let reader = ", stream: events, user: reader, password: secret-123";
    let forebay = shared.place_with(shared.service.port, reader).sink("out", &destination.sink()).start();
    let offer = |id: &str| forebay.post_json(Value::from(vec![event(id)]).to_string());
    let refused = offer("refused");
    refused.error(503, "journal_failed");
    assert_eq!(refused.header("retry-after"), Some("1"));
    forebay.says("Permissions Violation for Publish to");
    forebay.says("a commit failed; nothing of it was acknowledged");
    let messages =
        shared.ask(async |context| context.get_stream("events").await.unwrap().cached_info().state.messages);
    assert_eq!(messages, 0);
    reconfigure(&shared.service, "deny: \"events.>\"", "deny: \"others.>\"");
    until("posts are taken", || offer("taken").status == 202);
    until("it arrives", || destination.has("taken"));
    assert!(!destination.has("refused"));
}

/// Scenario: a worker's user has the rights that docs/scaling.md names, and no other; batches are held when it is killed.
/// Guarantee: they are enough: its next life reads the books, reads back what is held, and leaves nothing.
#[test]
fn the_rights_that_are_documented_are_enough() {
    let test = "the_rights_that_are_documented_are_enough";
    let Some(shared) = Shared::start(test) else { return };
    let Some(bucket) = Bucket::start(Kind::Minio, test) else { return };
    let rights = r#"publish: ["FOREBAY.records", "$JS.API.>", "$JS.ACK.>", "$KV.FOREBAY_HELD.>"], subscribe: "_INBOX.>""#;
    reconfigure(&shared.service, r#"publish: { deny: "events.>" }"#, rights);
    let destination = Destination::start();
    destination.answer(503);
    let out = destination.sink().replace("{ type", "{ fallback: overflow, type");
    let place = shared.place_with(shared.service.port, ", user: reader, password: secret-123");
    let place = place.sink("out", &out).sink("overflow", &bucket.sink(", only_as_fallback: true"));
    let mut worker = place.start();
    let ids: BTreeSet<_> = (0..50).map(|id| format!("e{id}")).collect();
    ids.iter().for_each(|id| post(&worker, &[event(id)]));
    until("all are held", || worker.metric("forebay_sink_held_events", "sink=\"out\"") == 50.0);
    worker.kill();
    let worker = place.start();
    until("all are known", || worker.metric("forebay_sink_held_events", "sink=\"out\"") == 50.0);
    destination.answer(200);
    all_arrived(&destination, &ids);
    until("nothing is held", || worker.metric("forebay_sink_held_events", "sink=\"out\"") == 0.0);
    until("the holder has nothing", || !bucket.objects().keys().any(|key| key.starts_with("a/b/held/")));
    assert!(!worker.log().contains("Permissions Violation"), "{}", worker.log());
}
