//! What was broken once.

use proptest::prelude::*;

use super::*;
use crate::otlp::json::write_members;

/// As long as what is walked over once never takes, and what is walked over again for each item does.
const WALKED_ONCE: std::time::Duration = std::time::Duration::from_secs(30);

/// A log record of these bytes, in its request.
fn of_record(record: &[u8]) -> Vec<u8> {
    [2, 2, 1].into_iter().fold(record.to_vec(), |inner, number| {
        let mut out = Vec::new();
        put_bytes(&mut out, number, &inner);
        out
    })
}

/// A field of bytes.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, number, bytes);
    out
}

/// Scenario: a list of numbers, packed, one of which is longer than 64 bits.
/// Guarantee: it is refused. It was taken, and no destination that decodes could have read the request.
#[test]
fn r0451_a_packed_number_of_more_than_64_bits_was_taken() {
    let buckets = |last: u8| {
        let packed = [&[0xff; 9][..], &[last]].concat();
        // request, resource, scope, metric, exponential histogram, point, positive
        let path = [8, 1, 10, 2, 2, 1];
        path.into_iter().fold(field(2, &packed), |inner, number| field(number, &inner))
    };
    assert_eq!(check(&buckets(1), Signal::Metrics), Ok(()));
    assert!(check(&buckets(2), Signal::Metrics).is_err());
}

/// Scenario: groups and other unknown fields within messages that nest deep already.
/// Guarantee: all levels count together, as for everybody else who reads it. Groups had a count of their own.
#[test]
fn r0452_groups_did_not_count_the_messages_around_them() {
    let nested = |values: usize, groups: usize| {
        let mut value = [vec![0x7b; groups], vec![0x7c; groups]].concat();
        for _ in 0..values {
            value = field(5, &field(1, &value));
        }
        of_record(&field(5, &value))
    };
    assert_eq!(check(&nested(0, 95), Signal::Logs), Ok(()));
    assert_eq!(check(&nested(40, 15), Signal::Logs), Ok(()));
    for (values, groups) in [(0, 97), (40, 17), (48, 1)] {
        let error = check(&nested(values, groups), Signal::Logs).unwrap_err();
        assert_eq!(error.reason, wire::TOO_DEEP, "{values} {groups}");
    }
}

proptest! {
    /// Scenario: a number with as many digits as it takes.
    /// Guarantee: it is the same number in protobuf. It was its neighbour for some, as serde_json reads them.
    #[test]
    fn r0453_a_double_in_json_became_its_neighbour(bits: u64) {
        let number = Some(f64::from_bits(bits)).filter(|number| number.is_finite()).unwrap_or(31.245270191439438);
        for number in [number, 31.245270191439438, 2.638344616030823e-256] {
            let text = format!(
                r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{{"doubleValue":{number:?}}}}}]}}]}}]}}"#
            );
            let value = [&[4 << 3 | 1][..], &number.to_le_bytes()].concat();
            prop_assert_eq!(read(Signal::Logs, &text).unwrap(), of_record(&field(5, &value)));
        }
    }
}

/// A number that is none, or too large for one, is an error with its place, in a field and in a list.
#[test]
fn wrong_doubles_have_a_place() {
    for value in ["1e999", "true", "{}", "[1]", "\"1e999\"", "\"inf\"", "\"\"", "nan"] {
        for bounds in [format!("\"sum\":{value}"), format!("\"explicitBounds\":[1,{value}]")] {
            let text = format!(
                r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"histogram":{{"dataPoints":[{{{bounds}}}]}}}}]}}]}}]}}"#
            );
            let error = read(Signal::Metrics, &text).unwrap_err();
            assert!(error.line() == 1 && error.column() > 80, "{bounds}: {error}");
        }
    }
}

/// Scenario: a value of which two kinds are set.
/// Guarantee: its JSON says the last one, which is what it is. It said both, and whoever read that took either.
#[test]
fn r0454_of_a_choice_json_said_more_than_one() {
    let value = [field(1, b"text"), vec![3 << 3, 7]].concat();
    let request = of_record(&field(5, &value));
    let mut text = Vec::new();
    write(&request, Signal::Logs.request(), Style::Protocol, &mut text);
    let text: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(text["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["body"], json!({"intValue": "7"}));
}

/// Scenario: a body with a field behind its text that nobody knows yet; and one that is a place in a table of profiles.
/// Guarantee: the text is the message as it is. It stood there in quotes. A place in a table is no text.
#[test]
fn r0455_an_unknown_field_put_the_body_in_quotes() {
    let message = |value: Vec<u8>| {
        let request = of_record(&field(5, &value));
        Rows::of(&request, Signal::Logs).next_row().unwrap().message.to_owned()
    };
    assert_eq!(message([field(1, b"text"), vec![15 << 3, 7]].concat()), "text");
    assert_eq!(message(vec![8 << 3, 7]), "null");
}

/// Scenario: a value where the protocol has a list.
/// Guarantee: it is an error that names the field. It was taken for a list of one.
#[test]
fn r0458_a_value_was_taken_for_a_list() {
    for member in [r#""idKeys":"a""#, r#""descriptionKeys":7"#, r#""idKeys":{}"#] {
        let text = format!(r#"{{"resourceLogs":[{{"resource":{{"entityRefs":[{{{member}}}]}}}}]}}"#);
        let error = read(Signal::Logs, &text).unwrap_err().to_string();
        assert!(error.contains("a list for `") && error.contains("line 1 column"), "{member}: {error}");
    }
    for value in ["1", "\"NaN\"", "[[1]]", "[{}]", "[null]"] {
        let text = format!(
            r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"histogram":{{"dataPoints":[{{"explicitBounds":{value}}}]}}}}]}}]}}]}}"#
        );
        let error = read(Signal::Metrics, &text).unwrap_err().to_string();
        assert!(error.contains("`explicitBounds`"), "{value}: {error}");
    }
}

