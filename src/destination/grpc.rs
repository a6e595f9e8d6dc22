//! Calls of gRPC, for destinations that speak it: one call is one message each way, so its frame is put on and taken off by
//! hand.
//!
//! hyper's HTTP/2, not a framework of gRPC: a framework copies a message into a buffer of its own before it sends it, hides
//! whether an error is the server's word or the connection's end, and its own is one that panics on a status that is not
//! base64. One connection carries all calls; the windows of HTTP/2 that matter to what is sent are the server's. No proxy is
//! used.

pub(super) mod status;

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_actors::{
    destination::{Cause, DeliveryError},
    examination::ClockReading,
};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, sync::Mutex, time::Instant};
use tokio_rustls::TlsConnector;

use self::status::{GrpcStatus, quoted};
use super::{
    chain,
    http::{clock_of, retry_after},
    pieces::Pieces,
    tls, unbuildable,
};
use crate::config::TlsClient;

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
    hint: &'static str,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    headers: HeaderMap,
    timeout: Duration,
    answer_bytes_max: usize,
    /// The connection, once there is one. Held while it is made, so that calls do not make one each.
    connection: Mutex<Option<SendRequest<Pieces>>>,
}

/// What a server is reached by.
pub(super) struct Options<'a> {
    pub(super) endpoint: &'a str,
    /// What an endpoint looks like, for whoever wrote one that cannot be used.
    pub(super) example: &'static str,
    /// What may be meant where a server does not speak gRPC.
    pub(super) hint: &'static str,
    pub(super) timeout: Duration,
    pub(super) tls: &'a TlsClient,
    /// Bytes of an answer that are read.
    pub(super) answer_bytes_max: usize,
    /// Headers of every call.
    pub(super) headers: HeaderMap,
}

/// A message as it goes out.
pub(super) struct Message {
    /// Its bytes, one behind the other.
    pub(super) pieces: Vec<Bytes>,
    /// How they are packed, by its name in `grpc-encoding`.
    pub(super) packing: Option<&'static str>,
}

/// What a call that went well was answered with.
pub(super) struct Answer {
    /// The message.
    pub(super) message: Bytes,
    /// What the server's clock said, where it says so.
    pub(super) clock: Option<ClockReading>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server's own word.
    Refused(GrpcStatus),
    /// Nobody answered, or nobody who speaks gRPC.
    Unanswered(DeliveryError),
}

/// An answer, as far as it was read.
struct Answered {
    head: Response<()>,
    message: Vec<u8>,
    trailers: HeaderMap,
}

