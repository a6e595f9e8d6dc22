//! What is written reads back, and no secret is printed.

use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::config::{BatchOverride, FileSink, Format, HttpEncoding, HttpSink, RateLimit, SinkConfig};

fn unset(_: &str) -> Option<String> {
    None
}

fn http(url: &str, headers: &[(&str, &str)]) -> SinkConfig {
    let headers: BTreeMap<_, _> = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    SinkConfig::new(SinkKind::Http(HttpSink {
        url: url.to_owned(),
        encoding: HttpEncoding::Json,
        compression: crate::config::Compression::Gzip,
        headers,
        timeout: Duration::from_millis(1500),
    }))
}

#[test]
fn the_defaults_read_back_and_are_explained() {
    let yaml = defaults_yaml();
    assert_eq!(Config::parse(&yaml, Format::Yaml, "defaults", &unset).unwrap(), Config::default(), "{yaml}");
    assert!(yaml.contains("\n  # Largest journal on disk."), "{yaml}");
    assert!(yaml.contains("\n  max_bytes: 5GiB\n"), "{yaml}");
    assert!(yaml.contains("\nshutdown_timeout: 25s\n"), "{yaml}");
}

/// Text that looks like something else, or like a variable, is still the same text.
#[test]
fn awkward_values_read_back() {
    let mut config = Config::default();
    config.log.level = "info,forebay=debug".to_owned();
    config.data_dir = "C:\\a b #c ${HOME}".into();
    config.limits.query =
        Some(RateLimit { burst: Some(2), global_per_second: Some(1), per_client_per_second: None });
    let values =
        ["true", "12", "", "~", "- a", "a: b", "é\u{1f600}\u{7f}", "$$ ${X:-y}", "0x1f", "null", "*a"];
    let names: Vec<_> = (0..values.len()).map(|i| format!("x-{i}")).collect();
    let headers: Vec<_> = names.iter().map(String::as_str).zip(values.iter().copied()).collect();
    let mut sink = http("https://u:p$@x/?a=b#c", &headers);
    sink.batch = Some(BatchOverride { max_wait: Some(Duration::ZERO), ..BatchOverride::default() });
    config.sinks.insert("up".to_owned(), sink);
    let file = FileSink {
        path: "/var/x".into(),
        rotate_bytes: Some(1_000_001),
        rotate_every: Some(Duration::from_secs(86_400)),
        compression: crate::config::Compression::None,
        keep_files: None,
    };
    config.sinks.insert("1e3".to_owned(), SinkConfig::new(SinkKind::File(file)));
    let yaml = config.to_yaml();
    // A header with a control character is refused by the check, not by the reading: compare the text.
    let read = Config::parse(&yaml.replace("\\u007f", "").replace('\u{7f}', ""), Format::Yaml, "f", &unset);
    let SinkKind::Http(http) = &mut config.sinks.get_mut("up").unwrap().kind else { unreachable!() };
    http.headers.insert("x-6".to_owned(), "é\u{1f600}".to_owned());
    assert_eq!(read.unwrap(), config, "{yaml}");
}

#[test]
fn secrets_are_not_printed() {
    let headers = [
        ("Authorization", "Bearer s3cret"),
        ("x-api-key", "s3cret"),
        ("X-Scope-Token", "s3cret"),
        ("x-tenant", "acme"),
    ];
    let mut config = Config::default();
    for (name, url) in
        [("a", "https://user:s3cret@x:1/p"), ("b", "http://x/a@b"), ("c", "http://s3cret@x?q=@")]
    {
        config.sinks.insert(name.to_owned(), http(url, &headers));
    }
    let mut otlp = crate::config::OtlpSink::to("https://s3cret@x:4317".to_owned());
    otlp.headers.insert("api-key".to_owned(), "s3cret".to_owned());
    config.sinks.insert("d".to_owned(), SinkConfig::new(SinkKind::Otlp(otlp)));
    let mut cassandra = crate::config::CassandraSink::to("h".to_owned(), "k".to_owned());
    cassandra.password = Some(crate::config::Secret::new("s3cret"));
    config.sinks.insert("e".to_owned(), SinkConfig::new(SinkKind::Cassandra(cassandra)));
    let mut bucket = crate::config::S3Sink::to("az://archive".to_owned());
    for secret in [
        &mut bucket.secret_access_key,
        &mut bucket.session_token,
        &mut bucket.credentials_json,
        &mut bucket.account_key,
        &mut bucket.sas_token,
    ] {
        *secret = Some(crate::config::Secret::new("s3cret"));
    }
    config.sinks.insert("f".to_owned(), SinkConfig::new(SinkKind::S3(bucket)));
    config.admin.token = Some(crate::config::Secret::new("s3cret-s3cret-s3cret"));
    assert!(!format!("{:?}", config.admin).contains("s3cret"));
    config.auth.tokens.push(crate::config::TokenConfig {
        name: "a".to_owned(),
        hash: crate::config::TokenHash::of_bytes(&[0xab; 32]),
        scopes: vec![crate::config::Scope::Ingest],
        tenant: Some("acme".to_owned()),
        limits: None,
        expires: None,
    });
    assert!(!format!("{:?}", config.auth).contains("abab") && config.to_yaml().contains("abab"));
    assert!(!config.redacted().to_yaml().contains("abab"));
    let yaml = config.redacted().to_yaml();
    assert!(!yaml.contains("s3cret"), "{yaml}");
    assert!(yaml.contains("x-tenant: acme") && yaml.contains("http://x/a@b"), "{yaml}");
    assert!(yaml.contains("https://***@x:1/p") && yaml.contains("http://***@x?q=@"), "{yaml}");
    assert!(config.to_yaml().contains("s3cret"));
}

/// Scenario: the line of a description comes out exactly as wide as a line may be.
/// Guarantee: the next one begins on a line of its own. It went on behind the first, with its `#` in the middle.
#[test]
fn r0401_a_comment_that_filled_its_line_swallowed_the_next() {
    let mut out = String::new();
    let words = format!("{} next", "x".repeat(COLUMNS - 2));
    write_comment(&words, 0, &mut out);
    assert_eq!(out, format!("# {}\n# next\n", "x".repeat(COLUMNS - 2)));
}
