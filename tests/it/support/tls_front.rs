//! What speaks TLS for a server that does not: a certificate for `localhost`, of an authority that nobody knows.

use std::{net::Ipv4Addr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};
use tokio_rustls::TlsAcceptor;

/// Ends TLS, and passes what was in it on in the clear.
pub struct TlsFront {
    pub port: u16,
    /// The authority's certificate, in PEM.
    pub authority: String,
    runtime: Option<Runtime>,
}

impl TlsFront {
    /// A front to the server at this port.
    pub fn to(server: u16) -> Self {
        let (authority, tls) = authority_and_server();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(tls.clone(), client, server));
            }
        });
        Self { port, authority, runtime: Some(runtime) }
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn pass(tls: TlsAcceptor, client: TcpStream, server: u16) {
    // Whoever does not trust the certificate goes.
    let Ok(mut client) = tls.accept(client).await else { return };
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { return };
    // Either side may break off at any time.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

/// The certificate of a new authority, and the TLS of a server that it has signed for.
fn authority_and_server() -> (String, ServerConfig) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = STANDARD.encode(params.self_signed(&key).unwrap().der());
    let issuer = Issuer::new(params, key);

    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (format!("-----BEGIN CERTIFICATE-----\n{authority}\n-----END CERTIFICATE-----\n"), tls)
}
