//! `type: otlp` over TLS: whom it trusts, and whom it shows itself to be.

use std::{path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};

use super::protobuf;
use crate::support::{binary::Place, eventually, http::request, otlp::Receiver, until};

const CERTIFICATE: &str = "CERTIFICATE";
const KEY: &str = "PRIVATE KEY";

/// An authority, and what it has signed.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A server's TLS, which wants to see a certificate of this authority where `mutual`.
    fn server(&self, mutual: bool) -> ServerConfig {
        let (certificate, key) = self.sign("localhost");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()
    }
}

/// A file of PEM in the place.
fn file(place: &Place, name: &str, label: &str, der: &[u8]) -> PathBuf {
    let path = place.file(name);
    let text = STANDARD.encode(der);
    std::fs::write(&path, format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")).unwrap();
    path
}

/// Scenario: a server whose certificate is of an authority of one's own, and that wants to see one of its clients.
/// Guarantee: with both configured, everything arrives over either protocol.
#[test]
fn a_client_shows_its_certificate() {
    for protocol in ["grpc", "http"] {
        let authority = Authority::new();
        let receiver = Receiver::secured(authority.server(true));
        let place = Place::empty();
        let (certificate, key) = authority.sign("edge");
        let ca = file(&place, "ca.pem", CERTIFICATE, authority.certificate.der());
        let cert = file(&place, "cert.pem", CERTIFICATE, certificate.der());
        let key = file(&place, "key.pem", KEY, &key.serialize_der());
        let sink = format!(
            "{{ type: otlp, protocol: {protocol}, endpoint: \"https://localhost:{}\", \
             tls: {{ ca_file: {ca:?}, cert_file: {cert:?}, key_file: {key:?} }} }}",
            receiver.address.port()
        );
        let forebay = place.sink("up", &sink).start();
        let headers = [("Content-Type", "application/x-protobuf")];
        request(forebay.otlp(), "POST", "/v1/logs", &headers, &protobuf("s", &["one"])).unwrap().ok(200);
        until("it arrives", || receiver.taken() == ["one"]);
    }
}

/// Scenario: the authority is not configured; or it is, and the certificate of the client is missing; or the key is not
/// that of the certificate.
/// Guarantee: nothing arrives, and the health says why.
#[test]
fn whom_nobody_trusts_is_told_so() {
    let authority = Authority::new();
    let (certificate, _) = authority.sign("edge");
    let (_, other_key) = authority.sign("edge");
    for (protocol, mutual, files, expected) in [
        ("grpc", false, "", "UnknownIssuer"),
        ("http", false, "", "UnknownIssuer"),
        ("grpc", true, "ca_file: ca.pem", "CertificateRequired"),
        ("http", true, "ca_file: ca.pem", "CertificateRequired"),
        ("grpc", true, "ca_file: missing.pem", "tls.ca_file: missing.pem"),
        (
            "grpc",
            true,
            "ca_file: ca.pem, cert_file: cert.pem, key_file: other.pem",
            "tls.key_file: other.pem",
        ),
        ("grpc", true, "ca_file: other.pem", "there is no certificate in it"),
    ] {
        let receiver = Receiver::secured(authority.server(mutual));
        let place = Place::empty();
        file(&place, "ca.pem", CERTIFICATE, authority.certificate.der());
        file(&place, "cert.pem", CERTIFICATE, certificate.der());
        file(&place, "other.pem", KEY, &other_key.serialize_der());
        let sink = format!(
            "{{ type: otlp, protocol: {protocol}, endpoint: \"https://localhost:{}\", tls: {{ {files} }}, \
             retry: {{ backoff_min: 20ms, backoff_max: 50ms }}, breaker: {{ open_for: 50ms }} }}",
            receiver.address.port()
        );
        let forebay = place.sink("up", &sink).start();
        let headers = [("Content-Type", "application/x-protobuf")];
        request(forebay.otlp(), "POST", "/v1/logs", &headers, &protobuf("s", &["one"])).unwrap().ok(200);
        // A server that wants a certificate says so behind the handshake, and what a client has sent by then may reset the
        // connection before it has read that: one of several tries reads it.
        eventually(&format!("the health says {expected:?}"), || {
            forebay.get("/health").text().contains(expected).then_some(())
        });
        assert!(receiver.taken().is_empty());
    }
}
