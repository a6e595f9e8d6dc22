//! What is wrong with files, and that it is said without showing what they hold.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, KeyPair};

use super::*;

struct Pair {
    cert: String,
    key: String,
}

fn pair(change: impl FnOnce(&mut CertificateParams)) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    change(&mut params);
    let cert = params.self_signed(&key).unwrap();
    Pair { cert: pem("CERTIFICATE", cert.der()), key: pem("PRIVATE KEY", &key.serialize_der()) }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn config(dir: &Path) -> TlsConfig {
    let file = |name: &str| Some(dir.join(name));
    TlsConfig { cert_file: file("cert.pem"), key_file: file("key.pem"), ..TlsConfig::default() }
}

/// Every wrong file is named with its key, and nothing of a private key is repeated.
#[test]
fn wrong_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (good, other) = (pair(|_| ()), pair(|_| ()));
    let mut config = config(dir.path());
    let mut error = |cert: Option<&str>, key: Option<&str>, ca: Option<&str>| {
        for (name, text) in [("cert.pem", cert), ("key.pem", key), ("ca.pem", ca)] {
            let _ = fs::remove_file(dir.path().join(name));
            if let Some(text) = text {
                fs::write(dir.path().join(name), text).unwrap();
            }
        }
        config.client_ca_file = ca.map(|_| dir.path().join("ca.pem"));
        read(&config).map(drop).map_err(|error| error.to_string())
    };
    let (cert, key) = (Some(good.cert.as_str()), Some(good.key.as_str()));
    error(cert, key, None).unwrap();
    error(cert, key, cert).unwrap();
    let broken = good.key.replace("MIG", "!!!");
    let encrypted = good.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let no_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (found, expected) in [
        (error(None, key, None), "tls.cert_file: "),
        (error(None, key, None), "cert.pem: No such file"),
        (
            error(Some("text"), key, None),
            "cert.pem: it has no certificate; it should have -----BEGIN CERTIFICATE",
        ),
        (error(key, key, None), "cert.pem: it has no certificate"),
        (error(Some(no_der), key, None), "cert.pem: a certificate in it cannot be read"),
        (error(cert, None, None), "tls.key_file: "),
        (error(cert, cert, None), "key.pem: it has no private key; it should have -----BEGIN PRIVATE KEY"),
        (error(cert, Some(&broken), None), "key.pem: it has no private key"),
        (error(cert, Some(&encrypted), None), "key.pem: it is encrypted"),
        (error(cert, Some(&other.key), None), "key.pem: it is not the key of the certificate in "),
        (error(cert, key, Some("")), "tls.client_ca_file: "),
        (error(cert, key, Some(no_der)), "ca.pem: "),
    ] {
        let found = found.expect_err(expected);
        assert!(found.contains(expected), "{expected}: {found}");
        let secret = good.key.lines().nth(1).unwrap();
        assert!(!found.contains(secret) && !found.contains(&secret[10..20]), "{found}");
    }
}

/// The first certificate of the chain to expire counts, and one without an end is no error.
#[test]
fn the_first_to_expire_counts() {
    let dir = tempfile::tempdir().unwrap();
    let until =
        |year: i32| move |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(year, 5, 6);
    let (good, authority) = (pair(until(2049)), pair(until(2031)));
    fs::write(dir.path().join("key.pem"), &good.key).unwrap();
    let expires = |chain: &str| {
        fs::write(dir.path().join("cert.pem"), chain).unwrap();
        let tls = Tls::new(read(&config(dir.path())).unwrap().0, &TlsConfig::default()).unwrap();
        (tls.expires().to_string(), tls.expires_in_seconds(Timestamp::parse("2031-05-07T00:00:00Z").unwrap()))
    };
    assert_eq!(expires(&good.cert).0, "2049-05-06T00:00:00Z");
    assert_eq!(
        expires(&format!("{}{}", good.cert, authority.cert)),
        ("2031-05-06T00:00:00Z".to_owned(), -24 * 3600)
    );
}
