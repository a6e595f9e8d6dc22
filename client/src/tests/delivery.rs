//! Attempts, refusals, and who is told.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use super::{Act, BUSY, LONG, Server, lock, send, send_all, taking};
use crate::{Event, Failure, Metrics, Outcome, Retry, transport::Verdict};

/// What fails is tried again after waits that double within their bounds, under the same batch id; then it is delivered.
#[tokio::test(start_paused = true)]
async fn attempts_have_the_same_id_and_wait_longer() {
    let server = taking();
    server.then([BUSY, BUSY]);
    let client = server.start(server.builder());
    let receipts = send_all(&client, 0..2).await;
    for receipt in receipts {
        assert_eq!(receipt.await, Ok(Outcome::Delivered));
    }
    let calls = server.calls();
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| call.batch_id == calls[0].batch_id && call.events == ["0", "1"]));
    let waits: Vec<_> = calls.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect();
    assert!((50..=102).contains(&waits[0]) && (100..=202).contains(&waits[1]), "{waits:?}");
    let later = send(&client, 2).await;
    later.await.unwrap();
    assert_ne!(server.calls()[3].batch_id, calls[0].batch_id);
}

/// After the last attempt the event comes back with its id and the last words, and the hook is told once.
#[tokio::test(start_paused = true)]
async fn attempts_end() {
    let server = Server::new(BUSY);
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = told.clone();
    let builder = server.builder().on_failed(move |event, failure| {
        lock(&hook).push((event.id().unwrap().to_owned(), failure.clone()));
    });
    let client = server.start(builder);
    let back = send(&client, "a").await.await.unwrap_err();
    let failure = Failure::GaveUp { attempts: 3, last: "the server's words".to_owned() };
    assert_eq!((back.event.id(), &back.failure), (Some("a"), &failure));
    assert_eq!(server.calls().len(), 3);
    // Also where nobody waits for the receipt.
    drop(send(&client, "b").await);
    client.flush(LONG).await.unwrap();
    assert_eq!(*lock(&told), [("a".to_owned(), failure.clone()), ("b".to_owned(), failure)]);
}

/// For ever means for ever: an hour of a server that is down, and then everything arrives.
#[tokio::test(start_paused = true)]
async fn for_ever_is_for_ever() {
    let server = Server::new(BUSY);
    let retry =
        Retry::for_ever().first_wait(Duration::from_millis(100)).longest_wait(Duration::from_secs(10));
    let client = server.start(server.builder().retry(retry));
    let receipt = send(&client, 1).await;
    tokio::time::sleep(LONG).await;
    assert!(server.calls().len() > 300, "{}", server.calls().len());
    server.always(Act::Take(vec![]));
    assert_eq!(receipt.await, Ok(Outcome::Delivered));
}

/// A server that says when is not asked before, and one that says nothing is given up after the attempt's time.
#[tokio::test(start_paused = true)]
async fn the_servers_wish_is_honoured() {
    let server = taking();
    let after = Some(Duration::from_secs(17));
    server.then([Act::Fail(Verdict::Retry { after }), Act::Hang]);
    let client = server.start(server.builder().attempt_timeout(Duration::from_secs(5)));
    send(&client, 1).await.await.unwrap();
    let calls = server.calls();
    let waits: Vec<_> = calls.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect();
    assert!((17_000..17_010).contains(&waits[0]), "{waits:?}");
    assert!((5_100..=5_210).contains(&waits[1]), "{waits:?}");
}

/// What the server refuses is not tried again; of a batch with wrong events the others are delivered.
#[tokio::test(start_paused = true)]
async fn refusals_are_not_tried_again() {
    let server = taking();
    server.then([Act::Take(vec![1, 2]), Act::Fail(Verdict::Refuse)]);
    let client = server.start(server.builder());
    let [first, second, third, fourth] =
        send_all(&client, 0..4).await.try_into().unwrap_or_else(|_| panic!("four"));
    assert_eq!((first.await, fourth.await), (Ok(Outcome::Delivered), Ok(Outcome::Delivered)));
    for (number, receipt) in [(1, second), (2, third)] {
        let back = receipt.await.unwrap_err();
        assert_eq!(back.failure, Failure::Rejected(format!("number {number} is wrong")));
        assert_eq!(back.event.id(), Some(&*number.to_string()));
    }
    let back = send(&client, "x").await.await.unwrap_err();
    assert_eq!(back.failure, Failure::Refused("the server's words".to_owned()));
    assert_eq!(server.calls().len(), 2);
}

/// An answer that names events which were not sent, or one twice, is no answer: nothing counts as delivered by it.
#[tokio::test(start_paused = true)]
async fn an_answer_about_others_is_none() {
    let server = taking();
    server.then([Act::Take(vec![2]), Act::Take(vec![0, 0])]);
    let client = server.start(server.builder());
    for _ in 0..2 {
        for receipt in send_all(&client, 0..2).await {
            assert!(matches!(receipt.await.unwrap_err().failure, Failure::Refused(_)));
        }
    }
}