impl Grpc {
    /// A server as the options say. Makes no connection.
    ///
    /// # Errors
    /// Where the endpoint or a certificate cannot be used.
    pub(super) fn new(options: Options<'_>) -> Result<Self, DeliveryError> {
        let Options { endpoint, example, hint, timeout, tls, answer_bytes_max, mut headers } = options;
        let unusable = || unbuildable(format!("the endpoint cannot be used; it should be like {example}"));
        let uri: Uri = endpoint.parse().map_err(|_| unusable())?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err(unusable()) };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(unbuildable("the endpoint has a path, and gRPC has none; leave it away"));
        }
        let tls = match scheme {
            "https" => {
                let mut tls = tls::client_with(tls)?;
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
        let wait = HeaderValue::from_str(&format!("{}m", timeout.as_millis().min(99_999_999)));
        headers.insert("grpc-timeout", wait.map_err(|_| unusable())?);
        let authority = match uri.port() {
            Some(port) => format!("{}:{port}", uri.host().unwrap_or_default()),
            None => uri.host().unwrap_or_default().to_owned(),
        };
        let shown = format!("{scheme}://{authority}");
        Ok(Self {
            shown,
            hint,
            host,
            port,
            tls,
            headers,
            timeout,
            answer_bytes_max,
            connection: Mutex::default(),
        })
    }

    /// One call of a method, by its path.
    ///
    /// # Errors
    /// Where it was not taken, or nobody answered.
    pub(super) async fn call(&self, path: &str, message: Message) -> Result<Answer, Failure> {
        let asked = Instant::now();
        let Ok(answered) = tokio::time::timeout(self.timeout, self.ask(path, message)).await else {
            // Who does not answer may be gone without a word: the next call makes a connection of its own.
            self.connection.lock().await.take();
            let text = format!("{}: no answer in time ({:?})", self.shown, self.timeout);
            return Err(DeliveryError::transient(Cause::Timeout, text).into());
        };
        let answered = answered?;
        match self.status(&answered)? {
            GrpcStatus { code: 0, .. } => {
                let clock = clock_of(answered.head.headers(), asked);
                let message = Bytes::from(answered.message);
                Ok(Answer { message: message.slice(FRAME_BYTES.min(message.len())..), clock })
            }
            refused => Err(Failure::Refused(refused)),
        }
    }

    async fn ask(&self, path: &str, message: Message) -> Result<Answered, DeliveryError> {
        let request = self.request(path, message)?;
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
                Ok(data) if message.len() + data.len() > self.answer_bytes_max => break,
                Ok(data) => message.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        Ok(Answered { head: Response::from_parts(head, ()), message, trailers })
    }

    fn request(&self, path: &str, message: Message) -> Result<Request<Pieces>, DeliveryError> {
        let Message { mut pieces, packing } = message;
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let length = u32::try_from(bytes).map_err(|_| DeliveryError::rejected("a message of over 4 GiB"))?;
        let mut frame = Vec::with_capacity(FRAME_BYTES);
        frame.push(u8::from(packing.is_some()));
        frame.extend_from_slice(&length.to_be_bytes());
        pieces.insert(0, frame.into());
        let mut request = Request::post(format!("{}{path}", self.shown))
            .body(Pieces::new(pieces))
            .map_err(|error| DeliveryError::transient(Cause::Build, format!("{}: {error}", self.shown)))?;
        *request.headers_mut() = self.headers.clone();
        if let Some(packing) = packing {
            request.headers_mut().insert("grpc-encoding", HeaderValue::from_static(packing));
        }
        Ok(request)
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
                    let what = format!("the server does not speak HTTP/2, so no gRPC; {}", self.hint);
                    return Err(no_connection(what));
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
            true => format!("; the server seems not to speak gRPC there: {}", self.hint),
            false => String::new(),
        };
        DeliveryError::transient(Cause::Connect, format!("{}: {what}: {text}{hint}", self.shown))
    }

    /// The status of a call.
    ///
    /// # Errors
    /// Where there is none: whoever answered does not speak gRPC, or broke off.
    fn status(&self, answered: &Answered) -> Result<GrpcStatus, DeliveryError> {
        let found = GrpcStatus::of(&answered.trailers).or_else(|| GrpcStatus::of(answered.head.headers()));
        if let Some(status) = found {
            return Ok(status);
        }
        // A proxy's answer, in the codes that gRPC has for it.
        let http_status = answered.head.status();
        let code = match http_status.as_u16() {
            200 => {
                let text = format!("{}: an answer without a status of gRPC", self.shown);
                return Err(DeliveryError::transient(Cause::Server, text));
            }
            400 => 13,
            401 => 16,
            403 => 7,
            404 | 300..=399 => 12,
            413 => 8,
            429 | 502..=504 => 14,
            _ => 2,
        };
        let quote = quoted(&answered.message);
        let message = format!("HTTP {http_status}{}{quote}", if quote.is_empty() { "" } else { ": " });
        Ok(GrpcStatus { code, message, retry_after: retry_after(answered.head.headers()) })
    }
}

impl From<DeliveryError> for Failure {
    fn from(error: DeliveryError) -> Self {
        Self::Unanswered(error)
    }
}

/// What is wrong with a connection by TLS: rustls' own words are within those of the operating system.
fn tls_words(error: &io::Error) -> String {
    error.get_ref().map_or_else(|| chain(error), |inner| inner.to_string())
}
