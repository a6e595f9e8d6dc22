//! A destination against a server of a few lines, on loopback.

use std::{
    collections::{BTreeMap, VecDeque},
    io::Read as _,
    sync::Mutex,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use super::*;
use crate::destination::test_batch;

/// What the server does with a request.
#[derive(Clone)]
enum Answer {
    /// Sends this.
    Text(String),
    /// Closes the connection.
    Cut,
    /// Says nothing.
    Hang,
}

/// A request as it arrived.
struct Seen {
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Answers requests in order, on one connection or on several.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<u32>>,
}

impl Server {
    async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, connections): (Arc<Mutex<Vec<Seen>>>, Arc<Mutex<u32>>) = Default::default();
        let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
        let server = Self { port, seen: seen.clone(), connections: connections.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *connections.lock().unwrap() += 1;
                tokio::spawn(serve(stream, answers.clone(), seen.clone()));
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/in", self.port)
    }

    fn destination(&self) -> HttpDestination {
        HttpDestination::trusting(&options(&self.url()), RootCertStore::empty()).unwrap()
    }

    fn last(&self) -> Seen {
        self.seen.lock().unwrap().pop().expect("a request came")
    }
}

/// Answers what comes over one connection, while there are answers.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await {
        seen.lock().unwrap().push(request);
        let answer = answers.lock().unwrap().pop_front().unwrap_or(Answer::Hang);
        match answer {
            Answer::Text(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Answer::Cut => return,
            Answer::Hang => std::future::pending().await,
        }
    }
}

async fn read_request(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let len = headers.get("content-length").map_or(0, |len| len.parse().unwrap());
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.ok()?;
    Some(Seen { line: line.trim().to_owned(), headers, body })
}

fn answer(status: &str, headers: &str, body: &str) -> Answer {
    Answer::Text(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len()))
}

fn options(url: &str) -> HttpSink {
    HttpSink {
        url: url.to_owned(),
        encoding: HttpEncoding::Ndjson,
        compression: Compression::None,
        headers: BTreeMap::new(),
        timeout: Duration::from_secs(20),
    }
}

fn one_event() -> Arc<Batch> {
    Arc::new(test_batch::at(41, 1))
}

async fn failure_of(answer: Answer) -> DeliveryError {
    let server = Server::start([answer]).await;
    server.destination().deliver(one_event()).await.unwrap_err()
}

/// A delivered batch carries its id, its number of events and the configured headers; the connection is kept
/// for the next one.
#[tokio::test]
async fn a_batch_arrives_with_its_identity() {
    let server = Server::start([answer("200 OK", "", "thanks"), answer("204 No Content", "", "")]).await;
    let mut options = options(&server.url());
    options.headers.insert("Authorization".to_owned(), "Bearer secret".to_owned());
    let http = HttpDestination::trusting(&options, RootCertStore::empty()).unwrap();

    let receipt = http.deliver(Arc::new(test_batch::at(41, 2))).await.unwrap();
    let seen = server.last();
    assert_eq!(seen.line, "POST /in HTTP/1.1");
    assert_eq!(receipt.bytes, seen.body.len() as u64);
    let header = |name: &str| seen.headers.get(name).map(String::as_str);
    assert_eq!(header("x-forebay-batch-id"), Some("41-43"));
    assert_eq!(header("idempotency-key"), Some("41-43"));
    assert_eq!(header("x-forebay-events"), Some("2"));
    assert_eq!(header("content-type"), Some("application/x-ndjson"));
    assert_eq!(header("user-agent"), Some(concat!("forebay/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(header("authorization"), Some("Bearer secret"));
    assert_eq!(seen.body.iter().filter(|b| **b == b'\n').count(), 2);

    http.deliver(one_event()).await.unwrap();
    assert_eq!(*server.connections.lock().unwrap(), 1);
}

/// A compressed body, larger than is compressed at once, is what it was before.
#[tokio::test]
async fn a_compressed_array_round_trips() {
    let server = Server::start([answer("200 OK", "", "")]).await;
    let mut options = options(&server.url());
    (options.encoding, options.compression) = (HttpEncoding::Json, Compression::Gzip);
    let http = HttpDestination::trusting(&options, RootCertStore::empty()).unwrap();
    let batch = Arc::new(test_batch::of(5_000));
    assert!(batch.payload_bytes() > super::super::INLINE_BYTES_MAX);

    let receipt = http.deliver(batch.clone()).await.unwrap();
    let seen = server.last();
    assert_eq!((receipt.bytes, seen.headers["content-encoding"].as_str()), (seen.body.len() as u64, "gzip"));
    assert_eq!(seen.headers["content-type"], "application/json");
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&seen.body[..]).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, crate::destination::encode_batch(&batch, Framing::Array).unwrap());
    assert_eq!(serde_json::from_slice::<Vec<serde_json::Value>>(&plain).unwrap().len(), 5_000);
}

/// Each class of answer gets its cause and its verdict: only a refusal of the events themselves rejects.
#[tokio::test]
async fn answers_become_causes_and_verdicts() {
    let retry = Verdict::Retry { after: None };
    for (status, cause, verdict) in [
        ("408 Request Timeout", Cause::Timeout, retry),
        ("425 Too Early", Cause::Server, retry),
        ("429 Too Many Requests", Cause::Throttled, retry),
        ("500 Internal Server Error", Cause::Server, retry),
        ("503 Service Unavailable", Cause::Server, retry),
        ("599 Odd", Cause::Server, retry),
        ("304 Not Modified", Cause::Refused, retry),
        ("401 Unauthorized", Cause::Refused, retry),
        ("403 Forbidden", Cause::Refused, retry),
        ("404 Not Found", Cause::Refused, retry),
        ("405 Method Not Allowed", Cause::Refused, retry),
        ("407 Proxy Authentication Required", Cause::Refused, retry),
        ("400 Bad Request", Cause::Rejected, Verdict::Reject),
        ("413 Content Too Large", Cause::Rejected, Verdict::Reject),
        ("422 Unprocessable Content", Cause::Rejected, Verdict::Reject),
    ] {
        let error = failure_of(answer(status, "", "")).await;
        assert_eq!((error.cause, error.verdict), (cause, verdict), "{status}");
        assert_eq!(error.status, Some(status[..3].parse().unwrap()));
        assert!(error.message.contains(&status[..3]), "{error}");
    }
}

/// The wait that the server names reaches the sink, and a 503 that names one is a wish for a slower pace.
#[tokio::test]
async fn a_retry_after_reaches_the_sink() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let error = failure_of(answer(status, "Retry-After: 7\r\n", "")).await;
        let after = Some(Duration::from_secs(7));
        assert_eq!((error.cause, error.verdict), (Cause::Throttled, Verdict::Retry { after }));
    }
}

