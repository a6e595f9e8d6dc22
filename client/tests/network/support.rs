//! Servers that refuse, hang and cut connections; certificates.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::Engine as _;
use forebay_client::{Builder, Client, Event, Receipt, Retry};
use forebay_proto::ingest::v1::{
    EventBatchRequest, EventBatchResponse, HealthCheckRequest, HealthCheckResponse,
    ingest_service_server::{IngestService, IngestServiceServer},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, codec::CompressionEncoding, codegen::Service as _};

/// What a server does with a request.
#[derive(Debug, Clone)]
pub enum Act {
    /// Takes it, but for the events at these places.
    Take(Vec<u32>),
    /// Answers with this status, these headers and this body (HTTP).
    Answer(u16, &'static str, &'static str),
    /// Answers with this status (gRPC).
    Status(Status),
    /// Ends the connection: without an answer, or in the middle of one.
    Cut,
    CutInAnswer,
    /// Never answers.
    Hang,
}

/// A request that came: of HTTP the head and the unpacked body, of gRPC the message and its metadata.
#[derive(Debug, Clone, Default)]
pub struct Came {
    pub head: String,
    pub body: Vec<u8>,
    pub message: Option<EventBatchRequest>,
}

/// A server, until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    script: Script,
    /// Ends all connections with it.
    _listening: JoinSet<()>,
}

#[derive(Clone)]
struct Script {
    acts: Arc<Mutex<VecDeque<Act>>>,
    came: watch::Sender<Vec<Came>>,
    /// Counts connections that are to be cut.
    cut: watch::Sender<u32>,
}

impl Script {
    /// Notes a request, and says what to do with it: to take it where nothing else is left to do.
    fn next(&self, came: Came) -> Act {
        self.came.send_modify(|all| all.push(came));
        let mut acts = self.acts.lock().unwrap_or_else(PoisonError::into_inner);
        acts.pop_front().unwrap_or(Act::Take(Vec::new()))
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}
type Connection = Box<dyn Stream>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Grpc,
}

impl Server {
    pub async fn start(protocol: Protocol, acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::listen(listener, protocol, None, acts)
    }

    pub fn listen(
        listener: TcpListener,
        protocol: Protocol,
        tls: Option<TlsAcceptor>,
        acts: impl IntoIterator<Item = Act>,
    ) -> Self {
        let acts = Arc::new(Mutex::new(acts.into_iter().collect()));
        let script = Script { acts, came: watch::Sender::default(), cut: watch::Sender::default() };
        let address = listener.local_addr().unwrap();
        let (mut listening, shared) = (JoinSet::new(), script.clone());
        listening.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, tls) = (shared.clone(), tls.clone());
                connections.spawn(async move {
                    let connection: Connection = match tls {
                        // A client that is not trusted is told so by TLS.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                        None => Box::new(stream),
                    };
                    let mut cut = script.cut.subscribe();
                    tokio::select! {
                        _ = cut.changed() => {}
                        () = serve(protocol, connection, script) => {}
                    }
                });
            }
        });
        Self { address, script, _listening: listening }
    }

    pub fn came(&self) -> Vec<Came> {
        self.script.came.borrow().clone()
    }

    /// A client of it that does not wait long for anything.
    pub fn builder(&self, scheme: &str) -> Builder {
        builder(scheme, self.address)
    }
}

pub fn builder(scheme: &str, address: SocketAddr) -> Builder {
    Client::builder(format!("{scheme}://{address}"))
        .batch_age(Duration::from_millis(5))
        .retry(Retry::for_ever().first_wait(Duration::from_millis(5)).longest_wait(Duration::from_millis(50)))
}

/// Sends events as one batch.
pub async fn send(client: &Client, ids: &[&str]) -> Vec<Receipt> {
    let events = ids.iter().map(|id| Event::new("shop", format!("event {id}")).with_id(*id).with("n", 1));
    events.map(|event| client.try_send(event).unwrap()).collect()
}

