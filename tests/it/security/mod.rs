//! Who is let in by which listener, and how privately: TLS, certificates, tokens, networks, secrets.

mod commands;
mod reload;
mod secrets;
mod stamp;
mod tenants;
mod tls;
mod tokens;

use std::{
    fs,
    io::{self, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};

use crate::support::{
    PATIENCE,
    binary::{Forebay, Place},
    eventually,
    http::Response,
};

const LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const SEND_BATCH: &str = "/forebay.ingest.v1.IngestService/SendBatch";

// === certificates ===

/// An authority of this test alone.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "an authority of tests");
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate of this name, for `localhost`.
    pub fn identity(&self, name: &str) -> Identity {
        self.identity_until(name, 2049)
    }

    fn identity_until(&self, name: &str, year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Identity { certificate, key: key.serialize_der() }
    }

    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// A client that believes this authority, with a certificate of its own or without.
    fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_root_certificates(roots);
        let mut client = match identity {
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.clone()).unwrap();
                builder.with_client_auth_cert(vec![own.certificate.clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        // A session that is taken up again shows the certificate with which it began.
        client.resumption = Resumption::disabled();
        Arc::new(client)
    }
}

impl Identity {
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key)
    }

    fn write(&self, place: &Place) {
        // The key first: between the two, they do not fit.
        fs::write(place.file("server.key"), self.key_pem()).unwrap();
        fs::write(place.file("server.pem"), self.pem()).unwrap();
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

// === places and tokens ===

/// A place whose listeners have this certificate, with more keys of `tls`.
fn place(identity: &Identity, more: &str) -> Place {
    let place = Place::new();
    identity.write(&place);
    place.section(&format!("tls: {{ cert_file: server.pem, key_file: server.key, {more} }}"))
}

/// Starts what only this client can ask.
fn start(place: &Place, client: &Arc<ClientConfig>) -> Forebay {
    place.write();
    let mut process = place.spawn();
    process.wait_until_it_listens();
    eventually("the process is ready", || {
        let ready = tls_request(process.address, client, "GET", "/ready", &[], b"");
        ready.is_ok_and(|ready| ready.status == 200).then_some(())
    });
    process
}

/// A token, and the entry of a list that lets it in.
fn token(name: &str, scopes: &str, more: &str) -> (String, String) {
    let token = forebay::security::token::generate().unwrap();
    let hash = forebay::security::token::hash(&token);
    let entry = format!("{{ name: {name}, hash: \"{}\", scopes: [{scopes}]{more} }}", hash.as_str());
    (token, entry)
}

fn auth(entries: &[&str], more: &str) -> String {
    format!("auth: {{ tokens: [{}]{more} }}", entries.join(", "))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

// === clients ===

type TlsStream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// A connection on which the handshake is done; with TLS 1.3 a server may still refuse a client's certificate.
fn tls_connect(address: SocketAddr, client: &Arc<ClientConfig>) -> io::Result<TlsStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(client.clone(), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(BufReader::new(StreamOwned::new(connection, socket)))
}

fn tls_send(
    stream: &mut TlsStream,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head.push_str("\r\n");
    stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
    Response::read(stream)
}

fn tls_request(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    tls_send(&mut tls_connect(address, client)?, method, target, headers, body)
}

/// What came of a call.
#[derive(Debug)]
struct Called {
    status: String,
    #[expect(dead_code, reason = "shown where a test fails, and looked through for secrets")]
    message: String,
    body: Vec<u8>,
}

/// Makes a call of gRPC, over TLS where there is a client for it.
fn call(
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    path: &str,
    headers: &[(&str, &str)],
    message: &[u8],
) -> Result<Called, String> {
    let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        match tls {
            None => exchange(socket, path, headers, framed).await,
            Some(tls) => {
                let mut tls = (**tls).clone();
                tls.alpn_protocols = vec![b"h2".to_vec()];
                let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
                let name = ServerName::try_from("localhost").unwrap();
                let socket = connector.connect(name, socket).await.map_err(|e| e.to_string())?;
                exchange(socket, path, headers, framed).await
            }
        }
    })
}

async fn exchange(
    socket: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<Called, String> {
    let io = TokioIo::new(socket);
    let connected = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = connected.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://localhost{path}"));
    let mut request = request.header("content-type", "application/grpc").header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let headers = response.headers().clone();
    let collected = response.into_body().collect().await.map_err(|e| e.to_string())?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let text = |name: &str| {
        let value = trailers.get(name).or_else(|| headers.get(name));
        value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    };
    let (status, message) = (text("grpc-status"), text("grpc-message"));
    Ok(Called { status, message, body: collected.to_bytes().to_vec() })
}

/// A batch of events, each with its metadata.
fn batch(id: &str, events: &[(&str, &str)]) -> Vec<u8> {
    use forebay_proto::ingest::v1::{Event, EventBatchRequest, event::MetadataForm};
    let events = events.iter().map(|(event_id, metadata)| Event {
        event_id: (*event_id).to_owned(),
        service: "batch".to_owned(),
        message: "m".to_owned(),
        metadata_form: Some(MetadataForm::MetadataJson((*metadata).to_owned())),
        ..Event::default()
    });
    let events = events.collect();
    EventBatchRequest { batch_id: id.to_owned(), events, ..EventBatchRequest::default() }.encode_to_vec()
}

/// A path beside the data, as a configuration names it.
fn file(place: &Place, name: &str, text: &str) -> PathBuf {
    let path = place.file(name);
    fs::write(&path, text).unwrap();
    path
}
