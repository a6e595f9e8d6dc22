//! Questions to the event store. Each check is a test of the embedded store here, and of a table of PostgreSQL in
//! `services/postgres/store.rs`.

use serde_json::json;

use crate::support::{
    binary::{Forebay, Place},
    until,
};

/// The checks by name; each is given a place with an event store in which nothing is stored.
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        pub const CHECKS: &[(&str, fn(&Place))] = &[$((stringify!($name), $name as fn(&Place))),*];

        mod embedded {
            $(
                #[test]
                fn $name() {
                    super::$name(&super::Place::new());
                }
            )*
        }
    };
}

checks!(
    pages_are_what_was_asked_for,
    paging_is_not_disturbed_by_what_arrives,
    questions_that_make_no_sense_are_refused,
    stats_add_up,
    r0263_empty_parameters_were_taken_at_their_word,
    one_event_is_asked_for_by_its_id,
);

/// 20 events of two services, a minute apart, from 2026-01-31T08:00:00Z on.
fn filled(place: &Place) -> Forebay {
    let forebay = place.start();
    let events: Vec<_> = (0..20)
        .map(|i| {
            let (service, message) = (["web", "db"][i % 2], format!("Message {i} of Z\u{fc}rich"));
            let timestamp = format!("2026-01-31T08:{i:02}:30Z");
            json!({"service": service, "message": message, "timestamp": timestamp, "event_id": format!("e{i:02}")})
        })
        .collect();
    forebay.post_json(json!(events).to_string()).ok(202);
    until("all are stored", || forebay.counted() == 20);
    forebay
}

