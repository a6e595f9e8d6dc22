//! A batch that is sent again is accepted once.

use super::{batch, block_on, client, stored, taken};
use crate::support::{
    binary::{Forebay, Place},
    until,
};

fn send(
    forebay: &Forebay,
    service: &str,
    id: &str,
    messages: &[&str],
) -> forebay_proto::ingest::v1::EventBatchResponse {
    block_on(async {
        let mut client = client(forebay.ingest()).await;
        client.send_batch(batch(service, id, messages)).await.unwrap().into_inner()
    })
}

/// Scenario: a batch twice; then its name with other events; then the same name of another source, and no name.
/// Guarantee: the second is answered as the first was; other events are not taken under its name, and the answer and a counter
/// say so; a name means something within its source only.
#[test]
fn a_batch_that_comes_again_is_accepted_once() {
    let forebay = Place::new().start();
    assert_eq!(send(&forebay, "one", "b", &["a", "b"]), taken("b", 2));
    let again = send(&forebay, "one", "b", &["a", "b"]);
    assert!(again.success && again.duplicate && again.received_count == 2, "{again:?}");
    assert!(again.message.starts_with("duplicate: this batch was accepted before"), "{again:?}");
    let other = send(&forebay, "one", "b", &["c"]);
    assert!(other.success && other.duplicate && other.received_count == 2, "{other:?}");
    assert!(other.message.contains("with other events"), "{other:?}");
    assert!(other.other_events && !again.other_events);
    assert_eq!(send(&forebay, "two", "b", &["a", "b"]), taken("b", 2));
    for _ in 0..2 {
        assert_eq!(send(&forebay, "nameless", "", &["a"]), taken("", 1));
    }
    stored(&forebay, "two", 2);
    stored(&forebay, "nameless", 2);
    stored(&forebay, "one", 2);
    let name = "forebay_receiver_duplicate_batches_total";
    assert_eq!((forebay.metric(name, "\"same\""), forebay.metric(name, "\"different\"")), (1.0, 1.0));
}

/// Scenario: the same batch forty times at once, on connections of their own.
/// Guarantee: one of them takes it, and the others wait and say so.
#[test]
fn of_those_at_the_same_time_one_is_accepted() {
    let forebay = Place::new().start();
    let answers = block_on(async {
        let address = forebay.ingest();
        let calls = (0..40).map(|_| async move {
            client(address).await.send_batch(batch("race", "b", &["a", "b", "c"])).await.unwrap().into_inner()
        });
        futures::future::join_all(calls).await
    });
    assert!(answers.iter().all(|answer| answer.success && answer.received_count == 3), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| !answer.duplicate).count(), 1);
    stored(&forebay, "race", 3);
}

/// Scenario: a batch is answered, the process is killed, and the client, which never saw the answer, sends it again.
/// Guarantee: the new process finds it in the journal and does not take it again; the same name with other events is another
/// batch to it, and is taken.
#[test]
fn a_batch_that_comes_again_after_a_crash_is_accepted_once() {
    let place = Place::new();
    let mut forebay = place.start();
    // More than one block of the journal.
    let long = "x".repeat(100_000);
    let messages = ["a", &long, &long, &long, "b"];
    assert_eq!(send(&forebay, "crash", "b", &messages), taken("b", 5));
    forebay.kill();
    let forebay = place.start();
    let again = send(&forebay, "crash", "b", &messages);
    assert!(again.success && again.duplicate && again.received_count == 5, "{again:?}");
    assert_eq!(forebay.metric("forebay_receiver_events_total", ""), 0.0, "nothing was taken");
    assert!(send(&forebay, "crash", "b", &messages).duplicate, "and is remembered as any other");
    assert_eq!(send(&forebay, "crash", "c", &["c"]), taken("c", 1));
    stored(&forebay, "crash", 6);
}

/// Scenario: the same, but the journal is gone with the process.
/// Guarantee: the batch is accepted again, and its events have the ids that they had, although their sender gave none: the store
/// has each of them once.
#[test]
fn a_batch_that_is_accepted_again_has_the_same_ids() {
    let place = Place::new().section("buffer: { durability: memory }");
    let mut forebay = place.start();
    assert_eq!(send(&forebay, "ids", "b", &["a", "b", "c"]), taken("b", 3));
    let before = stored(&forebay, "ids", 3);
    forebay.kill();
    let forebay = place.start();
    assert_eq!(send(&forebay, "ids", "b", &["a", "b", "c"]), taken("b", 3));
    assert_eq!(send(&forebay, "marker", "m", &["m"]), taken("m", 1));
    stored(&forebay, "marker", 1);
    // Behind the marker nothing of the batch is on its way any more.
    assert_eq!(stored(&forebay, "ids", 3), before);
}

/// Scenario: a client gives up and hangs up while its batch waits for an actor that stands still, and sends it again.
/// Guarantee: what it began is brought to its end without it, and the second time is a duplicate.
#[test]
fn a_client_that_goes_does_not_take_its_batch_along() {
    let place = Place::new().section("admin: { chaos: true, token: a-token-for-these-tests }");
    let forebay = place.start();
    let admin = |method: &str, target: &str| {
        let headers = [("Authorization", "Bearer a-token-for-these-tests")];
        forebay.connect().request(method, target, &headers, b"").unwrap()
    };
    let waiting = || {
        let tree = admin("GET", "/admin/actors").ok(200).json();
        let receiver = tree["actors"].as_array().unwrap().iter().find(|actor| actor["name"] == "receiver");
        receiver.unwrap()["mailbox"]["messages"].as_i64().unwrap()
    };
    admin("POST", "/admin/actors/receiver/stall?for=3s").ok(202);
    block_on(async {
        let mut gone = client(forebay.ingest()).await;
        let call = tokio::spawn(async move { gone.send_batch(batch("gone", "b", &["a", "b"])).await });
        until("the batch waits", || waiting() > 0);
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    });
    let again = send(&forebay, "gone", "b", &["a", "b"]);
    assert!(again.success && again.duplicate && again.received_count == 2, "{again:?}");
    stored(&forebay, "gone", 2);
    assert_eq!(forebay.metric("forebay_receiver_events_total", ""), 2.0);
}
