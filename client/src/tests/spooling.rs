//! What the server does not take goes to the disk of this machine, and from there to the server.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{Act, BUSY, LONG, Server, lock, send, send_all, taking};
use crate::{DeadlineError, Failure, Outcome, Retry, transport::Verdict};

/// Ids of the events in requests that came after the first `skipped`.
fn came(server: &Server, skipped: usize) -> Vec<String> {
    server.calls().into_iter().skip(skipped).flat_map(|call| call.events).collect()
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "spool")).collect()
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// While the server is away, batches go to the spool: the first after its attempts, the others at once. When it is back they
/// come, oldest first, under the ids that they had, and their files are removed.
#[tokio::test(start_paused = true)]
async fn what_is_spooled_is_delivered_when_the_server_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(BUSY);
    let client = server.spooling(dir.path());
    assert_eq!(send(&client, 0).await.await, Ok(Outcome::Spooled));
    let attempts = server.calls();
    assert!(attempts.len() >= 3);
    for id in 1..20 {
        assert_eq!(send(&client, id).await.await, Ok(Outcome::Spooled));
    }
    assert!(client.spool_bytes() > 0);
    assert!(came(&server, 0).iter().all(|id| id == "0"), "only the oldest is tried");
    let tried = server.calls().len();
    server.always(Act::Take(vec![]));
    until(|| client.spool_bytes() == 0).await;
    // The last failed attempt may have begun before.
    let mut ids = came(&server, tried);
    ids.dedup();
    assert_eq!(ids, (0..20).map(|id| id.to_string()).collect::<Vec<_>>());
    assert!(
        server.calls().iter().filter(|call| call.events == ["0"]).all(|c| c.batch_id == attempts[0].batch_id)
    );
    assert_eq!(files(dir.path()).len(), 0);
    assert_eq!(send(&client, "new").await.await, Ok(Outcome::Delivered), "the server is known to be there");
}

/// At the deadline of `close` nothing is given back where there is a spool; the next client in that directory delivers it all,
/// event by event as it was, without the half-written record at the end.
#[tokio::test(start_paused = true)]
async fn the_next_client_delivers_what_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(Act::Hang);
    let client = server.start(server.builder().batch_events(3).spool(dir.path(), 1 << 20));
    let receipts = send_all(&client, 0..10).await;
    server.came(1).await;
    client.close(Duration::from_secs(1)).await.unwrap();
    for receipt in receipts {
        assert_eq!(receipt.await, Ok(Outcome::Spooled));
    }
    let mut files = files(dir.path());
    files.sort();
    let newest = files.last().unwrap();
    let mut bytes = fs::read(newest).unwrap();
    let half = bytes[8..20 + 40].to_vec();
    bytes.extend(half);
    fs::write(newest, bytes).unwrap();

    let server = taking();
    let client = server.spooling(dir.path());
    until(|| client.spool_bytes() == 0).await;
    let mut ids = came(&server, 0);
    ids.sort_by_key(|id| id.parse::<u32>().unwrap());
    assert_eq!(ids, (0..10).map(|id| id.to_string()).collect::<Vec<_>>());
    client.close(LONG).await.unwrap();
    // The directory is free again when `close` returns.
    server.spooling(dir.path());
}

/// A server that refuses the request, as with a wrong token, does not cost what was kept; one that refuses an event does, and
/// the hook is told. A batch that is too large goes in halves from the spool, too.
#[tokio::test(start_paused = true)]
async fn only_refused_events_leave_the_spool_undelivered() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(Act::Hang);
    let client = server.start(server.builder().spool(dir.path(), 1 << 20));
    drop(send_all(&client, 0..4).await);
    assert_eq!(client.close(Duration::from_secs(1)).await, Ok(()));

    let server = Server::new(Act::Fail(Verdict::Refuse));
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = told.clone();
    let builder = server.builder().spool(dir.path(), 1 << 20).on_failed(move |event, failure| {
        lock(&hook).push((event.id().unwrap().to_owned(), failure.clone()));
    });
    let client = server.start(builder);
    server.came(3).await;
    assert!(lock(&told).is_empty() && client.spool_bytes() > 0);
    server.then([Act::Fail(Verdict::Split), Act::Take(vec![1])]);
    server.always(Act::Take(vec![]));
    until(|| client.spool_bytes() == 0).await;
    let failure = Failure::Rejected("number 1 is wrong".to_owned());
    assert_eq!(*lock(&told), [("1".to_owned(), failure)]);
    assert_eq!(server.sizes()[server.sizes().len() - 3..], [4, 2, 2]);
}

/// A spool without room gives events back after their attempts, and says that it is full; nothing is lost in silence.
#[tokio::test(start_paused = true)]
async fn a_full_spool_gives_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(BUSY);
    let client = server.start(server.builder().spool(dir.path(), 2_000));
    let mut back = None;
    for id in 0..100 {
        match send(&client, id).await.await {
            Ok(outcome) => assert_eq!(outcome, Outcome::Spooled),
            Err(undelivered) => {
                back = Some((id, undelivered));
                break;
            }
        }
    }
    let (id, undelivered) = back.expect("the spool is full at some time");
    assert!(id > 3, "{id}");
    assert_eq!(undelivered.event.id(), Some(&*id.to_string()));
    let said = undelivered.failure.to_string();
    assert!(said.contains("3 attempts") && said.contains("the spool is full"), "{said}");
    assert!(client.spool_bytes() <= 2_000);
}

/// A spool that is used by another client is refused when the client is built.
#[tokio::test(start_paused = true)]
async fn a_spool_belongs_to_one_client() {
    let dir = tempfile::tempdir().unwrap();
    let server = taking();
    let _client = server.spooling(dir.path());
    let error = server.builder().spool(dir.path(), 1 << 20).start(Box::new(server.clone())).unwrap_err();
    assert!(error.to_string().contains("used by another client"), "{error}");
}

/// Without a spool the deadline of `close` gives back even what is tried for ever; with one, a flush ends although the server
/// is away, because being in the spool is an outcome.
#[tokio::test(start_paused = true)]
async fn a_flush_ends_in_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(BUSY);
    let client = server.spooling(dir.path());
    drop(send_all(&client, 0..5).await);
    client.flush(LONG).await.unwrap();
    assert!(client.spool_bytes() > 0);
    let client = server.start(server.builder().retry(Retry::for_ever()));
    drop(send_all(&client, 0..5).await);
    assert_eq!(client.flush(LONG).await, Err(DeadlineError::Flush));
    assert_eq!(client.close(LONG).await, Err(DeadlineError::Close { undelivered: 5 }));
}
