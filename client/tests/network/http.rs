//! Over HTTP.

use std::time::{Duration, UNIX_EPOCH};

use forebay_client::{Event, Failure, Outcome, Retry};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Instant};

use crate::support::{Act, Came, Protocol, Server, builder, send};

async fn server(acts: impl IntoIterator<Item = Act>) -> Server {
    Server::start(Protocol::Http, acts).await
}

fn batch_id(came: &Came) -> String {
    let line = came.head.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
    line.expect("every request names its batch").to_owned()
}

/// A request is what the server's API wants: a line for each event with everything that it has, the token, and gzip where
/// that was asked for.
#[tokio::test]
async fn a_request_has_everything() {
    let server = server([]).await;
    let client = server.builder("http").token("secret").gzip(true).build().unwrap();
    let event =
        Event::new("shop", "a \"line\"\nand another").at(UNIX_EPOCH + Duration::from_nanos(1_000_000_001));
    let all = event.clone().with_id("one").with("a", json!({"b": [1, null]}));
    let receipts = [client.send(all).await.unwrap(), client.send(event.with_id("two")).await.unwrap()];
    for receipt in receipts {
        assert_eq!(receipt.await, Ok(Outcome::Delivered));
    }
    let came = &server.came()[0];
    assert!(came.head.starts_with("POST /events?ids=false HTTP/1.1\r\n"), "{}", came.head);
    for header in
        ["authorization: Bearer secret", "content-type: application/x-ndjson", "content-encoding: gzip"]
    {
        assert!(came.head.contains(header), "{header}: {}", came.head);
    }
    let lines: Vec<Value> =
        serde_json::Deserializer::from_slice(&came.body).into_iter().map(Result::unwrap).collect();
    let time = "1970-01-01T00:00:01.000000001Z";
    let mut two = json!({"event_id": "two", "timestamp": time, "service": "shop", "message": "a \"line\"\nand another"});
    assert_eq!(lines[1], two);
    two["event_id"] = "one".into();
    two["metadata"] = json!({"a": {"b": [1, null]}});
    assert_eq!(lines[0], two);
    assert_eq!(came.body.iter().filter(|byte| **byte == b'\n').count(), 2);
}

/// A connection that is cut before the answer, in it, or by a server that says nothing, is tried again with the same batch.
#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    let server = server([Act::Cut, Act::CutInAnswer, Act::Hang, Act::Answer(503, "", "")]).await;
    let client = server.builder("http").attempt_timeout(Duration::from_millis(200)).build().unwrap();
    for receipt in send(&client, &["a", "b"]).await {
        assert_eq!(receipt.await, Ok(Outcome::Delivered));
    }
    let came = server.came();
    assert_eq!(came.len(), 5);
    assert!(came.iter().all(|one| batch_id(one) == batch_id(&came[0]) && one.body == came[0].body));
    send(&client, &["c"]).await.pop().unwrap().await.unwrap();
    assert_ne!(batch_id(&server.came()[5]), batch_id(&came[0]));
}

/// `Retry-After` is waited for.
#[tokio::test]
async fn retry_after_is_honoured() {
    let server = server([Act::Answer(429, "retry-after: 1\r\n", "")]).await;
    let client = server.builder("http").build().unwrap();
    let began = Instant::now();
    send(&client, &["a"]).await.pop().unwrap().await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
}

/// A server that is not there yet is waited for, and one that never comes is given up with the reason.
#[tokio::test]
async fn a_server_that_is_not_there_yet() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let given_up = builder("http", address).retry(Retry::attempts(2).first_wait(Duration::from_millis(5)));
    let given_up = given_up.build().unwrap();
    let back = send(&given_up, &["a"]).await.pop().unwrap().await.unwrap_err();
    assert!(
        matches!(&back.failure, Failure::GaveUp { attempts: 2, last } if last.contains("refused")),
        "{back}"
    );
    let client = builder("http", address).build().unwrap();
    let receipt = send(&client, &["a"]).await.pop().unwrap();
    let server = Server::listen(TcpListener::bind(address).await.unwrap(), Protocol::Http, None, []);
    assert_eq!(receipt.await, Ok(Outcome::Delivered));
    assert_eq!(server.came().len(), 1);
}

/// The server's refusals come back in its words and are not repeated; events that it refuses one by one come back alone.
#[tokio::test]
async fn refusals_come_back_in_the_servers_words() {
    let denied = r#"{"error":{"code":"unauthorized","message":"the token is wrong","details":null}}"#;
    let wrong = r#"{"error":{"code":"invalid_events","message":"all","details":{"rejected":[{"index":0,"error":"service: it is required"}]}}}"#;
    let moved = Act::Answer(307, "location: /elsewhere\r\n", "");
    let stranger = Act::Answer(200, "", "<html>welcome</html>");
    let acts =
        [Act::Answer(401, "", denied), Act::Answer(400, "", wrong), moved, stranger, Act::Take(vec![1])];
    let server = server(acts).await;
    let client = server.builder("http").build().unwrap();
    for wanted in [
        "the server refuses the request: 401 unauthorized: the token is wrong",
        "the server refuses the event: service: it is required",
        "the server refuses the request: 307",
        "the server refuses the request: 200 OK, but not as Forebay answers; is this its address? <html>welcome</html>",
    ] {
        let back = send(&client, &["a"]).await.pop().unwrap().await.unwrap_err();
        assert!(back.to_string().starts_with(wanted), "{back}");
    }
    let mut outcomes = Vec::new();
    for receipt in send(&client, &["a", "b", "c"]).await {
        outcomes.push(receipt.await.map_err(|back| (back.event.id().unwrap().to_owned(), back.failure)));
    }
    let rejected = Failure::Rejected("number 1 is wrong".to_owned());
    let wanted = [Ok(Outcome::Delivered), Err(("b".to_owned(), rejected)), Ok(Outcome::Delivered)];
    assert_eq!((&outcomes[..], server.came().len()), (&wanted[..], 5));
}
