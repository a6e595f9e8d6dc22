//! Whom to trust, and who the client is.

use crate::error::BuildError;

/// TLS of a client, for addresses that begin with `https` or `grpcs`. Without an authority of one's own, those of the machine
/// are trusted (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
#[derive(Clone, Default)]
pub struct Tls {
    authorities_pem: Vec<Vec<u8>>,
    identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// Certificates are no secrets, but keys are.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("authorities", &self.authorities_pem.len())
            .field("identity", &self.identity_pem.is_some())
            .finish()
    }
}

impl Tls {
    /// The machine's authorities, no certificate of one's own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts this authority, and no longer those of the machine: one or more certificates in PEM.
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities_pem.push(pem.into());
        self
    }

    /// Shows this certificate to the server: the chain and its key in PEM.
    pub fn identity(self, chain_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        Self { identity_pem: Some((chain_pem.into(), key_pem.into())), ..self }
    }

    fn roots(&self) -> Result<rustls::RootCertStore, BuildError> {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        let mut roots = rustls::RootCertStore::empty();
        if self.authorities_pem.is_empty() {
            // Single unreadable certificates are common in a machine's store, and no reason to refuse the rest.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let why = "this machine has no certificate authorities; name one (Tls::authority)";
                return Err(BuildError::Tls(why.to_owned()));
            }
        }
        for pem in &self.authorities_pem {
            let before = roots.len();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|e| unusable("the authority's PEM", &e))?;
                roots.add(certificate).map_err(|e| unusable("the authority's certificate", &e))?;
            }
            if roots.len() == before {
                return Err(BuildError::Tls("the authority's PEM has no certificate in it".to_owned()));
            }
        }
        Ok(roots)
    }

    /// As rustls has it, for connections of one's own to the same server.
    ///
    /// # Errors
    /// Where certificates or keys cannot be read or do not fit each other.
    #[cfg(feature = "http")]
    pub fn rustls(&self) -> Result<rustls::ClientConfig, BuildError> {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
        // Passed explicitly: nothing process-wide is installed that an application could disagree with.
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable("its versions", &e))?
            .with_root_certificates(self.roots()?);
        let Some((chain, key)) = &self.identity_pem else { return Ok(builder.with_no_client_auth()) };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
        let chain = chain.map_err(|e| unusable("the client's certificate", &e))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| unusable("the client's key", &e))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| unusable("the client's certificate and key", &e))
    }

    /// As rustls has it, where no certificate is trusted because none is looked at.
    ///
    /// # Errors
    /// Where rustls itself cannot be set up.
    #[cfg(feature = "http")]
    pub fn plain() -> Result<rustls::ClientConfig, BuildError> {
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable("its versions", &e))?;
        Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
    }

    /// The configuration of gRPC's connections.
    #[cfg(feature = "grpc")]
    pub(super) fn tonic(&self) -> Result<tonic::transport::ClientTlsConfig, BuildError> {
        let config = tonic::transport::ClientTlsConfig::new().trust_anchors(self.roots()?.roots);
        let Some((chain, key)) = &self.identity_pem else { return Ok(config) };
        Ok(config.identity(tonic::transport::Identity::from_pem(chain, key)))
    }
}

fn unusable(what: &str, error: &dyn std::fmt::Display) -> BuildError {
    BuildError::Tls(format!("{what}: {error}"))
}
