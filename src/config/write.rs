//! Writes a configuration as YAML that reads back as the same configuration.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{
    Config, Secret, SinkKind, TokenHash, schema,
    substitute::escape,
    tree::{Node, Scalar, Value},
    yaml,
};

/// What stands in the place of a secret.
const REDACTED: &str = "***";

/// Words that are no text in some version of YAML.
const WORDS_WITH_MEANING: [&str; 7] = ["true", "false", "null", "yes", "no", "on", "off"];

/// Columns of a comment, as wide as this code.
const COLUMNS: usize = 110;

/// Every key with its default, and above it what it is: a file to start from.
pub fn defaults_yaml() -> String {
    let mut out = String::new();
    write_section(&tree(&Config::default()), Some(&schema::inlined()), 0, &mut out);
    out
}

impl Config {
    /// The configuration as YAML. It has secrets in it; [`Config::redacted`] has not.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        write_section(&tree(self), None, 0, &mut out);
        out
    }

    /// The same without its secrets: the admin token, hashes of tokens, header values that are credentials, and passwords in URLs.
    pub fn redacted(&self) -> Self {
        let mut config = self.clone();
        config.admin.token = config.admin.token.map(|_| Secret::new(REDACTED));
        let journal = &mut config.buffer.jetstream;
        for secret in [&mut journal.password, &mut journal.token, &mut journal.nkey] {
            *secret = secret.take().map(|_| Secret::new(REDACTED));
        }
        config.auth.tokens.iter_mut().for_each(|token| token.hash = TokenHash::redacted());
        for sink in config.sinks.values_mut() {
            match &mut sink.kind {
                SinkKind::Http(http) => redact(&mut http.url, &mut http.headers),
                SinkKind::Otlp(otlp) => redact(&mut otlp.endpoint, &mut otlp.headers),
                SinkKind::Forebay(forebay) => {
                    redact(&mut forebay.endpoint, &mut forebay.headers);
                    forebay.token = forebay.token.take().map(|_| Secret::new(REDACTED));
                }
                SinkKind::Postgres(postgres) => redact_connection(&mut postgres.url),
                SinkKind::Clickhouse(clickhouse) => {
                    redact_user(&mut clickhouse.url);
                    clickhouse.password = clickhouse.password.take().map(|_| Secret::new(REDACTED));
                }
                SinkKind::S3(s3) => {
                    for secret in [
                        &mut s3.secret_access_key,
                        &mut s3.session_token,
                        &mut s3.credentials_json,
                        &mut s3.account_key,
                        &mut s3.sas_token,
                    ] {
                        *secret = secret.take().map(|_| Secret::new(REDACTED));
                    }
                    s3.endpoint.iter_mut().for_each(|endpoint| {
                        redact_user(endpoint);
                    });
                }
                SinkKind::Pushgateway(push) => redact(&mut push.url, &mut push.headers),
                // Its URL has no place for secrets.
                SinkKind::Nats(nats) => {
                    for secret in [&mut nats.password, &mut nats.token, &mut nats.nkey] {
                        *secret = secret.take().map(|_| Secret::new(REDACTED));
                    }
                }
                SinkKind::Cassandra(cassandra) => {
                    cassandra.password = cassandra.password.take().map(|_| Secret::new(REDACTED));
                }
                SinkKind::Store(_) | SinkKind::File(_) | SinkKind::Console(_) | SinkKind::Blackhole(_) => (),
            }
        }
        config
    }
}

fn redact(url: &mut String, headers: &mut BTreeMap<String, String>) {
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        if ["auth", "token", "key", "secret", "password", "cookie"].iter().any(|part| name.contains(part)) {
            *value = REDACTED.to_owned();
        }
    }
    redact_user(url);
}

/// User and password of a URL; whether there was a URL.
fn redact_user(url: &mut String) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if let Some((_, host)) = authority.rsplit_once('@') {
        *url = format!("{scheme}://{REDACTED}@{host}{path}");
    }
    true
}

/// A connection string may have its password anywhere, in quotes too: where it may, nothing of it is shown.
fn redact_connection(text: &mut String) {
    let is_url = redact_user(text);
    if text.to_ascii_lowercase().contains("password") || !is_url && !text.contains("host") {
        *text = REDACTED.to_owned();
    }
}

/// The tree of a configuration, by way of JSON: its keys come in the order of the structs.
fn tree(config: &Config) -> Node {
    let json = serde_json::to_string(config).expect("a configuration has text keys and no foreign types");
    yaml::parse_json(&json).expect("serde_json writes JSON")
}

fn write_section(node: &Node, schema: Option<&Json>, indent: usize, out: &mut String) {
    let Value::Mapping(entries) = &node.value else { return };
    for entry in entries {
        let schema = schema.and_then(|s| s["properties"].get(&entry.key).or(s.get("additionalProperties")));
        if let Some(description) = schema.and_then(|s| s["description"].as_str()) {
            if indent == 0 && !out.is_empty() {
                out.push('\n');
            }
            write_comment(description, indent, out);
        }
        out.push_str(&" ".repeat(indent));
        out.push_str(&text(&entry.key));
        out.push(':');
        match &entry.node.value {
            Value::Mapping(entries) if !entries.is_empty() => {
                out.push('\n');
                write_section(&entry.node, schema, indent + 2, out);
            }
            _ => {
                out.push(' ');
                write_inline(&entry.node, out);
                out.push('\n');
            }
        }
    }
}

fn write_inline(node: &Node, out: &mut String) {
    match &node.value {
        Value::Scalar(Scalar { text: value, quoted: true, .. }) => out.push_str(&text(&escape(value))),
        Value::Scalar(scalar) => out.push_str(&scalar.text),
        Value::Sequence(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_inline(item, out);
            }
            out.push(']');
        }
        Value::Mapping(entries) => {
            out.push('{');
            for (i, entry) in entries.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                out.push_str(&text(&entry.key));
                out.push_str(": ");
                write_inline(&entry.node, out);
            }
            out.push('}');
        }
    }
}

/// Text as a value of a configuration in YAML, also where it has a dollar sign in it.
pub(crate) fn quoted(value: &str) -> String {
    text(&escape(value))
}

/// Text as YAML: bare where no reader could take it for anything else.
fn text(value: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let bare = (value.starts_with(|c: char| c.is_ascii_alphanumeric()) || value.starts_with("./"))
        && value.chars().all(word)
        && value.parse::<f64>().is_err()
        && !value.starts_with("0x")
        && !value.starts_with("0o")
        && !WORDS_WITH_MEANING.contains(&value.to_ascii_lowercase().as_str());
    if bare { value.to_owned() } else { Json::from(value).to_string() }
}

fn write_comment(description: &str, indent: usize, out: &mut String) {
    let mut column = COLUMNS;
    for (index, word) in description.split_whitespace().enumerate() {
        if column + 1 + word.len() > COLUMNS {
            if index > 0 {
                out.push('\n');
            }
            out.push_str(&" ".repeat(indent));
            out.push('#');
            column = indent + 1;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.len();
    }
    out.push('\n');
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
