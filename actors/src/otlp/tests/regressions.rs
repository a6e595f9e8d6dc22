//! What was broken once.

use proptest::prelude::*;

use super::*;

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
