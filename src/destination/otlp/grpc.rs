//! Over gRPC: one call is one message each way, so its frame is put on and taken off by hand.
//!
//! hyper's HTTP/2, not a framework of gRPC: a framework copies a message into a buffer of its own before it sends it, hides
//! whether an error is the server's word or the connection's end, and its own is one that panics on a status that is not
//! base64. One connection carries all calls; the windows of HTTP/2 that matter to what is sent are the server's.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_actors::{
    destination::{Cause, DeliveryError},
    otlp::Signal,
};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, sync::Mutex};
use tokio_rustls::TlsConnector;

use super::{
    ANSWER_BYTES_MAX, Message, OtlpSink,
    answer::{GrpcStatus, Partial, Refusal, quoted},
    pieces::Pieces,
};
use crate::destination::{chain, tls, unbuildable};

/// Before every message: whether it is packed, and its bytes.
const FRAME_BYTES: usize = 5;

/// What a server may send ahead: answers are short.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes of a call that may wait in memory for the server's window: more than a usual window, so that it is never waited for.
const SEND_BUFFER_BYTES: usize = 1024 * 1024;

/// One server.
pub(super) struct Grpc {
    /// The endpoint for messages.
    pub(super) shown: String,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
    /// The connection, once there is one. Held while it is made, so that calls do not make one each.
    connection: Mutex<Option<SendRequest<Pieces>>>,
}

/// An answer, as far as it was read.
struct Answered {
    head: Response<()>,
    message: Vec<u8>,
    trailers: HeaderMap,
}

