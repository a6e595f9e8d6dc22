//! The document at `/openapi.json` is true: every route is in it and every path of it is served, its examples are taken,
//! real answers are what it says, and the page that shows it needs nothing else.

use forebay::api::{
    openapi::answers::{
        Accepted, ActorTree, Alive, EventCounts, EventPage, ExportResponse, Failure, FaultInjected, Health,
        RpcStatus, StoredEvent,
    },
    server::ROUTES,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{
    binary::{Forebay, Place},
    http::{Response, request},
};

const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// The methods of a path of the document, as `Allow` names them.
fn methods(item: &Value) -> String {
    let is_there = |method: &&&str| item.get(method.to_lowercase()).is_some();
    METHODS.iter().filter(is_there).copied().collect::<Vec<_>>().join(", ")
}

/// The answer is of this type.
#[track_caller]
fn is<T: DeserializeOwned>(response: &Response) -> T {
    serde_json::from_slice(&response.body).unwrap_or_else(|e| panic!("{e}: {}", response.text()))
}

/// Every path that is served stands in the document with its methods, and the other way round; another method is refused
/// with the same methods in `Allow`.
#[test]
fn every_route_is_documented() {
    let forebay = Place::new().start();
    let document = forebay.json("/openapi.json");
    assert_eq!(document["openapi"], "3.1.0");
    let (otlp, paths): (Vec<_>, Vec<_>) = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, item)| (path.as_str(), methods(item)))
        .partition(|(path, _)| path.starts_with("/v1/"));
    let mut routes: Vec<_> = ROUTES.iter().map(|(path, methods)| (*path, (*methods).to_owned())).collect();
    routes.sort();
    assert_eq!(paths, routes);
    let post = || "POST".to_owned();
    assert_eq!(otlp, [("/v1/logs", post()), ("/v1/metrics", post()), ("/v1/traces", post())]);

    let ports = [(forebay.address, &paths), (forebay.otlp(), &otlp)];
    for (address, (path, allowed)) in
        ports.iter().flat_map(|(address, paths)| paths.iter().map(move |path| (*address, path)))
    {
        for method in METHODS {
            // A body would be waited for, were it announced.
            let mut connection = crate::support::http::Connection::open(address).unwrap();
            let head = format!(
                "{method} {} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                path.replace("{event_id}", "none")
            );
            connection.write(head.as_bytes()).unwrap();
            let status = if method == "HEAD" {
                connection.head().unwrap().0
            } else {
                let response = connection.response().unwrap();
                assert_eq!(
                    response.header("allow"),
                    (response.status == 405).then_some(allowed.as_str()),
                    "{method} {path}"
                );
                response.status
            };
            assert_eq!(
                status != 405,
                allowed.split(", ").any(|one| one == method),
                "{method} {path}: {status}"
            );
        }
    }
    let servers = &document["paths"]["/v1/logs"]["servers"];
    assert_eq!(servers[0]["url"], format!("http://{{host}}:{}", forebay.otlp().port()));
    let closed = Place::new().section("otlp: { http: { listen: null }, grpc: { listen: null } }").start();
    assert_eq!(closed.json("/openapi.json")["paths"].get("/v1/logs"), None, "nobody takes it there");
}

/// Every reference of the document leads somewhere, every operation has a name of its own and says what a 429 and a 503 say.
#[test]
fn the_document_is_whole() {
    let forebay = Place::new().start();
    let document = forebay.json("/openapi.json");
    let text = document.to_string();
    let references: Vec<_> =
        text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(references.len() > 50);
    for reference in references {
        assert!(document.pointer(reference).is_some(), "{reference} leads nowhere");
    }
    let mut names = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "servers") {
            names.push(operation["operationId"].as_str().unwrap().to_owned());
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.contains_key("429") || path.starts_with("/admin"), "{method} {path}");
            for status in ["429", "503"].iter().filter(|status| answers.contains_key(**status)) {
                let has_header = answers[*status]["headers"]["Retry-After"].is_object();
                assert!(has_header || path == "/health", "{method} {path}: {status}");
            }
        }
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "{names:?}");
}

/// Every example of a request is taken.
#[test]
fn every_example_is_taken() {
    let forebay = Place::new().start();
    let document = forebay.json("/openapi.json");
    let mut taken = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(content) = item["post"]["requestBody"]["content"].as_object() else { continue };
        for (media_type, media) in content.iter().filter(|(_, media)| media.get("example").is_some()) {
            let body = match &media["example"] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let (address, status) =
                if path.starts_with("/v1/") { (forebay.otlp(), 200) } else { (forebay.address, 202) };
            let answer = request(address, "POST", path, &[("Content-Type", media_type)], body.as_bytes())
                .unwrap()
                .ok(status);
            if status == 200 {
                assert!(is::<ExportResponse>(&answer).partial_success.is_none(), "{path}: {}", answer.text());
            }
            taken += 1;
        }
    }
    assert_eq!(taken, 5, "one event, lines, and a request of each signal");
    for name in ["NewEvent", "StoredEvent"] {
        let example = document["components"]["schemas"][name]["example"].to_string();
        forebay.post_json(example).ok(202);
    }
}

