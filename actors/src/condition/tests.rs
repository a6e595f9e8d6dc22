//! Conditions against a slow oracle, on events of every kind.

use std::{cmp::Ordering, sync::Arc};

use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::{
    event::{Block, BlockBuilder, Draft, Stamp, Timestamp},
    otlp::wire::put_bytes,
    record::Record,
};

const PATHS: [&str; 7] =
    ["metadata.level", "metadata.a.b", "metadata.a", "metadata.n", "message", "service", "attributes.a.b"];

/// An event as the oracle sees it.
#[derive(Debug, Clone)]
struct Plain {
    signal: Option<Signal>,
    service: String,
    message: String,
    metadata: Value,
}

/// The value at a path, by trying every key that it begins with; several where keys with dots make it lead to several.
fn look<'v>(value: &'v Value, path: &str, found: &mut Vec<&'v Value>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        match path.strip_prefix(key.as_str()) {
            Some("") => found.push(value),
            Some(rest) if rest.starts_with('.') => look(value, &rest[1..], found),
            _ => {}
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn is(value: &Value, operand: &Operand) -> bool {
    match operand {
        Operand::Text(wanted) => text(value).is_some_and(|text| text == **wanted),
        Operand::Truth(wanted) => text(value) == Some(wanted.to_string()),
        Operand::Number(_) => compare(value, operand) == Some(Ordering::Equal),
        Operand::Time(_) => false,
    }
}

fn compare(value: &Value, operand: &Operand) -> Option<Ordering> {
    let Operand::Number(Number::Whole(wanted)) = operand else { return None };
    text(value)?.parse::<f64>().ok()?.partial_cmp(&(*wanted as f64))
}

fn passes(value: Option<&Value>, test: &Test) -> bool {
    let value = value.filter(|value| !value.is_null());
    let ordered = |operand: &Operand| value.and_then(|value| compare(value, operand));
    match test {
        Test::Equals(operand) => value.is_some_and(|value| is(value, operand)),
        Test::Differs(operand) => !value.is_some_and(|value| is(value, operand)),
        Test::OneOf(operands) => value.is_some_and(|value| operands.iter().any(|operand| is(value, operand))),
        Test::Exists(exists) => value.is_some() == *exists,
        Test::Less(operand) => ordered(operand) == Some(Ordering::Less),
        Test::LessOrEqual(operand) => matches!(ordered(operand), Some(Ordering::Less | Ordering::Equal)),
        Test::Greater(operand) => ordered(operand) == Some(Ordering::Greater),
        Test::GreaterOrEqual(operand) => {
            matches!(ordered(operand), Some(Ordering::Greater | Ordering::Equal))
        }
        Test::Contains(wanted) => value.is_some_and(|value| match value {
            Value::Array(elements) => elements.iter().any(|value| text(value).as_deref() == Some(wanted)),
            value => text(value).is_some_and(|text| text.contains(&**wanted)),
        }),
        Test::Matches(_) => unreachable!("the oracle knows no patterns"),
    }
}

fn holds(clause: &Clause, event: &Plain) -> bool {
    match clause {
        Clause::All(clauses) => clauses.iter().all(|clause| holds(clause, event)),
        Clause::Any(clauses) => clauses.iter().any(|clause| holds(clause, event)),
        Clause::Not(clause) => !holds(clause, event),
        Clause::Signal(signals) => signals.contains(&event.signal),
        Clause::Service(globs) => globs.iter().any(|glob| glob.matches(&event.service)),
        Clause::Field(field, tests) => {
            let own = |text: &str| Some(Value::from(text));
            let value = match field {
                Field::Own(Own::Service) => own(&event.service),
                Field::Own(Own::Message) => own(&event.message),
                Field::Own(_) => unreachable!("the oracle knows no others"),
                Field::Metadata(path) => {
                    let mut found = Vec::new();
                    look(&event.metadata, path, &mut found);
                    assert!(found.len() <= 1, "the generator makes no two places of one path");
                    found.first().map(|value| (*value).clone())
                }
            };
            tests.iter().all(|test| passes(value.as_ref(), test))
        }
    }
}

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(texts)
}

fn operand() -> impl Strategy<Value = Operand> {
    prop_oneof![
        (-1_i128..4).prop_map(|number| Operand::Number(Number::Whole(number))),
        one_of(&["warn", "error", "1", "true", "é\"\n"]).prop_map(|text| Operand::Text(text.into())),
        any::<bool>().prop_map(Operand::Truth),
    ]
}

fn test() -> impl Strategy<Value = Test> {
    prop_oneof![
        operand().prop_map(Test::Equals),
        operand().prop_map(Test::Differs),
        proptest::collection::vec(operand(), 0..3).prop_map(Test::OneOf),
        any::<bool>().prop_map(Test::Exists),
        operand().prop_map(Test::Less),
        operand().prop_map(Test::LessOrEqual),
        operand().prop_map(Test::Greater),
        operand().prop_map(Test::GreaterOrEqual),
        one_of(&["r", "1", "é"]).prop_map(|text| Test::Contains(text.into())),
    ]
}

