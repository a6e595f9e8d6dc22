//! What the types cannot say: values that are well-formed but make no sense, alone or together.

mod jetstream;
mod objects;
mod security;
mod sinks;
mod standbys;

use std::{
    collections::BTreeMap,
    path::{Component, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use super::{
    AdminConfig, Backend, BatchConfig, Config, Durability, KeyPath, LogConfig, PostgresSink, Problem,
    RateLimit, RetryConfig, SinkKind, TokenConfig, admin::TOKEN_CHARS_MIN,
};

/// Some generations of the journal (8 MiB each): the newest is written while the oldest is read and removed, and a
/// request that is let in must still fit.
const BUFFER_MAX_BYTES_MIN: u64 = 128 << 20;

/// What comes into the journal in one piece. A record of it has at most 1 GiB, and a tenant's name makes a request of OpenTelemetry up to
/// four times as large.
const WHOLE_BYTES_MAX: usize = 128 << 20;

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
        found.whole(&["http", "max_event_bytes"], http.max_event_bytes);
        found.zero_count(&["http", "max_connections"], http.max_connections);
        found.zero_duration(&["http", "request_timeout"], http.request_timeout);
        found.zero_duration(&["http", "header_timeout"], http.header_timeout);

        found.whole(&["otlp", "max_body_bytes"], self.otlp.max_body_bytes);
        found.zero_count(&["otlp", "max_connections"], self.otlp.max_connections);
        let ingest = &self.ingest;
        found.whole(&["ingest", "max_batch_bytes"], ingest.max_batch_bytes);
        found.zero_duration(&["ingest", "dedupe_window"], ingest.dedupe_window);
        found.zero_count(&["ingest", "dedupe_batches_max"], ingest.dedupe_batches_max);
        found.zero_count(&["ingest", "max_streams"], ingest.max_streams);
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

        security::auth(&self.auth, &mut found);
        found.zero_duration(&["supervisor", "backoff_min"], self.supervisor.backoff_min);
        found.zero_count(&["supervisor", "restarts_max"], self.supervisor.restarts_max as usize);
        found.zero_duration(&["supervisor", "restarts_window"], self.supervisor.restarts_window);
        found.zero_size(&["dead_letters", "max_bytes"], self.dead_letters.max_bytes);

        for (name, sink) in &self.sinks {
            sinks::values(name, sink, &mut found);
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
        if self.ingest.max_batch_bytes > http.max_inflight_bytes {
            let message = "is larger than http.max_inflight_bytes, so the largest batches would never be let in; \
                           give it at most that";
            found.add(&["ingest", "max_batch_bytes"], message);
        }
        if http.max_event_bytes > http.max_body_bytes {
            let message =
                "is larger than http.max_body_bytes, so it could never be reached; give it at most that";
            found.add(&["http", "max_event_bytes"], message);
        }
        let is_shared = self.buffer.backend == Backend::Jetstream;
        if self.buffer.durability != Durability::Memory
            && !is_shared
            && self.buffer.max_bytes < BUFFER_MAX_BYTES_MIN
        {
            let message = "is smaller than two files of the journal; give it at least 128MiB";
            found.add(&["buffer", "max_bytes"], message);
        }
        let supervisor = &self.supervisor;
        found.backoff(&["supervisor"], supervisor.backoff_min, supervisor.backoff_max);
        admin(&self.admin, &mut found);
        security::tls(&self.tls, &mut found);
        self.sink_relations(&mut found);
        if is_shared {
            jetstream::relations(self, &mut found);
        }
        found.0
    }

    fn sink_relations(&self, found: &mut Found) {
        // Others may have the sinks where they share the journal.
        if self.sinks.is_empty() && self.buffer.backend == Backend::Disk {
            found
                .add(&["sinks"], "there is none, so events would go nowhere; like `events: { type: store }`");
        } else if !self.sinks.is_empty() && self.sinks.values().all(|sink| sink.only_as_fallback) {
            found.add(&["sinks"], "have only_as_fallback all of them, so events would go nowhere");
        }
        standbys::standbys(&self.sinks, found);
        let mut store = None;
        let mut files = BTreeMap::<PathBuf, &str>::new();
        let mut objects = BTreeMap::new();
        for (name, sink) in &self.sinks {
            let RetryConfig { backoff_min, backoff_max, .. } = sink.retry;
            found.backoff(&["sinks", name, "retry"], backoff_min, backoff_max);
            match &sink.kind {
                SinkKind::Store(_) | SinkKind::Postgres(PostgresSink { store: true, .. }) => {
                    let key = if matches!(sink.kind, SinkKind::Store(_)) { "type" } else { "store" };
                    if let Some(first) = store.replace(name) {
                        let message = format!("{first:?} is the store already; there can be only one");
                        found.add(&["sinks", name, key], message);
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
                SinkKind::S3(s3) => {
                    // Their keys tell whose events are meant, and which; how they are written only the extension does.
                    let keys = (&s3.url, &s3.endpoint, &s3.key);
                    let (other, format) = *objects.entry(keys).or_insert((name, s3.format));
                    if format != s3.format && !s3.key.contains("{extension}") {
                        let message = format!(
                            "gives objects the names of those of the sink {other:?}, which are in another format; \
                             end it with .{{extension}}"
                        );
                        found.add(&["sinks", name, "key"], message);
                    }
                }
                SinkKind::Http(_)
                | SinkKind::Otlp(_)
                | SinkKind::Forebay(_)
                | SinkKind::Postgres(_)
                | SinkKind::Clickhouse(_)
                | SinkKind::Nats(_)
                | SinkKind::Pushgateway(_)
                | SinkKind::Cassandra(_)
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

/// What is wrong with the tokens of a file of their own.
pub(super) fn check_tokens(tokens: &[TokenConfig]) -> Vec<Problem> {
    let mut found = Found::default();
    security::tokens(&["tokens"], tokens, &mut found);
    found.0
}

#[derive(Default)]
pub(super) struct Found(Vec<Problem>);

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

    /// Bytes of what comes into the journal in one piece.
    fn whole(&mut self, path: &[&str], bytes: usize) {
        self.zero_count(path, bytes);
        if bytes > WHOLE_BYTES_MAX {
            self.add(path, "is more than the journal takes in one piece; give it at most 128MiB");
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
mod tests;
