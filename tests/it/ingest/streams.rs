//! `SendBatches`: batches on a stream.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use bytes::Bytes;
use forebay_proto::ingest::v1::{EventBatchRequest, EventBatchResponse};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, codec::CompressionEncoding};

use super::{batch, block_on, client, says_retry, stored, taken};
use crate::support::{binary::Place, http::Destination, thorough};

const SEND_BATCHES: &str = "/forebay.ingest.v1.IngestService/SendBatches";

/// All answers to a stream of these batches, by their ids, and how it ended.
async fn stream(
    address: SocketAddr,
    batches: Vec<EventBatchRequest>,
) -> (Vec<EventBatchResponse>, Option<Status>) {
    let mut client = client(address).await.send_compressed(CompressionEncoding::Gzip);
    let mut answers = client.send_batches(futures::stream::iter(batches)).await.unwrap().into_inner();
    let mut found = Vec::new();
    loop {
        match answers.message().await {
            Ok(Some(answer)) => found.push(answer),
            Ok(None) => return (found, None),
            Err(status) => return (found, Some(status)),
        }
    }
}

/// Scenario: two hundred batches, among them one that is wrong, one that comes again and one that is too large.
/// Guarantee: each has its answer, the stream goes on behind all of them, and it ends well.
#[test]
fn every_batch_is_answered() {
    let section = "ingest: { grpc: { listen: \"127.0.0.1:0\" }, max_batch_bytes: 100KiB }";
    let forebay = Place::new().section(section).start();
    let ids: Vec<_> = (0..200).map(|number| format!("b{number}")).collect();
    let mut batches: Vec<_> = ids.iter().map(|id| batch("stream", id, &["x", "y"])).collect();
    batches.insert(50, batch("stream", &"x".repeat(300), &["z"]));
    batches.insert(100, batch("stream", "large", &[&"x".repeat(200_000)]));
    batches.insert(150, batch("stream", "b0", &["x", "y"]));
    let (answers, end) = block_on(stream(forebay.ingest(), batches));
    assert!(end.is_none(), "{end:?}");
    assert_eq!(answers.len(), 203);
    let good: BTreeSet<_> =
        answers.iter().filter(|a| **a == taken(&a.batch_id, 2)).map(|a| a.batch_id.clone()).collect();
    assert_eq!(good, ids.into_iter().collect::<BTreeSet<_>>());
    assert_eq!(answers.iter().filter(|answer| answer.duplicate).count(), 1);
    let failed: Vec<_> = answers.iter().filter(|answer| !answer.success).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed.iter().any(|answer| answer.message.contains("batch_id: it has 300")), "{failed:?}");
    assert!(failed.iter().any(|answer| answer.message.contains("ingest.max_batch_bytes")), "{failed:?}");
    assert!(failed.iter().all(|answer| answer.retry_after_ms == 0), "{failed:?}");
    stored(&forebay, "stream", 400);
}

/// Scenario: a batch that is too large and not packed, between two that are not.
/// Guarantee: it is skipped without being held, and its answer says which one it was.
#[test]
fn a_batch_that_is_too_large_is_skipped() {
    let section = "ingest: { grpc: { listen: \"127.0.0.1:0\" }, max_batch_bytes: 10KiB }";
    let forebay = Place::new().section(section).start();
    let batches = [
        batch("skip", "a", &["m"]),
        batch("skip", "large", &[&"x".repeat(900_000)]),
        batch("skip", "c", &["m"]),
    ];
    let answers = block_on(async {
        let mut client = client(forebay.ingest()).await;
        let answers = client.send_batches(futures::stream::iter(batches)).await.unwrap().into_inner();
        answers.map(Result::unwrap).collect::<Vec<_>>().await
    });
    let by_id: BTreeMap<_, _> = answers.iter().map(|answer| (&*answer.batch_id, answer.success)).collect();
    assert_eq!(by_id, BTreeMap::from([("a", true), ("c", true), ("large", false)]));
    stored(&forebay, "skip", 2);
}

