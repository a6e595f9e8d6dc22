//! What makes no sense in a sink. Nobody is asked for it: that is `forebay validate`.

use std::{collections::BTreeMap, str::FromStr as _};

use super::{Found, batch, objects};
use crate::config::{
    BatchConfig, CassandraSink, ClickhouseOtel, ClickhouseSink, Concurrency, Fields, ForebaySink, HttpSink,
    NatsSink, OtlpProtocol, OtlpSink, PostgresSink, PostgresTable, PushgatewaySink, SinkConfig, SinkKind,
    TlsClient, When,
};
use crate::store::postgres as store;

/// Characters of a sink's name: it is a metric label, a directory and part of a URL.
const SINK_NAME_CHARS_MAX: usize = 64;

/// Of a keyspace's or a table's name.
const CASSANDRA_NAME_CHARS_MAX: usize = 48;

/// Twenty years; the server takes no more.
const CASSANDRA_TTL_SECONDS_MAX: u64 = 7300 * 24 * 3600;

/// What is wrong with single values of a sink.
pub(super) fn values(name: &str, sink: &SinkConfig, found: &mut Found) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.is_empty() || name.len() > SINK_NAME_CHARS_MAX || !name.chars().all(allowed) {
        let message =
            format!("the name is not usable; 1 to {SINK_NAME_CHARS_MAX} of a-z, 0-9, `_` and `-` are");
        found.add(&["sinks", name], message);
    }
    if let Some(Err(problems)) = sink.when.as_ref().map(When::condition) {
        for (path, why) in problems {
            let path: Vec<_> =
                ["sinks", name, "when"].into_iter().chain(path.iter().map(String::as_str)).collect();
            found.add(&path, why);
        }
    }
    if let Some(Err(problems)) = sink.fields.as_ref().map(Fields::projection) {
        for (path, why) in problems {
            let path: Vec<_> =
                ["sinks", name, "fields"].into_iter().chain(path.iter().map(String::as_str)).collect();
            found.add(&path, why);
        }
    }
    if let Some(why) = sink.kind.refuses_fields().filter(|_| sink.fields.is_some()) {
        found.add(&["sinks", name, "fields"], why);
    }
    concurrency(name, sink.concurrency, found);
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
        SinkKind::Forebay(forebay) => forebay_values(name, forebay, found),
        SinkKind::Postgres(postgres) => postgres_values(name, postgres, sink.concurrency.max, found),
        SinkKind::Clickhouse(clickhouse) => clickhouse_values(name, clickhouse, found),
        SinkKind::S3(s3) => objects::values(name, s3, found),
        SinkKind::Pushgateway(push) => pushgateway_values(name, push, sink.concurrency.max, found),
        SinkKind::Nats(nats) => nats_values(name, nats, found),
        SinkKind::Cassandra(cassandra) => cassandra_values(name, cassandra, found),
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

