//! What the types cannot say: values that are well-formed but make no sense, alone or together.

use std::{
    collections::BTreeMap,
    path::{Component, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::{
    AdminConfig, BatchConfig, ClickhouseSink, Config, Durability, HttpSink, KeyPath, LogConfig, OtlpProtocol,
    OtlpSink, PostgresSink, PostgresTable, Problem, RateLimit, RetryConfig, SinkConfig, SinkKind, TlsClient,
    admin::TOKEN_CHARS_MIN,
};

/// Some generations of the journal (12 MiB each): the newest is written while the oldest is read and removed, and a
/// request that is let in must still fit.
const BUFFER_MAX_BYTES_MIN: u64 = 128 << 20;

/// Characters of a sink's name: it is a metric label, a directory and part of a URL.
const SINK_NAME_CHARS_MAX: usize = 64;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Config {
    /// Everything about this configuration that makes no sense. [`Config::load`] has asked already.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.check_values();
        problems.extend(self.check_relations());
        problems
    }

    /// What is wrong with single values.
    pub(super) fn check_values(&self) -> Vec<Problem> {
        let mut found = Found::default();
        log_level(&self.log, &mut found);

        let http = &self.http;
        found.zero_count(&["http", "max_body_bytes"], http.max_body_bytes);
        found.zero_count(&["http", "max_event_bytes"], http.max_event_bytes);
        found.zero_count(&["http", "max_connections"], http.max_connections);
        found.zero_duration(&["http", "request_timeout"], http.request_timeout);
        found.zero_duration(&["http", "header_timeout"], http.header_timeout);

        found.zero_count(&["otlp", "max_body_bytes"], self.otlp.max_body_bytes);
        found.zero_count(&["otlp", "max_connections"], self.otlp.max_connections);
        for (index, origin) in self.otlp.cors.allowed_origins.iter().enumerate() {
            let is_origin =
                origin == "*" || origin.split_once("://").is_some_and(|(_, host)| !host.contains('/'));
            if !is_origin {
                let message =
                    format!("entry {index}, {origin:?}, is no origin; like https://app.example.com, or *");
                found.add(&["otlp", "cors", "allowed_origins"], message);
            }
        }

        found.zero_duration(&["buffer", "sync_interval"], self.buffer.sync_interval);
        found.zero_count(&["buffer", "memory_events_max"], self.buffer.memory_events_max);
        found.zero_count(&["buffer", "memory_bytes_max"], self.buffer.memory_bytes_max);
        batch(&["batch"], &self.batch, &mut found);

        found.zero_count(&["retention", "days"], self.retention.days as usize);
        if let Err(error) = croner::Cron::from_str(&self.retention.schedule) {
            let schedule = &self.retention.schedule;
            let message =
                format!("{schedule:?} is not a schedule ({error}); like `0 3 * * *`, every day at 03:00");
            found.add(&["retention", "schedule"], message);
        }

        let limits = &self.limits;
        for (class, limit) in [("ingest", limits.ingest), ("query", limits.query), ("health", limits.health)]
        {
            if let Some(limit) = limit {
                rate_limit(class, limit, &mut found);
            }
        }

        found.zero_duration(&["supervisor", "backoff_min"], self.supervisor.backoff_min);
        found.zero_count(&["supervisor", "restarts_max"], self.supervisor.restarts_max as usize);
        found.zero_duration(&["supervisor", "restarts_window"], self.supervisor.restarts_window);
        found.zero_size(&["dead_letters", "max_bytes"], self.dead_letters.max_bytes);

        for (name, sink) in &self.sinks {
            sink_values(name, sink, &mut found);
        }
        found.0
    }

    /// What does not fit together.
    fn check_relations(&self) -> Vec<Problem> {
        let mut found = Found::default();
        let http = &self.http;
        if http.max_body_bytes > http.max_inflight_bytes {
            let message = "is smaller than http.max_body_bytes, so the largest bodies would never be let in; \
                           give it at least that much";
            found.add(&["http", "max_inflight_bytes"], message);
        }
        if self.otlp.max_body_bytes > http.max_inflight_bytes {
            let message = "is larger than http.max_inflight_bytes, so the largest bodies would never be let in; \
                           give it at most that";
            found.add(&["otlp", "max_body_bytes"], message);
        }
        if http.max_event_bytes > http.max_body_bytes {
            let message =
                "is larger than http.max_body_bytes, so it could never be reached; give it at most that";
            found.add(&["http", "max_event_bytes"], message);
        }
        if self.buffer.durability != Durability::Memory && self.buffer.max_bytes < BUFFER_MAX_BYTES_MIN {
            let message = "is smaller than two files of the journal; give it at least 128MiB";
            found.add(&["buffer", "max_bytes"], message);
        }
        let supervisor = &self.supervisor;
        found.backoff(&["supervisor"], supervisor.backoff_min, supervisor.backoff_max);
        admin(&self.admin, &mut found);
        self.sink_relations(&mut found);
        found.0
    }

    fn sink_relations(&self, found: &mut Found) {
        if self.sinks.is_empty() {
            found
                .add(&["sinks"], "there is none, so events would go nowhere; like `events: { type: store }`");
        }
        let mut store = None;
        let mut files = BTreeMap::<PathBuf, &str>::new();
        for (name, sink) in &self.sinks {
            let RetryConfig { backoff_min, backoff_max, .. } = sink.retry;
            found.backoff(&["sinks", name, "retry"], backoff_min, backoff_max);
            match &sink.kind {
                SinkKind::Store(_) => {
                    if let Some(first) = store.replace(name) {
                        let message = format!("{first:?} is a store already; there can be only one");
                        found.add(&["sinks", name, "type"], message);
                    }
                }
                SinkKind::File(file) => {
                    // `./a` and `a` are one file.
                    let parts = file.path.components().filter(|part| *part != Component::CurDir);
                    if let Some(other) = files.insert(parts.collect(), name) {
                        let message = format!("is the file of the sink {other:?} too; give each its own");
                        found.add(&["sinks", name, "path"], message);
                    }
                }
                SinkKind::Http(_)
                | SinkKind::Otlp(_)
                | SinkKind::Postgres(_)
                | SinkKind::Clickhouse(_)
                | SinkKind::Console(_)
                | SinkKind::Blackhole(_) => (),
            }
        }
    }
}

/// A way to bring actors down must not stand open.
fn admin(admin: &AdminConfig, found: &mut Found) {
    let why = match &admin.token {
        _ if !admin.chaos => return,
        None => "is missing, and admin.chaos must not stand open".to_owned(),
        Some(token) => match token.unfit() {
            Some(why) => why,
            None => return,
        },
    };
    let right = "like what `openssl rand -hex 16` prints, best by a variable: ${FOREBAY_ADMIN_TOKEN}";
    found.add(&["admin", "token"], format!("{why}; give it {TOKEN_CHARS_MIN} characters or more, {right}"));
}

fn batch(section: &[&str], batch: &BatchConfig, found: &mut Found) {
    found.zero_count(&[section, &["max_events"]].concat(), batch.max_events);
    found.zero_count(&[section, &["max_bytes"]].concat(), batch.max_bytes);
}

fn rate_limit(class: &str, limit: RateLimit, found: &mut Found) {
    if limit.per_client_per_second.is_none() && limit.global_per_second.is_none() {
        let message = "has no rate; give it per_client_per_second, global_per_second or both, or remove it";
        found.add(&["limits", class], message);
    }
    for (key, rate) in [
        ("per_client_per_second", limit.per_client_per_second),
        ("global_per_second", limit.global_per_second),
        ("burst", limit.burst),
    ] {
        found.zero_count(&["limits", class, key], rate.unwrap_or(1) as usize);
    }
}

fn sink_values(name: &str, sink: &SinkConfig, found: &mut Found) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.is_empty() || name.len() > SINK_NAME_CHARS_MAX || !name.chars().all(allowed) {
        let message =
            format!("the name is not usable; 1 to {SINK_NAME_CHARS_MAX} of a-z, 0-9, `_` and `-` are");
        found.add(&["sinks", name], message);
    }
    found.zero_count(&["sinks", name, "concurrency"], sink.concurrency);
    found.zero_count(&["sinks", name, "mailbox_batches"], sink.mailbox_batches);
    if sink.batch.is_some() {
        // With a default that is right, what is left to be wrong is the override.
        batch(&["sinks", name, "batch"], &sink.batch(&BatchConfig::default()), found);
    }
    found.zero_duration(&["sinks", name, "retry", "backoff_min"], sink.retry.backoff_min);
    found.zero_duration_option(&["sinks", name, "retry", "max_age"], sink.retry.max_age);
    found.zero_count(&["sinks", name, "breaker", "failures"], sink.breaker.failures as usize);
    found.zero_count(&["sinks", name, "breaker", "successes"], sink.breaker.successes as usize);
    found.zero_duration(&["sinks", name, "breaker", "open_for"], sink.breaker.open_for);
    match &sink.kind {
        SinkKind::Http(http) => http_values(name, http, found),
        SinkKind::Otlp(otlp) => otlp_values(name, otlp, found),
        SinkKind::Postgres(postgres) => postgres_values(name, postgres, found),
        SinkKind::Clickhouse(clickhouse) => clickhouse_values(name, clickhouse, found),
        SinkKind::File(file) => {
            if file.path.file_name().is_none() {
                found.add(&["sinks", name, "path"], "is not a file's name; like `./out/events.ndjson`");
            }
            found.zero_size(&["sinks", name, "rotate_bytes"], file.rotate_bytes.unwrap_or(1));
            found.zero_duration_option(&["sinks", name, "rotate_every"], file.rotate_every);
            found.zero_count(&["sinks", name, "keep_files"], file.keep_files.unwrap_or(1));
        }
        SinkKind::Blackhole(blackhole) => {
            let rate = blackhole.rate_events_per_second.unwrap_or(1);
            found.zero_count(&["sinks", name, "rate_events_per_second"], rate as usize);
        }
        SinkKind::Store(_) | SinkKind::Console(_) => (),
    }
}

