//! OpenTelemetry's other end: who counts what comes, and who calls over gRPC.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use forebay_actors::otlp::{Items, Signal};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::{
    body::{Body as _, Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use super::{
    Failure, events,
    sink::{Counts, Reader},
};

/// Whether a call is of gRPC, its bytes before the message.
const FRAME_BYTES: usize = 5;
const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// As much as a request has, so that nobody waits for a window.
const WINDOW_BYTES: u32 = 4 << 20;
const FRAME_SIZE_MAX: u32 = 1 << 20;

/// Log records of the requests that come in bodies of HTTP/1.1.
#[derive(Debug)]
pub struct LogRecords {
    counts: Arc<Counts>,
    body: Vec<u8>,
}

impl LogRecords {
    /// Counts there.
    pub fn new(counts: Arc<Counts>) -> Self {
        Self { counts, body: Vec::new() }
    }
}

impl Reader for LogRecords {
    fn piece(&mut self, piece: &[u8]) {
        self.body.extend_from_slice(piece);
    }

    fn end(&mut self, taken: bool) {
        if taken {
            self.counts.add_events(count(&self.body));
        }
        self.body.clear();
    }
}

fn count(request: &[u8]) -> u64 {
    Items::of(request, Signal::Logs).count() as u64
}

/// A receiver of gRPC that only counts, on a thread of its own.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    counted: Arc<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    events: AtomicU64,
    bytes: AtomicU64,
}

impl Receiver {
    /// Begins to listen on a free port.
    ///
    /// # Errors
    /// Where there is no port or no thread to be had.
    pub fn start() -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::io("start the receiver's runtime"))?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.map_err(Failure::io("bind the receiver"))?;
        let address = listener.local_addr().map_err(Failure::io("bind the receiver"))?;
        let counted = Arc::new(Counted::default());
        let serving = counted.clone();
        std::thread::Builder::new()
            .name("receiver".to_owned())
            .spawn(move || runtime.block_on(serve(listener, serving)))
            .map_err(Failure::io("start the receiver's thread"))?;
        Ok(Self { address, counted })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Records it has said yes to.
    pub fn events(&self) -> u64 {
        self.counted.events.load(Ordering::Relaxed)
    }

    /// Bytes of their messages.
    pub fn bytes(&self) -> u64 {
        self.counted.bytes.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, counted: Arc<Counted>) {
    // It ends with the process: the bench has one receiver a scenario.
    while let Ok((socket, _)) = listener.accept().await {
        let _ = socket.set_nodelay(true);
        let counted = counted.clone();
        let service = service_fn(move |request| answer(request, counted.clone()));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_SIZE_MAX)
            .serve_connection(TokioIo::new(socket), service);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("bench: the receiver's connection ended: {error}");
            }
        });
    }
}

type Frames = StreamBody<futures::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>>;

async fn answer(request: Request<Incoming>, counted: Arc<Counted>) -> Result<Response<Frames>, hyper::Error> {
    let mut body = request.into_body();
    let mut message = Vec::with_capacity(body.size_hint().lower() as usize);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            message.extend_from_slice(&data);
        }
    }
    let request = message.get(FRAME_BYTES..).unwrap_or_default();
    counted.events.fetch_add(count(request), Ordering::Relaxed);
    counted.bytes.fetch_add(request.len() as u64, Ordering::Relaxed);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Frame::data(Bytes::from_static(&[0; FRAME_BYTES])), Frame::trailers(trailers)];
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames.map(Ok))));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// A connection over which calls are made one after the other.
pub struct Caller {
    sender: SendRequest<Full<Bytes>>,
    uri: String,
}

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// Where nobody listens there.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self { sender, uri: format!("http://{address}{LOGS}") })
    }

    /// Makes one call; 200 where its status is OK.
    ///
    /// # Errors
    /// Where the connection breaks.
    pub async fn exchange(&mut self, request: &events::Request) -> io::Result<u16> {
        let call = Request::post(&self.uri)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(request.message.clone()))
            .map_err(io::Error::other)?;
        let response = self.sender.send_request(call).await.map_err(io::Error::other)?;
        let in_head = response.headers().contains_key("grpc-status");
        let collected = response.into_body().collect().await.map_err(io::Error::other)?;
        let is_ok =
            collected.trailers().and_then(|trailers| trailers.get("grpc-status")).is_some_and(|s| s == "0");
        Ok(if is_ok && !in_head { 200 } else { 503 })
    }
}
