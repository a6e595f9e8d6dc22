//! TLS, certificates and tokens between the two.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::{Gateway, event, post, settled};
use crate::support::{
    binary::{Forebay, Place},
    until,
};

/// Certificates of an authority of this test alone, in files of `place`: that of the authority, one for localhost, one for a client.
fn certificates(place: &Place) -> [PathBuf; 5] {
    let file = |name: &str, label: &str, der: &[u8]| {
        let path = place.file(name);
        let text = STANDARD.encode(der);
        let lines: Vec<_> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let text = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"));
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = file("ca.pem", "CERTIFICATE", params.self_signed(&key).unwrap().der());
    let issuer = Issuer::new(params, key);
    let signed = |name: &str, host: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        [
            file(&format!("{name}.pem"), "CERTIFICATE", certificate.der()),
            file(&format!("{name}.key"), "PRIVATE KEY", &key.serialize_der()),
        ]
    };
    let ([cert, key], [client, client_key]) = (signed("server", "localhost"), signed("client", "edge"));
    [authority, cert, key, client, client_key]
}

/// What the sink says of its last failure, once it has one that contains `text`.
#[track_caller]
fn complains(forebay: &Forebay, text: &str) {
    until(&format!("the sink says {text:?}: {}", forebay.get("/health").text()), || {
        forebay.get("/health").text().contains(text)
    });
}

/// A token of its own, and the entry that lets it in.
fn token(name: &str, scope: &str) -> (String, String) {
    let token = format!("fby_{name}-{}", "x".repeat(30));
    let hash = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let entry = format!("{{ name: {name}, hash: \"sha256:{hash}\", scopes: [{scope}] }}");
    (token, entry)
}

/// Scenario: the gateway speaks TLS, wants certificates and a token of the scope `relay`. The edge has no certificate; a token
/// that nobody knows; one that may send and not relay; and then all that is right.
/// Guarantee: until then everything waits, and the sink and `validate` say what is wrong, without the token; then everything
/// arrives, with the times at which the edge accepted it.
#[test]
fn what_is_wrong_is_said_and_waited_for() {
    let keys = Place::empty();
    let [authority, cert, key, client, client_key] = certificates(&keys);
    let ((relay, relay_entry), (sender, sender_entry)) = (token("relay", "relay"), token("sender", "ingest"));
    let gateway = Place::new()
        .section(&format!("tls: {{ cert_file: {cert:?}, key_file: {key:?}, client_ca_file: {authority:?} }}"))
        .section(&format!(
            "auth: {{ tokens: [{relay_entry}, {sender_entry}], public: [health, metrics, docs], refusals: {{ per_second: 1000, burst: 1000 }} }}"
        ));
    gateway.write();
    let mut process = gateway.spawn();
    process.wait_until_it_listens();
    until("it takes batches", || process.output().contains("data in"));
    let port = process.ingest().port();
    let shown = format!("tls: {{ ca_file: {authority:?}, cert_file: {client:?}, key_file: {client_key:?} }}");
    let sink = |token: &str, tls: &str| {
        format!(
            "{{ type: forebay, endpoint: \"https://localhost:{port}\", token: \"{token}\", {tls}, \
             retry: {{ backoff_min: 20ms, backoff_max: 100ms }}, breaker: {{ open_for: 100ms, successes: 1 }} }}"
        )
    };
    let unknown = "fby_nobody-knows-this-one-at-all-xx";
    let unshown = format!("tls: {{ ca_file: {authority:?} }}");
    let mut place = Place::new();
    for (token, tls, words) in [
        (&*relay, &*unshown, "CertificateRequired"),
        (unknown, &*shown, "UNAUTHENTICATED"),
        (&*sender, &*shown, "the scope relay may"),
    ] {
        place.set_sink("up", Some(&sink(token, tls)));
        let mut edge = place.start();
        post(&edge, &[event(&format!("before-{words}"))]);
        complains(&edge, words);
        assert!(!edge.get("/health").text().contains(token) && !edge.log().contains(token));
        if words != "CertificateRequired" {
            let said = place.run(&["validate"]).failed(1);
            assert!(
                said.contains(words) && said.contains("FAIL  sink up      forebay  yes        NO"),
                "{said}"
            );
        }
        edge.kill();
    }
    place.set_sink("up", Some(&sink(&relay, &shown)));
    let edge = place.start();
    post(&edge, &[event("at last")]);
    until("all are handed on", || edge.metric("forebay_sink_lag_events", "up") == 0.0);
    assert_eq!(edge.metric("forebay_sink_dead_letters_total", "up"), 0.0);
    let said = place.run(&["validate"]).ok();
    assert!(said.contains("ok    sink up      forebay  yes        yes         -       same"), "{said}");
    process.stop();
    // The same data, where it can be asked without a certificate.
    let plain = Place::new().with_data_dir(gateway.data_dir().to_path_buf()).start();
    until("all are stored", || plain.counted() == 4);
    assert_eq!(super::stored(&plain), super::stored(&edge));
}

/// Scenario: a token of a tenant relays.
/// Guarantee: its events and requests keep ids and times, and have the tenant's name, in the place of what they said of it.
#[test]
fn a_tenant_relays_its_own() {
    let (relay, entry) = token("relay", "relay");
    let entry = entry.replacen(" }", ", tenant: acme }", 1);
    let mut gateway = Gateway::start();
    gateway.process.kill();
    let mut sections = gateway.sections.clone();
    sections.push(format!("auth: {{ tokens: [{entry}], public: [health, metrics] }}"));
    gateway.start_again_with(sections);
    let edge = Place::new().sink("up", &gateway.sink(&format!(", token: \"{relay}\""))).start();
    let mut mine = event("mine");
    mine["metadata"] = serde_json::json!({"tenant": "other", "a": 1});
    post(&edge, &[mine]);
    super::post_otlp(&edge, "logs", &crate::otlp::protobuf("web", &["one"]));
    settled(&edge, &gateway.process);
    gateway.process.stop();
    let plain = Place::new().with_data_dir(gateway.place.data_dir().to_path_buf()).start();
    let (there, here) = (super::stored(&plain), super::stored(&edge));
    let of =
        |events: &[serde_json::Value], key: &str| events.iter().map(|e| e[key].clone()).collect::<Vec<_>>();
    for key in ["event_id", "ingested_at", "timestamp", "service", "message"] {
        assert_eq!(of(&there, key), of(&here, key), "{key}");
    }
    let mine = there.iter().find(|event| event["event_id"] == "mine").unwrap();
    assert_eq!(mine["metadata"], serde_json::json!({"tenant": "acme", "a": 1}));
    let web = there.iter().find(|event| event["message"] == "one").unwrap();
    assert_eq!(web["metadata"]["resource"]["attributes"]["tenant"], "acme");
}