fn concurrency(name: &str, Concurrency { min, max }: Concurrency, found: &mut Found) {
    let path = ["sinks", name, "concurrency"];
    match min == max {
        true => found.zero_count(&path, min),
        false => found.zero_count(&["sinks", name, "concurrency", "min"], min),
    }
    if max < min {
        found.add(&["sinks", name, "concurrency", "max"], format!("is less than min, which is {min}"));
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
    let path = path_of(&sink.endpoint);
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
    tls_of_endpoint(name, &sink.endpoint, &sink.tls, found);
}

fn forebay_values(name: &str, sink: &ForebaySink, found: &mut Found) {
    let endpoint = ["sinks", name, "endpoint"];
    let path = path_of(&sink.endpoint);
    if !is_url(&sink.endpoint) {
        found.add(&endpoint, "is not a URL; like `https://gateway.example.com:50051`");
    } else if sink.endpoint.contains('@') {
        found.add(&endpoint, "has a user or a password in it; Forebay lets in by token");
    } else if path != "/" {
        found.add(&endpoint, format!("has the path {path}, and gRPC has none; leave it away"));
    }
    if sink.token.as_ref().is_some_and(|token| !token.reveal().bytes().all(|byte| byte.is_ascii_graphic())) {
        found.add(&["sinks", name, "token"], "has characters that a header cannot carry");
    }
    if sink.token.is_some() && sink.headers.keys().any(|header| header.eq_ignore_ascii_case("authorization"))
    {
        found.add(&["sinks", name, "token"], "and headers.authorization are the same header; leave one away");
    }
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
    found.zero_count(&["sinks", name, "max_request_bytes"], sink.max_request_bytes);
    headers(name, &sink.headers, found);
    tls_of_endpoint(name, &sink.endpoint, &sink.tls, found);
}

fn path_of(url: &str) -> String {
    http::Uri::from_str(url).map(|uri| uri.path().to_owned()).unwrap_or_default()
}

fn tls_of_endpoint(name: &str, endpoint: &str, tls: &TlsClient, found: &mut Found) {
    tls_client(name, tls, found);
    if *tls != TlsClient::default() && !endpoint.starts_with("https://") {
        let message = "is not encrypted, so tls would not be used; begin it with https://";
        found.add(&["sinks", name, "endpoint"], message);
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
    if sink.otel == ClickhouseOtel::Tables && sink.table.starts_with("otel_") {
        found.add(
            &["sinks", name, "table"],
            "may be one of OpenTelemetry's; call it otherwise, like `events`",
        );
    }
    if sink.ttl.is_some_and(|ttl| ttl.as_secs() == 0) {
        found.add(&["sinks", name, "ttl"], "is less than a second; leave it away to keep rows for ever");
    }
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
    tls_client(name, &sink.tls, found);
}

fn nats_values(name: &str, sink: &NatsSink, found: &mut Found) {
    if let Err(why) = sink.servers() {
        found.add(&["sinks", name, "url"], why);
    }
    if let Err(why) = sink.subject() {
        found.add(&["sinks", name, "subject"], why);
    }
    let is_name = |stream: &str| {
        !stream.is_empty()
            && stream.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '.' | '*' | '>' | '/' | '\\'))
    };
    match &sink.stream {
        Some(stream) if !is_name(stream) => {
            found.add(
                &["sinks", name, "stream"],
                "is not the name of a stream; letters, digits, `_` and `-` are",
            );
        }
        None if sink.manage_stream => {
            found.add(&["sinks", name, "stream"], "is missing; manage_stream needs a name, like `events`");
        }
        _ => {}
    }
    let (window, age) = (sink.stream_duplicate_window, sink.stream_max_age);
    if age.is_some_and(|age| window > age) {
        let message = "is longer than stream_max_age; what is forgotten cannot be known";
        found.add(&["sinks", name, "stream_duplicate_window"], message);
    }
    found.zero_count(&["sinks", name, "stream_replicas"], sink.stream_replicas);
    found.zero_size(&["sinks", name, "stream_max_bytes"], sink.stream_max_bytes.unwrap_or(1));
    found.zero_duration_option(&["sinks", name, "stream_max_age"], age);
    found.zero_duration(&["sinks", name, "stream_duplicate_window"], window);
    let (missing, other) = match (&sink.user, &sink.password) {
        (None, Some(_)) => (Some("user"), "password"),
        (Some(_), None) => (Some("password"), "user"),
        _ => (None, ""),
    };
    if let Some(missing) = missing {
        found.add(&["sinks", name, missing], format!("is missing; {other} needs it"));
    }
    let given = [
        ("user", sink.user.is_some()),
        ("token", sink.token.is_some()),
        ("nkey", sink.nkey.is_some()),
        ("credentials_file", sink.credentials_file.is_some()),
    ];
    let mut given = given.iter().filter(|(_, is_given)| *is_given);
    if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
        found.add(&["sinks", name, second], format!("stands beside {first}; one of them says who writes"));
    }
    found.zero_count(&["sinks", name, "pending_max"], sink.pending_max);
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
    tls_client(name, &sink.tls, found);
}

fn pushgateway_values(name: &str, sink: &PushgatewaySink, concurrency: usize, found: &mut Found) {
    if concurrency > 1 {
        let message = "is more than 1, which gains nothing, because what is pushed next changes what was pushed before; leave it away";
        found.add(&["sinks", name, "concurrency"], message);
    }
    if !is_url(&sink.url) {
        found.add(&["sinks", name, "url"], "is not a URL; like `http://pushgateway:9091`");
    } else if sink.url.trim_end_matches('/').ends_with("/metrics") {
        found.add(&["sinks", name, "url"], "ends with /metrics, which is appended; leave it away");
    }
    if sink.job.as_ref().is_some_and(String::is_empty) {
        found.add(&["sinks", name, "job"], "is empty; like `nightly`");
    }
    for label in sink.grouping.keys() {
        let is_name = label.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && !label.starts_with("__")
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let path = ["sinks", name, "grouping", label];
        if label == "job" {
            found.add(&path, "has a key of its own: job");
        } else if !is_name {
            found.add(&path, "is not the name of a label; letters, digits and `_` are, and no digit first");
        }
    }
    found.zero_size(&["sinks", name, "state_bytes"], sink.state_bytes as u64);
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
    found.zero_duration_option(&["sinks", name, "own_metrics"], sink.own_metrics);
    if sink.own_metrics.is_some() && !sink.grouping.values().any(|value| value == "{service.instance.id}") {
        found.add(
            &["sinks", name, "own_metrics"],
            "needs a label of `grouping` that is {service.instance.id}; without it they would be in one group with what others push",
        );
    }
    headers(name, &sink.headers, found);
    tls_client(name, &sink.tls, found);
}

