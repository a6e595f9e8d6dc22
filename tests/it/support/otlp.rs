//! A receiver of OpenTelemetry that answers as it is told, over HTTP and over gRPC.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::Read as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use forebay_actors::otlp::{Rows, Signal, check};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::{net::TcpListener, time::Instant};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub at: Instant,
    pub path: String,
    pub headers: HeaderMap,
    pub signal: Signal,
    /// Unpacked, without the frame of gRPC.
    pub message: Vec<u8>,
}

impl Received {
    /// The messages of its items: bodies of records, names of spans and metrics.
    pub fn texts(&self) -> Vec<String> {
        let (mut rows, mut texts) = (Rows::of(&self.message, self.signal), Vec::new());
        while let Some(row) = rows.next_row() {
            texts.push(row.message.to_owned());
        }
        texts
    }
}

/// What it says.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Taken; of the message of the answer these bytes.
    Taken(Vec<u8>),
    /// A status of gRPC, with the bytes of a `google.rpc.Status`.
    Grpc(u16, &'static str, Option<Vec<u8>>),
    /// A status of HTTP with these headers and this body.
    Http(u16, Vec<(&'static str, &'static str)>, Vec<u8>),
}

/// Decides about a request; `None` is for taking it.
type Judge = Box<dyn Fn(&Received) -> Option<Answer> + Send>;

/// A running receiver.
pub struct Receiver {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Received>>,
    /// Answers to the next requests that have records, before the judge is asked.
    next: Mutex<VecDeque<Answer>>,
    judge: Mutex<Option<Judge>>,
    taken: Mutex<Vec<String>>,
}

impl Receiver {
    /// One that takes everything.
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let serving = shared.clone();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let shared = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(shared.clone(), request));
                    // A sender may break a connection at any time.
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Self { address, shared, runtime: Some(runtime) }
    }

    /// The configuration of a sink that delivers here, and does not wait long after a failure.
    pub fn sink(&self, protocol: &str, more: &str) -> String {
        format!(
            "{{ type: otlp, endpoint: \"http://{}\", protocol: {protocol}, retry: {{ backoff_min: 20ms, backoff_max: 100ms }}, \
             breaker: {{ open_for: 100ms, successes: 1 }}{more} }}",
            self.address
        )
    }

    /// Answers the next requests so, in this order.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.shared.next).extend(answers);
    }

    /// Asks this about every request that has records.
    pub fn judge(&self, judge: impl Fn(&Received) -> Option<Answer> + Send + 'static) {
        *lock(&self.shared.judge) = Some(Box::new(judge));
    }

    /// Every request that had records, whatever the answer.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// The texts of all items that were taken, in order.
    pub fn taken(&self) -> Vec<String> {
        lock(&self.shared.taken).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Frames = StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Frames>, hyper::Error> {
    let (head, body) = request.into_parts();
    let is_grpc = head.headers.get("content-type").is_some_and(|kind| kind == "application/grpc");
    let body = body.collect().await?.to_bytes();
    let received = received(head.uri.path(), head.headers, is_grpc, &body);
    let answer = if received.message.is_empty() { Answer::Taken(Vec::new()) } else { shared.judge(received) };
    Ok(written(answer, is_grpc))
}

impl Shared {
    fn judge(&self, received: Received) -> Answer {
        check(&received.message, received.signal).expect("a sink sends requests of the protocol");
        let next = lock(&self.next).pop_front();
        let told = next.or_else(|| lock(&self.judge).as_ref().and_then(|judge| judge(&received)));
        let answer = told.unwrap_or(Answer::Taken(Vec::new()));
        if let Answer::Taken(_) = &answer {
            lock(&self.taken).extend(received.texts());
        }
        lock(&self.received).push(received);
        answer
    }
}

fn received(path: &str, headers: HeaderMap, is_grpc: bool, body: &[u8]) -> Received {
    let signal = match path {
        "/v1/logs" | "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Signal::Logs,
        "/v1/metrics" | "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Signal::Metrics,
        "/v1/traces" | "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Signal::Traces,
        other => panic!("there is no {other}"),
    };
    let gzip = |name: &str| headers.get(name).is_some_and(|coding| coding == "gzip");
    let (is_packed, packed) = if is_grpc {
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        assert_eq!(body.len(), length + 5, "a call has one message");
        (body[0] == 1 && gzip("grpc-encoding"), &body[5..])
    } else {
        (gzip("content-encoding"), body)
    };
    let mut message = packed.to_vec();
    if is_packed {
        message.clear();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut message).unwrap();
    }
    Received { at: Instant::now(), path: path.to_owned(), headers, signal, message }
}

fn written(answer: Answer, is_grpc: bool) -> Response<Frames> {
    let mut headers = HeaderMap::new();
    let (status, frames) = match answer {
        Answer::Taken(message) if is_grpc => {
            let frame = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), 0.into())]);
            (200, vec![Frame::data(frame.into()), Frame::trailers(trailers)])
        }
        Answer::Taken(message) => {
            headers.insert("content-type", "application/x-protobuf".parse().unwrap());
            (200, vec![Frame::data(message.into())])
        }
        Answer::Grpc(code, message, details) => {
            use base64::Engine as _;
            headers.insert("grpc-status", code.into());
            headers.insert("grpc-message", message.parse().unwrap());
            if let Some(details) = details {
                let details = base64::engine::general_purpose::STANDARD_NO_PAD.encode(details);
                headers.insert("grpc-status-details-bin", details.parse().unwrap());
            }
            (200, Vec::new())
        }
        Answer::Http(status, named, body) => {
            for (name, value) in named {
                headers.insert(name, value.parse().unwrap());
            }
            (status, vec![Frame::data(body.into())])
        }
    };
    if is_grpc && status == 200 {
        headers.insert("content-type", "application/grpc".parse().unwrap());
    }
    let frames: Vec<_> = frames.into_iter().map(Ok).collect();
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    *response.headers_mut() = headers;
    response
}
