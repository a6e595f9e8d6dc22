//! `/admin/actors`: closed by default, closed to strangers, and what it does to actors.

use serde_json::{Value, json};

use super::event;
use crate::support::{
    binary::{Forebay, Place},
    http::Response,
    until,
};

const TOKEN: &str = "a-token-for-these-tests";

fn place() -> Place {
    Place::new().section(&format!("admin: {{ chaos: true, token: {TOKEN} }}"))
}

fn with_token(forebay: &Forebay, method: &str, target: &str) -> Response {
    let bearer = format!("Bearer {TOKEN}");
    forebay.connect().request(method, target, &[("Authorization", &bearer)], b"").unwrap()
}

fn actor(forebay: &Forebay, name: &str) -> Value {
    let mut tree = with_token(forebay, "GET", "/admin/actors").ok(200).json();
    let actors = tree["actors"].as_array_mut().unwrap();
    actors.iter_mut().find(|actor| actor["name"] == name).unwrap_or_else(|| panic!("no {name}")).take()
}

/// Without `admin.chaos`, also with a token, the paths are nothing, for whoever asks.
#[test]
fn faults_are_nothing_by_default() {
    let forebay = Place::new().section(&format!("admin: {{ token: {TOKEN} }}")).start();
    with_token(&forebay, "GET", "/admin/actors").error(404, "not_found");
    with_token(&forebay, "POST", "/admin/actors/buffer/kill").error(404, "not_found");
    forebay.get("/admin/actors").error(404, "not_found");
}

/// Who has no token, or a wrong one, is told how to send one, learns nothing of the actors and harms none.
#[test]
fn strangers_are_not_let_in() {
    let forebay = place().start();
    let wrong = ["", "Bearer ", "Bearer a-token-for-these-testS", "Basic a-token-for-these-tests", TOKEN];
    for authorization in wrong {
        let headers = [("Authorization", authorization)];
        for (method, target) in
            [("GET", "/admin/actors"), ("POST", "/admin/actors/buffer/panic"), ("POST", "/admin/actors/x/y")]
        {
            let answer = forebay.connect().request(method, target, &headers, b"").unwrap();
            answer.error(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"forebay\""));
        }
    }
    forebay.get("/admin/actors").error(401, "unauthorized");
    assert_eq!(actor(&forebay, "buffer")["restarts"], 0);
}

/// The tree names every actor with its state and mailbox, and a sink with how far it has come; the list follows a
/// reload.
#[test]
fn the_tree_shows_every_actor() {
    let mut place = place();
    let forebay = place.start();
    forebay.post_json(event("one").to_string()).ok(202);
    forebay.stored("one");
    let tree = with_token(&forebay, "GET", "/admin/actors").ok(200).json();
    let names = |tree: &Value| -> Vec<String> {
        let actors = tree["actors"].as_array().unwrap();
        actors.iter().map(|actor| actor["name"].as_str().unwrap().to_owned()).collect()
    };
    let house = ["batcher", "buffer", "health", "receiver", "retention"];
    assert_eq!(names(&tree), [&house[..], &["sink:events"]].concat());
    assert_eq!(tree["journal_end"], 1);
    let receiver = actor(&forebay, "receiver");
    assert_eq!((&receiver["state"], &receiver["restarts"]), (&json!("running"), &json!(0)));
    assert_eq!(receiver["messages_handled"], 1);
    assert!(receiver["mailbox"]["capacity"].as_u64() > Some(0) && receiver["mailbox"]["messages"] == 0);
    assert!(receiver.get("sink").is_none());
    until("the sink has come to the end", || actor(&forebay, "sink:events")["sink"]["next"] == 1);
    let sink = actor(&forebay, "sink:events")["sink"].take();
    assert_eq!((&sink["lag_events"], &sink["breaker"]), (&json!(0), &json!("closed")));

    place.set_sink("more", Some("{ type: blackhole }"));
    place.write();
    place.run(&["reload"]).ok();
    let tree = with_token(&forebay, "GET", "/admin/actors").ok(200).json();
    assert_eq!(names(&tree), [&house[..], &["sink:events", "sink:more"]].concat());
    with_token(&forebay, "POST", "/admin/actors/sink:more/kill").ok(202);
}