fn cassandra_values(name: &str, sink: &CassandraSink, found: &mut Found) {
    if sink.hosts.is_empty() {
        found.add(&["sinks", name, "hosts"], "is empty; like `[cassandra-1, cassandra-2:9042]`");
    }
    for (index, host) in sink.hosts.iter().enumerate() {
        if !http::uri::Authority::from_str(host).is_ok_and(|host| !host.host().is_empty())
            || host.contains('@')
        {
            found
                .add(&["sinks", name, "hosts", &index.to_string()], "is not a host; like `cassandra-1:9042`");
        }
    }
    // What Cassandra allows; quoted, upper and lower case are told apart.
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let tables = [&sink.events_table, &sink.metrics_table, &sink.traces_table, &sink.held_table];
    let keys = ["events_table", "metrics_table", "traces_table", "held_table"];
    for (key, value) in keys.into_iter().zip(tables).chain([("keyspace", &sink.keyspace)]) {
        if value.is_empty() || value.len() > CASSANDRA_NAME_CHARS_MAX || !value.chars().all(allowed) {
            let message =
                format!("is not usable; 1 to {CASSANDRA_NAME_CHARS_MAX} of a-z, A-Z, 0-9 and `_` are");
            found.add(&["sinks", name, key], message);
        }
    }
    for (at, key) in keys.into_iter().enumerate() {
        if tables[..at].contains(&tables[at]) {
            found.add(&["sinks", name, key], "is the table of other rows too; give each its own");
        }
    }
    let missing = match (&sink.user, &sink.password) {
        (None, Some(_)) => Some(("user", "password")),
        (Some(_), None) => Some(("password", "user")),
        _ => None,
    };
    if let Some((missing, other)) = missing {
        found.add(&["sinks", name, missing], format!("is missing; {other} needs it"));
    }
    found.zero_count(&["sinks", name, "replication_factor"], sink.replication_factor.unwrap_or(1));
    found.zero_count(&["sinks", name, "requests_max"], sink.requests_max);
    for (key, ttl) in
        [("events_ttl", sink.events_ttl), ("metrics_ttl", sink.metrics_ttl), ("traces_ttl", sink.traces_ttl)]
    {
        let seconds = ttl.map_or(1, |ttl| ttl.as_secs());
        if seconds == 0 || seconds > CASSANDRA_TTL_SECONDS_MAX {
            found.add(&["sinks", name, key], "is not usable; 1s to 7300d are, or null, which keeps rows");
        }
    }
    if sink.events_bucket.as_secs() == 0 {
        found.add(&["sinks", name, "events_bucket"], "is shorter than a second; like `1h`");
    }
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
}

pub(super) fn tls_client(name: &str, tls: &TlsClient, found: &mut Found) {
    let (missing, other) = match (&tls.cert_file, &tls.key_file) {
        (None, Some(_)) => ("cert_file", "key_file"),
        (Some(_), None) => ("key_file", "cert_file"),
        _ => return,
    };
    found.add(&["sinks", name, "tls", missing], format!("is missing; {other} needs it"));
}

pub(super) fn is_url(text: &str) -> bool {
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

fn postgres_values(name: &str, sink: &PostgresSink, concurrency: usize, found: &mut Found) {
    if let Err(why) = sink.connection() {
        found.add(&["sinks", name, "url"], why);
    }
    if let Err(why) = PostgresTable::parse(&sink.table) {
        found.add(&["sinks", name, "table"], why);
    }
    found.zero_count(&["sinks", name, "pool_max"], sink.pool_max);
    let least = concurrency.saturating_add(store::SESSIONS_BESIDE + 1);
    if sink.store && sink.pool_max > 0 && sink.pool_max < least {
        let message = format!("leaves no connection for questions; give it at least {least}");
        found.add(&["sinks", name, "pool_max"], message);
    }
    tls_client(name, &sink.tls, found);
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
}
