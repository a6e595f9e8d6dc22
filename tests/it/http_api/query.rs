//! Questions to the event store.

use serde_json::json;

use crate::support::{
    binary::{Forebay, Place},
    until,
};

/// 20 events of two services, a minute apart, from 2026-01-31T08:00:00Z on.
fn filled() -> Forebay {
    let forebay = Place::new().start();
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
#[test]
fn pages_are_what_was_asked_for() {
    let forebay = filled();
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
}

/// A page goes on where it ended, also when events arrive in between.
#[test]
fn paging_is_not_disturbed_by_what_arrives() {
    let forebay = filled();
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
#[test]
fn questions_that_make_no_sense_are_refused() {
    let forebay = filled();
    let cursor = forebay.json("/events?limit=1")["next_cursor"].as_str().unwrap().to_owned();
    let other_order = format!("cursor={cursor}&order=oldest");
    let cut = format!("cursor={}", &cursor[1..]);
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
#[test]
fn stats_add_up() {
    let forebay = filled();
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

/// Without a `store` sink the questions say so.
#[test]
fn without_a_store_there_is_no_answer() {
    let forebay = Place::empty().sink("nowhere", "{ type: blackhole }").start();
    for path in ["/events", "/events/abc", "/events/stats"] {
        forebay.get(path).error(404, "no_store");
    }
}