fn http_values(name: &str, sink: &HttpSink, found: &mut Found) {
    if !is_url(&sink.url) {
        // The value itself is not repeated: it may have a password in it.
        found.add(&["sinks", name, "url"], "is not a URL; like `https://example.com/events`");
    }
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
    headers(name, &sink.headers, found);
}

fn otlp_values(name: &str, sink: &OtlpSink, found: &mut Found) {
    let endpoint = ["sinks", name, "endpoint"];
    let path = http::Uri::from_str(&sink.endpoint).map(|uri| uri.path().to_owned()).unwrap_or_default();
    if !is_url(&sink.endpoint) {
        found.add(&endpoint, "is not a URL; like `http://collector:4317`");
    } else if sink.endpoint.contains('@') {
        let message = "has a user or a password in it, which OpenTelemetry knows nothing of; give it an \
                       authorization by headers";
        found.add(&endpoint, message);
    } else if sink.protocol == OtlpProtocol::Grpc && path != "/" {
        let message = format!("has the path {path}, and gRPC has none; leave it away, or set protocol: http");
        found.add(&endpoint, message);
    } else if let Some(signal) = ["/v1/logs", "/v1/metrics", "/v1/traces"].iter().find(|s| path.ends_with(*s))
    {
        let message = format!("ends with {signal}, which is appended for each signal; leave it away");
        found.add(&endpoint, message);
    }
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
    found.zero_count(&["sinks", name, "max_request_bytes"], sink.max_request_bytes);
    headers(name, &sink.headers, found);
    tls_client(name, &sink.tls, found);
    if sink.tls != TlsClient::default() && !sink.endpoint.starts_with("https://") {
        found.add(&endpoint, "is not encrypted, so tls would not be used; begin it with https://");
    }
}

