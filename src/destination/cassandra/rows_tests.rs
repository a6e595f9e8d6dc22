//! Rows of a batch, read back as the values they are made of.

use super::{super::super::test_batch, *};

fn recipe() -> Recipe {
    Recipe::of(&CassandraSink::to("h".to_owned(), "k".to_owned()))
}

fn rows(batch: &Batch) -> Rows {
    recipe().rows(batch).unwrap().unwrap()
}

/// Every event is in one request; a request has rows of one partition, and no more than it may.
#[test]
fn requests_have_every_row_once() {
    let rows = rows(&test_batch::of(1_000));
    let requests = rows.requests();
    assert_eq!(requests.len(), 1_000 / REQUEST_ROWS_MAX);
    let mut messages = Vec::new();
    for (table, values) in &requests {
        assert_eq!((*table, values.len()), (Table::Events, REQUEST_ROWS_MAX));
        for row in values {
            let values: Vec<_> = row.each().map(|value| value.map(<[u8]>::to_vec)).collect();
            let [service, bucket, time, nanos, _, message, metadata, ingested_at] = &values[..] else {
                panic!()
            };
            let number =
                |value: &Option<Vec<u8>>| i64::from_be_bytes(value.as_deref().unwrap().try_into().unwrap());
            assert_eq!(service.as_deref(), Some(&b"api"[..]));
            assert_eq!(metadata.as_deref(), Some(&b"{\"zone\":\"eu-1\"}"[..]));
            assert_eq!(
                [bucket, time, nanos, ingested_at].map(number),
                [1_766_998_800_000, 1_767_000_000_123, 1_767_000_000_123_456_789, 1_767_000_000_000]
            );
            messages.push(String::from_utf8(message.clone().unwrap()).unwrap());
        }
    }
    messages.sort();
    messages.dedup();
    assert_eq!(messages.len(), 1_000);
}

/// What is not there is not set, and does not shift what stands behind it.
#[test]
fn values_come_back_as_they_were_written() {
    let mut rows = Rows::default();
    let mut row = rows.begin(Table::Metrics);
    row.text("node").end_key();
    row.unset().optional(None).text("").value(b"x").end();
    let requests = rows.requests();
    let values: Vec<_> = requests[0].1[0].each().map(|value| value.map(<[u8]>::to_vec)).collect();
    assert_eq!(values, [Some(b"node".to_vec()), None, None, Some(Vec::new()), Some(b"x".to_vec())]);
    assert_eq!(&rows.bytes[rows.rows[0].key.clone()], b"\0\0\0\x04node");
}

/// Rows of several partitions and tables, however mixed, are together by partition, and a request ends where it is large.
#[test]
fn a_request_has_one_partition_and_is_not_large() {
    let mut rows = Rows::default();
    for index in 0..60 {
        let table = if index % 2 == 0 { Table::Events } else { Table::Traces };
        let mut row = rows.begin(table);
        row.text(["a", "b", "c"][index % 3]).end_key();
        row.text(&"x".repeat(REQUEST_BYTES_MAX / 4)).end();
    }
    rows.sort();
    let requests = rows.requests();
    assert_eq!(requests.iter().map(|(_, values)| values.len()).sum::<usize>(), 60);
    for (_, values) in &requests {
        let keys: Vec<_> = values.iter().map(|row| row.each().next()).collect();
        assert!(keys.iter().all(|key| key == &keys[0]) && values.len() <= 3, "{keys:?}");
    }
    // Of each of two tables and three partitions.
    assert_eq!(requests.len(), 6 * 10_usize.div_ceil(3));
}

/// A damaged record is a rejection, so that the sink halves its way to what is lost; never a success.
#[test]
fn a_damaged_record_is_rejected() {
    for batch in [test_batch::damaged(), test_batch::short()] {
        let error = recipe().rows(&batch).unwrap_err();
        assert_eq!(error.cause, forebay_actors::destination::Cause::Encode);
    }
}

/// The same content has one id, whatever it is cut into; other content has another.
#[test]
fn ids_follow_from_the_content() {
    assert_eq!(content_id(&[b"a", b"b"]), content_id(&[b"a", b"b"]));
    assert_ne!(content_id(&[b"a", b"b"]), content_id(&[b"ab", b""]));
    assert_eq!(content_id(&[b"a"]).get_version_num(), 8);
}
