//! Several destinations of one file in one process.

use super::*;

/// Scenario: a replay delivers to the file of a sink that runs in the same process, before, between and at the same time as
/// the sink.
/// Guarantee: all of it is in the file, line by line, and rotated by what both have written; other processes are kept out
/// until both are gone. The replay was answered that another sink or process was writing the file.
#[tokio::test]
async fn r0260_a_replay_could_not_write_to_the_file_of_its_sink() {
    let mut bed = Bed::new();
    let line = encode_batch(&test_batch::of(1), Framing::Lines).unwrap().len() as u64;
    bed.options.rotate_bytes = Some(3 * line);
    let writers = Writers::default();
    let (sink, other_process) = (bed.one_of(&writers), bed.destination());
    bed.options.path = bed.options.path.parent().unwrap().join("./events.ndjson");
    let replay = bed.one_of(&writers);
    sink.deliver(batch(1)).await.unwrap();
    replay.deliver(batch(1)).await.unwrap();
    sink.deliver(batch(1)).await.unwrap();
    assert_eq!(bed.text().lines().count(), 3);
    let (a, b) = futures::future::join(replay.deliver(batch(2)), sink.deliver(batch(2))).await;
    assert_eq!((a.unwrap().bytes, b.unwrap().bytes), (2 * line, 2 * line));
    assert_eq!(
        bed.names(),
        ["events-20260131T080000Z-0.ndjson", "events-20260131T080000Z-1.ndjson", "events.ndjson"]
    );
    assert_eq!(bed.text().lines().count(), 2);

    close(replay).await;
    sink.deliver(batch(1)).await.unwrap();
    let replay = bed.one_of(&writers);
    close(sink).await;
    replay.deliver(batch(1)).await.unwrap();
    assert!(failure(&other_process).await.message.contains("another sink or process"));
    close(replay).await;
    other_process.deliver(batch(1)).await.unwrap();
}

/// What a replay's end has stopped of compressing goes on with the sink's next delivery, not only with its next rotation.
#[tokio::test]
async fn what_one_leaves_untidy_the_other_tidies() {
    let mut bed = Bed::new();
    bed.options.compression = Compression::Gzip;
    let writers = Writers::default();
    let (sink, replay) = (bed.one_of(&writers), bed.one_of(&writers));
    sink.deliver(batch(1)).await.unwrap();
    while Arc::strong_count(&sink.shared) > 1 {
        tokio::task::yield_now().await;
    }
    bed.put("events-20260101T000000Z-0.ndjson", b"plain");
    let shared = replay.shared.clone();
    drop(replay);
    shared.tidy();
    assert_eq!(bed.names(), ["events-20260101T000000Z-0.ndjson", "events.ndjson"], "its end stopped it");
    sink.deliver(batch(1)).await.unwrap();
    while Arc::strong_count(&sink.shared) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bed.names(), ["events-20260101T000000Z-0.ndjson.gz", "events.ndjson"]);
}