/// Scenario: one metric of very many points, all of a kind, or of two kinds that take turns.
/// Guarantee: each is a row as soon as it is read. For each row all points were walked over, which took minutes, for ever.
#[test]
fn r0290_every_point_was_walked_over_for_every_point() {
    const POINTS: usize = 200_000;
    let points = field(5, &[0x0a, 0].repeat(POINTS));
    let turns = [field(5, &[0x0a, 0]), field(7, &[0x0a, 0])].concat().repeat(POINTS / 2);
    for metric in [points, turns] {
        let request = [2, 2, 1].into_iter().fold(metric, |inner, number| field(number, &inner));
        let began = tokio::time::Instant::now();
        let (mut rows, mut count) = (Rows::of(&request, Signal::Metrics), 0);
        while let Some(row) = rows.next_row() {
            assert!(row.metadata.len() < 50, "{}", row.metadata);
            count += 1;
            assert!(began.elapsed() < WALKED_ONCE, "only {count} of {POINTS} rows so far");
        }
        assert_eq!(count, POINTS);
    }
}

proptest! {
    /// Scenario: metrics of several kinds, in turns, with and without points, whose fields stand in any order.
    /// Guarantee: the row of a point says what it did when it was written for each anew: of its metric, of the last message of its
    /// kind there, and of itself.
    #[test]
    fn r0291_a_point_says_what_stands_around_it(
        metrics in prop::collection::vec(prop::collection::vec((0_usize..5, 0_u8..3, 0_u64..3), 0..6), 1..4),
        description_first in any::<bool>(),
    ) {
        let metric = |(index, data): (usize, &Vec<(usize, u8, u64)>)| {
            let name = field(1, &[b'a' + index as u8]);
            let description = field(2, b"of them");
            let data = data.iter().flat_map(|&(kind, temporality, points)| {
                let point = |start: u64| field(1, &[&[2 << 3 | 1][..], &(start + 1).to_le_bytes()].concat());
                let all: Vec<u8> = (0..points).flat_map(point).chain([2 << 3, temporality]).collect();
                field([5, 7, 9, 10, 11][kind], &all)
            });
            let data: Vec<u8> = data.collect();
            let parts = if description_first { [name, description, data] } else { [data, description, name] };
            field(2, &parts.concat())
        };
        let metrics: Vec<u8> = metrics.iter().enumerate().flat_map(metric).collect();
        let request = field(1, &field(2, &metrics));
        prop_assert_eq!(check(&request, Signal::Metrics), Ok(()));
        let mut rows = Rows::of(&request, Signal::Metrics);
        for item in Items::of(&request, Signal::Metrics) {
            let row = rows.next_row().unwrap();
            prop_assert_eq!(row.message.as_bytes(), Members::of(item.metric).data(1));
            prop_assert_eq!(row.metadata, point_alone(&item));
        }
        prop_assert!(rows.next_row().is_none());
    }
}

/// The metadata of a point without a time, a resource and a scope.
fn point_alone(item: &Item<'_>) -> String {
    let of = |field: &schema::Field| match field.kind {
        schema::Kind::Message(of) => of,
        kind => panic!("{kind:?} is no message"),
    };
    let kind = schema::METRIC.field(item.metric_kind).unwrap();
    let data = Members::of(item.metric).data(item.metric_kind);
    let mut out = format!("{{\"signal\":\"metrics\",\"type\":\"{}\"", kind.name).into_bytes();
    write_members(item.metric, &schema::METRIC, Style::Natural, &[1, 5, 7, 9, 10, 11], &mut out);
    write_members(data, of(kind), Style::Natural, &[1], &mut out);
    write_members(item.bytes, of(of(kind).field(1).unwrap()), Style::Natural, &[], &mut out);
    out.push(b'}');
    String::from_utf8(out).unwrap()
}

/// Scenario: a value in lists within each other, in each of which a field that nobody knows stands between two values.
/// Guarantee: its JSON is written in one go. What was inside was written twice at each level, which had no end for some 500 bytes.
#[test]
fn r0292_lists_out_of_order_were_written_twice_at_each_level() {
    const LEVELS: usize = 28;
    let unknown = [2 << 3, 1];
    let lists = (0..LEVELS).fold(field(1, b"in"), |inner, _| {
        field(5, &[&field(1, &inner)[..], &unknown, &field(1, b"")].concat())
    });
    let request = of_record(&field(5, &lists));
    assert_eq!(check(&request, Signal::Logs), Ok(()));
    let (began, mut text) = (tokio::time::Instant::now(), Vec::new());
    write(&request, Signal::Logs.request(), Style::Protocol, &mut text);
    assert!(began.elapsed() < WALKED_ONCE / 10);
    let text = String::from_utf8(text).unwrap();
    assert_eq!((text.matches("arrayValue").count(), text.matches("\"in\"").count()), (LEVELS, 1));
}
