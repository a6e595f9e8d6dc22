//! Requests of every signal, from JSON and back.

use serde::de::DeserializeSeed as _;
use serde_json::{Value, json};

use super::{
    json::{RequestSeed, Style, write},
    wire::{put_bytes, put_varint},
    *,
};

mod cutting;
mod regressions;

fn attribute(key: &str, value: Value) -> Value {
    json!({"key": key, "value": value})
}

fn resource(name: &str) -> Value {
    json!({"attributes": [attribute("service.name", json!({"stringValue": name}))]})
}

fn logs() -> Value {
    let record = |body: Value, time: &str| {
        json!({
            "timeUnixNano": time, "severityNumber": 9, "severityText": "INFO", "body": body,
            "attributes": [
                attribute("text", json!({"stringValue": "a \"quote\"\n"})),
                attribute("int", json!({"intValue": "-9223372036854775808"})),
                attribute("false", json!({"boolValue": false})),
                attribute("double", json!({"doubleValue": 637.704})),
                attribute("zero", json!({"doubleValue": 0.0})),
                attribute("bytes", json!({"bytesValue": "aGVsbG8="})),
                attribute("list", json!({"arrayValue": {"values": [{"stringValue": "x"}, {"intValue": "0"}]}})),
                attribute("map", json!({"kvlistValue": {"values": [attribute("k", json!({"stringValue": "v"}))]}})),
            ],
            "flags": 1, "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174",
        })
    };
    json!({"resourceLogs": [
        {"resource": resource("api"), "scopeLogs": [
            {"scope": {"name": "lib", "version": "1"}, "logRecords": [
                record(json!({"stringValue": "first"}), "1544712660300000000"),
                record(json!({"kvlistValue": {"values": [attribute("a", json!({"intValue": "1"}))]}}), "1544712660300000001"),
            ]},
            {"logRecords": [record(json!({"stringValue": "third"}), "1544712660300000002")], "schemaUrl": "http://127.0.0.1/s"},
        ]},
        {"scopeLogs": [{"logRecords": [{"body": {"stringValue": "bare"}}]}]},
    ]})
}

fn metrics() -> Value {
    json!({"resourceMetrics": [{"resource": resource("shop"), "scopeMetrics": [{"scope": {"name": "m"}, "metrics": [
        {"name": "load", "unit": "1", "gauge": {"dataPoints": [
            {"timeUnixNano": "5", "asDouble": 0.5, "attributes": [attribute("cpu", json!({"intValue": "0"}))]},
            {"timeUnixNano": "5", "asInt": "0"},
        ]}},
        {"name": "requests", "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [
            {"startTimeUnixNano": "1", "timeUnixNano": "6", "asInt": "-3"},
        ]}},
        {"name": "latency", "histogram": {"aggregationTemporality": 1, "dataPoints": [
            {"timeUnixNano": "7", "count": "3", "sum": 1.5, "bucketCounts": ["1", "2", "0"], "explicitBounds": [0.1, 1.0], "min": 0.0, "max": 9.0,
             "exemplars": [{"timeUnixNano": "7", "asDouble": 0.0, "spanId": "eee19b7ec3c1b174"}]},
        ]}},
        {"name": "sizes", "exponentialHistogram": {"aggregationTemporality": 1, "dataPoints": [
            {"timeUnixNano": "8", "count": "2", "scale": -3, "zeroCount": "1", "positive": {"offset": -1, "bucketCounts": ["1", "300"]}},
        ]}},
        {"name": "quantiles", "summary": {"dataPoints": [
            {"timeUnixNano": "9", "count": "2", "sum": "NaN", "quantileValues": [{"quantile": 0.5, "value": "Infinity"}]},
        ]}},
    ]}]}]})
}

