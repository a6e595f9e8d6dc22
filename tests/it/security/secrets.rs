//! Nothing that is secret is ever shown.

use std::{cell::RefCell, fs};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Authority, LOGS, SEND_BATCH, auth, batch, bearer, call, place, start, tls_request, token};
use crate::otlp::protobuf;

/// Scenario: a process that logs everything there is to log is used with good tokens, wrong ones, and ones in the wrong
/// places; its certificate's key is replaced by garbage; everything it shows is asked for.
/// Guarantee: no token, no hash and no line of the key is in what it printed, logged, answered or counted.
#[test]
fn no_secret_is_ever_shown() {
    let authority = Authority::new();
    let identity = authority.identity("server");
    let (good, entry) = token("good", "ingest, query, metrics", ", tenant: acme");
    let (other, unlisted) = token("other", "ingest", "");
    let (ending, in_file) = token("in-file", "ingest", ", expires: \"2020-01-01T00:00:00Z\"");
    let admin = "the-secret-token-of-admin";
    let place = place(&identity, "")
        .section("log: { level: trace }")
        .section(&format!("admin: {{ chaos: true, token: {admin} }}"))
        .section(&auth(&[&entry], ", tokens_file: tokens.yaml"));
    super::file(&place, "tokens.yaml", &format!("tokens: [{in_file}]"));
    let client = authority.client(None);
    let mut forebay = start(&place, &client);
    let shown = RefCell::new(String::new());
    let ask = |address, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]| {
        let answer = tls_request(address, &client, method, target, headers, body).unwrap();
        shown.borrow_mut().push_str(&format!("{:?} {}\n", answer.headers, answer.text()));
        answer.status
    };
    let event = br#"{"service":"s","message":"m"}"#;
    for secret in [&good, &other, &ending, &admin.to_owned()] {
        let bearer = bearer(secret);
        let json = ("Content-Type", "application/json");
        let both = [json, ("Authorization", bearer.as_str())];
        for (method, target) in [
            ("POST", "/events"),
            ("GET", "/events"),
            ("GET", "/events/none"),
            ("GET", "/metrics"),
            ("GET", "/health"),
            ("GET", "/admin/actors"),
            ("POST", "/admin/actors/none/kill"),
            ("GET", "/nothing"),
            ("PUT", "/events"),
        ] {
            ask(forebay.address, method, target, &both, event);
            ask(forebay.address, method, target, &[json, ("x-api-key", secret)], event);
        }
        ask(forebay.address, "GET", &format!("/events?token={secret}"), &[], b"");
        ask(forebay.otlp(), "POST", &format!("/v1/logs?api_key={secret}"), &both, b"{}");
        ask(forebay.otlp(), "POST", "/v1/logs", &both, b"{}");
        for (path, message) in [(LOGS, protobuf("s", &["m"])), (SEND_BATCH, batch("b", &[("", "{}")]))] {
            let headers = [("authorization", bearer.as_str())];
            let called = call(forebay.otlp(), Some(&client), path, &headers, &message).unwrap();
            shown.borrow_mut().push_str(&format!("{called:?}\n"));
        }
    }
    let mut shown = shown.into_inner();
    let key = STANDARD.encode(&identity.key);
    fs::write(place.file("server.key"), format!("-----BEGIN PRIVATE KEY-----\n{}\n", &key[..60])).unwrap();
    fs::write(place.file("tokens.yaml"), format!("tokens: [{}, {{ hash: {other} }}]", unlisted)).unwrap();
    for arguments in [&["validate", "--offline"][..], &["reload"], &["config", "defaults"], &["validate"]] {
        let finished = place.run(arguments);
        shown.push_str(&format!("{}{}\n", finished.stdout, finished.stderr));
    }
    crate::support::until("the log says what is wrong with the files", || {
        forebay.log().contains("the certificate has changed, but cannot be used")
            && forebay.log().contains("the file of tokens has changed, but cannot be used")
    });
    assert_eq!(forebay.stop(), Some(0));
    shown.push_str(&forebay.output());
    let log = forebay.log();
    assert!(log.contains("TRACE") && log.contains("a request is not let in"), "it logs what there is to log");
    shown.push_str(&log);

    let hash = |token: &str| forebay::security::token::hash(token).as_str()[7..].to_owned();
    let mut secrets: Vec<String> = vec![admin.to_owned()];
    for token in [&good, &other, &ending] {
        // Also a part of it, and in the encodings in which headers travel.
        secrets.extend([token[4..20].to_owned(), STANDARD.encode(token)[..40].to_owned(), hash(token)]);
    }
    secrets.extend(
        key.as_bytes().chunks(40).filter(|c| c.len() == 40).map(|c| String::from_utf8_lossy(c).into_owned()),
    );
    for secret in secrets {
        let at = shown.find(&secret);
        let line = at.map(|at| {
            let (before, behind) = (&shown[..at], &shown[at..]);
            format!("{}{}", before.rsplit('\n').next().unwrap_or(""), behind.split('\n').next().unwrap_or(""))
        });
        assert!(line.is_none(), "{secret} is in: {line:?}");
    }
}