/// Real answers, good and bad, are what the types of the document say, with no member more or less.
#[test]
fn answers_are_of_their_types() {
    let chaos = "admin: { chaos: true, token: \"a-token-of-the-test\" }";
    let forebay = Place::new().section(chaos).start();
    let one = forebay.post_json(r#"{"service":"s","message":"m","event_id":"doc-1"}"#).ok(202);
    assert!(matches!(is(&one), Accepted::One(_)));
    for (target, ids) in [("/events", 1), ("/events?ids=false", 0)] {
        let list = forebay.post(
            target,
            &[("Content-Type", "application/json")],
            br#"[{"service":"s","message":"m"},{}]"#,
        );
        let Accepted::Several(several) = is(&list.ok(202)) else { panic!("a list") };
        assert_eq!((several.accepted, several.rejected.len()), (1, 1));
        assert_eq!(several.event_ids.map_or(0, |list| list.len()), ids);
    }
    forebay.stored("doc-1");
    is::<StoredEvent>(&forebay.get("/events/doc-1").ok(200));
    assert!(!is::<EventPage>(&forebay.get("/events?limit=1").ok(200)).events.is_empty());
    let counts: EventCounts = is(&forebay.get("/events/stats?group_by=service").ok(200));
    assert_eq!(counts.buckets[0].service.as_deref(), Some("s"));
    is::<Health>(&forebay.get("/health").ok(200));
    for path in ["/live", "/ready", "/health/live", "/health/ready"] {
        is::<Alive>(&forebay.get(path).ok(200));
    }
    for (method, target, status) in [
        ("GET", "/events?limit=0", 400),
        ("GET", "/events?unknown=1", 400),
        ("GET", "/events/none", 404),
        ("GET", "/events/%FF", 404),
        ("GET", "/nothing", 404),
        ("PUT", "/events", 405),
        ("POST", "/events?ids=perhaps", 400),
        ("POST", "/events", 400),
        ("GET", "/admin/actors", 401),
    ] {
        let answer = request(forebay.address, method, target, &[], b"").unwrap().ok(status);
        let failure: Failure = is(&answer);
        assert!(!failure.error.message.is_empty(), "{method} {target}");
    }
    let token = [("Authorization", "Bearer a-token-of-the-test")];
    let tree: ActorTree = is(&request(forebay.address, "GET", "/admin/actors", &token, b"").unwrap().ok(200));
    assert!(tree.actors.len() > 3);
    let fault =
        request(forebay.address, "POST", "/admin/actors/retention/kill", &token, b"").unwrap().ok(202);
    is::<FaultInjected>(&fault);
    let documented = forebay.json("/openapi.json");
    assert_eq!(methods(&documented["paths"]["/admin/actors/{name}/{fault}"]), "POST");

    let json = [("Content-Type", "application/json")];
    let refused =
        request(forebay.otlp(), "POST", "/v1/logs", &json, b"{\"resourceLogs\":1}").unwrap().ok(400);
    assert_eq!(is::<RpcStatus>(&refused).code, 3);
    let span = json!({"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": "ab"}]}]}]}).to_string();
    let partial = request(forebay.otlp(), "POST", "/v1/traces", &json, span.as_bytes()).unwrap().ok(200);
    assert_eq!(is::<ExportResponse>(&partial).partial_success.unwrap().rejected_spans.as_deref(), Some("1"));
}

/// The page is one file: its policy allows its own style and script by what they are, and the document from where it came.
#[test]
fn the_page_needs_nothing_else() {
    let forebay = Place::new().start();
    let page = forebay.get("/docs").ok(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    let text = page.text();
    for outside in ["http://", "https://", "//cdn", "@import", "url(", " style=", "onclick", "innerHTML"] {
        assert!(!text.contains(outside), "{outside}");
    }
    assert!(text.len() < 32 * 1024, "{} bytes", text.len());
    let_head(&forebay, "/docs");
    let_head(&forebay, "/openapi.json");
}

/// HEAD has the head of the answer to GET.
fn let_head(forebay: &Forebay, path: &str) {
    let mut connection = forebay.connect();
    connection
        .write(format!("HEAD {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let (status, headers) = connection.head().unwrap();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map(|(_, length)| length.parse().unwrap());
    assert_eq!((status, length), (200, Some(forebay.get(path).body.len())), "{path}");
    assert!(connection.is_at_end(), "and nothing behind it");
}