fn traces() -> Value {
    json!({"resourceSpans": [{"resource": resource("web"), "scopeSpans": [{"scope": {"name": "t"}, "spans": [
        {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "parentSpanId": "eee19b7ec3c1b173",
         "name": "I'm a server span", "kind": 2, "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000",
         "events": [{"timeUnixNano": "3", "name": "e"}], "links": [{"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174"}],
         "status": {"message": "bad", "code": 2}},
    ]}]}]})
}

fn every_signal() -> [(Signal, Value, usize); 3] {
    [(Signal::Logs, logs(), 4), (Signal::Metrics, metrics(), 6), (Signal::Traces, traces(), 1)]
}

fn read(signal: Signal, json: &str) -> serde_json::Result<Vec<u8>> {
    RequestSeed(signal).deserialize(&mut serde_json::Deserializer::from_str(json))
}

fn request(signal: Signal, json: &Value) -> Vec<u8> {
    read(signal, &json.to_string()).unwrap()
}

/// The JSON of a request becomes protobuf that decoders take, and the same JSON again.
#[test]
fn json_round_trips_through_protobuf() {
    for (signal, json, items) in every_signal() {
        let bytes = request(signal, &json);
        assert_eq!(check(&bytes, signal), Ok(()), "{signal:?}");
        assert_eq!(Items::of(&bytes, signal).count(), items, "{signal:?}");
        let mut back = Vec::new();
        write(&bytes, signal.request(), Style::Protocol, &mut back);
        assert_eq!(serde_json::from_slice::<Value>(&back).unwrap(), json, "{signal:?}");
    }
}

/// What a lenient reader of the protocol takes: ids in upper case, numbers as numbers and texts, `null`, unknown names at
/// every depth, both kinds of base64.
#[test]
fn json_is_read_as_the_protocol_wants_it() {
    let strict = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {"timeUnixNano": "17", "severityNumber": 10, "traceId": "5b8efff798038103d269b633813fc60c", "body": {"bytesValue": "+/8="}},
    ]}]}]});
    let lenient = json!({"unknown": [1, {}], "resourceLogs": [{"x": null, "resource": null, "scopeLogs": [{"y": {"z": 1}, "logRecords": [
        {"timeUnixNano": 17, "severityNumber": 10.0, "traceId": "5B8EFFF798038103D269B633813FC60C", "body": {"bytesValue": "-_8", "w": 1},
         "flags": 0, "severityText": "", "attributes": []},
    ]}]}]});
    assert_eq!(request(Signal::Logs, &lenient), request(Signal::Logs, &strict));
}

/// What cannot be meant is an error that names the field and the place.
#[test]
fn wrong_json_names_the_field() {
    let record = |field: &str, value: Value| {
        let text = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{field: value}]}]}]}).to_string();
        read(Signal::Logs, &text).unwrap_err().to_string()
    };
    for (field, value) in [
        ("traceId", json!("xyz")),
        ("traceId", json!("abc")),
        ("timeUnixNano", json!("-1")),
        ("timeUnixNano", json!(true)),
        ("severityNumber", json!("SEVERITY_NUMBER_INFO")),
        ("severityNumber", json!(3_000_000_000_u64)),
        ("severityText", json!(3)),
        ("attributes", json!({"a": 1})),
        ("body", json!("text")),
        ("flags", json!(1.5)),
    ] {
        let error = record(field, value.clone());
        assert!(
            error.contains(&format!("`{field}`")) && error.contains("line 1"),
            "{field}: {value}: {error}"
        );
    }
    let deep = "{\"arrayValue\":{\"values\":[".repeat(200) + &"]}}".repeat(200);
    let text = format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{{\"body\":{deep}}}]}}]}}]}}");
    assert!(read(Signal::Logs, &text).is_err());
}

