//! Over gRPC.

use std::time::{Duration, UNIX_EPOCH};

use forebay_client::{Event, Failure, Outcome};
use forebay_proto::ingest::v1::event::MetadataForm;
use tokio::{net::TcpListener, time::Instant};
use tonic::{Code, Status};

use crate::support::{Act, Protocol, Server, builder, send};

async fn server(acts: impl IntoIterator<Item = Act>) -> Server {
    Server::start(Protocol::Grpc, acts).await
}

/// `google.rpc.Status` with a `RetryInfo` of so many milliseconds, byte by byte: nobody shares the client's code here.
fn retry_info(millis: u64) -> Vec<u8> {
    fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
        [&[tag << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }
    let mut nanos = millis * 1_000_000;
    let mut delay = vec![2 << 3];
    while nanos >= 128 {
        delay.push((nanos % 128) as u8 | 128);
        nanos /= 128;
    }
    delay.push(nanos as u8);
    let info = field(1, &delay);
    let any = [field(1, b"type.googleapis.com/google.rpc.RetryInfo"), field(2, &info)].concat();
    field(3, &any)
}

/// A request is what the contract says: batch id, source, events with everything they have, the token, and gzip where that was
/// asked for.
#[tokio::test]
async fn a_request_has_everything() {
    let server = server([]).await;
    let builder = server.builder("grpc").token("secret").gzip(true).source("till 7");
    let client = builder.build().unwrap();
    let event =
        Event::new("shop", "sold").at(UNIX_EPOCH - Duration::from_nanos(1)).with_id("one").with("a", 1);
    assert_eq!(client.send(event).await.unwrap().await, Ok(Outcome::Delivered));
    let came = &server.came()[0];
    assert!(came.head.contains("\"grpc-encoding\": \"gzip\""), "{}", came.head);
    assert!(came.head.contains("authorization"), "{}", came.head);
    let message = came.message.clone().unwrap();
    assert_eq!((message.source.as_str(), message.batch_id.len()), ("till 7", 32));
    let [event] = &message.events[..] else { panic!("one event: {message:?}") };
    let time = event.timestamp.unwrap();
    assert_eq!((time.seconds, time.nanos), (-1, 999_999_999));
    assert_eq!((&*event.event_id, &*event.service, &*event.message), ("one", "shop", "sold"));
    assert_eq!(event.metadata_form, Some(MetadataForm::MetadataJson(r#"{"a":1}"#.to_owned())));
}

/// A connection that is cut during the call, a server that says nothing, and one that is overloaded are tried again with the same
/// batch, on a new connection where it takes one.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let server =
        server([Act::Cut, Act::Hang, Act::Status(Status::unavailable("the journal is full")), Act::Cut])
            .await;
    let client = server.builder("grpc").attempt_timeout(Duration::from_millis(300)).build().unwrap();
    for receipt in send(&client, &["a", "b"]).await {
        assert_eq!(receipt.await, Ok(Outcome::Delivered));
    }
    let came: Vec<_> = server.came().into_iter().map(|came| came.message.unwrap()).collect();
    assert_eq!(came.len(), 5);
    assert!(came.iter().all(|one| *one == came[0]));
}

/// `RetryInfo` is waited for, with either code that may carry it.
#[tokio::test]
async fn retry_info_is_honoured() {
    let busy = |code| Act::Status(Status::with_details(code, "slow down", retry_info(400).into()));
    let server = server([busy(Code::Unavailable), busy(Code::ResourceExhausted)]).await;
    let client = server.builder("grpc").build().unwrap();
    let began = Instant::now();
    send(&client, &["a"]).await.pop().unwrap().await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(800));
    assert_eq!(server.came().len(), 3);
}

/// A server that ends and comes back at the same address is found again.
#[tokio::test]
async fn a_server_that_comes_back_is_found() {
    let first = server([]).await;
    let address = first.address;
    let client = builder("grpc", address).build().unwrap();
    send(&client, &["a"]).await.pop().unwrap().await.unwrap();
    drop(first);
    let receipt = send(&client, &["b"]).await.pop().unwrap();
    // The old connections may hold the address a moment longer.
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let second = Server::listen(listener, Protocol::Grpc, None, []);
    assert_eq!(receipt.await, Ok(Outcome::Delivered));
    assert_eq!(second.came().len(), 1);
}

/// What the server refuses comes back in its words; a batch that is too large goes in halves; wrong events come back alone.
#[tokio::test]
async fn refusals_come_back_in_the_servers_words() {
    let denied = Act::Status(Status::unauthenticated("the token is wrong"));
    let large = Act::Status(Status::resource_exhausted("over ingest.max_body_bytes"));
    let server = server([denied, large, Act::Take(vec![]), Act::Take(vec![]), Act::Take(vec![1])]).await;
    let client = server.builder("grpc").build().unwrap();
    let back = send(&client, &["a"]).await.pop().unwrap().await.unwrap_err();
    assert_eq!(back.failure, Failure::Refused("Unauthenticated: the token is wrong".to_owned()));
    for receipt in send(&client, &["a", "b", "c"]).await {
        receipt.await.unwrap();
    }
    let sizes: Vec<_> =
        server.came().iter().map(|came| came.message.as_ref().unwrap().events.len()).collect();
    assert_eq!(sizes, [1, 3, 1, 2]);
    let mut outcomes = Vec::new();
    for receipt in send(&client, &["a", "b"]).await {
        outcomes.push(receipt.await.map_err(|back| back.failure));
    }
    assert_eq!(outcomes, [Ok(Outcome::Delivered), Err(Failure::Rejected("number 1 is wrong".to_owned()))]);
}