/// Seconds and dates, past and far ones, and what is neither.
#[test]
fn every_form_of_retry_after_is_read() {
    let seconds = |value: &str, date: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, value.parse().unwrap());
        date.and_then(|date| headers.insert(header::DATE, date.parse().unwrap()));
        retry_after(&headers).map(|wait| wait.as_secs())
    };
    let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(seconds("0", None), Some(0));
    assert_eq!(seconds("120", None), Some(120));
    assert_eq!(seconds("86400", None), Some(3600));
    assert_eq!(seconds("99999999999999999999999", None), Some(3600));
    assert_eq!(seconds("Sun, 06 Nov 1994 08:50:37 GMT", date), Some(60));
    assert_eq!(seconds("Sunday, 06-Nov-94 08:50:37 GMT", date), Some(60));
    assert_eq!(seconds("Sun, 06 Nov 1994 08:00:00 GMT", date), Some(0));
    assert_eq!(seconds("Sat, 06 Nov 2094 08:00:00 GMT", date), Some(3600));
    assert_eq!(seconds("Sun, 06 Nov 1994 08:50:37 GMT", None), None);
    assert_eq!(seconds("soon", date), None);
    assert_eq!(seconds("-5", date), None);
    assert_eq!(retry_after(&HeaderMap::new()), None);
}

/// A redirect is named, without its secrets, and not followed.
#[tokio::test]
async fn a_redirect_is_named_and_not_followed() {
    let server = Server::start([answer("302 Found", "Location: /login?token=t0ps3cret\r\n", "")]).await;
    let error = server.destination().deliver(one_event()).await.unwrap_err();
    let location = format!("a redirect to http://127.0.0.1:{}/login, which is not followed", server.port);
    assert!(error.message.ends_with(&location), "{error}");
    assert_eq!(server.seen.lock().unwrap().len(), 1);
}

/// A rejection repeats what the server said, on one line and not all of it.
#[tokio::test]
async fn a_rejection_has_the_servers_own_words() {
    let body = format!("bad\r\n\tfield: {}", "x".repeat(1_000));
    let error = failure_of(answer("400 Bad Request", "", &body)).await;
    let quote = error.message.split_once("400 Bad Request: ").unwrap().1;
    assert!(quote.starts_with("bad field: xxx") && quote.len() <= QUOTED_BYTES_MAX, "{error}");
    assert!(quote.len() > 500);
}

/// The status alone decides: an answer that never ends, or breaks off, was still a yes.
#[tokio::test]
async fn a_yes_is_a_yes_whatever_its_body() {
    let endless = format!("HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n{}", "x".repeat(100_000));
    let broken = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense".to_owned();
    for text in [endless, broken] {
        let server = Server::start([Answer::Text(text)]).await;
        server.destination().deliver(one_event()).await.unwrap();
    }
}