/// The SDK for JavaScript calls every whole number an integer, also `1e300`; one such attribute cost the whole request.
#[test]
fn r0442_a_whole_number_too_large_for_an_integer_refused_the_request() {
    let body = |value: &str| {
        let record = format!(r#"{{"body":{{"intValue":{value}}}}}"#);
        read(Signal::Logs, &format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{record}]}}]}}]}}"#))
    };
    let message = |value: &str| {
        let bytes = body(value).unwrap();
        Rows::of(&bytes, Signal::Logs).next_row().unwrap().message.to_owned()
    };
    assert_eq!(message("1e+300"), "1e300");
    assert_eq!(message("-9223372036854775809"), "-9.223372036854776e18");
    assert_eq!(message("18446744073709551615"), "1.8446744073709552e19");
    assert_eq!(message("9223372036854775807"), "9223372036854775807", "what fits stays as it is");
    assert!(body("0.5").unwrap_err().to_string().contains("`intValue`"), "which is no whole number");
    let number = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": 1e300}]}]}]});
    assert!(read(Signal::Logs, &number.to_string()).is_err(), "elsewhere there is no other to take");
}

/// A Collector writes ids that are not there as empty ones; behind it, the same record was another row.
#[test]
fn r0444_an_id_that_is_not_there_was_told_as_an_empty_one() {
    let metadata = |record: &[u8]| {
        let mut message = record.to_vec();
        for number in [2, 2, 1] {
            let inner = std::mem::take(&mut message);
            put_bytes(&mut message, number, &inner);
        }
        check(&message, Signal::Logs).unwrap();
        Rows::of(&message, Signal::Logs).next_row().unwrap().metadata.to_owned()
    };
    let mut written = Vec::new();
    for id in [9, 10] {
        put_bytes(&mut written, id, b"");
    }
    put_varint(&mut written, 7 << 3);
    put_varint(&mut written, 0);
    assert_eq!(metadata(&written), metadata(b""));
}

/// A request cut off anywhere, or with a bit flipped, is taken or refused, and whatever is taken can be walked over.
#[test]
fn damaged_requests_do_no_harm() {
    for (signal, json, _) in every_signal() {
        let bytes = request(signal, &json);
        let look = |damaged: &[u8]| {
            let _ = check(damaged, signal);
            let mut rows = Rows::of(damaged, signal);
            while let Some(row) = rows.next_row() {
                assert!(serde_json::from_str::<Value>(row.metadata).is_ok(), "{}", row.metadata);
            }
            select(damaged, signal, |_| true);
        };
        (0..bytes.len()).for_each(|cut| look(&bytes[..cut]));
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                look(&flipped);
            }
        }
    }
}

/// A thousand values within each other, which no decoder would take.
#[test]
fn what_nests_too_deep_is_refused() {
    let mut value = Vec::new();
    for _ in 0..1000 {
        let mut list = Vec::new();
        put_bytes(&mut list, 1, &value);
        value.clear();
        put_bytes(&mut value, 5, &list);
    }
    for number in [5, 2, 2, 1] {
        let inner = std::mem::take(&mut value);
        put_bytes(&mut value, number, &inner);
    }
    // record.body, scope.records, resource.scopes, request.resources
    let error = check(&value, Signal::Logs).unwrap_err();
    assert!(error.reason.contains("nest"), "{error}");
}

/// A field in another wire type than the protocol's, and text that is none.
#[test]
fn wrong_bytes_are_refused_with_their_place() {
    let logs = |record: &[u8]| {
        [2, 2, 1].into_iter().fold(record.to_vec(), |inner, number| {
            let mut out = Vec::new();
            put_bytes(&mut out, number, &inner);
            out
        })
    };
    let mut number_as_text = Vec::new();
    put_bytes(&mut number_as_text, 2, b"9");
    assert_eq!(check(&logs(&number_as_text), Signal::Logs).unwrap_err().offset, 6);
    let mut text = Vec::new();
    put_bytes(&mut text, 3, b"ab\xff");
    let error = check(&logs(&text), Signal::Logs).unwrap_err();
    assert_eq!((error.offset, error.reason), (10, "a text is not UTF-8"));
    let mut unknown = Vec::new();
    put_varint(&mut unknown, 1000 << 3);
    put_varint(&mut unknown, 1);
    assert_eq!(check(&logs(&unknown), Signal::Logs), Ok(()));
}

