//! Certificates and tokens that change while everything runs.

use std::{fs, sync::Arc};

use rustls::{ClientConfig, client::Resumption};

use super::{
    Authority, Identity, auth, bearer, file, place, start, tls_connect, tls_request, tls_send, token,
};
use crate::support::{
    binary::{Forebay, Place},
    http::request,
    until,
};

/// The certificate that a listener shows.
fn shown(address: std::net::SocketAddr, client: &Arc<ClientConfig>) -> Vec<u8> {
    let stream = tls_connect(address, client).unwrap();
    stream.get_ref().conn.peer_certificates().unwrap()[0].to_vec()
}

fn metric(forebay: &Forebay, client: &Arc<ClientConfig>, name: &str) -> f64 {
    let text = tls_request(forebay.address, client, "GET", "/metrics", &[], b"").unwrap().ok(200).text();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0.0)
}

fn show(forebay: &Forebay, client: &Arc<ClientConfig>, identity: &Identity) -> bool {
    [forebay.address, forebay.otlp(), forebay.ingest()]
        .iter()
        .all(|address| shown(*address, client) == identity.certificate.to_vec())
}

/// Scenario: the files of the certificate change under open connections: to another pair, to a key that does not fit, to
/// garbage, to a third pair; once by themselves, once with a reload.
/// Guarantee: open connections go on, new ones get the new certificate, what cannot be used is said and counted and
/// changes nothing.
#[test]
fn a_certificate_is_renewed_under_open_connections() {
    let authority = Authority::new();
    let [first, second, third] = ["1", "2", "3"].map(|name| authority.identity(name));
    let place = place(&first, "");
    let client = authority.client(None);
    let forebay = start(&place, &client);
    let mut http = tls_connect(forebay.address, &client).unwrap();
    let mut otlp = tls_connect(forebay.otlp(), &client).unwrap();
    let mut post = || {
        let json = [("Content-Type", "application/json")];
        let event = br#"{"service":"s","message":"m"}"#;
        let statuses = [
            tls_send(&mut http, "POST", "/events", &json, event).unwrap().status,
            tls_send(&mut otlp, "POST", "/v1/logs", &json, b"{}").unwrap().status,
        ];
        assert_eq!(statuses, [202, 200]);
    };
    post();
    assert!(show(&forebay, &client, &first));

    second.write(&place);
    until("every listener shows the new one", || show(&forebay, &client, &second));
    post();

    let applied = "forebay_security_file_reloads_total{outcome=\"applied\"}";
    let failed = "forebay_security_file_reloads_total{outcome=\"failed\"}";
    fs::write(place.file("server.pem"), super::pem("CERTIFICATE", &third.certificate)).unwrap();
    until("it is said and counted", || metric(&forebay, &client, failed) == 1.0);
    forebay.says("it is not the key of the certificate in server.pem");
    until("health shows it", || {
        let health = tls_request(forebay.address, &client, "GET", "/health", &[], b"").unwrap().json();
        let tls = &health["checks"]["tls"];
        tls["status"] == "degraded" && tls["error"].as_str().unwrap().contains("is not the key")
    });
    assert!(show(&forebay, &client, &second), "the one before stays");
    // With a reload it is said at once, and to whoever asked.
    assert!(place.run(&["reload"]).failed(1).contains("tls.key_file: server.key: it is not the key"));
    fs::write(place.file("server.pem"), "garbage").unwrap();
    assert!(place.run(&["reload"]).failed(1).contains("tls.cert_file: server.pem: it has no certificate"));
    post();

    let before = metric(&forebay, &client, applied);
    third.write(&place);
    place.run(&["reload"]).ok();
    assert!(show(&forebay, &client, &third), "a reload does not wait for the next look");
    assert_eq!(metric(&forebay, &client, applied), before, "what is in force is no change any more");
    post();
}