impl Grpc {
    /// # Errors
    /// Where the endpoint or a certificate cannot be used.
    pub(super) fn new(options: &OtlpSink, mut headers: HeaderMap) -> Result<Self, DeliveryError> {
        let unusable = || unbuildable("the endpoint cannot be used; it should be like http://collector:4317");
        let uri: Uri = options.endpoint.parse().map_err(|_| unusable())?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err(unusable()) };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(unbuildable(
                "the endpoint has a path, and gRPC has none; leave it away, or set protocol: http",
            ));
        }
        let tls = match scheme {
            "https" => {
                let mut tls = tls::client_with(&options.tls)?;
                tls.alpn_protocols = vec![b"h2".to_vec()];
                Some(Arc::new(tls))
            }
            "http" => None,
            _ => return Err(unusable()),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!("forebay/", env!("CARGO_PKG_VERSION"))));
        let wait = HeaderValue::from_str(&format!("{}m", options.timeout.as_millis().min(99_999_999)));
        headers.insert("grpc-timeout", wait.map_err(|_| unusable())?);
        let authority = match uri.port() {
            Some(port) => format!("{}:{port}", uri.host().unwrap_or_default()),
            None => uri.host().unwrap_or_default().to_owned(),
        };
        let shown = format!("{scheme}://{authority}");
        let uri = shown.parse().map_err(|_| unusable())?;
        Ok(Self {
            shown,
            host,
            port,
            tls,
            uri,
            headers,
            timeout: options.timeout,
            connection: Mutex::default(),
        })
    }

    /// One call.
    ///
    /// # Errors
    /// Where it was not taken, or nobody answered.
    pub(super) async fn export(&self, message: Message) -> Result<Partial, Refusal> {
        let Ok(answered) = tokio::time::timeout(self.timeout, self.call(message)).await else {
            // Who does not answer may be gone without a word: the next call makes a connection of its own.
            self.connection.lock().await.take();
            let text = format!("{}: no answer in time ({:?})", self.shown, self.timeout);
            return Err(DeliveryError::transient(Cause::Timeout, text).into());
        };
        let answered = answered?;
        match self.status(&answered)? {
            GrpcStatus { code: 0, .. } => {
                Ok(Partial::of_protobuf(answered.message.get(FRAME_BYTES..).unwrap_or_default()))
            }
            refused => Err(refused.refusal(&self.shown)),
        }
    }

    async fn call(&self, message: Message) -> Result<Answered, DeliveryError> {
        let request = self.request(message)?;
        let mut connection = self.connection().await?;
        let broke = |what: &str, error: &hyper::Error| self.broken(what, error);
        let response = match connection.send_request(request).await {
            Ok(response) => response,
            Err(error) => return Err(broke("the connection broke", &error)),
        };
        let (head, mut body) = response.into_parts();
        let (mut message, mut trailers) = (Vec::new(), HeaderMap::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broke("the answer broke off", &error))?;
            match frame.into_data() {
                // What is longer is no answer of this protocol; the stream ends with its reader.
                Ok(data) if message.len() + data.len() > ANSWER_BYTES_MAX => break,
                Ok(data) => message.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        Ok(Answered { head: Response::from_parts(head, ()), message, trailers })
    }

    fn request(&self, message: Message) -> Result<Request<Pieces>, DeliveryError> {
        let Message { signal, mut pieces, is_packed } = message;
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let length = u32::try_from(bytes).map_err(|_| DeliveryError::rejected("a message of over 4 GiB"))?;
        let mut frame = Vec::with_capacity(FRAME_BYTES);
        frame.push(u8::from(is_packed));
        frame.extend_from_slice(&length.to_be_bytes());
        pieces.insert(0, frame.into());
        let mut request = Request::post(self.uri_of(signal))
            .body(Pieces::new(pieces))
            .map_err(|error| DeliveryError::transient(Cause::Build, format!("{}: {error}", self.shown)))?;
        *request.headers_mut() = self.headers.clone();
        if is_packed {
            request.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        Ok(request)
    }

    fn uri_of(&self, signal: Signal) -> String {
        let service = match signal {
            Signal::Logs => "logs.v1.LogsService",
            Signal::Metrics => "metrics.v1.MetricsService",
            Signal::Traces => "trace.v1.TraceService",
        };
        format!("{}opentelemetry.proto.collector.{service}/Export", self.uri)
    }

    /// The connection there is, or a new one.
    async fn connection(&self) -> Result<SendRequest<Pieces>, DeliveryError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        let no_connection = |what: String| {
            DeliveryError::transient(Cause::Connect, format!("{}: no connection: {what}", self.shown))
        };
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await;
        let socket = socket.map_err(|error| no_connection(chain(&error)))?;
        // Where it fails, the end of a call is a little slower.
        let _ = socket.set_nodelay(true);
        let connection = match &self.tls {
            None => self.handshake(socket).await?,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone());
                let name = name.map_err(|error| no_connection(error.to_string()))?;
                let secured = TlsConnector::from(tls.clone()).connect(name, socket).await;
                let secured =
                    secured.map_err(|error| no_connection(format!("TLS: {}", tls_words(&error))))?;
                if secured.get_ref().1.alpn_protocol() != Some(b"h2") {
                    let what = "the server does not speak HTTP/2, so no gRPC; is `protocol: http` meant?";
                    return Err(no_connection(what.to_owned()));
                }
                self.handshake(secured).await?
            }
        };
        Ok(slot.insert(connection).clone())
    }

    async fn handshake(
        &self,
        socket: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Pieces>, DeliveryError> {
        let shaken = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .handshake(TokioIo::new(socket))
            .await;
        let (connection, driver) = shaken.map_err(|error| self.broken("no connection", &error))?;
        // What ends it is what its calls end with.
        tokio::spawn(async move {
            driver.await.unwrap_or_else(|error| tracing::debug!(%error, "a connection ended"))
        });
        Ok(connection)
    }

    fn broken(&self, what: &str, error: &hyper::Error) -> DeliveryError {
        let text = chain(error);
        // So h2 says that what came is not its protocol: the answer of HTTP/1.1.
        let is_other_protocol = ["frame with invalid size", "invalid connection preface", "PROTOCOL_ERROR"];
        let hint = match is_other_protocol.iter().any(|words| text.contains(words)) {
            true => "; the server seems not to speak gRPC there: is `protocol: http` meant, or another port?",
            false => "",
        };
        DeliveryError::transient(Cause::Connect, format!("{}: {what}: {text}{hint}", self.shown))
    }

    /// The status of a call.
    ///
    /// # Errors
    /// Where there is none: whoever answered does not speak gRPC, or broke off.
    fn status(&self, answered: &Answered) -> Result<GrpcStatus, Refusal> {
        let found = GrpcStatus::of(&answered.trailers).or_else(|| GrpcStatus::of(answered.head.headers()));
        if let Some(status) = found {
            return Ok(status);
        }
        // A proxy's answer, in the codes that gRPC has for it.
        let http_status = answered.head.status();
        let code = match http_status.as_u16() {
            200 => {
                let text = format!("{}: an answer without a status of gRPC", self.shown);
                return Err(DeliveryError::transient(Cause::Server, text).into());
            }
            400 => 13,
            401 => 16,
            403 => 7,
            404 | 300..=399 => 12,
            429 | 502..=504 => 14,
            _ => 2,
        };
        let quote = quoted(&answered.message);
        let message = format!("HTTP {http_status}{}{quote}", if quote.is_empty() { "" } else { ": " });
        Ok(GrpcStatus { code, message, retry_after: super::http::retry_after(answered.head.headers()) })
    }
}

/// What is wrong with a connection by TLS: rustls' own words are within those of the operating system.
fn tls_words(error: &io::Error) -> String {
    error.get_ref().map_or_else(|| chain(error), |inner| inner.to_string())
}