async fn serve(protocol: Protocol, connection: Connection, script: Script) {
    match protocol {
        // A connection that broke is what some tests want.
        Protocol::Http => drop(serve_http(connection, script).await),
        Protocol::Grpc => {
            let service = IngestServiceServer::new(Grpc(script)).accept_compressed(CompressionEncoding::Gzip);
            let service = hyper::service::service_fn(move |request| service.clone().call(request));
            let connection = TokioIo::new(connection);
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(served.serve_connection(connection, service).await);
        }
    }
}

/// HTTP/1.1 by hand, since no library can be told to break off.
async fn serve_http(connection: Connection, script: Script) -> std::io::Result<()> {
    let mut connection = BufReader::new(connection);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if connection.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
        };
        let mut body = vec![0; header("content-length").unwrap().parse().unwrap()];
        connection.read_exact(&mut body).await?;
        if header("content-encoding") == Some("gzip") {
            let mut unpacked = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[..]), &mut unpacked)?;
            body = unpacked;
        }
        let events = body.iter().filter(|byte| **byte == b'\n').count();
        let (status, headers, answer) = match script.next(Came { head, body, message: None }) {
            Act::Take(rejected) => {
                let refused = |index| format!("{{\"index\":{index},\"error\":\"number {index} is wrong\"}}");
                let refused: Vec<_> = rejected.iter().map(refused).collect();
                let accepted = events - rejected.len();
                (202, "", format!("{{\"accepted\":{accepted},\"rejected\":[{}]}}", refused.join(",")))
            }
            Act::Answer(status, headers, body) => (status, headers, body.to_owned()),
            Act::Cut => return Ok(()),
            Act::CutInAnswer => {
                connection.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 100\r\n\r\n{\"acc").await?;
                return connection.flush().await;
            }
            Act::Hang => return std::future::pending().await,
            Act::Status(_) => panic!("a status is gRPC's"),
        };
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n{headers}\r\n", answer.len());
        connection.write_all((head + &answer).as_bytes()).await?;
        connection.flush().await?;
    }
}

struct Grpc(Script);

#[tonic::async_trait]
impl IngestService for Grpc {
    async fn send_batch(
        &self,
        request: Request<EventBatchRequest>,
    ) -> Result<Response<EventBatchResponse>, Status> {
        let head = format!("{:?}", request.metadata());
        let message = request.into_inner();
        let (batch_id, events) = (message.batch_id.clone(), message.events.len());
        match self.0.next(Came { head, body: Vec::new(), message: Some(message) }) {
            Act::Take(rejected) => {
                let refused = |index: u32| forebay_proto::ingest::v1::RejectedEvent {
                    index,
                    reason: format!("number {index} is wrong"),
                    ..Default::default()
                };
                Ok(Response::new(EventBatchResponse {
                    success: true,
                    batch_id,
                    received_count: (events - rejected.len()) as u32,
                    rejected: rejected.into_iter().map(refused).collect(),
                    ..Default::default()
                }))
            }
            Act::Status(status) => Err(status),
            Act::Cut => {
                self.0.cut.send_modify(|count| *count += 1);
                std::future::pending().await
            }
            Act::Hang => std::future::pending().await,
            act => panic!("{act:?} is HTTP's"),
        }
    }

    type SendBatchesStream =
        Pin<Box<dyn tonic::codegen::tokio_stream::Stream<Item = Result<EventBatchResponse, Status>> + Send>>;

    async fn send_batches(
        &self,
        _: Request<tonic::Streaming<EventBatchRequest>>,
    ) -> Result<Response<Self::SendBatchesStream>, Status> {
        Err(Status::unimplemented("no test needs it"))
    }

    async fn health_check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Err(Status::unimplemented("no test needs it"))
    }
}

// === certificates ===

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    pub certificate_pem: String,
    pub key_pem: String,
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: pem("CERTIFICATE", certificate.der()), issuer: Issuer::new(params, key) }
    }

    pub fn identity(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let der = key.serialize_der();
        Identity {
            certificate_pem: pem("CERTIFICATE", certificate.der()),
            key_pem: pem("PRIVATE KEY", &der),
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::Pkcs8(der.into()),
        }
    }
}

/// TLS of a server with this certificate, which wants one of the client that its own authority signed.
pub fn acceptor(identity: &Identity, clients: &Authority, alpn: &[u8]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(clients.pem.as_bytes()).unwrap()).unwrap();
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