/// Scenario: a stream that ends in the middle of its second batch.
/// Guarantee: the first is answered and stored, nothing of the second is.
#[test]
fn a_stream_that_is_cut_takes_nothing_by_half() {
    let forebay = Place::new().start();
    let framed = |id: &str| {
        let message = batch("cut", id, &["m"; 50]).encode_to_vec();
        [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
    };
    let second = framed("second");
    let body = [framed("first"), second[..second.len() - 1].to_vec()].concat();
    let (answer, status) = block_on(async {
        let address = forebay.ingest();
        let socket = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://{address}{SEND_BATCHES}"))
            .header("content-type", "application/grpc")
            .body(Full::new(Bytes::from(body)));
        let response = sender.send_request(request.unwrap()).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        let status = collected.trailers().unwrap()["grpc-status"].clone();
        (collected.to_bytes(), status)
    });
    assert_eq!(EventBatchResponse::decode(&answer[5..]).unwrap(), taken("first", 50));
    assert_eq!(status, "3");
    stored(&forebay, "cut", 50);
}

/// Scenario: a journal that is full, and a stream that brings more.
/// Guarantee: the stream does not fail; what there is no room for is answered when there is.
#[test]
fn a_stream_waits_where_there_is_no_room() {
    let destination = Destination::start();
    destination.answer(500);
    let place = Place::empty()
        .sink("up", &destination.sink())
        .section("buffer: { durability: memory, memory_events_max: 20 }");
    let forebay = place.start();
    let answers = block_on(async {
        let (batches, to_send) = mpsc::channel(100);
        for number in 0..10 {
            batches.send(batch("wait", &format!("b{number}"), &["m"; 8])).await.unwrap();
        }
        drop(batches);
        let mut client = client(forebay.ingest()).await;
        let mut answers = client.send_batches(ReceiverStream::new(to_send)).await.unwrap().into_inner();
        let mut found = vec![answers.message().await.unwrap().unwrap()];
        crate::support::until("a batch was refused", || {
            forebay.metric("forebay_receiver_rejected_total", "") > 0.0
        });
        destination.answer(200);
        while let Some(answer) = answers.message().await.unwrap() {
            found.push(answer);
        }
        found
    });
    assert_eq!(answers.len(), 10);
    assert!(answers.iter().all(|answer| *answer == taken(&answer.batch_id, 8)), "{answers:?}");
}

/// Scenario: more streams than there may be.
/// Guarantee: the last is told when to come again; when another ends there is room.
#[test]
fn only_so_many_streams_are_let_in() {
    let section = "ingest: { grpc: { listen: \"127.0.0.1:0\" }, max_streams: 1 }";
    let forebay = Place::new().section(section).start();
    block_on(async {
        let (first, to_send) = mpsc::channel(1);
        let mut one = client(forebay.ingest()).await;
        let mut answers = one.send_batches(ReceiverStream::new(to_send)).await.unwrap().into_inner();
        first.send(batch("many", "a", &["m"])).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap(), taken("a", 1));
        let refused = client(forebay.ingest()).await.send_batches(futures::stream::empty()).await;
        let refused = refused.map(drop).unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(says_retry(&refused) && refused.message().contains("ingest.max_streams"), "{refused:?}");
        drop(first);
        assert_eq!(answers.message().await.unwrap(), None);
        let mut there_is_room = false;
        while !there_is_room {
            let again = client(forebay.ingest()).await.send_batches(futures::stream::empty()).await;
            there_is_room = again.is_ok();
        }
    });
}

/// Scenario: a stream stands idle while the process is told to end.
/// Guarantee: the stream is told to come again, and does not hold the process up.
#[test]
fn an_idle_stream_is_ended_with_the_process() {
    let mut forebay = Place::new().start();
    let end = block_on(async {
        let (idle, to_send) = mpsc::channel(1);
        let mut client = client(forebay.ingest()).await;
        let mut answers = client.send_batches(ReceiverStream::new(to_send)).await.unwrap().into_inner();
        idle.send(batch("idle", "a", &["m"])).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap(), taken("a", 1));
        forebay.signal("TERM");
        answers.message().await.unwrap_err()
    });
    assert_eq!(end.code(), Code::Unavailable, "{end:?}");
    assert!(says_retry(&end), "{end:?}");
    assert_eq!(forebay.wait().code(), Some(0));
}

/// Scenario: streams send as fast as they can, and the process is killed.
/// Guarantee: every batch that was answered is in the store, whole; of the others none is there by half.
#[test]
fn batches_that_were_answered_survive_a_kill() {
    let place = Place::new();
    let mut forebay = place.start();
    let enough = thorough(150, 3_000);
    let answered: BTreeSet<String> = block_on(async {
        let address = forebay.ingest();
        let (seen, mut answers) = mpsc::unbounded_channel();
        for sender in 0..3 {
            let seen = seen.clone();
            tokio::spawn(async move {
                let batches = futures::stream::iter(0..).map(move |number| {
                    let id = format!("{sender}-{number}");
                    let messages: Vec<_> = (0..20).map(|place| format!("{id} {place}")).collect();
                    batch("kill", &id, &messages.iter().map(String::as_str).collect::<Vec<_>>())
                });
                let mut client = client(address).await;
                let mut answers = client.send_batches(batches).await.unwrap().into_inner();
                while let Ok(Some(answer)) = answers.message().await {
                    assert_eq!(answer, taken(&answer.batch_id, 20));
                    if seen.send(answer.batch_id).is_err() {
                        return;
                    }
                }
            });
        }
        drop(seen);
        let mut answered = BTreeSet::new();
        while let Some(id) = answers.recv().await {
            answered.insert(id);
            if answered.len() == enough {
                forebay.kill();
            }
        }
        answered
    });
    assert!(answered.len() >= enough);
    let forebay = place.start();
    let head = forebay.post_json(r#"{"service":"marker","message":"m","event_id":"marker"}"#);
    assert_eq!(head.status, 202);
    forebay.stored("marker");
    let mut found = BTreeMap::<String, usize>::new();
    for event in forebay.all_events("service=kill&limit=1000") {
        let id = event["message"].as_str().unwrap().split(' ').next().unwrap().to_owned();
        *found.entry(id).or_default() += 1;
    }
    assert!(found.values().all(|events| *events == 20), "half a batch: {found:?}");
    let lost: Vec<_> = answered.iter().filter(|id| !found.contains_key(*id)).collect();
    assert!(lost.is_empty(), "answered and lost: {lost:?}");
}