fn ids(forebay: &Forebay, query: &str) -> Vec<String> {
    let events = forebay.all_events(query);
    events.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

/// Order, service, time range (from included, to not), text and limit select what they say.
pub fn pages_are_what_was_asked_for(place: &Place) {
    let forebay = filled(place);
    let all: Vec<_> = (0..20).map(|i| format!("e{i:02}")).collect();
    let newest: Vec<_> = all.iter().rev().cloned().collect();
    for query in ["", "order=newest&", "order=desc&limit=3", "limit=7"] {
        assert_eq!(ids(&forebay, query), newest, "{query}");
    }
    for query in ["order=oldest&", "order=asc&limit=3", "order=oldest&limit=1"] {
        assert_eq!(ids(&forebay, query), all, "{query}");
    }
    assert_eq!(
        ids(&forebay, "service=db&order=oldest&limit=4"),
        all.iter().skip(1).step_by(2).cloned().collect::<Vec<_>>()
    );
    assert!(ids(&forebay, "service=none").is_empty());
    let range = "order=oldest&from=2026-01-31T08:05:30Z&to=2026-01-31T08:07:30Z";
    assert_eq!(ids(&forebay, range), ["e05", "e06"]);
    let millis = "order=oldest&from=1769846730000&to=2026-01-31T10:07:30%2B02:00&service=db";
    assert_eq!(ids(&forebay, millis), ["e05"]);
    assert!(ids(&forebay, "from=2026-02-01T00:00:00Z").is_empty());
    assert!(ids(&forebay, "from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z").is_empty());
    assert_eq!(ids(&forebay, "q=message%2013%20of"), ["e13"], "letters match in either case");
    assert_eq!(ids(&forebay, "q=Z%C3%9CRICH&limit=6").len(), 20);
    assert_eq!(
        ids(&forebay, "q=message%201&service=db&order=oldest"),
        ["e01", "e11", "e13", "e15", "e17", "e19"]
    );

    let page = forebay.json("/events?limit=5");
    assert_eq!((page["events"].as_array().unwrap().len(), &page["partial"]), (5, &json!(false)));
    let page = forebay.json("/events?limit=20");
    assert_eq!(page["next_cursor"], json!(null), "nothing lies behind the last");
    assert_eq!(page.get("count"), None, "nobody asked");
    let page = forebay.json("/events?limit=5&count=true&service=db&from=2026-01-31T08:05:00Z");
    assert_eq!((page["events"].as_array().unwrap().len(), &page["count"]), (5, &json!(8)));
    assert_eq!(
        forebay.json("/events?count=true&q=message")["count"],
        json!(null),
        "searched, and not counted"
    );
}

/// A page goes on where it ended, also when events arrive in between.
pub fn paging_is_not_disturbed_by_what_arrives(place: &Place) {
    let forebay = filled(place);
    let first = forebay.json("/events?limit=10");
    forebay
        .post_json(
            r#"[{"service":"web","message":"new","event_id":"new","timestamp":"2026-02-01T00:00:00Z"}]"#,
        )
        .ok(202);
    forebay.stored("new");
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = forebay.json(&format!("/events?limit=10&cursor={cursor}"));
    assert_eq!(second["events"][0]["event_id"], "e09");
    assert_eq!(second["events"][9]["event_id"], "e00");
    assert_eq!(second["next_cursor"], json!(null));
}

/// Questions that make no sense are refused with what is wrong, and by its parameter's name.
pub fn questions_that_make_no_sense_are_refused(place: &Place) {
    let forebay = filled(place);
    let cursor = forebay.json("/events?limit=1")["next_cursor"].as_str().unwrap().to_owned();
    let other_order = format!("cursor={cursor}&order=oldest");
    let cut = format!("cursor={}", &cursor[1..]);
    let long = format!("q={}", "x".repeat(257));
    for (query, named) in [
        ("limit=1001", "limit"),
        ("limit=0", "limit"),
        ("limit=many", ""),
        ("limit=-1", ""),
        ("order=random", "order"),
        ("from=noon", "from"),
        ("to=99999999999999999", "to"),
        ("cursor=abc", "cursor"),
        (&cut, "cursor"),
        (&other_order, "cursor"),
        ("servce=web", "servce"),
        ("q=a&q=b", "q"),
        (&long, "q has 257 characters"),
        ("count=yes", "count"),
    ] {
        let error = forebay.get(&format!("/events?{query}")).error(400, "invalid_parameter");
        assert!(error["message"].as_str().unwrap().contains(named), "{query}: {error}");
    }
    for query in
        ["bucket=1y", "bucket=7s", "bucket=0m", "bucket=-1m", "bucket=99999999d", "group_by=host", "q=x"]
    {
        forebay.get(&format!("/events/stats?{query}")).error(400, "invalid_parameter");
    }
    assert_eq!(forebay.json("/events?limit=1000")["events"].as_array().unwrap().len(), 20);
}

/// Counts over time add up, by any bucket, by service and in any range, pieces of minutes included.
pub fn stats_add_up(place: &Place) {
    let forebay = filled(place);
    let stats = forebay.json("/events/stats?bucket=5m");
    assert_eq!(stats["bucket_seconds"], 300);
    let five = |minute: u32| json!({"bucket": format!("2026-01-31T08:{minute:02}:00Z"), "count": 5});
    assert_eq!(stats["buckets"], json!([five(0), five(5), five(10), five(15)]));

    let stats = forebay.json("/events/stats?bucket=1h&group_by=service");
    let ten = |service: &str| json!({"bucket": "2026-01-31T08:00:00Z", "count": 10, "service": service});
    assert_eq!(stats["buckets"], json!([ten("db"), ten("web")]));

    let stats = forebay.json("/events/stats?from=2026-01-31T08:05:31Z&to=2026-01-31T08:08:31Z&service=db");
    let one = |minute: u32| json!({"bucket": format!("2026-01-31T08:{minute:02}:00Z"), "count": 1});
    assert_eq!(stats["buckets"], json!([one(7)]), "the event of 08:05:30 lies before");
    assert_eq!(forebay.json("/events/stats")["bucket_seconds"], 60);
}

/// Scenario: a form sends every parameter, with nothing in it; or a name without `=`.
/// Guarantee: the answer is that to no parameters. `service=` asked for a service without a name, which there never is, and
/// `order=`, `cursor=`, `bucket=` and `group_by=` were refused. What is not known or given twice is refused as ever.
pub fn r0263_empty_parameters_were_taken_at_their_word(place: &Place) {
    let forebay = filled(place);
    let pages = "service=&from=&to=&q=&limit=&cursor=&order=&count=";
    let counts = "service=&from=&to=&bucket=&group_by=";
    for (path, empty) in [("/events", pages), ("/events/stats", counts)] {
        let all = forebay.json(path);
        for query in [empty.to_owned(), empty.replace('=', ""), empty.replace('&', "&&")] {
            assert_eq!(forebay.json(&format!("{path}?{query}")), all, "{path}?{query}");
        }
        for parameter in empty.split('&') {
            assert_eq!(forebay.json(&format!("{path}?{parameter}")), all, "{path}?{parameter}");
        }
        for query in ["servce=", "from=&from=", "service=&service=web"] {
            forebay.get(&format!("{path}?{query}")).error(400, "invalid_parameter");
        }
    }
    assert_eq!(ids(&forebay, "service=&order=oldest&limit=5&from=").len(), 20);
}

/// An event is what was posted; one that is not there is not found.
pub fn one_event_is_asked_for_by_its_id(place: &Place) {
    let forebay = place.start();
    let event = json!({"event_id": "a/b \u{fc}", "service": "web", "message": "m", "metadata": {"a": [1, null]},
        "timestamp": "2026-01-31T08:00:00.000001Z"});
    forebay.post_json(event.to_string()).ok(202);
    let mut found = forebay.stored("a%2Fb%20%C3%BC");
    assert!(found["ingested_at"].take().is_string());
    found.as_object_mut().unwrap().remove("ingested_at");
    assert_eq!(found, event);
    forebay.get("/events/none").error(404, "event_not_found");
}

/// Without a store the questions say so.
#[test]
fn without_a_store_there_is_no_answer() {
    let forebay = Place::empty().sink("nowhere", "{ type: blackhole }").start();
    for path in ["/events", "/events/abc", "/events/stats"] {
        forebay.get(path).error(404, "no_store");
    }
}