/// Items as other destinations see them.
#[test]
fn items_become_rows() {
    let rows = |signal, json: &Value| {
        let bytes = request(signal, json);
        let mut rows = Rows::of(&bytes, signal);
        let mut found = Vec::new();
        while let Some(row) = rows.next_row() {
            let metadata: Value = serde_json::from_str(row.metadata).unwrap();
            found.push((
                row.timestamp.map(|t| t.nanos()),
                row.service.to_owned(),
                row.message.to_owned(),
                metadata,
            ));
        }
        found
    };
    let logs = rows(Signal::Logs, &logs());
    assert_eq!((logs[0].0, &*logs[0].1, &*logs[0].2), (Some(1_544_712_660_300_000_000), "api", "first"));
    assert_eq!(
        logs[0].3,
        json!({
            "signal": "logs", "severityNumber": 9, "severityText": "INFO", "flags": 1,
            "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174",
            "attributes": {"text": "a \"quote\"\n", "int": i64::MIN, "false": false, "double": 637.704, "zero": 0.0,
                "bytes": "aGVsbG8=", "list": ["x", 0], "map": {"k": "v"}},
            "resource": {"attributes": {"service.name": "api"}}, "scope": {"name": "lib", "version": "1"},
        })
    );
    assert_eq!(logs[1].2, "{\"a\":1}");
    assert_eq!(logs[2].3.get("scope"), None);
    assert_eq!((logs[3].0, &*logs[3].1, &*logs[3].2), (None, "unknown_service", "bare"));

    let points = rows(Signal::Metrics, &metrics());
    assert_eq!((points[0].0, &*points[0].1, &*points[0].2), (Some(5), "shop", "load"));
    assert_eq!(points[0].3["asDouble"], json!(0.5));
    assert_eq!((&points[1].3["asInt"], &points[1].3["type"]), (&json!(0), &json!("gauge")));
    assert_eq!((&points[2].3["isMonotonic"], &points[2].3["startTimeUnixNano"]), (&json!(true), &json!("1")));
    assert_eq!(points[3].3["bucketCounts"], json!([1, 2, 0]));
    assert_eq!(points[4].3["positive"], json!({"offset": -1, "bucketCounts": [1, 300]}));
    assert_eq!(points[5].3["quantileValues"], json!([{"quantile": 0.5, "value": "Infinity"}]));

    let spans = rows(Signal::Traces, &traces());
    assert_eq!(
        (spans[0].0, &*spans[0].1, &*spans[0].2),
        (Some(1_544_712_660_000_000_000), "web", "I'm a server span")
    );
    assert_eq!(spans[0].3["status"], json!({"message": "bad", "code": 2}));
}

/// The walk that checks counts what the walk over items finds, and asks for a second look where an id is odd.
#[test]
fn a_survey_knows_the_items() {
    for (signal, json, _) in every_signal() {
        let found = survey(&request(signal, &json), signal).unwrap();
        let bytes = request(signal, &json);
        let items: Vec<_> = Items::of(&bytes, signal).map(|item| item.bytes.len()).collect();
        if signal != Signal::Metrics {
            let largest = *items.iter().max().unwrap();
            assert_eq!((found.items as usize, found.item_bytes_max), (items.len(), largest), "{signal:?}");
        }
        assert!(!found.has_odd_ids);
    }
    let odd = |signal, list: &str, trace: &[u8], span: &[u8]| {
        let mut item = Vec::new();
        let numbers = if list == "spans" { (1, 2) } else { (9, 10) };
        put_bytes(&mut item, numbers.0, trace);
        put_bytes(&mut item, numbers.1, span);
        let bytes = [2, 2, 1].into_iter().fold(item, |inner, number| {
            let mut out = Vec::new();
            put_bytes(&mut out, number, &inner);
            out
        });
        survey(&bytes, signal).unwrap().has_odd_ids
    };
    assert!(!odd(Signal::Logs, "records", &[], &[]) && !odd(Signal::Logs, "records", &[1; 16], &[1; 8]));
    assert!(odd(Signal::Logs, "records", &[1; 15], &[]) && odd(Signal::Logs, "records", &[], &[1; 9]));
    assert!(!odd(Signal::Traces, "spans", &[1; 16], &[1; 8]));
    assert!(!odd(Signal::Traces, "spans", &[], &[]) && odd(Signal::Traces, "spans", &[1; 16], &[1]));
}

