//! What the gate says to whom.

use std::sync::atomic::AtomicI64;

use actix_web::ResponseError as _;
use forebay_actors::event::Timestamp;
use prometheus::{Encoder as _, Registry, TextEncoder};

use super::*;
use crate::{
    config::{Config, Format},
    security::{Security, token},
};

const GOOD: &str = "fby_good-token-of-these-tests-0123456789";
const READER: &str = "fby_reader-token-of-these-tests-0123456";

struct Tried {
    security: Security,
    registry: Registry,
    now: Arc<AtomicI64>,
}

fn config(auth: &str) -> Config {
    let (good, reader) = (token::hash(GOOD), token::hash(READER));
    let yaml = format!("auth: {{{auth}}}\nsinks: {{e: {{type: store}}}}");
    let yaml = yaml.replace("GOOD", &format!("'{}'", good.as_str()));
    let yaml = yaml.replace("READER", &format!("'{}'", reader.as_str()));
    Config::parse(&yaml, Format::Yaml, "f", &|_| None).unwrap()
}

const TOKENS: &str = "tokens: [{name: good, hash: GOOD, scopes: [ingest], tenant: acme, expires: '2030-01-01T00:00:00Z'}, \
                      {name: reader, hash: READER, scopes: [query], limits: {per_second: 1, burst: 2}}]";

fn tried(auth: &str) -> Tried {
    let registry = Registry::new();
    let now = Arc::new(AtomicI64::new(Timestamp::parse("2029-12-31T23:59:59Z").unwrap().nanos()));
    let clock = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_nanos(clock.load(Ordering::Relaxed)));
    Tried { security: Security::open(&config(auth), &registry, clock).unwrap(), registry, now }
}

impl Tried {
    fn ask(&self, route: Route, query: &str, headers: &[(&str, &str)]) -> Result<Caller, ApiError> {
        self.ask_from("192.0.2.1", route, query, headers)
    }

    fn ask_from(
        &self,
        peer: &str,
        route: Route,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Caller, ApiError> {
        let header =
            |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes());
        let query = (!query.is_empty()).then_some(query);
        self.security.gate().admit(Some(peer.parse().unwrap()), route, query, header)
    }

    fn status(&self, route: Route, token: &str) -> u16 {
        let bearer = format!("Bearer {token}");
        let asked = self.ask(route, "", &[("authorization", &bearer)]);
        asked.map_or_else(|error| error.status_code().as_u16(), |_| 200)
    }

    fn metrics(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }
}