/// No listener, a connection that is cut, and something that is not HTTP are failures of the connection.
#[tokio::test]
async fn a_broken_connection_is_named() {
    let no_one = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://me:pa55@{}/in?token=t0ps3cret#there", listener.local_addr().unwrap())
    };
    let http = HttpDestination::trusting(&options(&no_one), RootCertStore::empty()).unwrap();
    let error = http.deliver(one_event()).await.unwrap_err();
    assert_eq!((error.cause, error.status), (Cause::Connect, None));
    assert!(error.message.contains("/in: no connection: ") && error.message.contains("refused"), "{error}");
    assert!(!["me", "pa55", "t0ps3cret"].iter().any(|secret| error.message.contains(secret)), "{error}");
    assert!(!format!("{http:?}").contains("pa55"), "{http:?}");
    assert_eq!(http.probe().await.unwrap_err().cause, Cause::Connect);

    for answer in [Answer::Cut, Answer::Text("220 mail.example.com ESMTP\r\n".to_owned())] {
        let error = failure_of(answer).await;
        assert_eq!((error.cause, error.verdict), (Cause::Connect, Verdict::Retry { after: None }));
        assert!(error.message.contains("the connection broke: "), "{error}");
    }
}

/// A server that takes the request and says nothing is given up on, in the time that was configured.
#[tokio::test(start_paused = true)]
async fn a_silent_server_times_out() {
    let error = failure_of(Answer::Hang).await;
    assert_eq!((error.cause, error.verdict), (Cause::Timeout, Verdict::Retry { after: None }));
    assert!(error.message.contains("no answer in time"), "{error}");
}

/// A damaged record is never sent.
#[tokio::test]
async fn a_damaged_record_is_not_sent() {
    for compression in [Compression::None, Compression::Gzip] {
        let server = Server::start([]).await;
        let options = HttpSink { compression, ..options(&server.url()) };
        let http = HttpDestination::trusting(&options, RootCertStore::empty()).unwrap();
        let error = http.deliver(Arc::new(test_batch::damaged())).await.unwrap_err();
        assert_eq!((error.cause, error.verdict), (Cause::Encode, Verdict::Reject));
        assert!(server.seen.lock().unwrap().is_empty());
    }
}

/// A probe sends no events, and a server that knows only POST is still there.
#[tokio::test]
async fn a_probe_asks_whether_anyone_is_there() {
    for (status, there) in [
        ("200 OK", true),
        ("405 Method Not Allowed", true),
        ("501 Not Implemented", true),
        ("401 Unauthorized", false),
        ("429 Too Many Requests", false),
        ("503 Service Unavailable", false),
    ] {
        let server = Server::start([Answer::Text(format!("HTTP/1.1 {status}\r\n\r\n"))]).await;
        assert_eq!(server.destination().probe().await.is_ok(), there, "{status}");
        let seen = server.last();
        assert_eq!((seen.line.as_str(), seen.body.len()), ("HEAD /in HTTP/1.1", 0));
    }
}

/// User and password of the URL are sent as credentials.
#[tokio::test]
async fn credentials_of_the_url_are_sent() {
    let server = Server::start([answer("200 OK", "", "")]).await;
    let url = format!("http://me:pa55@127.0.0.1:{}/in", server.port);
    let http = HttpDestination::trusting(&options(&url), RootCertStore::empty()).unwrap();
    http.deliver(one_event()).await.unwrap();
    assert_eq!(server.last().headers["authorization"], "Basic bWU6cGE1NQ==");
}

/// What cannot work is said when the destination is built, and no secret with it.
#[test]
fn bad_options_are_named() {
    for url in ["", "collector:9000", "ftp://me:pa55@host/", "/in"] {
        let error = HttpDestination::new(&options(url)).unwrap_err();
        assert_eq!(error.cause, Cause::Build);
        assert!(!error.message.contains("pa55"), "{error}");
    }
    for (name, value) in [("Content-Length", "3"), ("Idempotency-Key", "x"), ("a b", "x"), ("X-Ok", "pa55\n")]
    {
        let mut options = options("http://localhost/");
        options.headers.insert(name.to_owned(), value.to_owned());
        let error = HttpDestination::new(&options).unwrap_err();
        assert!(error.cause == Cause::Build && !error.message.contains("pa55"), "{error}");
        assert!(error.message.contains(name), "{error}");
    }
}

/// HTTPS works with an authority that is trusted, and is refused with one that is not.
#[tokio::test]
async fn https_needs_a_trusted_certificate() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/in", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                let answers = Arc::new(Mutex::new([answer("200 OK", "", "")].into()));
                tokio::spawn(serve(stream, answers, Arc::default()));
            }
        }
    });

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let trusting = HttpDestination::trusting(&options(&url), roots).unwrap();
    trusting.deliver(one_event()).await.unwrap();

    let careful = HttpDestination::new(&options(&url)).unwrap();
    let error = careful.deliver(one_event()).await.unwrap_err();
    assert_eq!(error.cause, Cause::Connect);
    assert!(error.message.contains("certificate"), "{error}");
}