/// The table is in the order of the numbers, which walks over messages make use of.
#[test]
fn the_table_is_in_order() {
    fn look(message: &'static schema::Message, seen: &mut Vec<&'static str>) {
        if seen.contains(&message.name) {
            return;
        }
        seen.push(message.name);
        assert!(message.fields.is_sorted_by(|a, b| a.number < b.number), "{}", message.name);
        for field in message.fields {
            if let schema::Kind::Message(inner) = field.kind {
                look(inner, seen);
            }
        }
    }
    let mut seen = Vec::new();
    every_signal().iter().for_each(|(signal, _, _)| look(signal.request(), &mut seen));
    assert!(seen.len() > 20, "{seen:?}");
}

/// Fields in another order, with others between, come to the same: what encoders do not write, decoders take.
#[test]
fn the_order_of_fields_does_not_matter() {
    fn reversed(message: &[u8], of: &'static schema::Message) -> Vec<u8> {
        let mut groups: Vec<Vec<u8>> = Vec::new();
        let mut last = 0;
        for entry in wire::Fields::of(message).map(Result::unwrap) {
            let inner = of.field(entry.number).map(|field| field.kind);
            let mut raw = entry.raw.to_vec();
            if let (Some(schema::Kind::Message(inner)), wire::Value::Bytes(bytes)) = (inner, entry.value) {
                raw.clear();
                put_bytes(&mut raw, entry.number, &reversed(bytes, inner));
            }
            match groups.last_mut() {
                // Of fields that repeat, the order does matter.
                Some(group) if last == entry.number => group.extend(raw),
                _ => groups.push(raw),
            }
            last = entry.number;
        }
        groups.reverse();
        if let Some(first) = groups.first_mut() {
            put_bytes(first, 900, b"unknown");
        }
        groups.concat()
    }
    for (signal, json, _) in every_signal() {
        let bytes = request(signal, &json);
        let other = reversed(&bytes, signal.request());
        assert_ne!(other, bytes);
        assert_eq!(check(&other, signal), Ok(()));
        let json = |bytes: &[u8], style| {
            let mut out = Vec::new();
            write(bytes, signal.request(), style, &mut out);
            String::from_utf8(out).unwrap()
        };
        for style in [Style::Protocol, Style::Natural] {
            assert_eq!(json(&other, style), json(&bytes, style), "{signal:?}");
        }
    }
}

/// Of several attributes with one key, the last one counts, few or many.
#[test]
fn the_last_of_equal_keys_counts() {
    for others in [0, 40] {
        let mut attributes: Vec<_> = ["a", "b", "a"]
            .iter()
            .enumerate()
            .map(|(i, key)| attribute(key, json!({"intValue": i})))
            .collect();
        attributes.extend((0..others).map(|i| attribute(&format!("k{i}"), json!({"intValue": i}))));
        let json = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": attributes}]}]}]});
        let bytes = request(Signal::Logs, &json);
        let mut rows = Rows::of(&bytes, Signal::Logs);
        let row = rows.next_row().unwrap();
        let metadata: Value = serde_json::from_str(row.metadata).unwrap();
        assert_eq!((&metadata["attributes"]["a"], &metadata["attributes"]["b"]), (&json!(2), &json!(1)));
        assert_eq!(row.metadata.matches("\"a\":").count(), 1);
    }
}
