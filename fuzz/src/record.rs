//! The two codecs of the journal: events in a record's payload, and records as they are stored.

use forebay_actors::{
    event::{EventWriter, Events, Timestamp, write_json},
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

/// Every event that can be read can stand alone, and is the same then. Reading has an end.
fn decode(payload: &[u8]) {
    let (mut out, mut unread_out) = (Vec::new(), Vec::new());
    let (mut events, mut singles, mut unread) =
        (Events::new(payload), Events::new(payload), Events::new(payload));
    while let Some(event) = events.next_event() {
        let looked_at = unread.next_unread().expect("there are as many");
        unread_out.clear();
        let written =
            looked_at.and_then(|event| EventWriter::default().write_unread(&event, &mut unread_out));
        assert_eq!(written.is_ok(), event.is_ok(), "only what is a text is written");
        let single = singles.next_single().expect("there are as many");
        let Ok(event) = event else { continue };
        let single = single.expect("what can be read can be kept");
        let mut alone = Events::new(&single);
        assert_eq!(alone.next_event().expect("it is there").expect("it can be read"), event);
        assert!(alone.next_event().is_none(), "one event has become several");
        out.clear();
        write_json(&event, &mut out);
        assert_eq!(out, unread_out, "what nobody has looked into is written as what somebody has");
    }
}