fn clickhouse_values(name: &str, sink: &ClickhouseSink, found: &mut Found) {
    if !is_url(&sink.url) {
        found.add(&["sinks", name, "url"], "is not a URL; like `http://clickhouse:8123`");
    }
    for (key, value) in [("database", &sink.database), ("table", &sink.table)] {
        if value.is_empty() {
            found.add(&["sinks", name, key], "is empty; like `events`");
        }
    }
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
    tls_client(name, &sink.tls, found);
}

fn tls_client(name: &str, tls: &TlsClient, found: &mut Found) {
    let (missing, other) = match (&tls.cert_file, &tls.key_file) {
        (None, Some(_)) => ("cert_file", "key_file"),
        (Some(_), None) => ("key_file", "cert_file"),
        _ => return,
    };
    found.add(&["sinks", name, "tls", missing], format!("is missing; {other} needs it"));
}

fn is_url(text: &str) -> bool {
    http::Uri::from_str(text).is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

fn headers(name: &str, headers: &BTreeMap<String, String>, found: &mut Found) {
    for (header, value) in headers {
        let path = ["sinks", name, "headers", header];
        if http::HeaderName::from_str(header).is_err() {
            found.add(&path, "is not a header's name; letters, digits and `-` are");
        }
        if http::HeaderValue::from_str(value).is_err() {
            found.add(
                &path,
                "has a value that cannot be sent; a header is one line without control characters",
            );
        }
    }
}

fn postgres_values(name: &str, sink: &PostgresSink, found: &mut Found) {
    if let Err(why) = sink.connection() {
        found.add(&["sinks", name, "url"], why);
    }
    if let Err(why) = PostgresTable::parse(&sink.table) {
        found.add(&["sinks", name, "table"], why);
    }
    found.zero_count(&["sinks", name, "pool_max"], sink.pool_max);
    tls_client(name, &sink.tls, found);
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
}

/// A filter that is taken for something else is not noticed before it is needed: `inof` would be a target.
fn log_level(log: &LogConfig, found: &mut Found) {
    for directive in log.level.split(',').map(str::trim) {
        // Filters of spans and fields have a grammar of their own, which the subscriber checks.
        if directive.contains('[') {
            continue;
        }
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            let message =
                format!("{level:?} is not a level; {}, alone or as target=level", LEVELS.join(", "));
            found.add(&["log", "level"], message);
        }
    }
}