fn clause() -> impl Strategy<Value = Clause> {
    let signal = proptest::sample::subsequence(
        vec![None, Some(Signal::Logs), Some(Signal::Metrics), Some(Signal::Traces)],
        0..=3,
    );
    let path = one_of(&PATHS).prop_map(|path| Field::parse(path).unwrap());
    let leaf = prop_oneof![
        signal.prop_map(Clause::Signal),
        proptest::collection::vec(one_of(&["shop", "cart-*", "*", "s?op"]), 0..2)
            .prop_map(|globs| Clause::Service(globs.iter().map(|glob| Glob::new(glob)).collect())),
        (path, proptest::collection::vec(test(), 0..3))
            .prop_map(|(field, tests)| Clause::Field(field, tests)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Clause::All),
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Clause::Any),
            inner.prop_map(|clause| Clause::Not(clause.into())),
        ]
    })
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-1_i64..4).prop_map(Value::from),
        Just(json!(1.5)),
        one_of(&["warn", "error", "1", "2.0", "true", "é\"\n"]).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        Just(json!(["error", 1, {"r": 1}])),
        Just(json!({"x": {}})),
    ]
}

fn metadata() -> impl Strategy<Value = Option<Value>> {
    let nested = |(key, value): (u8, Value)| match key {
        0 => json!({ "b": value }),
        1 => json!({ "c": 1, "b": value }),
        _ => value,
    };
    let parts = (
        proptest::option::of(scalar()),
        proptest::option::of(scalar()),
        proptest::option::of((0_u8..3, scalar()).prop_map(nested)),
        any::<bool>(),
        proptest::option::of(scalar()),
    );
    let object = parts.prop_map(|(level, n, a, is_flat, attribute)| {
        let mut object = serde_json::Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            value.map(|value| object.insert(key.to_owned(), value));
        };
        put("level", level);
        put("n", n);
        // One form or the other: with both, the order in the text would count, which a tree does not keep.
        if is_flat {
            put("a.b", a)
        } else {
            put("a", a)
        }
        put("attributes", attribute.map(|value| json!({ "a.b": value })));
        Value::Object(object)
    });
    proptest::option::weighted(0.9, object)
}

/// Service, message and metadata of an event.
type Generic = (String, String, Option<Value>);

/// The service of a resource, and of each of its log records the body and an attribute.
type Resource = (String, Vec<(String, String)>);

/// The events of a block.
fn events() -> impl Strategy<Value = Vec<Generic>> {
    let event = (prop_oneof!["shop", "cart-1", "web"], prop_oneof!["error", "warn 1", ""], metadata());
    proptest::collection::vec(event, 1..8)
}

/// The log records of a request.
fn logs() -> impl Strategy<Value = Vec<Resource>> {
    let records = proptest::collection::vec((prop_oneof!["error", "1"], prop_oneof!["2", "warn"]), 0..4);
    proptest::collection::vec((prop_oneof!["shop", "cart-1", ""], records), 1..4)
}

fn pair(key: &str, value: &str) -> Vec<u8> {
    let (mut any, mut pair) = (Vec::new(), Vec::new());
    put_bytes(&mut any, 1, value.as_bytes());
    put_bytes(&mut pair, 1, key.as_bytes());
    put_bytes(&mut pair, 2, &any);
    pair
}

fn logs_block(resources: &[Resource]) -> (Block, u32) {
    let (mut request, mut count) = (Vec::new(), 0);
    for (service, records) in resources {
        let (mut resource, mut of_scope, mut of_resource) = (Vec::new(), Vec::new(), Vec::new());
        put_bytes(&mut resource, 1, &pair("service.name", service));
        for (body, attribute) in records {
            let (mut text, mut record) = (Vec::new(), Vec::new());
            put_bytes(&mut text, 1, body.as_bytes());
            put_bytes(&mut record, 5, &text);
            put_bytes(&mut record, 6, &pair("a.b", attribute));
            put_bytes(&mut of_scope, 2, &record);
            count += 1;
        }
        put_bytes(&mut of_resource, 1, &resource);
        put_bytes(&mut of_resource, 2, &of_scope);
        put_bytes(&mut request, 1, &of_resource);
    }
    (Block::otlp(Signal::Logs, &request, count), count)
}

fn events_blocks(events: &[Generic]) -> Vec<Block> {
    let mut builder = BlockBuilder::default();
    for (service, message, metadata) in events {
        let metadata = metadata.as_ref().map(Value::to_string);
        let (event_id, timestamp) = (None, Some(Timestamp::from_nanos(1)));
        builder.push(&Draft { event_id, timestamp, service, message, metadata: metadata.as_deref() });
    }
    builder.finish()
}

