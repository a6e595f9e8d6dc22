//! Which listeners can be reached from outside by anybody, and what would change that.

use std::net::SocketAddr;

use crate::config::{ClientAuth, Config};

/// A warning for each listener that can be reached from outside without TLS, or without being asked for a token or a
/// certificate.
pub fn warnings(config: &Config) -> Vec<String> {
    let listeners = [("http.listen", config.http.listen)].into_iter().chain(config.grpc_addresses());
    listeners.filter_map(|(key, address)| warning(config, key, address)).collect()
}

fn warning(config: &Config, key: &str, address: SocketAddr) -> Option<String> {
    if address.ip().to_canonical().is_loopback() {
        return None;
    }
    let (tls, auth) = (&config.tls, &config.auth);
    let asks_for_certificate =
        tls.is_on() && tls.client_ca_file.is_some() && tls.client_auth == ClientAuth::Required;
    let mut open = Vec::new();
    if !tls.is_on() {
        open.push(("in the clear", "tls.cert_file and tls.key_file"));
    }
    if !auth.is_on() && !asks_for_certificate {
        open.push(("by anybody", "auth.tokens (`forebay token new` makes one and its entry)"));
    }
    if open.is_empty() {
        return None;
    }
    let (how, keys): (Vec<_>, Vec<_>) = open.into_iter().unzip();
    let networks = match auth.allow.len() {
        0 => "; or listen on 127.0.0.1, or name the networks that may come: auth.allow".to_owned(),
        _ => String::new(),
    };
    Some(format!(
        "{key} {address} can be reached from other machines {}; set {}{networks}",
        how.join(" and "),
        keys.join(", and ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, TokenHash};

    fn of(yaml: &str) -> Vec<String> {
        let hash = format!("'{}'", TokenHash::of_bytes(&[1; 32]).as_str());
        let yaml = format!("{}\nsinks: {{e: {{type: store}}}}", yaml.replace("HASH", &hash));
        warnings(&Config::parse(&yaml, Format::Yaml, "f", &|_| None).unwrap())
    }

    /// Loopback, in all its forms, is nobody's business; every other address is, as long as anything is open.
    #[test]
    fn what_can_be_reached_is_said_with_what_to_set() {
        for quiet in ["127.0.0.1:80", "127.8.9.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(of(&format!("http: {{listen: '{quiet}'}}")), [""; 0], "{quiet}");
        }
        for loud in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80"] {
            let found = of(&format!("http: {{listen: '{loud}'}}"));
            assert_eq!(found.len(), 1);
            for part in [
                "http.listen",
                "in the clear and by anybody",
                "tls.cert_file and tls.key_file",
                "auth.tokens",
                "forebay token new",
                "auth.allow",
            ] {
                assert!(found[0].contains(part), "{part}: {found:?}");
            }
        }
        let all = of(
            "http: {listen: '0.0.0.0:1'}\notlp: {http: {listen: '0.0.0.0:2'}, grpc: {listen: '0.0.0.0:3'}}",
        );
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[1].starts_with("otlp.http.listen 0.0.0.0:2") && all[2].starts_with("otlp.grpc.listen"));
    }

    #[test]
    fn what_is_set_is_not_asked_for() {
        let listen = "http: {listen: '0.0.0.0:80'}\n";
        let tls = "tls: {cert_file: c, key_file: k, client_ca_file: a, client_auth: AUTH}\n";
        let tokens = "auth: {tokens: [{name: a, hash: HASH, scopes: [ingest]}]}\n";
        let only_tokens = of(&format!("{listen}{tokens}"));
        assert!(only_tokens[0].contains("in the clear; set tls.cert_file"), "{only_tokens:?}");
        let only_tls = of(&format!("{listen}{}", tls.replace("AUTH", "optional")));
        assert!(only_tls[0].contains("machines by anybody; set auth.tokens"), "{only_tls:?}");
        assert_eq!(of(&format!("{listen}{}", tls.replace("AUTH", "required"))), [""; 0]);
        assert_eq!(of(&format!("{listen}{}{tokens}", tls.replace("AUTH", "optional"))), [""; 0]);
    }
}