#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, path: &[&str], message: impl Into<String>) {
        let path = KeyPath(path.iter().map(|&key| key.to_owned()).collect());
        self.0.push(Problem { path, line: None, message: message.into() });
    }

    fn zero_count(&mut self, path: &[&str], count: usize) {
        if count == 0 {
            self.add(path, "is 0; it should be at least 1");
        }
    }

    fn zero_size(&mut self, path: &[&str], bytes: u64) {
        if bytes == 0 {
            self.add(path, "is 0; it should be at least 1");
        }
    }

    fn zero_duration(&mut self, path: &[&str], duration: Duration) {
        self.zero_duration_option(path, Some(duration));
    }

    fn zero_duration_option(&mut self, path: &[&str], duration: Option<Duration>) {
        if duration.is_some_and(|d| d.is_zero()) {
            self.add(path, "is 0; it should be longer, like 1s");
        }
    }

    fn backoff(&mut self, section: &[&str], min: Duration, max: Duration) {
        if min > max {
            let message = "is shorter than backoff_min; give it at least that";
            self.add(&[section, &["backoff_max"]].concat(), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Format;

    /// The only problem of a file with these lines.
    fn problem(yaml: &str) -> String {
        let yaml = if yaml.contains("sinks:") {
            yaml.to_owned()
        } else {
            format!("{yaml}\nsinks: {{e: {{type: store}}}}")
        };
        let error = Config::parse(&yaml, Format::Yaml, "f", &|_| None).expect_err(&yaml).to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }

    #[test]
    fn the_default_makes_sense() {
        assert_eq!(Config::default().check(), []);
    }

    /// Each of these would start and then not do what was meant.
    #[test]
    fn values_that_make_no_sense() {
        for (yaml, expected) in [
            ("log: {level: inof}", "log.level: \"inof\" is not a level"),
            ("log: {level: 'info,forebay=loud'}", "\"loud\""),
            ("http: {max_event_bytes: 0}", "http.max_event_bytes: is 0"),
            ("http: {header_timeout: 0s}", "http.header_timeout: is 0"),
            ("http: {max_body_bytes: 65MiB}", "http.max_inflight_bytes: is smaller than http.max_body_bytes"),
            ("http: {max_event_bytes: 17MiB}", "http.max_event_bytes: is larger"),
            ("buffer: {max_bytes: 127MiB}", "at least 128MiB"),
            ("batch: {max_events: 0}", "batch.max_events: is 0"),
            ("retention: {days: 0}", "retention.days: is 0"),
            ("retention: {schedule: at three}", "retention.schedule: \"at three\" is not a schedule"),
            ("retention: {schedule: 0 25 * * *}", "retention.schedule"),
            ("limits: {query: {burst: 3}}", "limits.query: has no rate"),
            ("limits: {ingest: {global_per_second: 0}}", "limits.ingest.global_per_second: is 0"),
            ("supervisor: {backoff_min: 1m}", "supervisor.backoff_max: is shorter"),
            ("dead_letters: {max_bytes: 0}", "dead_letters.max_bytes: is 0"),
            ("admin: {chaos: true}", "admin.token: is missing"),
            ("admin: {chaos: true, token: short}", "admin.token: is shorter than 16 characters; give it"),
            ("admin: {chaos: true, token: 'sixteen and more characters'}", "a header cannot carry"),
            ("sinks: {}", "sinks: there is none"),
            ("sinks: {Up: {type: store}}", "sinks.Up: the name"),
            ("sinks: {a: {type: store}, b: {type: store}}", "sinks.b.type: \"a\" is a store already"),
            ("sinks: {a: {type: file, path: x}, b: {type: file, path: ./x}}", "sinks.b.path: is the file"),
            ("sinks: {a: {type: file, path: ..}}", "sinks.a.path: is not a file's name"),
            ("sinks: {a: {type: http, url: 'ftp://x/'}}", "sinks.a.url: is not a URL"),
            ("sinks: {a: {type: http, url: localhost}}", "sinks.a.url: is not a URL"),
            ("sinks: {a: {type: http, url: 'http://x', headers: {'a b': c}}}", "sinks.a.headers.a b: is not"),
            ("sinks: {a: {type: http, url: 'http://x', headers: {a: \"b\\n\"}}}", "cannot be sent"),
            ("sinks: {a: {type: console, concurrency: 0}}", "sinks.a.concurrency: is 0"),
            ("sinks: {a: {type: console, batch: {max_bytes: 0}}}", "sinks.a.batch.max_bytes: is 0"),
            ("sinks: {a: {type: console, retry: {max_age: 0s}}}", "sinks.a.retry.max_age: is 0"),
            ("sinks: {a: {type: console, breaker: {failures: 0}}}", "sinks.a.breaker.failures: is 0"),
            ("sinks: {a: {type: blackhole, rate_events_per_second: 0}}", "rate_events_per_second: is 0"),
        ] {
            let found = problem(yaml);
            assert!(found.contains(expected), "{yaml}: {found}");
        }
    }

    #[test]
    fn what_is_unusual_but_makes_sense() {
        for yaml in [
            "buffer: {durability: memory, max_bytes: 1MiB}",
            "http: {keep_alive: 0s, workers: 0}",
            "batch: {max_wait: 0s}",
            "log: {level: 'WARN,forebay=debug,[request{id=3}]=trace'}",
            "retention: {schedule: '*/30 2 * * * *'}",
            "limits: {ingest: {per_client_per_second: 1}}",
        ] {
            let parsed = Config::parse(yaml, Format::Yaml, "f", &|_| None);
            assert!(parsed.is_ok(), "{yaml}: {parsed:?}");
        }
    }
}