/// A batch over all of this, some events in each of its records, without the first and the last so many.
fn batch(parts: &[(Vec<Generic>, Vec<Resource>)], less: (u64, u64)) -> Option<Arc<Batch>> {
    let stamp = Stamp { first_id: Uuid::from_u128(7), ingested_at: Timestamp::from_nanos(42) };
    let (mut records, mut at) = (Vec::new(), Position(5));
    for (events, logs) in parts {
        let (block, items) = logs_block(logs);
        let mut blocks = events_blocks(events);
        if items > 0 {
            blocks.push(block);
        }
        let count = blocks.iter().map(Block::count).sum();
        let payload: Vec<u8> =
            blocks.into_iter().flat_map(|block| block.stamped(stamp).bytes().to_vec()).collect();
        let record = Record { first: at, count, written_at: stamp.ingested_at, payload: payload.into() };
        at = record.end();
        records.push(Arc::new(record));
    }
    let span = Span { first: Position(5 + less.0), end: Position(at.0.saturating_sub(less.1)) };
    let overlaps = |record: &Arc<Record>| record.first < span.end && record.end() > span.first;
    records.retain(overlaps);
    (span.first < span.end).then(|| Arc::new(Batch::new(span, records)))
}

/// The events of a batch with their positions.
fn read(batch: &Batch) -> Vec<(Position, Plain)> {
    let (mut events, mut found) = (batch.events(), Vec::new());
    while let Some(at) = events.position() {
        let (signal, event) = events.next_of().unwrap().unwrap();
        let metadata = event.metadata.map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
        let (service, message) = (event.service.to_owned(), event.message.to_owned());
        found.push((at, Plain { signal, service, message, metadata }));
    }
    found
}

/// The positions of a batch by its parts: requests of OpenTelemetry are read from their own bytes.
fn read_parts(batch: &Batch) -> Vec<String> {
    let (mut parts, mut found) = (batch.events(), Vec::new());
    while let Some(part) = parts.next_part() {
        match part.unwrap() {
            crate::record::Part::Event(event) => found.push(event.message.to_owned()),
            crate::record::Part::Otlp { signal, request, span, .. } => {
                let mut rows = crate::otlp::Rows::of(&request, signal);
                let before = found.len() as u64;
                while let Some(row) = rows.next_row() {
                    found.push(row.message.to_owned());
                }
                let items = found.len() as u64 - before;
                assert!(items > 0 && items <= span.count(), "{items} in {span:?}");
                assert!(span.first >= batch.span().first && span.end <= batch.span().end);
            }
        }
    }
    found
}

proptest! {
    /// What a sink with a condition gets is what the oracle takes, in order and at its positions; with what was left out
    /// it is everything. It is so by events, by requests of OpenTelemetry, one by one, and however the view is halved.
    #[test]
    fn a_view_is_what_the_condition_takes(
        parts in proptest::collection::vec((events(), logs()), 1..4),
        less in (0_u64..4, 0_u64..4),
        clause in clause(),
    ) {
        let Some(batch) = batch(&parts, less) else { return Ok(()) };
        let all = read(&batch);
        prop_assert_eq!(all.len() as u64, batch.count());
        let expected: Vec<_> = all.iter().filter(|(_, event)| holds(&clause, event)).collect();
        let positions: Vec<_> = expected.iter().map(|(at, _)| *at).collect();
        let condition = Condition::new(clause).unwrap();
        let Some(view) = condition.view(&batch) else {
            prop_assert!(expected.is_empty(), "{:?} were left out", positions);
            return Ok(());
        };
        let found = read(&view);
        prop_assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), positions.clone());
        prop_assert_eq!(view.span(), batch.span());
        prop_assert_eq!(view.count(), positions.len() as u64);
        let messages: Vec<_> = expected.iter().map(|(_, event)| event.message.clone()).collect();
        prop_assert_eq!(found.iter().map(|(_, event)| event.message.clone()).collect::<Vec<_>>(), messages.clone());
        prop_assert_eq!(read_parts(&view), messages);
        prop_assert_eq!(view.id() == batch.id(), view.count() == batch.count());

        let (mut halves, mut alone) = (vec![(*view).clone()], Vec::new());
        while let Some(half) = halves.pop() {
            match half.halves() {
                Some((first, second)) => {
                    prop_assert!(first.count() > 0 && second.count() > 0);
                    prop_assert_eq!(first.count() + second.count(), half.count());
                    prop_assert_eq!(first.span().count() + second.span().count(), half.span().count());
                    halves.extend([second, first]);
                }
                None => alone.extend(read(&half).into_iter().map(|(at, _)| at)),
            }
        }
        prop_assert_eq!(alone, positions);
    }
}