/// Every actor can be killed and be made to panic, which is one restart of it each time; events are taken and delivered
/// all the same.
#[test]
fn actors_are_killed_and_come_back() {
    let forebay = place().start();
    let names = ["batcher", "buffer", "health", "receiver", "retention", "sink:events"];
    for (round, fault) in ["kill", "panic"].into_iter().enumerate() {
        for name in names {
            let answer = with_token(&forebay, "POST", &format!("/admin/actors/{name}/{fault}")).ok(202);
            assert_eq!(answer.json(), json!({"actor": name, "restarts_before": round}));
            until(&format!("{name} runs again"), || {
                let actor = actor(&forebay, name);
                actor["restarts"] == round + 1 && actor["state"] == "running"
            });
        }
        let id = format!("after-{fault}");
        forebay.post_json(event(&id).to_string()).ok(202);
        forebay.stored(&id);
    }
    assert_eq!(forebay.metric("forebay_actor_restarts_total", "\"stop\""), 6.0);
    assert_eq!(forebay.metric("forebay_actor_restarts_total", "\"panic\""), 6.0);
}

/// A stalled actor handles nothing, keeps what comes, and goes on where it was.
#[test]
fn a_stalled_actor_keeps_what_comes() {
    let forebay = place().start();
    forebay.post_json(event("before").to_string()).ok(202);
    forebay.stored("before");
    with_token(&forebay, "POST", "/admin/actors/batcher/stall?for=3s").ok(202);
    forebay.post_json(event("meanwhile").to_string()).ok(202);
    until("what was committed waits for the batcher", || {
        let batcher = actor(&forebay, "batcher");
        batcher["mailbox"]["messages"] == 1 && batcher["messages_handled"] == 1
    });
    until("the batcher goes on", || actor(&forebay, "batcher")["messages_handled"] == 2);
    forebay.stored("meanwhile");
    assert_eq!(actor(&forebay, "batcher")["restarts"], 0);
}

/// What is wrong with a request is said, together with what would be right.
#[test]
fn wrong_faults_are_explained() {
    let forebay = place().start();
    let post = |target: &str| with_token(&forebay, "POST", &format!("/admin/actors/{target}"));
    let unknown = post("sink:nothing/kill").error(404, "actor_not_found");
    assert_eq!(unknown["details"]["actors"].as_array().unwrap().len(), 6, "{unknown}");
    assert!(unknown["message"].as_str().unwrap().contains("sink:events"), "{unknown}");
    let fault = post("buffer/explode").error(404, "fault_not_found");
    assert!(fault["message"].as_str().unwrap().contains("stall?for=5s"), "{fault}");
    for target in ["stall", "stall?for=", "stall?for=soon", "stall?for=5", "stall?for=0s", "stall?for=11m"] {
        let error = post(&format!("buffer/{target}")).error(400, "invalid_parameter");
        assert_eq!(error["details"]["parameter"], "for");
        assert!(error["message"].as_str().unwrap().contains("up to 10m"), "{target}: {error}");
    }
    post("buffer/kill?for=5s").error(400, "invalid_parameter");
    post("buffer/stall?until=5s").error(400, "invalid_parameter");
    with_token(&forebay, "GET", "/admin/actors/buffer/kill").error(405, "method_not_allowed");
    with_token(&forebay, "POST", "/admin/actors").error(405, "method_not_allowed");
    assert_eq!(actor(&forebay, "buffer")["restarts"], 0);
}

/// Chaos without a token is refused at the start, by a message that says what would be right.
#[test]
fn chaos_needs_a_token() {
    let place = Place::new().section("admin: { chaos: true }");
    place.write();
    let said = place.run(&["validate", "--offline"]).failed(1);
    assert!(said.contains("admin.token: is missing") && said.contains("openssl rand -hex 16"), "{said}");
}
