//! The two codecs of the journal: events in a record's payload, and records as they are stored.

use forebay_actors::{
    event::{Events, Timestamp, encode_single, write_json},
    journal::stored_form,
    record::{Position, Record},
};

/// Bytes as the payload of a record, as its stored form, and as its stored form under a checksum that is right.
///
/// # Panics
/// Where decoding panics, or what was encoded comes back as something else.
pub fn record(bytes: &[u8]) {
    decode(bytes);

    let (first, count) = (Position(9), 3);
    let record =
        Record { first, count, written_at: Timestamp::from_nanos(-5), payload: bytes.to_vec().into() };
    let stored = stored_form::encode(&record);
    let back = stored_form::decode(first, &stored).expect("what was encoded is decoded");
    assert_eq!(back.payload, record.payload);
    assert_eq!((back.first, back.count, back.written_at), (first, count, record.written_at));
    assert!(
        stored_form::decode(Position(8), &stored).is_none(),
        "a record is believed at its own place only"
    );

    let mut stored = bytes.to_vec();
    stored_form::seal(&mut stored);
    let first = stored.get(4..12).and_then(|first| first.try_into().ok()).map_or(0, u64::from_be_bytes);
    for stored in [bytes, &stored] {
        if let Some(record) = stored_form::decode(Position(first), stored) {
            assert!(record.end() >= record.first);
            decode(&record.payload);
        }
    }
}

/// Every event that can be read can be written again, and is the same then. Reading has an end.
fn decode(payload: &[u8]) {
    let mut out = Vec::new();
    for event in Events::new(payload) {
        let Ok(event) = event else { continue };
        let again = encode_single(&event);
        let read: Vec<_> = Events::new(&again).collect();
        assert!(matches!(&read[..], [Ok(same)] if *same == event), "{event:?} became {read:?}");
        out.clear();
        write_json(&event, &mut out);
    }
}
