//! What makes no sense in `tls` and `auth`. Files are not looked into here: that is `crate::security`'s.

use std::collections::BTreeMap;

use super::Found;
use crate::config::{AuthConfig, TlsConfig, TokenConfig};

/// Characters of a token's name: it is a label of metrics.
const NAME_CHARS_MAX: usize = 64;

/// Characters of a tenant and of the key for it: they stand in every event.
const TENANT_CHARS_MAX: usize = 256;

pub(super) fn tls(tls: &TlsConfig, found: &mut Found) {
    found.zero_duration(&["tls", "handshake_timeout"], tls.handshake_timeout);
    match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) => {
            found.add(&["tls", "key_file"], "is missing; the private key of tls.cert_file belongs here");
        }
        (None, Some(_)) => {
            found.add(&["tls", "cert_file"], "is missing; the certificate of tls.key_file belongs here");
        }
        _ => {}
    }
    if tls.client_ca_file.is_some() && !tls.is_on() {
        let message =
            "asks clients for certificates, but without tls.cert_file and tls.key_file there is no TLS";
        found.add(&["tls", "client_ca_file"], message);
    }
}

pub(super) fn auth(auth: &AuthConfig, found: &mut Found) {
    tokens(&["auth", "tokens"], &auth.tokens, found);
    tenant(&["auth", "tenant_key"], &auth.tenant_key, found);
    found.zero_count(&["auth", "refusals", "per_second"], auth.refusals.per_second as usize);
    found.zero_count(&["auth", "refusals", "burst"], auth.refusals.burst as usize);
}

/// Tokens that stand at this path.
pub(in crate::config) fn tokens(section: &[&str], tokens: &[TokenConfig], found: &mut Found) {
    let (mut names, mut hashes) = (BTreeMap::new(), BTreeMap::new());
    for (index, token) in tokens.iter().enumerate() {
        let index = index.to_string();
        let at = |key: &'static str| [section, &[index.as_str(), key]].concat();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let name = &token.name;
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(allowed) {
            let message = format!(
                "is not usable as a name; 1 to {NAME_CHARS_MAX} letters, digits, `_`, `-` and `.` are"
            );
            found.add(&at("name"), message);
        }
        if let Some(first) = names.insert(name, index.clone()) {
            let message = format!("{name:?} is the name of entry {first} too; give each its own");
            found.add(&at("name"), message);
        }
        match token.hash.bytes() {
            // What stands there is not repeated: it may be the token itself.
            None => {
                let message =
                    "is not sha256: and 64 hexadecimal digits; `forebay token hash` makes that of a token";
                found.add(&at("hash"), message);
            }
            Some(hash) => {
                if let Some(first) = hashes.insert(hash, name) {
                    let message = format!("is the hash of {first:?} too; give each a token of its own");
                    found.add(&at("hash"), message);
                }
            }
        }
        if token.scopes.is_empty() {
            let message =
                "is empty, so the token could do nothing; ingest, query, metrics and admin there are";
            found.add(&at("scopes"), message);
        }
        if let Some(name) = &token.tenant {
            tenant(&at("tenant"), name, found);
        }
        if let Err(error) = token.expiry() {
            found.add(&at("expires"), error);
        }
        if let Some(limits) = token.limits {
            let at = |key: &'static str| [section, &[index.as_str(), "limits", key]].concat();
            found.zero_count(&at("per_second"), limits.per_second as usize);
            found.zero_count(&at("burst"), limits.burst.unwrap_or(1) as usize);
        }
    }
}

fn tenant(path: &[&str], text: &str, found: &mut Found) {
    let chars = text.chars().count();
    if chars == 0 || chars > TENANT_CHARS_MAX || text.chars().any(char::is_control) {
        let message =
            format!("is not usable; 1 to {TENANT_CHARS_MAX} characters without control characters are");
        found.add(path, message);
    }
}
