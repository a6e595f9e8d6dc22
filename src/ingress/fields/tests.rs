//! Both ways of reading an event, against each other.

use super::*;

const MAX: usize = 10_000;

fn errors(text: &str) -> Vec<(String, String)> {
    let fast = Fields::of(text, MAX);
    assert!(fast.is_none(), "the fast way takes what the slow way refuses: {text}");
    Fields::explain(text, MAX).unwrap_err().into_iter().map(|e| (e.field, e.error)).collect()
}

fn draft(text: &str) -> String {
    let slow = Fields::explain(text, MAX).unwrap().with_draft(None, |d| format!("{d:?}"));
    let fast = Fields::of(text, MAX).unwrap();
    assert_eq!(fast.with_draft(None, |d| format!("{d:?}")), slow, "both ways agree on {text}");
    slow
}

/// Every wrong field is named with what would be right.
#[test]
fn every_wrong_field_is_named() {
    let found = errors(r#"{"service": 5, "timestamp": "noon", "metadata": [1], "event_id": ""}"#);
    let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(fields, ["service", "timestamp", "metadata", "event_id", "message"]);
    assert_eq!(found[0].1, "a string is needed, this is a number");
    assert!(errors(r#"{"service":"","message":"m"}"#)[0].1.contains("1 to 256"));
    assert!(errors(r#"{"service":"s","service":"s","message":"m"}"#)[0].1.contains("twice"));
    assert!(errors(r#"{"service":"s","message":null}"#)[0].1.contains("null"));
    assert!(errors(r#"[1]"#)[0].1.contains("an array"));
    assert!(errors(r#"{"service":"s","message":"m","timestamp":99999999999999999}"#)[0].1.contains("range"));
    assert!(errors(r#"{"service":"s","message":"m","timestamp":1e300}"#)[0].1.contains("range"));
    assert!(errors(r#"{"service":"s","message":"m","timestamp":true}"#)[0].1.contains("a boolean"));
}

/// 64 levels are taken, 65 are not, and brackets within strings do not count.
#[test]
fn metadata_nests_64_levels_at_most() {
    let event = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"service":"s","message":"m","metadata":{{"a":{open}{close}}}}}"#)
    };
    draft(&event(64));
    assert_eq!(errors(&event(65))[0].0, "metadata");
    // What Forebay does not know stands in the metadata, and so one level deeper.
    let unknown = |levels: usize| {
        let (open, close) = ("[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"service":"s","message":"m","x":{open}{close}}}"#)
    };
    draft(&unknown(63));
    assert_eq!(errors(&unknown(64))[0].0, "metadata");
    let brackets = "[{".repeat(100);
    draft(&format!(r#"{{"service":"s","message":"m","metadata":{{"a":"\"{brackets}"}}}}"#));
}

/// Unknown top-level fields are kept under metadata; nothing that was there is overwritten.
#[test]
fn unknown_fields_are_kept_under_metadata() {
    let text = r#"{"level":"warn","service":"s","message":"m","metadata":{"level":{"a":{}}},"n":[1]}"#;
    assert!(
        draft(text).contains(r#"{\"level\":{\"a\":{}},\"level_\":\"warn\",\"n\":[1]}"#),
        "{}",
        draft(text)
    );
    let text = r#"{"service":"s","message":"m","metadata":{ },"n":1}"#;
    assert!(draft(text).contains(r#"{ \"n\":1}"#), "{}", draft(text));
    assert!(draft(r#"{"service":"s","message":"m","n":1}"#).contains(r#"{\"n\":1}"#));
}

/// Half a character is JSON to the letter, but a reader of what is delivered may refuse it with all that stands
/// beside it.
#[test]
fn half_characters_are_refused() {
    for (field, half) in [
        ("message", r#""service":"s","message":"\ud800""#),
        ("service", r#""service":"\udc00\ud800","message":"m""#),
        ("metadata", r#""service":"s","message":"m","metadata":{"a":["\ud83d\ud83d\ude00"]}"#),
        ("metadata", r#""service":"s","message":"m","metadata":{"\uDC00":1}"#),
        ("x", r#""service":"s","message":"m","x":"\ud83d\n""#),
        ("", r#""service":"s","message":"m","\ud800":1"#),
    ] {
        let found = errors(&format!("{{{half}}}"));
        assert_eq!(found[0].0, field);
        assert!(found[0].1.contains("half of a character"), "{found:?}");
    }
    let whole =
        r#"{"service":"s","message":"m","metadata":{"\\ud800":"\ud83d\ude00\\\ud83d\ude00\u00e9\"é"}}"#;
    draft(whole);
}

/// Service, message, metadata and unknown fields may have so many bytes together, and not one more.
#[test]
fn an_event_has_so_many_bytes_at_most() {
    let event = |bytes: usize| {
        let message = "m".repeat(bytes - 1 - 2 - 2);
        format!(r#"{{"service":"s","message":"{message}","metadata":{{}},"x":1}}"#)
    };
    draft(&event(MAX));
    assert!(errors(&event(MAX + 1))[0].1.contains("10001 bytes"));
}

/// Times may be text or milliseconds; null is absent.
#[test]
fn times_and_nulls() {
    let event = |time: &str| draft(&format!(r#"{{"service":"s","message":"m","timestamp":{time}}}"#));
    assert_eq!(event("1500"), event("1.5e3"));
    assert_eq!(event("0"), event(r#""1970-01-01T01:00:00+01:00""#));
    assert!(event("null").contains("timestamp: None"));
}

fn metadata_of(tenant: Option<&Tenant>, text: &str) -> String {
    let read = |fields: Fields<'_>| fields.with_draft(tenant, |d| d.metadata.unwrap_or_default().to_owned());
    let slow = read(Fields::explain(text, MAX).unwrap());
    assert_eq!(read(Fields::of(text, MAX).unwrap()), slow, "{text}");
    slow
}

/// Whatever a sender says of its tenant, in the metadata, beside it, twice or in escapes, is replaced; everything else
/// stays as it was written.
#[test]
fn a_sender_cannot_be_another_tenant() {
    let tenant = Tenant { key: "tenant".to_owned(), value: "a\"cme".to_owned() };
    for (sent, expected) in [
        (r#""metadata":{}"#, r#"{"tenant":"a\"cme"}"#),
        (r#""metadata":{ }"#, r#"{"tenant":"a\"cme"}"#),
        (r#""metadata":null"#, r#"{"tenant":"a\"cme"}"#),
        (r#""metadata":{ "a" : 1.0 }"#, r#"{"tenant":"a\"cme","a" : 1.0 }"#),
        (r#""metadata":{"tenant":"other"}"#, r#"{"tenant":"a\"cme"}"#),
        (r#""metadata":{"tenant":"other","a":[1.0, 2],"tenant":{}}"#, r#"{"tenant":"a\"cme","a":[1.0, 2]}"#),
        (r#""metadata":{"te\u006eant":"other","a\u0062":1}"#, r#"{"tenant":"a\"cme","ab":1}"#),
        (
            r#""metadata":{"Tenant":"x","a":{"tenant":1}}"#,
            r#"{"tenant":"a\"cme","Tenant":"x","a":{"tenant":1}}"#,
        ),
        (r#""tenant":"other""#, r#"{"tenant":"a\"cme"}"#),
        (r#""tenant":"other","b":2,"metadata":{"tenant":3,"b":1}"#, r#"{"tenant":"a\"cme","b":1,"b_":2}"#),
    ] {
        let event = format!(r#"{{"service":"s","message":"m",{sent}}}"#);
        let stamped = metadata_of(Some(&tenant), &event);
        assert_eq!(stamped, expected, "{sent}");
        serde_json::from_str::<serde_json::Value>(&stamped).unwrap();
    }
    let bare = r#"{"service":"s","message":"m"}"#;
    assert_eq!(metadata_of(Some(&tenant), bare), r#"{"tenant":"a\"cme"}"#);
    let own = r#"{"service":"s","message":"m","tenant":"mine"}"#;
    assert_eq!(metadata_of(None, own), r#"{"tenant":"mine"}"#, "without a tenant nothing is replaced");
}

fn with_fields(count: usize, name: impl Fn(usize) -> String) -> String {
    let fields: String = (0..count).map(|i| format!(",\"{}\":0", name(i))).collect();
    format!(r#"{{"service":"s","message":"m"{fields}}}"#)
}

/// Scenario: an event of a thousand fields, of one more, and of very many.
/// Guarantee: the first is taken, and keeps them all; of the others the number is said. Each of them was compared with each other,
/// so one request of some megabytes kept a thread busy for minutes.
#[test]
fn r0270_many_fields_took_a_thread_for_minutes() {
    let different = |i| format!("f{i}");
    let kept = draft(&with_fields(FIELDS_MAX - 2, different));
    assert!(kept.contains(r#"\"f0\":0"#) && kept.contains(r#"\"f997\":0"#));
    for count in [FIELDS_MAX - 1, FIELDS_MAX, 300_000] {
        let found = errors(&with_fields(count, different));
        let said =
            format!("the event has {} fields; 1000 are allowed, more of them below metadata", count + 2);
        assert_eq!(found, [(String::new(), said)]);
    }
    let metadata: String = (0..500).map(|i| format!(",\"f{i}\":1")).collect();
    let text = with_fields(400, different);
    let text = text.replacen('{', &format!(r#"{{"metadata":{{"a":1{metadata}}},"#), 1);
    assert!(draft(&text).contains(r#"\"f399_\":0"#), "nothing that was there is overwritten");
}

/// Scenario: one field is given again and again.
/// Guarantee: what is wrong is said a few times, and then how often it is. A fault was said for each, of which a request had
/// millions: gigabytes of memory, and an answer to match.
#[test]
fn r0271_every_double_of_a_field_was_said() {
    let found = errors(&with_fields(900, |_| "a".to_owned()));
    assert_eq!(found.len(), ERRORS_MAX + 1);
    assert_eq!(found[ERRORS_MAX], (String::new(), format!("{} more are wrong", 899 - ERRORS_MAX)));
    assert_eq!(errors(&with_fields(300_000, |_| "a".to_owned())).len(), 1);
    assert_eq!(errors(&with_fields(COMPARED_MAX, |i| format!("f{}", i % (COMPARED_MAX - 1)))).len(), 1);
}

/// Scenario: names that are taken, with one `_` behind each other, and fields of all these names.
/// Guarantee: every one is kept under a name of its own. Each field tried all the names of the others.
#[test]
fn r0276_names_that_were_taken_were_tried_for_every_field() {
    let text = r#"{"a":1,"a_":2,"service":"s","message":"m","metadata":{"a":3,"a_":4,"a_2":5}}"#;
    let kept = draft(text);
    assert!(kept.contains(r#"{\"a\":3,\"a_\":4,\"a_2\":5,\"a_3\":1,\"a__\":2}"#), "{kept}");
    let names = |count: usize| (1..=count).map(|i| format!("\"a{}\":0", "_".repeat(i)));
    let metadata: Vec<_> = names(60).collect();
    let fields: Vec<_> = names(40).collect();
    let text = format!(
        r#"{{"service":"s","message":"m",{},"metadata":{{{}}}}}"#,
        fields.join(","),
        metadata.join(",")
    );
    assert_eq!(draft(&text).matches(r#"\":0"#).count(), 100);
}
