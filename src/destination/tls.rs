//! TLS of destinations that speak HTTPS: rustls with ring, and where trust comes from.
//!
//! The roots are the machine's own, so that a company's own authority counts; `SSL_CERT_FILE` and
//! `SSL_CERT_DIR` say where they are, as for OpenSSL. A machine that has none, such as an empty container,
//! gets Mozilla's, built in. They are read afresh whenever a destination is built.
//!
//! The provider is passed explicitly: nothing process-wide is installed that two libraries could fight over.

use std::{path::Path, sync::Arc};

use forebay_actors::destination::DeliveryError;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{chain, unbuildable};
use crate::config::TlsClient;

/// The machine's roots, or the built-in ones where it has none.
pub(super) fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Single unreadable certificates are common in system stores and no reason to refuse the rest.
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// A client's TLS that trusts `roots`.
///
/// # Errors
/// [`Cause::Build`](forebay_actors::destination::Cause::Build) where the provider supports no TLS version.
pub(super) fn client(roots: RootCertStore) -> Result<ClientConfig, DeliveryError> {
    Ok(builder(roots)?.with_no_client_auth())
}

/// A client's TLS as a sink's options say: whom it trusts, and which certificate it shows.
///
/// # Errors
/// [`Cause::Build`](forebay_actors::destination::Cause::Build) where a file cannot be read or has not in it what it should.
pub(super) fn client_with(options: &TlsClient) -> Result<ClientConfig, DeliveryError> {
    let roots = match &options.ca_file {
        None => roots(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("tls.ca_file", file)? {
                let fits = roots.add(certificate);
                fits.map_err(|e| unbuildable(format!("tls.ca_file: {}: {e}", file.display())))?;
            }
            roots
        }
    };
    let builder = builder(roots)?;
    let (Some(certificate), Some(key_file)) = (&options.cert_file, &options.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates("tls.cert_file", certificate)?;
    let wrong = |error: String| unbuildable(format!("tls.key_file: {}: {error}", key_file.display()));
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| wrong(error.to_string()))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| wrong(error.to_string()))
}

fn certificates(option: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, DeliveryError> {
    let wrong = |error: String| unbuildable(format!("{option}: {}: {error}", file.display()));
    let found = CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))?;
    match found.is_empty() {
        true => Err(wrong("there is no certificate in it; PEM is wanted".to_owned())),
        false => Ok(found),
    }
}

fn builder(
    roots: RootCertStore,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, DeliveryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unbuildable(format!("TLS cannot be set up: {}", chain(&e))))?;
    Ok(builder.with_root_certificates(roots))
}