fn field(name: &str, test: Test) -> Clause {
    Clause::Field(Field::parse(name).unwrap(), vec![test])
}

fn one(message: &str, metadata: &str) -> Arc<Batch> {
    let event = ("shop".to_owned(), message.to_owned(), Some(serde_json::from_str(metadata).unwrap()));
    batch(&[(vec![event], vec![])], (0, 0)).unwrap()
}

fn takes(clause: Clause, batch: &Arc<Batch>) -> bool {
    Condition::new(clause).unwrap().view(batch).is_some()
}

/// Patterns, moments, and numbers that a float cannot tell apart.
#[test]
fn what_the_oracle_does_not_know() {
    let event = one("GET /cart took 7 ms", r#"{"id": 9007199254740993, "ratio": 0.5}"#);
    let pattern = |text| Test::Matches(Pattern::new(text).unwrap());
    assert!(takes(field("message", pattern(r"^GET .* \d+ ms$")), &event));
    assert!(takes(field("message", pattern("(?i)get /CART")), &event));
    assert!(!takes(field("message", pattern("^cart")), &event));
    assert!(takes(field("metadata.id", pattern("3$")), &event));
    let whole = |number| Operand::Number(Number::Whole(number));
    assert!(takes(field("metadata.id", Test::Equals(whole(9_007_199_254_740_993))), &event));
    assert!(!takes(field("metadata.id", Test::Equals(whole(9_007_199_254_740_992))), &event));
    assert!(takes(field("metadata.ratio", Test::Less(whole(1))), &event));
    let time = |nanos| Operand::Time(Timestamp::from_nanos(nanos));
    assert!(takes(field("timestamp", Test::Equals(time(1))), &event));
    assert!(takes(field("ingested_at", Test::GreaterOrEqual(time(42))), &event));
    assert!(!takes(field("timestamp", Test::Greater(time(1))), &event));
}

/// Scenario: the second of three events cannot be read, so neither can the third.
/// Guarantee: both are in the view, whatever the condition says: their account is the delivery's. The first is left out.
#[test]
fn what_cannot_be_read_is_taken() {
    let events: Vec<_> = (0..3).map(|_| ("shop".to_owned(), "m".to_owned(), None)).collect();
    let whole = batch(&[(events, vec![])], (0, 0)).unwrap();
    let record = whole.records()[0].clone();
    let event_bytes = (record.payload.len() - 32) / 3;
    let mut payload = record.payload.to_vec();
    payload[32 + event_bytes] = 0xc1;
    let damaged = Record { payload: payload.into(), ..(*record).clone() };
    let damaged = Arc::new(Batch::new(whole.span(), vec![damaged.into()]));
    let condition = Condition::new(field("message", Test::Equals(Operand::Text("other".into())))).unwrap();
    let view = condition.view(&damaged).unwrap();
    assert_eq!(view.count(), 2);
    assert_eq!(view.events().position(), Some(Position(6)));
    assert!(condition.view(&whole).is_none());
}

/// Fields are known by their names, and what is not one is answered with what would be.
#[test]
fn fields_have_names() {
    assert_eq!(Field::parse("message"), Ok(Field::Own(Own::Message)));
    assert_eq!(Field::parse("metadata.a.b"), Ok(Field::Metadata("a.b".into())));
    assert_eq!(Field::parse("resource.attributes.x"), Ok(Field::Metadata("resource.attributes.x".into())));
    for (name, said) in [
        ("level", "did you mean `metadata.level`?"),
        ("message.x", "did you mean `metadata.x`?"),
        ("metadata.", "ends with a dot"),
        ("metadata", "is not a field"),
    ] {
        let why = Field::parse(name).unwrap_err();
        assert!(why.contains(said), "{name}: {why}");
    }
}

/// Limits are kept and named.
#[test]
fn conditions_have_limits() {
    let deep = (0..=DEPTH_MAX).fold(Clause::Any(vec![]), |clause, _| Clause::Not(clause.into()));
    let wide = Clause::Service(vec![Glob::new("a"); TESTS_MAX + 1]);
    let pattern = || field("message", Test::Matches(Pattern::new("a").unwrap()));
    let patterns = Clause::All((0..=PATTERNS_MAX).map(|_| pattern()).collect());
    for (clause, said) in [(deep, "levels"), (wide, "257 tests"), (patterns, "17 patterns")] {
        let why = Condition::new(clause).unwrap_err();
        assert!(why.contains(said), "{why}");
    }
    for (pattern, said) in [
        ("(", "no regular expression: unclosed group"),
        (r"\w{5000}", "is larger"),
        (&"a".repeat(1025), "is longer"),
    ] {
        let why = Pattern::new(pattern).unwrap_err();
        assert!(why.contains(said) && !why.contains('\n'), "{why}");
    }
}
