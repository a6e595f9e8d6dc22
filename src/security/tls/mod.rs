//! The listeners' TLS: the certificate in force, which connections take at their handshake, so that another one holds for
//! the next connection and costs no open one anything.
//!
//! TLS 1.2 and 1.3, by rustls with ring. Revocation lists are not looked at: give clients' certificates short lives.

mod expiry;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use forebay_actors::event::Timestamp;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use super::files::{self, Content};
use crate::config::{ClientAuth, TlsConfig};

/// What is wrong with a file of `tls`. What it holds is never repeated.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of a key cannot be used.
    #[error("{key}: {reason}")]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// What is wrong, and with which file.
        reason: String,
    },
    /// They are not of one pair.
    #[error("tls.key_file: {key}: it is not the key of the certificate in {cert}")]
    Pair {
        /// The file of the key.
        key: String,
        /// The file of the certificate.
        cert: String,
    },
    /// rustls has none of the versions that it should have.
    #[error("tls: {0}")]
    Setup(rustls::Error),
}

/// A certificate that can be used, and whom it lets in.
pub(super) struct Material {
    key: Arc<CertifiedKey>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    expires: Timestamp,
}

/// The TLS of the listeners. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tls {
    current: Arc<Current>,
    /// What listeners are built with.
    config: Arc<ServerConfig>,
    handshake_timeout: Duration,
}

/// The material in force.
struct Current {
    material: RwLock<Arc<Material>>,
    provider: Arc<CryptoProvider>,
}

// === impl Tls ===

impl Tls {
    /// Begins with this material.
    ///
    /// # Errors
    /// Where rustls cannot be set up.
    pub(super) fn new(material: Material, config: &TlsConfig) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let asks = material.clients.is_some();
        let current = Current { material: RwLock::new(Arc::new(material)), provider: provider.clone() };
        let current = Arc::new(current);
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Setup)?;
        let mut server = match asks {
            true => builder.with_client_cert_verifier(current.clone()),
            false => builder.with_no_client_auth(),
        }
        .with_cert_resolver(current.clone());
        if asks {
            // A session that is taken up again is not asked for its certificate: it would outlive its authority.
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
        }
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { current, config: Arc::new(server), handshake_timeout: config.handshake_timeout })
    }

    /// Puts other material in force, for connections that come from now on.
    pub(super) fn put(&self, material: Material) {
        *self.current.material.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(material);
    }

    /// What listeners are built with; it follows what is put in force.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// How long a handshake may take.
    pub fn handshake_timeout(&self) -> Duration {
        self.handshake_timeout
    }

    /// When the first certificate of the chain expires.
    pub fn expires(&self) -> Timestamp {
        self.current.get().expires
    }

    /// Until then; negative afterwards.
    pub(super) fn expires_in_seconds(&self, now: Timestamp) -> i64 {
        self.expires().nanos().saturating_sub(now.nanos()).div_euclid(1_000_000_000)
    }
}

// === impl Current ===

impl Current {
    fn get(&self) -> Arc<Material> {
        self.material.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get().key.clone())
    }
}

impl ClientCertVerifier for Current {
    fn client_auth_mandatory(&self) -> bool {
        self.get().clients.as_ref().is_none_or(|clients| clients.client_auth_mandatory())
    }

    /// None: a client then sends the certificate it has. The names would have to outlive the material they are of.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match &self.get().clients {
            Some(clients) => clients.verify_client_cert(end_entity, intermediates, now),
            None => Err(rustls::Error::General("no authority is known".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

// === the files ===

/// What the files hold now.
pub(super) fn content(config: &TlsConfig) -> Content {
    let files = [&config.cert_file, &config.key_file, &config.client_ca_file];
    Content::of(files.into_iter().filter_map(|file| file.as_deref()))
}

/// Reads the files.
///
/// # Errors
/// What is wrong with which.
pub(super) fn read(config: &TlsConfig) -> Result<(Material, Content), TlsError> {
    // First: what changes while they are read is then seen as a change.
    let content = content(config);
    let (cert_file, key_file) = (path(&config.cert_file), path(&config.key_file));
    let chain = certificates("tls.cert_file", cert_file)?;
    let expires = chain.iter().map(|certificate| {
        let found = expiry::of(certificate);
        found.ok_or_else(|| wrong("tls.cert_file", cert_file, "a certificate in it cannot be read"))
    });
    let expires = expires.collect::<Result<Vec<_>, _>>()?.into_iter().min();
    let expires = expires.ok_or_else(|| wrong("tls.cert_file", cert_file, "it has no certificate"))?;
    let key = private_key(key_file)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::Pair { key: key_file.display().to_string(), cert: cert_file.display().to_string() }
        }
        other => wrong("tls.key_file", key_file, &other.to_string()),
    })?;
    let clients = config.client_ca_file.as_deref();
    let clients = clients.map(|file| verifier(file, config.client_auth, provider)).transpose()?;
    Ok((Material { key: Arc::new(key), clients, expires }, content))
}

/// A configuration without one of them was refused.
fn path(file: &Option<PathBuf>) -> &Path {
    file.as_deref().unwrap_or(Path::new(""))
}

fn wrong(key: &'static str, file: &Path, what: &str) -> TlsError {
    TlsError::File { key, reason: format!("{}: {what}", file.display()) }
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = files::read(file).map_err(|reason| TlsError::File { key, reason })?;
    let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let chain =
        chain.map_err(|_| wrong(key, file, "it is no PEM; it should have -----BEGIN CERTIFICATE-----"))?;
    if chain.is_empty() {
        return Err(wrong(key, file, "it has no certificate; it should have -----BEGIN CERTIFICATE-----"));
    }
    Ok(chain)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = "tls.key_file";
    let bytes = files::read(file).map_err(|reason| TlsError::File { key, reason })?;
    if bytes.windows(9).any(|word| word == b"ENCRYPTED") {
        return Err(wrong(key, file, "it is encrypted; a key without a passphrase is needed"));
    }
    // What is wrong in it is not told: it could be a part of the key.
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| wrong(key, file, "it has no private key; it should have -----BEGIN PRIVATE KEY-----"))
}

fn verifier(
    file: &Path,
    auth: ClientAuth,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let key = "tls.client_ca_file";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, file)? {
        roots.add(certificate).map_err(|error| wrong(key, file, &error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match auth {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| wrong(key, file, &error.to_string()))
}

#[cfg(test)]
mod tests;