/// A token does what its scopes say, in both headers, and has its tenant; every other one is refused, by its cause.
#[test]
fn tokens_do_what_their_scopes_say() {
    let tried = tried(TOKENS);
    for (route, good, reader) in [
        (Route::Ingest, 200, 403),
        (Route::Query, 403, 200),
        (Route::Metrics, 403, 200),
        (Route::Admin, 403, 403),
        (Route::Other, 200, 429),
        (Route::Health, 200, 200),
        (Route::Docs, 200, 200),
    ] {
        assert_eq!((tried.status(route, GOOD), tried.status(route, READER)), (good, reader), "{route:?}");
        let without = tried.ask(route, "", &[]).map_or_else(|e| e.status_code().as_u16(), |_| 200);
        let is_public = matches!(route, Route::Health | Route::Docs);
        assert_eq!(without, if is_public { 200 } else { 401 }, "{route:?}");
    }
    let caller = tried.ask(Route::Ingest, "a=b", &[("x-api-key", GOOD)]).unwrap();
    let tenant = Tenant { key: "tenant".to_owned(), value: "acme".to_owned() };
    assert_eq!((caller.token_name(), caller.tenant().map(|t| &**t)), (Some("good"), Some(&tenant)));
    for wrong in ["", "x", &GOOD[1..], &format!("{GOOD}x"), &GOOD.to_uppercase()] {
        assert_eq!(tried.status(Route::Ingest, wrong), 401, "{wrong}");
    }
    let basic = tried.ask(Route::Ingest, "", &[("authorization", &format!("Basic {GOOD}"))]).unwrap_err();
    assert_eq!(basic.challenge(), Some("Bearer realm=\"forebay\""));
    // A proxy may need the one header for itself.
    let both = [("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", GOOD)];
    tried.ask(Route::Ingest, "", &both).unwrap();

    tried.now.fetch_add(1_000_000_000, Ordering::Relaxed);
    assert_eq!(tried.status(Route::Ingest, GOOD), 401, "it has expired");
    let metrics = tried.metrics();
    for line in [
        "forebay_auth_refused_total{cause=\"expired\"} 1",
        "forebay_auth_refused_total{cause=\"rate\"} 1",
        "forebay_auth_refused_total{cause=\"missing\"} 6",
        "forebay_auth_refused_total{cause=\"unknown\"} 5",
        "forebay_auth_accepted_total{token=\"reader\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("fby_") && !format!("{:?}", tried.security).contains("fby_"));
}

/// A token in the query is refused whether anybody is asked for one or not, and is not repeated.
#[test]
fn a_token_in_the_query_is_refused() {
    for tried in [tried(TOKENS), tried("")] {
        for query in [
            "token=SECRET",
            "limit=3&access_token=SECRET",
            "API_KEY=SECRET",
            "authorization",
            "a&bearer=SECRET",
        ] {
            let error = tried.ask(Route::Health, query, &[("x-api-key", GOOD)]).unwrap_err();
            assert_eq!((error.status_code().as_u16(), error.code()), (400, "token_in_query"), "{query}");
            assert!(!error.to_string().contains("SECRET"), "{error}");
        }
        for query in ["tokens=3", "q=token", "cursor=token%3D1", "next_token=x"] {
            tried.ask(Route::Health, query, &[]).unwrap();
        }
    }
}

/// Without tokens nobody is asked; with a file of tokens that has none, nobody is let in.
#[test]
fn nobody_is_asked_without_tokens() {
    let tried = tried("");
    tried.ask(Route::Ingest, "", &[]).unwrap();
    tried.ask(Route::Query, "", &[("authorization", "Bearer of bad news")]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens.yaml");
    std::fs::write(&file, "tokens: []\n").unwrap();
    let config = config(&format!("tokens_file: {}", file.display()));
    let security = Security::open(&config, &Registry::new(), Clock::system()).unwrap();
    security.gate().admit(None, Route::Ingest, None, |_| None).unwrap_err();
}

/// Only who comes from an allowed network is let in, also to what is public, and also with a good token.
#[test]
fn addresses_are_checked_first() {
    let tried = tried(&format!("{TOKENS}, allow: [192.0.2.0/24, '2001:db8::/32']"));
    let key = [("x-api-key", GOOD)];
    for peer in ["192.0.2.200", "::ffff:192.0.2.1", "2001:db8::5"] {
        tried.ask_from(peer, Route::Ingest, "", &key).unwrap();
    }
    for peer in ["192.0.3.1", "::ffff:192.0.3.1", "::192.0.2.1", "2001:db9::"] {
        for route in [Route::Ingest, Route::Health] {
            let error = tried.ask_from(peer, route, "", &key).unwrap_err();
            assert_eq!((error.status_code().as_u16(), error.code()), (403, "address_not_allowed"), "{peer}");
        }
    }
    // What a client says of where it comes from counts for nothing.
    let forwarded = [key[0], ("x-forwarded-for", "192.0.2.1")];
    tried.ask_from("192.0.3.1", Route::Ingest, "", &forwarded).unwrap_err();
}

/// Who is refused again and again is told to come less often; a good token from the same address is let in all the same.
#[test]
fn refusals_are_limited_by_address() {
    let tried = tried(&format!("{TOKENS}, refusals: {{per_second: 1, burst: 3}}"));
    let statuses: Vec<_> = (0..5).map(|_| tried.status(Route::Ingest, "wrong")).collect();
    assert_eq!(statuses, [401, 401, 401, 429, 429]);
    let error = tried.ask(Route::Ingest, "", &[]).unwrap_err();
    assert!(error.retry_after().is_some_and(|wait| wait <= Duration::from_secs(3)));
    assert_eq!(tried.status(Route::Ingest, GOOD), 200);
    let other = tried.ask_from("192.0.2.2", Route::Ingest, "", &[]).unwrap_err();
    assert_eq!(other.status_code().as_u16(), 401, "another address is not touched");
}

/// A call that goes on for long is asked again: its token may be gone since, may have expired, or is used up.
#[test]
fn a_long_call_is_asked_again() {
    let tried = tried(TOKENS);
    let [good, reader] = [(Route::Ingest, GOOD), (Route::Query, READER)]
        .map(|(route, token)| tried.ask(route, "", &[("x-api-key", token)]).unwrap());
    let code = |caller: &Caller| caller.check_again().map_or_else(|error| error.code(), |()| "ok");
    assert_eq!([code(&reader), code(&reader)], ["ok", "rate_limited"]);
    assert_eq!(code(&good), "ok");
    let without = TOKENS.replace("name: reader, hash: READER", "name: other, hash: 'sha256:0'");
    let without = without.replace("sha256:0", &format!("sha256:{}", "0".repeat(64)));
    tried.security.put(tried.security.prepare(&config(&without)).unwrap());
    assert_eq!((code(&good), code(&reader)), ("ok", "unauthorized"));
    tried.now.fetch_add(1_000_000_000, Ordering::Relaxed);
    assert_eq!(code(&good), "unauthorized");
    tried.security.put(tried.security.prepare(&config("")).unwrap());
    assert_eq!((code(&good), code(&Caller::default())), ("ok", "ok"), "nobody is asked any more");
}

/// A reload changes who is let in, and gives nobody his rate back.
#[test]
fn a_reload_rotates_tokens() {
    let tried = tried(TOKENS);
    assert_eq!((0..3).map(|_| tried.status(Route::Query, READER)).collect::<Vec<_>>(), [200, 200, 429]);
    let next = TOKENS.replace("name: good", "name: next").replace("GOOD", "'sha256:OTHER'");
    let other = "fby_the-next-token-of-these-tests-012345";
    let next = next.replace("sha256:OTHER", token::hash(other).as_str());
    tried.security.put(tried.security.prepare(&config(&next)).unwrap());
    assert_eq!((tried.status(Route::Ingest, GOOD), tried.status(Route::Ingest, other)), (401, 200));
    assert_eq!(tried.status(Route::Query, READER), 429, "its rate is still used up");
    assert!(!tried.metrics().contains("token=\"good\""), "who is gone is not shown");
    tried.security.put(tried.security.prepare(&config("")).unwrap());
    tried.ask(Route::Ingest, "", &[]).unwrap();
}
