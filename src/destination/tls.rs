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
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{chain, unbuildable};

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

/// The roots of a file of PEM.
///
/// # Errors
/// [`Cause::Build`](forebay_actors::destination::Cause::Build) where it cannot be read or has none.
pub(super) fn roots_of(file: &Path) -> Result<RootCertStore, DeliveryError> {
    let at = |what: &dyn std::fmt::Display| unbuildable(format!("ca_file {}: {what}", file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| at(&error))? {
        let certificate = certificate.map_err(|error| at(&error))?;
        roots.add(certificate).map_err(|error| at(&error))?;
    }
    if roots.is_empty() { Err(at(&"there is no certificate in it")) } else { Ok(roots) }
}

/// A client's TLS that trusts `roots`.
///
/// # Errors
/// [`Cause::Build`](forebay_actors::destination::Cause::Build) where the provider supports no TLS version.
pub(super) fn client(roots: RootCertStore) -> Result<ClientConfig, DeliveryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unbuildable(format!("TLS cannot be set up: {}", chain(&e))))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