/// Scenario: the authority of clients changes, while a client of the first one is connected.
/// Guarantee: the next connection of that client is refused, although it could take up its session; and other files can be
/// named while the process runs, but TLS cannot be turned off.
#[test]
fn the_authority_of_clients_can_change() {
    let (authority, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let place = place(&authority.identity("server"), "client_ca_file: ca.pem");
    file(&place, "ca.pem", &old.pem());
    let [of_old, of_new] = [&old, &new].map(|ca| {
        let mut client = (*authority.client(Some(&ca.identity("client")))).clone();
        client.resumption = Resumption::in_memory_sessions(8);
        Arc::new(client)
    });
    let forebay = start(&place, &of_old);
    let is_served = |client| tls_request(forebay.otlp(), client, "GET", "/v1/logs", &[], b"").is_ok();
    assert_eq!((is_served(&of_old), is_served(&of_new)), (true, false));
    file(&place, "other.pem", &new.pem());
    let text = fs::read_to_string(place.config_file()).unwrap();
    fs::write(place.config_file(), text.replace("ca.pem", "other.pem")).unwrap();
    let changes = place.run(&["reload"]).ok();
    assert!(changes.contains("\"tls\"") && changes.contains("\"needs_restart\": []"), "{changes}");
    assert_eq!((is_served(&of_old), is_served(&of_new)), (false, true));
    let off = text.lines().filter(|line| !line.starts_with("tls:")).collect::<Vec<_>>().join("\n");
    fs::write(place.config_file(), off).unwrap();
    let changes: serde_json::Value = serde_json::from_str(&place.run(&["reload"]).ok()).unwrap();
    assert_eq!(changes["needs_restart"], serde_json::json!(["tls"]));
    assert_eq!((is_served(&of_old), is_served(&of_new)), (false, true));
}

fn status(forebay: &Forebay, token: &str) -> u16 {
    request(forebay.address, "GET", "/events", &[("Authorization", &bearer(token))], b"").unwrap().status
}

/// Scenario: a token is replaced in two reloads, by one beside it, then without it; a wrong file comes in between.
/// Guarantee: at every moment one of the two is good, and what is wrong changes nothing.
#[test]
fn tokens_are_rotated_by_reloads() {
    let (old, first) = token("first", "query", "");
    let (new, second) = token("second", "query", "");
    let place = Place::new().section(&auth(&[&first], ""));
    let forebay = place.start();
    let reload = |entries: &[&str]| {
        let text = fs::read_to_string(place.config_file()).unwrap();
        let lines = text.lines().map(|line| match line.starts_with("auth:") {
            true => auth(entries, ""),
            false => line.to_owned(),
        });
        fs::write(place.config_file(), lines.collect::<Vec<_>>().join("\n")).unwrap();
        place.run(&["reload"])
    };
    assert_eq!((status(&forebay, &old), status(&forebay, &new)), (200, 401));
    assert!(reload(&[&first, &second]).ok().contains("\"auth\""));
    assert_eq!((status(&forebay, &old), status(&forebay, &new)), (200, 200));
    let wrong = reload(&[&first, &second.replace("name: second", "name: first")]).failed(1);
    assert!(wrong.contains("auth.tokens.1.name: \"first\" is the name of entry 0 too"), "{wrong}");
    assert_eq!((status(&forebay, &old), status(&forebay, &new)), (200, 200));
    reload(&[&second]).ok();
    assert_eq!((status(&forebay, &old), status(&forebay, &new)), (401, 200));
}

/// Scenario: the file of tokens changes by itself: another token, then something that is none.
/// Guarantee: the new token is good without a reload; what is wrong is said with its place, and changes nothing.
#[test]
fn the_file_of_tokens_is_followed() {
    let (old, first) = token("first", "query", "");
    let (new, second) = token("second", "query", "");
    let place = Place::new()
        .section("auth: { tokens_file: tokens.yaml, public: [health, metrics], refusals: { burst: 10000 } }");
    file(&place, "tokens.yaml", &format!("tokens:\n  - {first}\n"));
    let forebay = place.start();
    assert_eq!((status(&forebay, &old), status(&forebay, &new)), (200, 401));
    file(&place, "tokens.yaml", &format!("tokens:\n  - {second}\n"));
    until("the new token is good", || status(&forebay, &new) == 200);
    assert_eq!(status(&forebay, &old), 401);
    file(
        &place,
        "tokens.yaml",
        &format!("tokens:\n  - {second}\n  - {{ name: third, hash: {old}, scopes: [query] }}\n"),
    );
    until("it is said", || forebay.metric("forebay_security_file_reloads_total", "failed") == 1.0);
    forebay.says("tokens.yaml:3: tokens.1.hash: is not sha256:");
    assert!(!forebay.log().contains(&old), "the token stood in the place of its hash");
    assert_eq!(status(&forebay, &new), 200);
}