/// A batch that is too large for the server goes in halves, in order; an event that is too large alone is rejected alone.
#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_goes_in_halves() {
    let server = taking();
    let large = || Act::Fail(Verdict::Split);
    server.then([large(), large(), large(), Act::Take(vec![]), Act::Take(vec![])]);
    let client = server.start(server.builder());
    let receipts = send_all(&client, 0..4).await;
    let mut outcomes = Vec::new();
    for receipt in receipts {
        outcomes.push(receipt.await.is_ok());
    }
    assert_eq!(outcomes, [false, true, true, true]);
    let calls = server.calls();
    let sent: Vec<_> = calls.iter().map(|call| call.events.concat()).collect();
    assert_eq!(sent, ["0123", "01", "0", "1", "23"]);
    let ids: std::collections::BTreeSet<_> = calls.iter().map(|call| &call.batch_id).collect();
    assert_eq!(ids.len(), 5);
}

/// A panic on the way gives the events of that batch back, flushes end, and the client goes on.
#[tokio::test(start_paused = true)]
async fn a_panic_costs_one_batch_its_delivery() {
    let server = taking();
    server.then([Act::Panic]);
    let client = server.start(server.builder().on_failed(|_, _| panic!("a panic that the test wants")));
    let back = send(&client, "a").await.await.unwrap_err();
    assert_eq!((back.event.id(), back.failure), (Some("a"), Failure::Abandoned));
    client.flush(LONG).await.unwrap();
    assert_eq!(send(&client, "b").await.await, Ok(Outcome::Delivered));
}

/// The end of the runtime gives back what is in flight and queued: also then nothing is lost in silence.
#[test]
fn the_end_of_the_runtime_gives_back() {
    let told = Arc::new(AtomicUsize::new(0));
    let server = Server::new(Act::Hang);
    let hook = told.clone();
    let builder = server.builder().batch_events(2).on_failed(move |_, failure| {
        assert_eq!(*failure, Failure::Abandoned);
        hook.fetch_add(1, SeqCst);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut receipts = runtime.block_on(async {
        let client = server.start(builder);
        let receipts = send_all(&client, 0..6).await;
        server.came(1).await;
        receipts
    });
    drop(runtime);
    let receipt = receipts.pop().unwrap();
    drop(receipts);
    let outcome = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(receipt);
    assert_eq!(outcome.unwrap_err().failure, Failure::Abandoned);
    assert_eq!(told.load(SeqCst), 6);
}

/// Events get an id when they are sent, the same in receipt and request, or keep their own; an event that comes back keeps it.
#[tokio::test(start_paused = true)]
async fn events_get_their_id_when_they_are_sent() {
    let server = taking();
    let client = server.start(server.builder());
    let receipt = client.send(Event::new("s", "m")).await.unwrap();
    let id = receipt.event_id().to_owned();
    assert!(id.len() == 36 && id.as_bytes()[14] == b'7', "{id} is a UUIDv7");
    receipt.await.unwrap();
    assert_eq!(server.calls()[0].events, [id]);
}

#[derive(Default)]
struct Counts([AtomicUsize; 6]);

/// Not the counts themselves: the orphan rule has `Arc` as a stranger's.
struct Counting(Arc<Counts>);

impl Metrics for Counting {
    fn queued(&self) {
        self.0.0[0].fetch_add(1, SeqCst);
    }
    fn sent(&self, events: usize, _: Duration) {
        self.0.0[1].fetch_add(events, SeqCst);
    }
    fn retried(&self, cause: &str, wait: Duration) {
        assert!(cause == "the server's words" && wait >= Duration::from_millis(50));
        self.0.0[2].fetch_add(1, SeqCst);
    }
    fn rejected(&self, events: usize) {
        self.0.0[3].fetch_add(events, SeqCst);
    }
    fn failed(&self, events: usize) {
        self.0.0[4].fetch_add(events, SeqCst);
    }
    fn spooled(&self, events: usize) {
        self.0.0[5].fetch_add(events, SeqCst);
    }
}

/// Everything that happens is counted where it belongs, and the sum comes out even.
#[tokio::test(start_paused = true)]
async fn metrics_come_out_even() {
    let dir = tempfile::tempdir().unwrap();
    let counts = Arc::new(Counts::default());
    let server = taking();
    server.then([BUSY, Act::Take(vec![0]), Act::Fail(Verdict::Refuse), BUSY, BUSY, BUSY]);
    let client = server.start(server.builder().metrics(Counting(counts.clone())).spool(dir.path(), 1 << 20));
    for (from, to) in [(0, 3), (3, 4), (4, 6)] {
        drop(send_all(&client, from..to).await);
        client.flush(LONG).await.unwrap();
    }
    // What is spooled is sent as well, later.
    server.came(7).await;
    client.close(LONG).await.unwrap();
    let [queued, sent, retried, rejected, failed, spooled] =
        counts.0.each_ref().map(|count| count.load(SeqCst));
    assert_eq!((queued, rejected, failed, spooled), (6, 1, 1, 2));
    assert_eq!((sent, retried), (2 + 2, 1 + 2));
}
